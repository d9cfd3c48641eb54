"""Confidence interval of the difference of two means: the paired bootstrap over utterances."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from flowse.seeding import generator


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A difference with its 95 % confidence interval.

    Attributes:
        value: The difference of the two sets as they were measured.
        low: 2.5th percentile over resamplings.
        high: 97.5th percentile over resamplings.
    """

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether all of the interval is on one side of zero."""
        return self.low > 0 or self.high < 0


def paired_difference(
    after: Float[np.ndarray, " N"],
    before: Float[np.ndarray, " N"],
    seed: int,
    weights: Float[np.ndarray, " N"] | None = None,
    resamples: int = 2000,
) -> Interval:
    """Compare two measurements of the same utterances.

    Args:
        after: A value for each utterance; a total (such as its word errors) if there are weights.
        before: The values of the same utterances in the other measurement, in the same order.
        seed: Seed of the resampling.
        weights: The divisor of each utterance's total (such as its words). The difference is then one of ratios of
            sums, as the error rates of a corpus are.
        resamples: Number of resamplings.

    Raises:
        ValueError: There are no utterances.
    """
    n = len(after)
    if not n:
        raise ValueError("nothing to compare: no utterance has both values")
    change = after - before
    divisor = np.ones(n) if weights is None else weights
    # How often each utterance is drawn; drawing utterances keeps the pairs together.
    drawn = generator(seed).multinomial(n, np.full(n, 1 / n), size=resamples)
    totals, divisors = drawn @ change, drawn @ divisor
    differences = totals[divisors > 0] / divisors[divisors > 0]
    low, high = np.percentile(differences, [2.5, 97.5])
    return Interval(value=float(change.sum() / divisor.sum()), low=float(low), high=float(high))

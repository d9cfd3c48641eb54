"""How sure a difference of two means is: the paired bootstrap over utterances."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from flowse.seeding import generator


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A difference with the interval that holds it in 95 of 100 resamplings.

    Attributes:
        value: The difference of the two sets as they are.
        low: 2.5th percentile over resamplings.
        high: 97.5th percentile.
    """

    value: float
    low: float
    high: float

    @property
    def sure(self) -> bool:
        """Whether the interval leaves out zero."""
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
        after: A value an utterance; a total (its word errors, say) if there are weights.
        before: The same of the same utterances, in the same order.
        seed: Of the resampling.
        weights: What totals are divided by (its words, say): the difference is then that of the ratios of sums, as
            error rates of a corpus are.
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

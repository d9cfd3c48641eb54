"""The score of a speaker encoder: equal error rate over all pairs of recordings, with a confidence interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from flowse.metrics.speaker import equal_error_rate
from flowse.seeding import generator


@dataclass(frozen=True)
class SpeakerScore:
    """The equal error rate on a set of recordings.

    Attributes:
        eer: Error rate, 0..1, at the threshold where false acceptances and false rejections are equally frequent.
        low: Lower end of the 95 % confidence interval.
        high: Upper end of the 95 % confidence interval.
        speakers: Number of speakers.
        recordings: Number of recordings.
        pairs: Number of pairs.
    """

    eer: float
    low: float
    high: float
    speakers: int
    recordings: int
    pairs: int

    def __str__(self) -> str:
        return (
            f"EER {self.eer:.1%} [{self.low:.1%}, {self.high:.1%}], {self.speakers} speakers, "
            f"{self.recordings} recordings, {self.pairs} pairs"
        )


def speaker_score(embeddings: Mapping[str, Sequence[Float[np.ndarray, " D"]]], resamples: int = 300) -> SpeakerScore:
    """Compare all pairs of recordings.

    Args:
        embeddings: Embeddings of unit length by speaker; at least two speakers, and two recordings of one of them.
        resamples: Number of bootstrap samples; recordings are drawn within each speaker.

    Raises:
        ValueError: There is no pair of the same speaker, or no pair of different speakers.
    """
    names = sorted(embeddings)
    stacked = np.stack([embedding for name in names for embedding in embeddings[name]])
    speaker = np.repeat(np.arange(len(names)), [len(embeddings[name]) for name in names])
    cosines = stacked @ stacked.T

    def rate(chosen: np.ndarray) -> float:
        # A recording that is drawn twice does not make a pair with itself.
        first, second = np.triu_indices(len(chosen), 1)
        a, b = chosen[first], chosen[second]
        a, b = a[a != b], b[a != b]
        equal = speaker[a] == speaker[b]
        if equal.all() or not equal.any():
            raise ValueError(f"{len(names)} speaker(s) with {len(stacked)} recordings make no pairs to compare")
        return equal_error_rate(cosines[a[equal], b[equal]], cosines[a[~equal], b[~equal]])

    rng = generator(0)
    drawn = [
        rate(
            np.concatenate([rng.choice(np.flatnonzero(speaker == n), int((speaker == n).sum())) for n in set(speaker)])
        )
        for _ in range(resamples)
    ]
    low, high = np.quantile(drawn, (0.025, 0.975))
    count = len(stacked)
    return SpeakerScore(rate(np.arange(count)), float(low), float(high), len(names), count, count * (count - 1) // 2)

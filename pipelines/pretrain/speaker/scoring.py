"""How well an encoder tells speakers apart: equal error rate over all pairs of recordings, with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from flowse.metrics.speaker import equal_error_rate
from flowse.seeding import generator


@dataclass(frozen=True)
class SpeakerScore:
    """Equal error rate of a set of recordings.

    Attributes:
        eer: Share of errors, 0..1, where both kinds are as frequent.
        low: Lower end of its 95 % interval.
        high: Upper end.
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
        embeddings: Of length 1, by speaker; two speakers and two recordings of one at least.
        resamples: Of the bootstrap over recordings, within each speaker.

    Raises:
        ValueError: There is no pair of one speaker, or none of two.
    """
    names = sorted(embeddings)
    stacked = np.stack([one for name in names for one in embeddings[name]])
    speaker = np.repeat(np.arange(len(names)), [len(embeddings[name]) for name in names])
    cosines = stacked @ stacked.T

    def rate(chosen: np.ndarray) -> float:
        # A recording drawn twice is no pair with itself.
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

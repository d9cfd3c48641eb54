"""Decide from measured values whether a recording is good enough to learn from; importable without torch.

What is measured and what is judged are kept apart: another threshold needs no second look at the audio.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from flowse.refusal import Refusal, RefusalKind

Side = Literal["least", "most"]


@dataclass(frozen=True, kw_only=True)
class Quality:
    """What was measured of one utterance, or why it could not be measured.

    Attributes:
        utt_id: Id of the utterance.
        corpus: Name of its corpus.
        dnsmos: DNSMOS P.835 overall, 1 (bad) to 5; None if it was not asked for.
        bandwidth_hz: Upper edge of the occupied band (`flowse.audio.bandwidth`), in Hz.
        snr_db: Estimated ratio of speech to steady noise (`flowse.audio.snr`), in dB.
        clipped: Share of samples that are clipped (`flowse.audio.clipping`), 0 to 1.
        refused: Reason why it could not be measured; empty if it was.
        detail: The same for people.
        kind: Whether that is a verdict on the recording ("dropped") or something is broken ("failed").
    """

    utt_id: str
    corpus: str
    dnsmos: float | None = None
    bandwidth_hz: float | None = None
    snr_db: float | None = None
    clipped: float | None = None
    refused: str = ""
    detail: str = ""
    kind: RefusalKind = "dropped"

    def refusal(self) -> Refusal | None:
        """Return why the utterance could not be measured; None if it was."""
        return Refusal(self.refused, self.detail, self.kind) if self.refused else None


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One of the values of a `Quality`: its name, its threshold and how it is shown.

    Attributes:
        name: Attribute of `Quality`.
        label: For people, with the unit.
        limit: Attribute of `QualityLimits` that bounds it.
        side: Whether the limit is the least or the most that passes.
        reason: Reason of a reject row.
        low: Left edge of the first bin of its histogram.
        step: Width of a bin.
        bins: Number of bins; values beyond the edges count in the outermost.
    """

    name: str
    label: str
    limit: str
    side: Side
    reason: str
    low: float
    step: float
    bins: int

    def value(self, quality: Quality) -> float | None:
        """Return what was measured; None if it was not."""
        value: float | None = getattr(quality, self.name)
        return value

    def bin_of(self, value: float) -> int:
        """Return the bin of the histogram that a value falls into."""
        return min(max(math.floor((value - self.low) / self.step), 0), self.bins - 1)


MEASURES = (
    Measure(
        name="clipped", label="Clipped samples, share", limit="max_clipped", side="most", reason="clipped",
        low=0.0, step=0.0005, bins=40,
    ),
    Measure(
        name="bandwidth_hz", label="Bandwidth, Hz", limit="min_bandwidth_hz", side="least", reason="narrow_band",
        low=0.0, step=500.0, bins=48,
    ),
    Measure(
        name="snr_db", label="SNR (WADA), dB", limit="min_snr_db", side="least", reason="low_snr",
        low=-20.0, step=3.0, bins=40,
    ),
    Measure(
        name="dnsmos", label="DNSMOS overall", limit="min_dnsmos", side="least", reason="low_dnsmos",
        low=1.0, step=0.1, bins=40,
    ),
)  # fmt: skip
"""All measures in the order in which they are judged: causes first, DNSMOS (which hears all of them) last."""


@dataclass(frozen=True, kw_only=True)
class QualityLimits:
    """The worst values that pass; None: any value does.

    Attributes:
        min_dnsmos: Least DNSMOS P.835 overall, 1 to 5. Emilia takes 3.0 for generation.
        min_bandwidth_hz: Least bandwidth, in Hz. 4500 finds calls of 8 kHz, whatever rate they were uploaded at.
        min_snr_db: Least estimated SNR, in dB.
        max_clipped: Largest share of clipped samples, 0 to 1.

    Raises:
        ValueError: A value is out of its range; the message names the key.
    """

    min_dnsmos: float | None = dataclasses.field(default=None, metadata={"unit": False})
    min_bandwidth_hz: float | None = dataclasses.field(default=None, metadata={"unit": False})
    min_snr_db: float | None = dataclasses.field(default=None, metadata={"unit": False})
    max_clipped: float | None = dataclasses.field(default=None, metadata={"unit": False})

    def __post_init__(self) -> None:
        for key, low, high in (
            ("min_dnsmos", 1.0, 5.0),
            ("min_bandwidth_hz", 0.0, 96_000.0),
            ("min_snr_db", -20.0, 100.0),
            ("max_clipped", 0.0, 1.0),
        ):
            value = getattr(self, key)
            if value is not None and not low <= value <= high:
                raise ValueError(f"{key} is {value:g}; it must be between {low:g} and {high:g}, or null for no limit")

    def of(self, measure: Measure) -> float | None:
        """Return the limit of a measure; None: there is none."""
        limit: float | None = getattr(self, measure.limit)
        return limit

    def replaced(self, other: QualityLimits) -> QualityLimits:
        """Return these limits with those of `other` in place of them where it has some."""
        limits = {measure.limit: other.of(measure) for measure in MEASURES}
        given = {key: value for key, value in limits.items() if value is not None}
        own = {measure.limit: self.of(measure) for measure in MEASURES}
        return QualityLimits(**{**own, **given})


def judge(quality: Quality, limits: QualityLimits) -> None:
    """Decide on one utterance.

    Args:
        quality: What was measured of it.
        limits: What passes. A value that was not measured passes every limit.

    Raises:
        Refusal: Why it could not be measured; or "clipped", "narrow_band", "low_snr" or "low_dnsmos", in this order:
            the reason is the first limit that it breaks, the detail names all of them.
    """
    if (unmeasured := quality.refusal()) is not None:
        raise unmeasured
    broken = list(_broken(quality, limits))
    if broken:
        raise Refusal(broken[0][0].reason, "; ".join(detail for _, detail in broken))


def _broken(quality: Quality, limits: QualityLimits) -> Iterator[tuple[Measure, str]]:
    for measure in MEASURES:
        value, limit = measure.value(quality), limits.of(measure)
        if value is None or limit is None:
            continue
        if value < limit if measure.side == "least" else value > limit:
            word = "under" if measure.side == "least" else "over"
            yield measure, f"{measure.label} {value:g}, {word} {limit:g}"

"""Scores of recordings, and their summary: means, gains with intervals, all together and by group."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from flowse.metrics.bootstrap import Interval, paired_difference
from flowse.seeding import derive_seed

Signal = Literal["noisy", "enhanced", "previous", "clean"]
SIGNALS: tuple[Signal, ...] = ("noisy", "enhanced", "previous", "clean")


@dataclass(frozen=True, kw_only=True)
class Score:
    """The scores of one version of one recording; None where a score does not apply or cannot be computed.

    Attributes:
        key: Name of the recording, unique among all test sets.
        test_set: Name of its test set.
        signal: Which version of the recording.
        language: ISO 639-1 code; empty if unknown.
        speaker: Name of the speaker; empty if unknown.
        text: The reference transcript; empty if unknown.
        snr_db: SNR of the noisy version; None if unknown.
        reverberant: Whether the noisy version is reverberant; None if unknown.
        seconds: Length of the recording.
        ovrl: DNSMOS P.835 overall quality, 1 to 5.
        sig: DNSMOS P.835 quality of the speech, 1 to 5.
        bak: DNSMOS P.835 quality of the background, 1 to 5.
        p808: DNSMOS P.808 overall quality, 1 to 5.
        heard: The recogniser's transcript of this version.
        errors: Errors of `heard` against `text`, in words (Chinese: characters).
        tokens: Length of `text`, in words (Chinese: characters).
        errors_clean: Errors of `heard` against the recogniser's transcript of the clean version, for dWER.
        tokens_clean: Length of the transcript of the clean version.
        speaker_cosine: Similarity of the speaker embedding to that of the clean version, −1 to 1.
        estoi: Extended STOI against the clean version, see `flowse.metrics.intrusive.IntrusiveScore`.
        pesq_wb: Wideband PESQ against the clean version.
        si_sdr_db: SI-SDR against the clean version.
        lag_ms: By how much this version comes after the clean one.
        alignment: Correlation of the waveforms at that lag, 0 to 1.
        residual_db: RMS level of this version of a recording without speech, in dBFS, −120 for silence; None if there
            is speech.
        missing: Why scores are missing; empty if none is.
        peak: Largest magnitude of a sample; full scale is 1.
    """

    key: str
    test_set: str
    signal: Signal
    language: str
    speaker: str
    text: str
    snr_db: float | None
    reverberant: bool | None
    seconds: float
    ovrl: float
    sig: float
    bak: float
    p808: float
    heard: str
    errors: int | None
    tokens: int | None
    errors_clean: int | None
    tokens_clean: int | None
    speaker_cosine: float | None
    estoi: float | None
    pesq_wb: float | None
    si_sdr_db: float | None
    lag_ms: float | None
    alignment: float | None
    residual_db: float | None
    missing: str
    peak: float


Versions = dict[str, Score]
"""The scores of one recording, by version."""


def has_speech(versions: Versions) -> bool:
    """Whether there is speech in a recording."""
    return versions["noisy"].residual_db is None


@dataclass(frozen=True)
class Metric:
    """How one figure of a summary is computed from scores.

    Attributes:
        name: Key in `summary.json`, in MLflow and in the gates of export.
        label: Its name for people, at the head of a row.
        value: Column of `Score`: the value, or the number of errors of a rate.
        over: Column that a rate is divided by; empty for a mean.
        lower_is_better: Whether less of it is better.
        of_speech: Whether it is of recordings with speech, or of those without.
        aligned: Whether it means little unless output and reference are aligned.
        digits: Decimals that are shown.
        meaning: What it measures and its range, for people.
    """

    name: str
    label: str
    value: str
    over: str = ""
    lower_is_better: bool = False
    of_speech: bool = True
    aligned: bool = False
    digits: int = 2
    meaning: str = ""

    @property
    def explained(self) -> str:
        """What it measures, its range and which direction is better, in sentences."""
        return f"{self.meaning} {'Lower' if self.lower_is_better else 'Higher'} is better."


METRICS = (
    Metric(
        "ovrl", "DNSMOS overall", "ovrl",
        meaning="The overall quality that listeners would give, predicted by DNSMOS P.835: 1 to 5.",
    ),
    Metric(
        "sig", "DNSMOS speech", "sig",
        meaning="How undistorted listeners would find the speech, predicted by DNSMOS P.835: 1 to 5.",
    ),
    Metric(
        "bak", "DNSMOS background", "bak",
        meaning="How little the background would disturb listeners, predicted by DNSMOS P.835: 1 to 5.",
    ),
    Metric(
        "p808", "DNSMOS P.808", "p808",
        meaning="The overall quality that listeners would give, predicted by DNSMOS P.808: 1 to 5.",
    ),
    Metric(
        "wer", "WER/CER", "errors", "tokens", lower_is_better=True, digits=3,
        meaning="Share of words (Chinese: characters) that the recogniser gets wrong against the reference "
        "transcript: 0 up, above 1 where it inserts.",
    ),
    Metric(
        "dwer", "dWER/dCER", "errors_clean", "tokens_clean", lower_is_better=True, digits=3,
        meaning="Word or character errors against what the recogniser hears in the clean version: 0 up.",
    ),
    Metric(
        "speaker_cosine", "Speaker cosine", "speaker_cosine", digits=3,
        meaning="Similarity of the voice to that of the clean version, by a speaker encoder: −1 to 1.",
    ),
    Metric(
        "estoi", "ESTOI *", "estoi", aligned=True, digits=3,
        meaning="Intelligibility, from the correlation of the envelopes with those of the clean version: 0 to 1.",
    ),
    Metric(
        "pesq_wb", "PESQ-WB *", "pesq_wb", aligned=True,
        meaning="Quality against the clean version, wideband PESQ (ITU-T P.862.2): 1.0 to 4.6.",
    ),
    Metric(
        "si_sdr_db", "SI-SDR, dB *", "si_sdr_db", aligned=True, digits=1,
        meaning="Energy of the speech against that of all that differs from the clean version, in dB, without a bound.",
    ),
    Metric(
        "residual_db", "No speech, dBFS", "residual_db", lower_is_better=True, of_speech=False, digits=1,
        meaning="Level of what is left of recordings without speech, in dBFS: −120 for silence, to 0.",
    ),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A metric in a group of recordings; a row of `summary.json`.

    Attributes:
        group: "all", or e.g. "language en".
        metric: Name of the metric, of `METRICS`.
        recordings: Number of recordings that have it in every version compared.
        noisy: Mean over the noisy versions; of a rate, all errors over all tokens.
        enhanced: The same of the enhanced versions.
        clean: The same of the clean versions; None where the metric compares with them.
        previous: The same of the previous model's versions; None if there is no previous model.
        gain: enhanced minus noisy, with its 95 % interval.
        gain_previous: enhanced minus previous, with its 95 % interval; None if there is no previous model.
    """

    group: str
    metric: str
    recordings: int
    noisy: float
    enhanced: float
    clean: float | None
    previous: float | None
    gain: Interval
    gain_previous: Interval | None


def snr_bucket(snr_db: float | None) -> str:
    """Name the 5-dB step that an SNR lies in; empty if unknown."""
    if snr_db is None:
        return ""
    low = 5 * math.floor(snr_db / 5)
    return f"{low}…{low + 5} dB"


GROUPS: dict[str, Callable[[Score], str]] = {
    "set": lambda score: score.test_set,
    "language": lambda score: score.language,
    "SNR": lambda score: snr_bucket(score.snr_db),
    "room": lambda score: "" if score.reverberant is None else ("reverberant" if score.reverberant else "dry"),
}


def by_recording(scores: Sequence[Score]) -> dict[str, Versions]:
    """Group scores by recording, in the order in which the recordings come."""
    recordings: dict[str, Versions] = {}
    for score in scores:
        recordings.setdefault(score.key, {})[score.signal] = score
    return recordings


def summarise(scores: Sequence[Score], seed: int, resamples: int) -> list[Summary]:
    """Compare enhanced with noisy (and previous) in all recordings and in each group.

    Args:
        scores: Of every version of every recording.
        seed: Of the resamplings.
        resamples: Number of resamplings behind each interval.

    Returns:
        A row for each group and metric; metrics that no recording has are left out.
    """
    recordings = list(by_recording(scores).values())
    groups: dict[str, list[Versions]] = {"all": recordings}
    for name, group_of in GROUPS.items():
        values = sorted({group_of(versions["noisy"]) for versions in recordings} - {""}, key=_natural)
        # A lone value is no comparison: it would repeat "all".
        if len(values) > 1:
            for value in values:
                groups[f"{name} {value}"] = [v for v in recordings if group_of(v["noisy"]) == value]
    found = [
        _compare(group, metric, members, derive_seed(seed, "bootstrap", group, metric.name), resamples)
        for group, members in groups.items()
        for metric in METRICS
    ]
    return [summary for summary in found if summary is not None]


def _natural(text: str) -> tuple[float, str]:
    """Sort by the number at the head of a text, then by the text."""
    number = re.match(r"-?\d+", text)
    return (float(number[0]) if number else 0.0, text)


def _compare(group: str, metric: Metric, members: Sequence[Versions], seed: int, resamples: int) -> Summary | None:
    """Summarise a metric in a group; None if no recording has it in every version compared."""
    signals = ["noisy", "enhanced", *(["previous"] if any("previous" in versions for versions in members) else [])]

    def has(versions: Versions, signal: str) -> bool:
        score = versions.get(signal)
        whole = score is not None and getattr(score, metric.value) is not None
        return whole and (not metric.over or bool(getattr(score, metric.over)))

    def values(signal: str) -> np.ndarray:
        return np.array([float(getattr(versions[signal], metric.value)) for versions in complete])

    of_kind = [versions for versions in members if has_speech(versions) is metric.of_speech]
    complete = [versions for versions in of_kind if all(has(versions, signal) for signal in signals)]
    if not complete:
        return None
    columns = {signal: values(signal) for signal in signals}
    lengths = np.array([float(getattr(v["noisy"], metric.over)) for v in complete]) if metric.over else None
    total = float(lengths.sum()) if lengths is not None else float(len(complete))
    clean = None
    if all(has(versions, "clean") for versions in complete):
        clean = sum(values("clean").tolist()) / total
    previous = gain_previous = None
    if "previous" in columns:
        previous = float(columns["previous"].sum()) / total
        gain_previous = paired_difference(columns["enhanced"], columns["previous"], seed, lengths, resamples)
    return Summary(
        group=group,
        metric=metric.name,
        recordings=len(complete),
        noisy=float(columns["noisy"].sum()) / total,
        enhanced=float(columns["enhanced"].sum()) / total,
        clean=clean,
        previous=previous,
        gain=paired_difference(columns["enhanced"], columns["noisy"], seed, lengths, resamples),
        gain_previous=gain_previous,
    )


def worst(scores: Sequence[Score], count: int = 10) -> list[tuple[Score, Score]]:
    """Return the `count` (noisy, enhanced) with speech that gained least by DNSMOS overall, the worst first."""
    pairs = [(found["noisy"], found["enhanced"]) for found in by_recording(scores).values() if has_speech(found)]
    return sorted(pairs, key=lambda pair: (pair[1].ovrl - pair[0].ovrl, pair[0].key))[:count]


def loudest_left(scores: Sequence[Score], count: int = 50) -> list[tuple[float, Score, Score]]:
    """Return the `count` recordings without speech of which most is left: change in dB, noisy, enhanced."""
    found = [
        (enhanced.residual_db - noisy.residual_db, noisy, enhanced)
        for versions in by_recording(scores).values()
        if (noisy := versions["noisy"]).residual_db is not None
        and (enhanced := versions["enhanced"]).residual_db is not None
    ]
    return sorted(found, key=lambda row: (-row[0], row[1].key))[:count]


def as_metrics(summaries: Sequence[Summary]) -> dict[str, float]:
    """Flatten a summary for MLflow: "enhanced/ovrl", "gain/ovrl" and the like, and the gain of each group."""
    values: dict[str, float] = {}
    for summary in summaries:
        name = summary.metric
        if summary.group == "all":
            values |= {f"noisy/{name}": summary.noisy, f"enhanced/{name}": summary.enhanced}
            values[f"gain/{name}"] = summary.gain.value
            if summary.clean is not None:
                values[f"clean/{name}"] = summary.clean
            if summary.gain_previous is not None:
                values[f"gain over previous/{name}"] = summary.gain_previous.value
        elif name == "ovrl":
            values[f"gain/ovrl/{summary.group.replace('…', ' to ')}"] = summary.gain.value
    return values

"""Scores of recordings, and what they say together: means, gains with intervals, by group, and the worst."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from flowse.metrics.bootstrap import Interval, paired_difference
from flowse.seeding import derive_seed

Signal = Literal["noisy", "enhanced", "previous", "clean"]
SIGNALS: tuple[Signal, ...] = ("noisy", "enhanced", "previous", "clean")


@dataclass(frozen=True, kw_only=True)
class Score:
    """One version of one recording, scored; None where a score does not apply or cannot be had.

    Attributes:
        key: The recording.
        test_set: Its test set.
        signal: Which version.
        language: ISO 639-1 code; empty if unknown.
        speaker: Empty if unknown.
        text: What is said.
        snr_db: Of the noisy version.
        reverberant: Whether the noisy version is.
        seconds: Length.
        ovrl: DNSMOS P.835 overall, 1 to 5; likewise `sig` (speech), `bak` (background), `p808`.
        sig: See `ovrl`.
        bak: See `ovrl`.
        p808: See `ovrl`.
        heard: What the recogniser heard.
        errors: Its errors against `text`, in words (Chinese: characters).
        tokens: Length of `text`, likewise.
        errors_clean: Its errors against what it heard in the clean version (dWER's).
        tokens_clean: Length of that.
        speaker_cosine: Similarity to the voice of the clean version.
        estoi: Against the clean version, as the next four; see `flowse.metrics.intrusive`.
        pesq_wb: See there.
        si_sdr_db: See there.
        lag_ms: See there.
        alignment: See there.
        missing: Why a score is not there.
        peak: Largest magnitude.
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
    missing: str
    peak: float


@dataclass(frozen=True)
class Metric:
    """How a column of the table is computed from scores.

    Attributes:
        name: Key in `summary.json` and in MLflow.
        label: Head of its row.
        value: Column of `Score`: the value, or the number of errors of a rate.
        over: Column that a rate is divided by; empty for a mean.
        lower: Whether less is better.
        aligned: Whether it means little unless output and reference are aligned.
        digits: After the point.
    """

    name: str
    label: str
    value: str
    over: str = ""
    lower: bool = False
    aligned: bool = False
    digits: int = 2


METRICS = (
    Metric("ovrl", "DNSMOS overall", "ovrl"),
    Metric("sig", "DNSMOS speech", "sig"),
    Metric("bak", "DNSMOS background", "bak"),
    Metric("p808", "DNSMOS P.808", "p808"),
    Metric("wer", "WER/CER", "errors", "tokens", lower=True, digits=3),
    Metric("dwer", "dWER/dCER", "errors_clean", "tokens_clean", lower=True, digits=3),
    Metric("speaker_cosine", "Speaker cosine", "speaker_cosine", digits=3),
    Metric("estoi", "ESTOI *", "estoi", aligned=True, digits=3),
    Metric("pesq_wb", "PESQ-WB *", "pesq_wb", aligned=True),
    Metric("si_sdr_db", "SI-SDR, dB *", "si_sdr_db", aligned=True, digits=1),
)


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A metric in a group of recordings; a row of `summary.json`.

    Attributes:
        group: "all", or e.g. "language en".
        metric: Name of the metric.
        recordings: How many have it, in every version compared.
        noisy: Mean (rates: of all errors over all tokens).
        enhanced: Likewise.
        clean: Likewise; None where the metric compares with it.
        previous: Of the previous model.
        gain: enhanced minus noisy, with its 95 % interval.
        gain_previous: enhanced minus previous, likewise.
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


def summarise(scores: Sequence[Score], seed: int, resamples: int) -> list[Summary]:
    """Compare enhanced with noisy (and previous) in all and in each group; metrics that nobody has are left out."""
    recordings: dict[str, dict[str, Score]] = {}
    for score in scores:
        recordings.setdefault(score.key, {})[score.signal] = score
    groups: dict[str, list[dict[str, Score]]] = {"all": list(recordings.values())}
    for name, of in GROUPS.items():
        values = sorted({of(one["noisy"]) for one in recordings.values()} - {""}, key=_natural)
        # One value is no comparison: it would repeat "all".
        if len(values) > 1:
            for value in values:
                groups[f"{name} {value}"] = [one for one in recordings.values() if of(one["noisy"]) == value]
    found = [
        _compare(group, metric, members, derive_seed(seed, "bootstrap", group, metric.name), resamples)
        for group, members in groups.items()
        for metric in METRICS
    ]
    return [one for one in found if one is not None]


def _natural(text: str) -> tuple[float, str]:
    number = re.match(r"-?\d+", text)
    return (float(number[0]) if number else 0.0, text)


def _compare(
    group: str, metric: Metric, members: Sequence[dict[str, Score]], seed: int, resamples: int
) -> Summary | None:
    signals = ["noisy", "enhanced", *(["previous"] if any("previous" in one for one in members) else [])]

    def has(one: Mapping[str, Score], signal: str) -> bool:
        score = one.get(signal)
        whole = score is not None and getattr(score, metric.value) is not None
        return whole and (not metric.over or bool(getattr(score, metric.over)))

    both = [one for one in members if all(has(one, signal) for signal in signals)]
    if not both:
        return None
    columns = {s: np.array([float(getattr(one[s], metric.value)) for one in both]) for s in signals}
    weights = (
        np.array([float(getattr(one["noisy"], metric.over)) for one in both]) if metric.over else np.ones(len(both))
    )
    means = {signal: float(values.sum() / weights.sum()) for signal, values in columns.items()}
    clean = None
    if all(has(one, "clean") for one in both):
        clean = float(sum(float(getattr(one["clean"], metric.value)) for one in both) / weights.sum())
    divide = weights if metric.over else None
    return Summary(
        group=group,
        metric=metric.name,
        recordings=len(both),
        noisy=means["noisy"],
        enhanced=means["enhanced"],
        clean=clean,
        previous=means.get("previous"),
        gain=paired_difference(columns["enhanced"], columns["noisy"], seed, divide, resamples),
        gain_previous=(
            paired_difference(columns["enhanced"], columns["previous"], seed, divide, resamples)
            if "previous" in columns
            else None
        ),
    )


def worst(scores: Sequence[Score], count: int = 10) -> list[tuple[Score, Score]]:
    """Return the (noisy, enhanced) that fared worst by DNSMOS overall, the worst first."""
    by_key: dict[str, dict[str, Score]] = {}
    for score in scores:
        by_key.setdefault(score.key, {})[score.signal] = score
    pairs = [(one["noisy"], one["enhanced"]) for one in by_key.values()]
    return sorted(pairs, key=lambda pair: (pair[1].ovrl - pair[0].ovrl, pair[0].key))[:count]

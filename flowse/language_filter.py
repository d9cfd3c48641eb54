"""Decide from Whisper's probabilities whether a recording is in a wanted language; importable without torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from flowse.audio.activity import Activity
from flowse.refusal import Refusal

Labels = Literal["trust", "verify", "ignore"]


@dataclass(frozen=True, kw_only=True)
class LanguageRules:
    """Which recordings are kept.

    Attributes:
        languages: Codes to keep, as Whisper writes them (ISO 639-1). "zh" includes Cantonese ("yue").
        min_probability: The wanted languages together must reach it; it is compared with Whisper's probabilities of
            all languages.
        labels: What a corpus' own language label is worth. "trust": taken at its word, the audio is not read;
            "verify": Whisper decides and must agree; "ignore": Whisper decides. A recording without a label is always
            decided by Whisper.
        min_active_s: Less sound than this, in seconds, is no speech.
        floor_dbfs: Level below which nothing counts as sound.
        min_dynamics_db: Sound that varies less is hum or hiss (about 1 dB), not speech (above 10 dB).

    Raises:
        ValueError: A value is out of its range; the message names the key.
    """

    languages: tuple[str, ...] = ("en", "zh")
    min_probability: float = 0.5
    labels: Labels = "ignore"
    min_active_s: float = 0.2
    floor_dbfs: float = -60.0
    min_dynamics_db: float = 2.0

    def __post_init__(self) -> None:
        if not self.languages:
            raise ValueError("languages is empty; name at least one, e.g. [en, zh]")
        if not 0 <= self.min_probability <= 1:
            raise ValueError(f"min_probability is {self.min_probability}; it must be between 0 and 1")
        if self.labels not in get_args(Labels):
            raise ValueError(f"labels is {self.labels!r}; allowed: {', '.join(get_args(Labels))}")


@dataclass(frozen=True)
class Verdict:
    """The language that a recording is kept as, and its probability (0 to 1)."""

    language: str
    probability: float


def rank(probabilities: Mapping[str, float]) -> list[tuple[str, float]]:
    """Order languages by probability, the likeliest first; Cantonese counts as "zh"."""
    merged = dict(probabilities)
    merged["zh"] = merged.get("zh", 0.0) + merged.pop("yue", 0.0)
    return sorted(merged.items(), key=lambda entry: (-entry[1], entry[0]))


def judge(probabilities: Mapping[str, float], rules: LanguageRules, label: str = "") -> Verdict:
    """Decide on one recording.

    Args:
        probabilities: Of every language Whisper knows; they sum to 1.
        rules: What is kept.
        label: The corpus' own label in Whisper's code; empty if it has none.

    Raises:
        Refusal: `other_language`, `uncertain_language` or `label_mismatch`.
    """
    ranked = rank(probabilities)
    best, probability = ranked[0]
    if not all(math.isfinite(p) for _, p in ranked):
        raise Refusal("uncertain_language", "the model gave no finite probabilities; fp16 may overflow")
    likeliest = ", ".join(f"{language} {p:.2f}" for language, p in ranked[:3])
    # Together: speech that mixes two wanted languages is wanted.
    wanted = sum(p for language, p in ranked if language in rules.languages)
    if rules.labels == "verify" and label and label not in rules.languages:
        raise Refusal("other_language", f"labelled {label}, heard as {likeliest}")
    if best not in rules.languages and probability >= rules.min_probability:
        raise Refusal("other_language", likeliest)
    if best not in rules.languages or wanted < rules.min_probability:
        raise Refusal("uncertain_language", likeliest)
    if rules.labels == "verify" and label and label != best:
        raise Refusal("label_mismatch", f"labelled {label}, heard as {likeliest}")
    return Verdict(best, probability)


def no_speech(found: Sequence[Activity], rules: LanguageRules) -> Refusal | None:
    """Return why a recording holds no speech, judged by its levels alone; None if it may hold some.

    Args:
        found: Activity of each stretch of the recording.
        rules: What counts as sound.
    """
    active_s = sum(stretch.active_s for stretch in found)
    dynamics_db = max((stretch.dynamics_db for stretch in found), default=0.0)
    if active_s < rules.min_active_s:
        return Refusal("no_speech", f"{active_s:.2f} s of sound above {rules.floor_dbfs:g} dBFS")
    if dynamics_db < rules.min_dynamics_db:
        return Refusal("no_speech", f"steady sound, its level varies by {dynamics_db:.1f} dB")
    return None

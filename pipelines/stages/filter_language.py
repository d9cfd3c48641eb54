"""Keep the speech that is in the wanted languages, as Whisper hears it.

Reads the manifest of ingest; only its rows of kind "speech".
Writes a manifest part a unit with `language` and `language_prob`; `languages.parquet`: labels against
decisions. Drops other and uncertain languages, recordings without speech and, with `labels: verify`,
contradicted labels. Fails what cannot be read any more.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from flowse.audio.activity import Activity, find_activity
from flowse.data.audio_ahead import read_ahead
from flowse.data.manifest import Reject, Utterance
from flowse.data.parquet import read_rows, write_rows
from flowse.errors import UserError
from flowse.refusal import Refusal
from flowse.whisper.config import WhisperConfig
from flowse.whisper.labeller import Labeller
from flowse.whisper.windows import SAMPLE_RATE
from pipelines.corpora.languages import canonical
from pipelines.engine.accounts import StageReport, Tally, UnitReport
from pipelines.engine.stage import StageContext, Unit, UnitOutput

NAME = "filter_language"
READS = ("ingest",)
REVISION = 2

Labels = Literal["trust", "verify", "ignore"]
_TOLD = "told "  # metric keys "told <label> heard <decision>"


@dataclass(frozen=True, kw_only=True)
class Config(WhisperConfig):
    """What is kept.

    Attributes:
        languages: Codes to keep, as Whisper writes them (ISO 639-1). "zh" includes Cantonese ("yue").
        min_probability: The wanted languages together must reach it; compared among all languages Whisper
            knows.
        labels: What a corpus' own language label is worth. "trust": taken at its word, the recording is not
            listened to; "verify": Whisper decides and must agree; "ignore": Whisper decides.
            A recording without a label is always decided by Whisper.
        min_active_s: Less sound than this, in seconds, is no speech.
        floor_dbfs: Level below which nothing counts as sound.
        min_dynamics_db: Sound that varies less is hum or hiss (about 1 dB), not speech (above 10 dB).
    """

    languages: tuple[str, ...] = ("en", "zh")
    min_probability: float = 0.5
    labels: Labels = "ignore"
    min_active_s: float = 0.2
    floor_dbfs: float = -60.0
    min_dynamics_db: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.languages:
            raise ValueError("languages is empty; name at least one, e.g. [en, zh]")
        if not 0 <= self.min_probability <= 1:
            raise ValueError(f"min_probability is {self.min_probability}; it must be between 0 and 1")
        if self.labels not in get_args(Labels):
            raise ValueError(f"labels is {self.labels!r}; allowed: {', '.join(get_args(Labels))}")


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """How many recordings with a corpus label, and with speech, met which end; a row of `languages.parquet`.

    Attributes:
        label: Language by the corpus.
        decision: The language it was kept as, or why it was rejected and what was heard ("other_language
            fr").
        kept: Whether it was kept.
        utterances: How many.
    """

    label: str
    decision: str
    kept: bool
    utterances: int


@dataclass(frozen=True)
class Verdict:
    """A language and its probability."""

    language: str
    probability: float | None


class Worker:
    """Listens to the speech of one manifest part."""

    def __init__(self, config: Config, roots: Mapping[str, Path], device: str) -> None:
        self._config = config
        self._roots = roots
        self._device = device

    @cached_property
    def _labeller(self) -> Labeller:
        """The model, loaded when a recording has to be listened to: trusted labels need none."""
        labeller = Labeller(self._config, self._device)
        if not labeller.multilingual:
            raise UserError(
                f"filter_language.model {self._config.model!r} knows English only and cannot tell languages; "
                "give a multilingual Whisper (a published name without '.en')"
            )
        return labeller

    def __call__(self, payload: str, output: UnitOutput) -> UnitReport:
        """Judge the speech rows of the part at path `payload`."""
        rows = [row for row in read_rows(Path(payload), Utterance) if row.kind == "speech"]
        labels = [canonical(row.language) for row in rows]
        trusted = [self._config.labels == "trust" and bool(label) for label in labels]
        heard = iter(self._listen([row for row, known in zip(rows, trusted, strict=True) if not known]))
        kept: list[Utterance] = []
        rejects: list[Reject] = []
        told: Counter[str] = Counter()
        for row, label, known in zip(rows, labels, trusted, strict=True):
            evidence = {label: 1.0} if known else next(heard)
            try:
                if isinstance(evidence, Exception):
                    raise evidence
                verdict = judge(evidence, self._config, label)
            except Refusal as refusal:
                reject = Reject.of(row, NAME, refusal)
                rejects.append(reject)
                if isinstance(evidence, Exception):
                    continue  # silence and broken files say nothing about how well languages are told
                decision = f"{reject.reason} {rank(evidence)[0][0]}"
            else:
                kept.append(
                    dataclasses.replace(
                        row, language=verdict.language, language_prob=None if known else _stored(verdict.probability)
                    )
                )
                decision = verdict.language
            if label and not known:
                told[f"{_TOLD}{label} heard {decision}"] += 1
        write_rows(output.path(".parquet"), Utterance, kept)
        return UnitReport(Tally.of(row.duration_s for row in kept), tuple(rejects), dict(told))

    def _listen(self, rows: Sequence[Utterance]) -> list[dict[str, float] | Exception]:
        """Return for every row the probability of each language, or why there is none."""
        sums: list[dict[str, float]] = [{} for _ in rows]
        active: list[list[Activity]] = [[] for _ in rows]
        errors: dict[int, Exception] = {}
        for batch in read_ahead(rows, self._roots):
            errors |= {block.index: block.error for block in batch if block.error is not None}
            blocks = [block for block in batch if block.error is None]
            for block in blocks:
                active[block.index].append(
                    find_activity(block.waveform, SAMPLE_RATE, floor_dbfs=self._config.floor_dbfs)
                )
            loud = [block for block in blocks if self._no_speech(active[block.index][-1:]) is None]
            found = self._labeller.detect_language([block.waveform for block in loud])
            for block, probabilities in zip(loud, found, strict=True):
                weight = active[block.index][-1].active_s
                for language, probability in probabilities.items():
                    total = sums[block.index]
                    total[language] = total.get(language, 0.0) + weight * probability
        results: list[dict[str, float] | Exception] = []
        for index, total in enumerate(sums):
            refusal = errors.get(index) or self._no_speech(active[index])
            norm = sum(total.values())
            results.append(refusal or {language: value / norm for language, value in total.items()})
        return results

    def _no_speech(self, found: Sequence[Activity]) -> Refusal | None:
        """Judge by energy alone; None if there may be speech."""
        active_s = sum(one.active_s for one in found)
        dynamics_db = max((one.dynamics_db for one in found), default=0.0)
        if active_s < self._config.min_active_s:
            return Refusal("no_speech", f"{active_s:.2f} s of sound above {self._config.floor_dbfs:g} dBFS")
        if dynamics_db < self._config.min_dynamics_db:
            return Refusal("no_speech", f"steady sound, its level varies by {dynamics_db:.1f} dB")
        return None


def rank(probabilities: Mapping[str, float]) -> list[tuple[str, float]]:
    """Order languages by probability, the likeliest first; Cantonese counts as "zh"."""
    merged = dict(probabilities)
    merged["zh"] = merged.get("zh", 0.0) + merged.pop("yue", 0.0)
    return sorted(merged.items(), key=lambda entry: (-entry[1], entry[0]))


def judge(probabilities: Mapping[str, float], config: Config, label: str = "") -> Verdict:
    """Decide on one recording.

    Args:
        probabilities: Of every language Whisper knows; they sum to 1.
        config: The stage's.
        label: The corpus' own label in Whisper's code, if it has one.

    Raises:
        Refusal: `other_language`, `uncertain_language` or `label_mismatch`.
    """
    ranked = rank(probabilities)
    best, probability = ranked[0]
    if not np.isfinite([p for _, p in ranked]).all():
        raise Refusal("uncertain_language", "the model gave no finite probabilities; fp16 may overflow")
    likeliest = ", ".join(f"{language} {p:.2f}" for language, p in ranked[:3])
    # Together: speech that mixes two wanted languages is wanted.
    wanted = sum(p for language, p in ranked if language in config.languages)
    if config.labels == "verify" and label and label not in config.languages:
        raise Refusal("other_language", f"labelled {label}, heard as {likeliest}")
    if best not in config.languages and probability >= config.min_probability:
        raise Refusal("other_language", likeliest)
    if best not in config.languages or wanted < config.min_probability:
        raise Refusal("uncertain_language", likeliest)
    if config.labels == "verify" and label and label != best:
        raise Refusal("label_mismatch", f"labelled {label}, heard as {likeliest}")
    return Verdict(best, probability)


def confusions(metrics: Mapping[str, float], languages: Sequence[str]) -> list[Confusion]:
    """Read the table of labels against decisions out of the units' summed metrics."""
    table = []
    for key, count in sorted(metrics.items()):
        if key.startswith(_TOLD):
            label, _, decision = key.removeprefix(_TOLD).partition(" heard ")
            table.append(Confusion(label=label, decision=decision, kept=decision in languages, utterances=int(count)))
    return table


def score(table: Sequence[Confusion], languages: Sequence[str]) -> dict[str, float]:
    """Score "keep" against the labels: recall and precision; empty where no recording has a label."""
    labelled = sum(one.utterances for one in table)
    wanted = sum(one.utterances for one in table if one.label in languages)
    kept = sum(one.utterances for one in table if one.kept)
    right = sum(one.utterances for one in table if one.kept and one.label in languages)
    correct = sum(one.utterances for one in table if one.kept and one.label == one.decision)
    scores = {"labelled": float(labelled)} if labelled else {}
    if wanted:
        scores["recall"] = right / wanted
    if kept:
        scores["precision"] = right / kept
        scores["accuracy of kept language"] = correct / kept
    return scores


def speech_units(parts: Sequence[Path]) -> list[Unit[str]]:
    """Make a unit of every manifest part that holds speech."""
    units = []
    for part in parts:
        table = pq.read_table(part, columns=["kind", "duration_s"])
        durations = table.filter(pc.equal(table["kind"], "speech"))["duration_s"].to_pylist()
        if durations:
            units.append(Unit(part.stem, str(part), Tally.of(durations)))
    return units


def _stored(probability: float | None) -> float | None:
    """Round what two runs may compute differently in the last bits, so that they write the same bytes."""
    return None if probability is None else round(probability, 6)


def run(config: Config, context: StageContext) -> StageReport:
    """Filter every part of ingest's manifest."""
    _check(config)
    units = speech_units(context.inputs["ingest"].parts(".parquet"))
    if not units:
        raise UserError("filter_language: ingest kept no speech; see the rejects of ingest, and ingest.speech")
    device = "cuda" if context.resources.num_gpus else "cpu"
    report = context.map_units(Worker, (config, dict(context.roots), device), units)
    table = confusions(report.metrics, config.languages)
    with context.write("languages.parquet") as path:
        write_rows(path, Confusion, table)
    scores = score(table, config.languages)
    plain = {key: value for key, value in report.metrics.items() if not key.startswith(_TOLD)}
    return dataclasses.replace(report, metrics=plain | scores, notes=(*report.notes, *_notes(scores)))


def _notes(scores: Mapping[str, float]) -> list[str]:
    if not scores:
        return []
    figures = [f"{name} {scores[name]:.1%}" for name in ("recall", "precision") if name in scores]
    return [f"language filter: {', '.join(figures)} on {scores['labelled']:.0f} labelled"]


def _check(config: Config) -> None:
    """Refuse what cannot work before any work.

    Raises:
        UserError: The model is missing, or Whisper has no such language.
    """
    from whisper.tokenizer import LANGUAGES

    unknown = [language for language in config.languages if language not in LANGUAGES]
    if unknown:
        raise UserError(
            f"filter_language.languages: Whisper has no {', '.join(unknown)}; use its codes, e.g. en, zh, fr"
        )
    config.require("filter_language.model", "filter_language.backend")

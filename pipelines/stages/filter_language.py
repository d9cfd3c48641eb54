"""Keep the speech that is in the wanted languages, as Whisper detects them.

Reads the manifest of quality: speech alone.
Writes a manifest part a unit with `language` and `language_prob`; `languages.parquet`: labels against
decisions. Drops other and uncertain languages, recordings without speech and, with `labels: verify`,
contradicted labels. Fails what cannot be read any more.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from flowse.data.manifest import Reject, Utterance
from flowse.errors import UserError
from flowse.language_filter import LanguageRules, judge, rank
from flowse.metrics.languages import Confusion, confusion_key, confusions, score
from flowse.refusal import Refusal, refusing
from flowse.whisper.config import WhisperConfig
from pipelines.corpora.languages import canonical
from pipelines.engine.accounts import StageReport, Tally, UnitReport
from pipelines.engine.manifest_part import ManifestPart
from pipelines.engine.stage import StageContext, Unit, UnitOutput

if TYPE_CHECKING:
    from flowse.data.audio_ahead import Reader
    from flowse.whisper.labeller import Labeller

NAME = "filter_language"
READS = ("quality",)
REVISION = 3


@dataclass(frozen=True, kw_only=True)
class Config(LanguageRules, WhisperConfig):
    """Which languages are kept, and the Whisper that detects them; all keys are those of the two base classes."""

    def __post_init__(self) -> None:
        LanguageRules.__post_init__(self)
        WhisperConfig.__post_init__(self)


class Worker:
    """Filters manifest parts; the model is loaded once.

    Args:
        config: Rules and model.
        roots: Folder of every corpus.
        device: Where the model runs.
        reader: Reads the audio; None: this process.
    """

    def __init__(self, config: Config, roots: Mapping[str, Path], device: str, reader: Reader | None = None) -> None:
        self._config, self._roots, self._device, self._reader = config, roots, device, reader

    @cached_property
    def _labeller(self) -> Labeller:
        """The model, loaded for the first recording that it has to decide: trusted labels need none."""
        from flowse.whisper.labeller import Labeller

        labeller = Labeller(self._config, self._device)
        if not labeller.multilingual:
            raise UserError(
                f"filter_language.model {self._config.model!r} knows English only and cannot tell languages; "
                "give a multilingual Whisper (a published name without '.en')"
            )
        return labeller

    def __call__(self, payload: ManifestPart, output: UnitOutput) -> UnitReport:
        """Judge the speech rows of a part."""
        from flowse.data.parquet import write_rows

        rows, rejects = payload.read(NAME)
        labels = [canonical(row.language) for row in rows]
        trusted = [self._config.labels == "trust" and bool(label) for label in labels]
        asked = [row for row, known in zip(rows, trusted, strict=True) if not known]
        detected = iter(self._detect(asked, output.count))
        kept: list[Utterance] = []
        counts: Counter[str] = Counter()
        for row, label, known in zip(rows, labels, trusted, strict=True):
            found = {label: 1.0} if known else next(detected)
            if isinstance(found, Refusal):  # unreadable or silent: there is no decision to compare with the label
                rejects.append(Reject.of(row, NAME, found))
                continue
            try:
                with refusing(row.path):
                    verdict = judge(found, self._config, label)
            except Refusal as refusal:
                rejects.append(Reject.of(row, NAME, refusal))
                decision = f"{refusal.reason} {rank(found)[0][0]}"
            else:
                # Rounded: two runs may compute different last bits, and shall write the same bytes.
                probability = None if known else round(verdict.probability, 6)
                kept.append(dataclasses.replace(row, language=verdict.language, language_prob=probability))
                decision = verdict.language
            if label and not known:
                counts[confusion_key(label, decision)] += 1
        write_rows(output.path(".parquet"), Utterance, kept)
        return UnitReport(Tally.of(row.duration_s for row in kept), tuple(rejects), dict(counts))

    def _detect(self, rows: Sequence[Utterance], counted: Callable[[float], None]) -> list[dict[str, float] | Refusal]:
        """Return for every row the probability of each language, or why there is none."""
        from flowse.labelling import detect_languages

        if not rows:
            return []
        return detect_languages(self._labeller, rows, self._roots, self._config, self._reader, counted)


def run(config: Config, context: StageContext) -> StageReport:
    """Filter every part of quality's manifest."""
    from whisper.tokenizer import LANGUAGES

    from flowse.data.parquet import durations_s, write_rows

    if unknown := [language for language in config.languages if language not in LANGUAGES]:
        raise UserError(
            f"filter_language.languages: Whisper has no {', '.join(unknown)}; use its codes, e.g. en, zh, fr"
        )
    config.require("filter_language.model", "filter_language.backend")
    files = context.inputs["quality"].unit_files(".parquet")
    lengths = [durations_s(file.path, "speech") for file in files]
    units = [
        Unit(file.label, ManifestPart(file.path, len(of_part), "speech"), Tally.of(of_part), file.sha256, file.label)
        for file, of_part in zip(files, lengths, strict=True)
        if of_part
    ]
    if not units:
        raise UserError("filter_language: quality kept no speech; see its rejects, and its thresholds")
    arguments = (config, dict(context.roots), context.resources.device, context.reader)
    report = context.map_units(Worker, arguments, units)
    table, metrics = confusions(report.metrics, config.languages)
    with context.write("languages.parquet") as path:
        write_rows(path, Confusion, table)
    scores = score(table, config.languages)
    notes = [*report.notes]
    if scores:
        figures = [f"{name} {scores[name]:.1%}" for name in ("recall", "precision") if name in scores]
        notes.append(f"language filter: {', '.join(figures)} on {scores['labelled']:.0f} labelled")
    return dataclasses.replace(report, metrics=metrics | scores, notes=tuple(notes))

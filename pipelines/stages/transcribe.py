"""Give every utterance a transcript: the corpus' own, or Whisper's.

Reads the manifest of filter_language.
Writes a manifest part a unit with `text`, `text_source` and `text_logprob`; `decoding.json`: model and
settings. Drops transcripts that Whisper invented (a reason for each rule), empty ones and, with `texts:
verify`, contradicted ones. Fails what cannot be read any more.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from flowse.data.manifest import Reject, Utterance
from flowse.errors import UserError
from flowse.hallucination import Rules, require_plausible
from flowse.metrics.wer import token_errors
from flowse.normalisation import tidy
from flowse.refusal import Refusal, refusing
from flowse.whisper.config import PATIENCE, Decoding, WhisperConfig
from flowse.whisper.transcript import Transcript
from pipelines.engine.accounts import StageReport, Tally, UnitReport
from pipelines.engine.fingerprint import model_digest
from pipelines.engine.manifest_part import ManifestPart
from pipelines.engine.stage import Following, StageContext, Unit, UnitFile, UnitOutput

if TYPE_CHECKING:
    from flowse.data.audio_ahead import Reader
    from flowse.whisper.labeller import Labeller

NAME = "transcribe"
READS = ("filter_language",)
REVISION = 5

Texts = Literal["trust", "verify", "ignore"]
Doubtful = Literal["drop", "keep"]


@dataclass(frozen=True, kw_only=True)
class Config(WhisperConfig):
    """Where transcripts come from; which Whisper makes them is set by the keys of `WhisperConfig`.

    Attributes:
        texts: What a corpus' own text is worth. "trust": kept, and the audio is not read; "verify": kept if Whisper's
            transcript is about the same; "ignore": replaced by Whisper's. A recording without a text is always
            transcribed.
        max_text_error: With "verify", the largest word (Chinese: character) error rate between the two.
        simplify: Write Chinese in simplified characters, also where the corpus does not.
        beam_size: Hypotheses that are kept at a time; 1 is greedy, and faster.
        rules: When a transcript of Whisper's is rejected.
        doubtful: What becomes of speech whose transcript is rejected. "drop": it is dropped; "keep": it stays, without
            a text, for a model that needs none. Without speech, it is dropped in any case.
    """

    texts: Texts = "trust"
    max_text_error: float = 0.5
    simplify: bool = True
    beam_size: int = Decoding.beam_size
    rules: Rules = field(default_factory=Rules)
    doubtful: Doubtful = "drop"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.texts not in get_args(Texts):
            raise ValueError(f"texts is {self.texts!r}; allowed: {', '.join(get_args(Texts))}")
        if self.doubtful not in get_args(Doubtful):
            raise ValueError(f"doubtful is {self.doubtful!r}; allowed: {', '.join(get_args(Doubtful))}")
        if self.max_text_error < 0:
            raise ValueError(f"max_text_error is {self.max_text_error}; it must be 0 or more")
        self.decoding()

    def decoding(self) -> Decoding:
        """Return how Whisper decodes.

        Raises:
            ValueError: `beam_size` is too small.
        """
        return Decoding(beam_size=self.beam_size)


class Worker:
    """Transcribes manifest parts; the model is loaded once.

    Args:
        config: Model, rules and what texts are worth.
        roots: Folder of every corpus.
        device: Where the model runs.
        source: `text_source` of Whisper's transcripts: it stands for the model and all of its settings.
        reader: Reads the audio; None: this process.
    """

    def __init__(
        self, config: Config, roots: Mapping[str, Path], device: str, source: str, reader: Reader | None = None
    ) -> None:
        self._config, self._roots, self._device, self._source = config, roots, device, source
        self._reader = reader

    @cached_property
    def _labeller(self) -> Labeller:
        """The model, loaded for the first recording that it has to transcribe: trusted texts need none."""
        from flowse.whisper.labeller import Labeller

        return Labeller(self._config, self._device)

    def __call__(self, payload: ManifestPart, output: UnitOutput) -> UnitReport:
        """Transcribe the rows of a part."""
        from flowse.data.parquet import write_rows

        rows, rejects = payload.read(NAME)
        trusted = [self._config.texts == "trust" and bool(row.text.strip()) for row in rows]
        asked = [row for row, known in zip(rows, trusted, strict=True) if not known]
        transcripts = iter(self._transcribe(asked, output.count))
        kept: list[Utterance] = []
        metrics: Counter[str] = Counter()
        for row, known in zip(rows, trusted, strict=True):
            found = None if known else next(transcripts)
            try:
                if isinstance(found, Refusal):
                    raise found
                with refusing(row.path):
                    kept.append(self._decide(row, found, metrics))
            except Refusal as refusal:
                rejects.append(Reject.of(row, NAME, refusal))
        write_rows(output.path(".parquet"), Utterance, kept)
        return UnitReport(Tally.of(row.duration_s for row in kept), tuple(rejects), dict(metrics))

    def _transcribe(self, rows: Sequence[Utterance], counted: Callable[[float], None]) -> list[Transcript | Refusal]:
        """Return each row's transcript, or why it cannot be read."""
        from flowse.labelling import transcribe

        if not rows:
            return []
        languages = {row.language for row in rows if row.language}
        if unknown := sorted(languages - set(self._labeller.languages)):
            raise UserError(
                f"transcribe.model {self._config.model!r} does not know the language(s) {', '.join(unknown)}; "
                "give a multilingual Whisper, or keep fewer languages in filter_language.languages"
            )
        return transcribe(self._labeller, rows, self._roots, self._config.decoding(), self._reader, counted)

    def _decide(self, row: Utterance, transcript: Transcript | None, metrics: Counter[str]) -> Utterance:
        """Choose a row's text; `transcript` is None if the corpus' text is trusted.

        Raises:
            Refusal: The transcript is invented, or contradicts the corpus.
        """
        simplified = self._config.simplify
        written = tidy(row.text, row.language, simplified=simplified)
        if transcript is None:
            return dataclasses.replace(row, text=written, text_source=row.text_source or "corpus")
        text = tidy(transcript.text, row.language, simplified=simplified)
        logprob = round(transcript.avg_logprob, 6)
        if written:
            errors = token_errors(written, text, row.language)
            metrics[f"errors {row.language}"] += errors.count
            metrics[f"tokens {row.language}"] += errors.length
            if self._config.texts == "verify":
                if errors.length and errors.rate > self._config.max_text_error:
                    raise Refusal("text_mismatch", f"{errors.rate:.0%} errors: {written[:60]!r} heard as {text[:60]!r}")
                source = row.text_source or "corpus"
                return dataclasses.replace(row, text=written, text_source=source, text_logprob=logprob)
        language = row.language or transcript.language
        try:
            require_plausible(dataclasses.replace(transcript, text=text), row.duration_s, self._config.rules)
        except Refusal as doubt:
            if self._config.doubtful == "drop" or doubt.reason == "no_speech":
                raise
            metrics[f"kept without text, {doubt.reason}"] += 1
            return dataclasses.replace(row, language=language, text="", text_source="")
        return dataclasses.replace(row, language=language, text=text, text_source=self._source, text_logprob=logprob)


def error_rates(metrics: Mapping[str, float]) -> dict[str, float]:
    """Turn the units' summed errors into a rate a language: `wer en` in words, `cer zh` in characters."""
    rates = {}
    for key, tokens in sorted(metrics.items()):
        language = key.removeprefix("tokens ")
        if key.startswith("tokens ") and tokens:
            name = f"{'cer' if language == 'zh' else 'wer'} {language}"
            rates[name] = metrics.get(f"errors {language}", 0.0) / tokens
    return rates


def decoding_record(config: Config) -> str:
    """Return the text of `decoding.json`: all that Whisper's transcripts depend on but the audio."""
    program = {"openai": "openai-whisper", "faster-whisper": "ctranslate2"}[config.backend]
    settings = {
        "backend": config.backend,
        "compute": config.compute,
        "model": config.model,
        "model_sha256": model_digest(config.model),
        "temperature": 0.0,
        "without_timestamps": True,
        "condition_on_previous_text": False,
        **dataclasses.asdict(config.decoding()),
        "patience": PATIENCE,
        program: metadata.version(program),
    }
    return json.dumps(settings, indent=1, sort_keys=True)


def following(config: Config, roots: Mapping[str, Path], device: str, reader: Reader | None = None) -> Following:
    """Say how a unit is made of one of filter_language's units: by its file alone.

    Args:
        config: The stage's settings.
        roots: Folder of every corpus.
        device: Where the model runs.
        reader: Reads the audio; None: the worker itself.

    Raises:
        UserError: The model cannot be used.
    """
    config.require("transcribe.model", "transcribe.backend")
    source = f"whisper:{hashlib.sha256(decoding_record(config).encode()).hexdigest()[:8]}"
    return Following(Worker, (config, dict(roots), device, source, reader), ".parquet", _unit_of)


def _unit_of(file: UnitFile) -> Unit[ManifestPart]:
    from flowse.data.parquet import durations_s

    lengths = durations_s(file.path)
    return Unit(file.label, ManifestPart(file.path, len(lengths)), Tally.of(lengths), file.sha256, file.label)


def run(config: Config, context: StageContext) -> StageReport:
    """Transcribe every part of filter_language's manifest."""
    how = following(config, context.roots, context.resources.device, context.reader)
    with context.write("decoding.json") as path:
        path.write_text(decoding_record(config) + "\n", encoding="utf-8")
    units = [_unit_of(file) for file in context.inputs["filter_language"].unit_files(how.suffix)]
    if not any(unit.taken.utterances for unit in units):
        raise UserError("transcribe: filter_language kept no utterance; see its rejects")
    report = context.map_units(Worker, how.arguments, units)
    rates = error_rates(report.metrics)
    notes = [f"{name}: {rate:.1%} between Whisper and the corpus' text" for name, rate in rates.items()]
    return dataclasses.replace(report, metrics=dict(report.metrics) | rates, notes=(*report.notes, *notes))

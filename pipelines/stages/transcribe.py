"""Give every utterance a transcript: the corpus' own, or what Whisper hears.

Reads the manifest of filter_language.
Writes a manifest part a unit with `text`, `text_source` and `text_logprob`; `decoding.json`: model and
settings. Drops transcripts that Whisper made up (a reason for each rule), empty ones and, with `texts:
verify`, contradicted ones. Fails what cannot be read any more.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Literal, get_args

import pyarrow.parquet as pq

from flowse.chinese import simplify
from flowse.data.audio_ahead import read_ahead
from flowse.data.manifest import Reject, Utterance
from flowse.data.parquet import read_rows, write_rows
from flowse.errors import UserError
from flowse.metrics.wer import token_errors
from flowse.refusal import Refusal
from flowse.whisper.config import PATIENCE, Decoding, WhisperConfig
from flowse.whisper.labeller import Labeller
from flowse.whisper.transcript import Transcript, join_transcripts
from pipelines.engine.accounts import StageReport, Tally, UnitReport
from pipelines.engine.ledger import model_digest
from pipelines.engine.stage import StageContext, Unit, UnitOutput

NAME = "transcribe"
READS = ("filter_language",)
REVISION = 3

Texts = Literal["trust", "verify", "ignore"]
Doubtful = Literal["drop", "keep"]

KNOWN_PHRASES = (
    "thanks for watching",
    "thank you for watching",
    "subtitles by the amara org community",
    "please subscribe to",
    "like and subscribe",
    "see you in the next video",
    "transcription by castingwords",
    "请不吝点赞",
    "订阅转发打赏",
    "明镜与点点栏目",
    "字幕由amara",
    "中文字幕志愿者",
    "优优独播剧场",
    "谢谢观看",
    "感谢观看",
    "我们下期再见",
)
"""What Whisper is known to write over silence, noise and music: it learned from subtitles."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """When a transcript is taken for made up; each rule rejects under its own name.

    Attributes:
        min_logprob: Reason `low_logprob`: mean log-probability a token below this. −1 is Whisper's own
            threshold.
        max_compression_ratio: Reason `compression_ratio`: above this, the text repeats itself. 2.4 is
            Whisper's own.
        max_repeats: Reason `repetition`: a phrase of up to ten words (or Hanzi) stands more often than this
            in a row.
        characters_per_second: Reason `characters_per_second`: least and most letters a second; English has
            about 14.
        hanzi_per_second: The same for text in Hanzi; Mandarin has about 5.
        max_no_speech_prob: Reason `no_speech`: the model takes the recording for speechless.
        known_phrases: Reason `known_phrase`: the text contains one of these, case and punctuation aside.
    """

    min_logprob: float = -1.0
    max_compression_ratio: float = 2.4
    max_repeats: int = 4
    characters_per_second: tuple[float, float] = (1.0, 30.0)
    hanzi_per_second: tuple[float, float] = (0.4, 12.0)
    max_no_speech_prob: float = 0.9
    known_phrases: tuple[str, ...] = KNOWN_PHRASES

    def __post_init__(self) -> None:
        for name in ("characters_per_second", "hanzi_per_second"):
            least, most = getattr(self, name)
            if not 0 <= least < most:
                raise ValueError(f"{name} is [{least}, {most}]; the first must be ≥ 0 and less than the second")
        if self.max_repeats < 1:
            raise ValueError(f"max_repeats is {self.max_repeats}; it must be at least 1")


@dataclass(frozen=True, kw_only=True)
class Config(WhisperConfig):
    """Where transcripts come from.

    Attributes:
        texts: What a corpus' own text is worth. "trust": kept, the recording is not listened to; "verify":
            kept if Whisper hears about the same; "ignore": replaced by what Whisper hears. A recording
            without a text is always transcribed.
        max_text_error: With "verify", the largest word (Chinese: character) error rate between the two.
        simplify: Write Chinese in simplified characters, also where the corpus does not.
        beam_size: Texts that are followed at a time; 1 is greedy, and faster.
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
        Decoding(beam_size=self.beam_size)


class Worker:
    """Transcribes one manifest part."""

    def __init__(self, config: Config, roots: Mapping[str, Path], device: str, source: str) -> None:
        self._config = config
        self._roots = roots
        self._device = device
        self._source = source

    @cached_property
    def _labeller(self) -> Labeller:
        """The model, loaded when a recording has to be listened to: trusted texts need none."""
        return Labeller(self._config, self._device)

    def __call__(self, payload: str, output: UnitOutput) -> UnitReport:
        """Transcribe the rows of the part at path `payload`."""
        rows = list(read_rows(Path(payload), Utterance))
        trusted = [self._config.texts == "trust" and bool(row.text.strip()) for row in rows]
        heard = iter(self._listen([row for row, known in zip(rows, trusted, strict=True) if not known]))
        kept: list[Utterance] = []
        rejects: list[Reject] = []
        metrics: Counter[str] = Counter()
        for row, known in zip(rows, trusted, strict=True):
            said = None if known else next(heard)
            try:
                if isinstance(said, Refusal):
                    raise said
                kept.append(self._decide(row, said, metrics))
            except Refusal as refusal:
                rejects.append(Reject.of(row, NAME, refusal))
        write_rows(output.path(".parquet"), Utterance, kept)
        return UnitReport(Tally.of(row.duration_s for row in kept), tuple(rejects), dict(metrics))

    def _listen(self, rows: Sequence[Utterance]) -> list[Transcript | Refusal]:
        """Transcribe rows; an error where a row cannot be read."""
        if not rows:
            return []
        self._check_languages(rows)
        decoding = Decoding(beam_size=self._config.beam_size)
        parts: list[list[Transcript]] = [[] for _ in rows]
        errors: dict[int, Refusal] = {}
        for batch in read_ahead(rows, self._roots):
            errors |= {block.index: block.error for block in batch if block.error is not None}
            blocks = [block for block in batch if block.error is None]
            found = self._labeller.transcribe(
                [block.waveform for block in blocks],
                [rows[block.index].language for block in blocks],
                decoding,
            )
            for block, transcript in zip(blocks, found, strict=True):
                parts[block.index].append(transcript)
        return [
            errors.get(index) or join_transcripts(said, said[0].language if said else "")
            for index, said in enumerate(parts)
        ]

    def _check_languages(self, rows: Sequence[Utterance]) -> None:
        languages = {row.language for row in rows if row.language}
        if unknown := sorted(languages - set(self._labeller.languages)):
            raise UserError(
                f"transcribe.model {self._config.model!r} does not know the language(s) {', '.join(unknown)}; "
                "give a multilingual Whisper, or keep fewer languages in filter_language.languages"
            )

    def _decide(self, row: Utterance, said: Transcript | None, metrics: Counter[str]) -> Utterance:
        """Choose a row's text; `said` is None if the recording was not listened to.

        Raises:
            Refusal: The transcript is made up, or contradicts the corpus.
        """
        written = self._normalised(row.text, row.language)
        if said is None:
            return dataclasses.replace(row, text=written, text_source=row.text_source or "corpus")
        text = self._normalised(said.text, row.language)
        if written:
            errors = token_errors(written, text, row.language)
            metrics[f"errors {row.language}"] += errors.count
            metrics[f"tokens {row.language}"] += errors.length
        if written and self._config.texts == "verify":
            if errors.length and errors.rate > self._config.max_text_error:
                raise Refusal("text_mismatch", f"{errors.rate:.0%} errors: {written[:60]!r} heard as {text[:60]!r}")
            return dataclasses.replace(
                row, text=written, text_source=row.text_source or "corpus", text_logprob=round(said.avg_logprob, 6)
            )
        language = row.language or said.language
        try:
            judge(dataclasses.replace(said, text=text), row.duration_s, self._config.rules)
        except Refusal as doubt:
            if self._config.doubtful == "drop" or doubt.reason == "no_speech":
                raise
            metrics[f"kept without text, {doubt.reason}"] += 1
            return dataclasses.replace(row, language=language, text="", text_source="")
        return dataclasses.replace(
            row, language=language, text=text, text_source=self._source, text_logprob=round(said.avg_logprob, 6)
        )

    def _normalised(self, text: str, language: str) -> str:
        """Fold compatibility forms and white space; simplify Chinese."""
        folded = " ".join(unicodedata.normalize("NFC", text).split())
        return simplify(folded) if language == "zh" and self._config.simplify else folded


def judge(said: Transcript, duration_s: float, rules: Rules) -> None:
    """Pass a transcript that may be believed.

    Args:
        said: What Whisper heard.
        duration_s: Length of the recording.
        rules: The thresholds.

    Raises:
        Refusal: Under the name of the first rule that it breaks.
    """
    shown = repr(said.text[:80])
    plain = _plain(said.text)
    if said.seconds == 0 or said.no_speech_prob > rules.max_no_speech_prob:
        raise Refusal("no_speech", f"probability {said.no_speech_prob:.2f} that nobody speaks")
    if not plain:
        raise Refusal("empty_transcript", f"Whisper wrote {shown}")
    phrase = next((p for p in rules.known_phrases if f" {_plain(p)} " in f" {plain} " or _in_hanzi(p, plain)), None)
    if phrase:
        raise Refusal("known_phrase", f"{phrase!r} in {shown}")
    if (repeats := longest_repetition(plain)) > rules.max_repeats:
        raise Refusal("repetition", f"{repeats} times the same in {shown}")
    if said.compression_ratio > rules.max_compression_ratio:
        raise Refusal("compression_ratio", f"{said.compression_ratio:.2f}: {shown}")
    _judge_rate(plain, duration_s, rules, shown)
    if not said.avg_logprob >= rules.min_logprob:  # also NaN
        raise Refusal("low_logprob", f"{said.avg_logprob:.2f} a token: {shown}")


def _judge_rate(plain: str, duration_s: float, rules: Rules, shown: str) -> None:
    hanzi = len(_HANZI.findall(plain))
    letters = len(plain.replace(" ", ""))
    mostly_hanzi = 2 * hanzi > letters
    least, most = rules.hanzi_per_second if mostly_hanzi else rules.characters_per_second
    rate = letters / max(duration_s, 1e-3)
    if not least <= rate <= most:
        what = "Hanzi" if mostly_hanzi else "characters"
        raise Refusal("characters_per_second", f"{rate:.1f} {what} a second ({duration_s:.1f} s): {shown}")


def longest_repetition(plain: str, longest_phrase: int = 10) -> int:
    """Count how often the most repeated phrase stands in a row; 1 if nothing is repeated, 0 for no text.

    Args:
        plain: Text without punctuation; words, and every Hanzi as a word.
        longest_phrase: In words.
    """
    words = _HANZI.sub(r" \g<0> ", plain).split()
    best = min(1, len(words))
    for size in range(1, min(longest_phrase, len(words) // 2) + 1):
        run = 0
        for place in range(size, len(words)):
            run = run + 1 if words[place] == words[place - size] else 0
            best = max(best, run // size + 1)
    return best


_HANZI = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")


def _in_hanzi(phrase: str, plain: str) -> bool:
    """Whether a phrase in Hanzi, which have no word boundaries, stands in a text."""
    return bool(_HANZI.search(phrase)) and _plain(phrase).replace(" ", "") in plain.replace(" ", "")


def _plain(text: str) -> str:
    """Lower case, punctuation and symbols to single spaces."""
    folded = unicodedata.normalize("NFKC", text).lower()
    return " ".join("".join(" " if unicodedata.category(c)[0] in "PSZC" else c for c in folded).split())


def error_rates(metrics: Mapping[str, float]) -> dict[str, float]:
    """Turn the units' summed errors into a rate a language: `wer en` in words, `cer zh` in characters."""
    rates = {}
    for key, tokens in sorted(metrics.items()):
        language = key.removeprefix("tokens ")
        if key.startswith("tokens ") and tokens:
            name = f"{'cer' if language == 'zh' else 'wer'} {language}"
            rates[name] = metrics.get(f"errors {language}", 0.0) / tokens
    return rates


def run(config: Config, context: StageContext) -> StageReport:
    """Transcribe every part of filter_language's manifest."""
    config.require("transcribe.model", "transcribe.backend")
    program = {"openai": "openai-whisper", "faster-whisper": "ctranslate2"}[config.backend]
    settings = {
        "backend": config.backend,
        "compute": config.compute,
        "model": config.model,
        "model_sha256": model_digest(config.model),
        "temperature": 0.0,
        "without_timestamps": True,
        "condition_on_previous_text": False,
        **dataclasses.asdict(Decoding(beam_size=config.beam_size)),
        "patience": PATIENCE,
        program: metadata.version(program),
    }
    encoded = json.dumps(settings, indent=1, sort_keys=True)
    source = f"whisper:{hashlib.sha256(encoded.encode()).hexdigest()[:8]}"
    with context.write("decoding.json") as path:
        path.write_text(encoded + "\n", encoding="utf-8")
    units = [
        Unit(part.stem, str(part), Tally.of(pq.read_table(part, columns=["duration_s"])["duration_s"].to_pylist()))
        for part in context.inputs["filter_language"].parts(".parquet")
    ]
    if not any(unit.taken.utterances for unit in units):
        raise UserError("transcribe: filter_language kept no utterance; see its rejects")
    device = "cuda" if context.resources.num_gpus else "cpu"
    report = context.map_units(Worker, (config, dict(context.roots), device, source), units)
    rates = error_rates(report.metrics)
    notes = [f"{name}: {rate:.1%} between Whisper and the corpus' text" for name, rate in rates.items()]
    return dataclasses.replace(report, metrics=dict(report.metrics) | rates, notes=(*report.notes, *notes))

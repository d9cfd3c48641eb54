"""Score the trained model, or another one, on test sets: enhanced speech against noisy and, if it is there, clean.

Reads the test mixtures of simulate, the weights of train (or `model`) and the noisy/clean folders of `pairs`.
Writes a row of scores a recording and version (`scores.parquet`), the audio of every version, means with intervals
(`summary.json`) and a page to read and to listen (`report.html`). Drops silent recordings of `pairs`. Fails recordings
of `pairs` that cannot be read, and any recording at which a model or a metric raises an error.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from flowse.data.manifest import Reject
from flowse.errors import UserError
from flowse.flow.guard import GUARD, Guard
from flowse.flow.sampling import Sampling
from flowse.metrics.evaluation import Evaluation
from flowse.metrics.pairs import Pairs
from flowse.metrics.scores import Score, as_metrics, summarise, worst
from flowse.model.spec import ModelSpec
from flowse.pretrained import resolve
from flowse.refusal import Refusal, refuse_singly, refusing
from flowse.seeding import derive_seed
from flowse.whisper.config import Backend, Compute, WhisperConfig
from pipelines.engine.accounts import StageReport, Tally, UnitReport
from pipelines.engine.fingerprint import content_of
from pipelines.engine.stage import StageContext, StageOutput, Unit, UnitFile, UnitOutput

if TYPE_CHECKING:
    from flowse.enhancer import Enhancer
    from flowse.export import ModelConfig
    from flowse.metrics.scoring import RecordingVersions
    from flowse.metrics.testsets import Item
    from flowse.score_page import Previous

NAME = "evaluate"
READS = ("simulate", "train")
REVISION = 5
_ENHANCING = 0.5  # share of the work on a recording that is done once it is enhanced, for the progress


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which model is scored, on which test sets, with which metrics.

    Attributes:
        model: Exported model or embedded name to score, with its own vocoder and sampling; train is then not read.
            Empty: what this run trained.
        simulated: Test on the mixtures of simulate; if not, on `pairs` alone, and simulate is not read.
        max_items: Recordings of each test set at most, chosen by a hash of their names; 0: all. Mixtures without speech
            (`simulate.mixture.noise_only`) are a set of their own, of which the level that is left is measured.
        pairs: Further test sets.
        vocoder: Vocos folder or an embedded model's name, for the model that this run trained.
        sampling: Solver, steps, guidance and synthesis of the model that this run trained; they go into the export. A
            guard that train chose (`train.guard`) stands in for a `sampling.guard` of 1.
        with_text: Give the model the transcript. Its word errors are then no honest measure, and the page says so.
        whisper: Recogniser for word errors: a file, a folder or a name, see `WhisperConfig.model`; empty: none.
        whisper_backend: Which program runs the recogniser: "openai" or "faster-whisper".
        whisper_compute: Precision of the recogniser, see `WhisperConfig.compute`.
        downloads: Folder of downloaded recognisers, see `WhisperConfig.downloads`.
        speaker: Speaker encoder (ONNX of WeSpeaker's interface): a file or an embedded model's name; empty: none.
        previous: Exported model to compare with; empty: none.
        resamples: Resamplings behind each confidence interval.
        examples: Recordings that the page holds besides the ten that gained least, some of each test set. All others
            are played from files beside the page.
        unit_size: Recordings in a unit.

    Raises:
        ValueError: A value is out of its range, or test sets have the same name; the message names the key.
    """

    model: str = field(default="", metadata={"model": True})
    simulated: bool = field(default=True, metadata={"unit": False})
    max_items: int = field(default=48, metadata={"unit": False})
    pairs: tuple[Pairs, ...] = field(default=(), metadata={"unit": False})
    vocoder: str = field(default="vocos-mel-24khz-small", metadata={"model": True})
    sampling: Sampling = field(default_factory=Sampling)
    with_text: bool = False
    whisper: str = field(default="whisper-tiny", metadata={"model": True})
    # These two keys came after the first workspaces. Their defaults do what evaluate did before, and at their defaults
    # they are left out of the identity, so that evaluations of that time stay fresh.
    whisper_backend: Backend = field(default="openai", metadata={"fingerprint": "unless default"})
    whisper_compute: Compute = field(default="auto", metadata={"fingerprint": "unless default"})
    downloads: str = field(default="", metadata={"fingerprint": False, "data": "models"})
    speaker: str = field(default="", metadata={"model": True})
    previous: str = field(default="", metadata={"model": True})
    resamples: int = field(default=2000, metadata={"unit": False})
    examples: int = field(default=6, metadata={"unit": False})
    unit_size: int = field(default=8, metadata={"unit": False})

    def __post_init__(self) -> None:
        for name, least in (("max_items", 0), ("resamples", 100), ("examples", 0), ("unit_size", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be {least} or more")
        if not self.simulated and not self.pairs:
            raise ValueError("simulated is false and pairs is empty; there is nothing to test on")
        names = [pairs.name for pairs in self.pairs]
        if len(set(names)) < len(names) or "simulated" in names:
            raise ValueError(f"pairs have the names {', '.join(names)}; they must differ, and 'simulated' is taken")
        try:
            self.recogniser()
        except ValueError as error:  # the message begins with "backend" or "compute", as WhisperConfig names them
            raise ValueError(f"whisper_{error}") from None

    def recogniser(self) -> WhisperConfig | None:
        """Return which Whisper counts word errors; None if none does."""
        if not self.whisper:
            return None
        return WhisperConfig(
            model=self.whisper,
            backend=self.whisper_backend,
            compute=self.whisper_compute,
            downloads=self.downloads,
        )

    def reads(self) -> tuple[str, ...]:
        """Return the stages that this needs: simulate for its mixtures, train for its weights."""
        needed = {"simulate": self.simulated, "train": not self.model}
        return tuple(name for name in READS if needed[name])


HEADLINE = {
    "gain/ovrl": ("DNSMOS gain", 2),
    "gain/sig": ("P835 SIG gain", 2),
    "gain/bak": ("P835 BAK gain", 2),
    "enhanced/wer": ("WER", 3),
    "enhanced/estoi": ("ESTOI", 3),
    "enhanced/speaker_cosine": ("speaker cosine", 3),
}
"""The scores by which people compare two runs: their names in MLflow's list of runs, and decimals.

MLflow sorts the columns by name and shows ten letters of it and nine digits, so the first name is the first to look at.
"""


def headline(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the headline scores of an evaluation, by their names in MLflow; those that were not measured are absent.

    Args:
        metrics: Of its StageReport.
    """
    return {name: round(metrics[metric], digits) for metric, (name, digits) in HEADLINE.items() if metric in metrics}


class Worker:
    """Enhances and scores recordings; every network is loaded once.

    Args:
        config: What is scored, with what.
        shards: Folder of simulate; None: its mixtures are not tested on.
        trained: Folder of train; None: `config.model` is scored.
        seed: The experiment's.
        device: Where the enhancing networks and the recogniser run.
        threads: CPU threads of DNSMOS and of the speaker encoder.
    """

    def __init__(
        self, config: Config, shards: Path | None, trained: Path | None, seed: int, device: str, threads: int
    ) -> None:
        from flowse.enhancer import Enhancer
        from flowse.metrics.dnsmos import Dnsmos
        from flowse.metrics.scoring import Scorer
        from flowse.metrics.speaker import SpeakerEncoder, onnx_file
        from flowse.whisper.labeller import Labeller

        self._config, self._shards, self._seed = config, shards, seed
        self._models = {"enhanced": _enhancer(config, trained, device)}
        if config.previous:
            self._models["previous"] = Enhancer.from_pretrained(config.previous, device)
        recogniser = config.recogniser()
        self._scorer = Scorer(
            Dnsmos(threads),
            Labeller(recogniser, device) if recogniser else None,
            SpeakerEncoder(onnx_file(config.speaker), threads) if config.speaker else None,
        )

    def __call__(self, payload: Sequence[Item], output: UnitOutput) -> UnitReport:
        """Score the recordings of one unit."""
        from flowse.data.parquet import write_rows

        recordings: list[RecordingVersions] = []
        rejects: list[Reject] = []
        spent = {"audio seconds": 0.0, "enhancing seconds": 0.0, "network evaluations": 0.0}
        for item in payload:
            try:
                with refusing(item.key):
                    recordings.append(self._enhance(item, spent))
            except Refusal as refusal:
                rejects.append(item.reject(NAME, refusal))
            output.count(item.seconds, share=_ENHANCING)
        scores: list[Score] = []
        kept_s: list[float] = []
        for recording, scored in zip(
            recordings,
            refuse_singly(self._score, recordings, [recording.item.key for recording in recordings]),
            strict=True,
        ):
            if isinstance(scored, Refusal):
                rejects.append(recording.item.reject(NAME, scored))
                continue
            scores += scored
            kept_s.append(recording.item.seconds)
            _write_audio(recording, output)
            output.count(recording.item.seconds, share=1 - _ENHANCING)
        write_rows(output.path(".parquet"), Score, scores)
        return UnitReport(Tally.of(kept_s), tuple(rejects), spent)

    def _enhance(self, item: Item, spent: dict[str, float]) -> RecordingVersions:
        """Read a recording and enhance it with every model; what the scored model takes is added to `spent`.

        Raises:
            Refusal: The recording cannot be read, or is silent.
        """
        from flowse.metrics.scoring import RecordingVersions
        from flowse.metrics.testsets import read_item

        signals, rate = read_item(item, self._shards)
        for name, enhancer in self._models.items():
            begun = time.perf_counter()
            text = item.text if self._config.with_text else None
            signals[name] = enhancer.enhance(signals["noisy"], rate, text, derive_seed(self._seed, NAME, item.key))
            if name == "enhanced":
                spent["audio seconds"] += item.seconds
                spent["enhancing seconds"] += time.perf_counter() - begun
                spent["network evaluations"] += enhancer.evaluations
        return RecordingVersions(item=item, signals=signals, sample_rate=rate)

    def _score(self, recordings: Sequence[RecordingVersions]) -> list[list[Score]]:
        """Score every version of every recording; the recogniser takes them all in one batch."""
        scores: dict[str, list[Score]] = {recording.item.key: [] for recording in recordings}
        for score in self._scorer(recordings):
            scores[score.key].append(score)
        return list(scores.values())


def _write_audio(recording: RecordingVersions, output: UnitOutput) -> None:
    """Write all versions of a recording, for people to listen to."""
    from flowse.audio.flac import flac_bytes

    for name, samples in recording.signals.items():
        data = flac_bytes(np.clip(samples, -1, 1), recording.sample_rate)
        output.path(_audio_suffix(recording.item.key, name)).write_bytes(data)


def _enhancer(config: Config, trained: Path | None, device: str) -> Enhancer:
    """Load the model that is scored."""
    from flowse.enhancer import Enhancer
    from flowse.export import ModelConfig, load_system

    if trained is None:
        return Enhancer.from_pretrained(config.model, device)
    spec = ModelSpec.read(trained / "spec.json")
    system = load_system(spec, trained / "model.safetensors", device)
    sampling = guarded(config.sampling, trained)
    return Enhancer.from_parts(system, ModelConfig(spec=spec, sampling=sampling), resolve(config.vocoder))


def guarded(sampling: Sampling, trained: Path) -> Sampling:
    """Return the settings with the guard that train chose, if it chose one and the settings have none.

    Raises:
        UserError: The record of the choice cannot be read.
    """
    try:
        guard = Guard.read(trained)
    except ValueError as error:
        raise UserError(f"evaluate: {trained / GUARD}: {error}; run train again with --force") from None
    return sampling if guard is None or sampling.guard < 1 else dataclasses.replace(sampling, guard=guard.guard)


def _audio_suffix(key: str, signal: str) -> str:
    """Name the file of a version within its unit: keys are long and hold slashes."""
    return f".audio-{hashlib.sha256(key.encode()).hexdigest()[:12]}.{signal}.flac"


def run(config: Config, context: StageContext) -> StageReport:
    """Score every recording of the test sets, then summarise the scores."""
    from flowse import score_page
    from flowse.data.parquet import read_rows, write_rows
    from flowse.metrics.testsets import collect, examples, transcript_notes

    shards, trained = (
        context.inputs[name].folder if name in config.reads() else None for name in ("simulate", "train")
    )
    for name in ("spec.json", "model.safetensors", GUARD) if trained else ():
        if name != GUARD or (trained is not None and (trained / GUARD).exists()):
            context.inputs["train"].file(name)
    sampling = _check(config, trained)
    index = context.inputs["simulate"].file("index.parquet") if shards else None
    items = collect(index, config.pairs, config.max_items)
    for shard in sorted({item.row.shard for item in items if item.row is not None}):
        context.inputs["simulate"].file(shard)
    parts = [tuple(items[start : start + config.unit_size]) for start in range(0, len(items), config.unit_size)]
    by_whom = context.inputs["train"].digest if trained else ""
    units = [
        Unit("part", part, Tally.of(item.seconds for item in part), content_of(by_whom, [*map(_by_content, part)]))
        for part in parts
    ]
    resources = context.resources
    arguments = (config, shards, trained, context.seed, resources.device, resources.num_cpus)
    report = context.map_units(Worker, arguments, units)
    scored = {file: list(read_rows([file.path], Score)) for file in context.unit_files(".parquet")}
    scores = [score for of_unit in scored.values() for score in of_unit]
    if not scores:
        raise UserError("evaluate: none of the test recordings could be scored; see rejects.parquet of this stage")
    summaries = summarise(scores, context.seed, config.resamples)
    recordings = len({score.key for score in scores})
    evaluations = report.metrics["network evaluations"] / recordings
    record = Evaluation.of(
        scores,
        summaries,
        model=config.model,
        sampling=sampling,
        vocoder="" if config.model else config.vocoder,
        with_text=config.with_text,
        evaluations=evaluations,
    )
    rtf = report.metrics["enhancing seconds"] / report.metrics["audio seconds"]
    facts = score_page.facts(record, config.whisper, config.speaker) | {
        "RTF, one worker": f"{rtf:.2f}",
        "network evaluations": f"{evaluations:.4g} a window",
    }
    previous, earlier = _previous(config, context, scores)
    held = [noisy.key for noisy, _ in worst(scores)] + [item.key for item in examples(items, config.examples)]
    audio = _audio(context, scored, list(dict.fromkeys(held)), earlier)
    page = score_page.page(record, scores, facts, audio, previous)
    with context.write("scores.parquet") as path:
        write_rows(path, Score, scores)
    with context.write("summary.json") as path:
        path.write_text(record.to_text(), "utf-8")
    with context.write("report.html") as path:
        path.write_text(page, "utf-8")
    for name in ("scores.parquet", "summary.json", "report.html"):
        context.tracker.artifact(context.folder / name)
    if context.tracker.run_id:
        _track_examples(
            context, {item.key: audio[item.key] for item in examples(items, config.examples) if item.key in audio}
        )
    unmatched = [line for pairs in config.pairs for line in transcript_notes(pairs)]
    sampled = f"{evaluations:.4g} evaluation(s) of the network a window: {sampling}"
    notes = (*unmatched, sampled, *score_page.lines(summaries), f"listen: {context.folder / 'report.html'}")
    metrics = as_metrics(summaries) | {"rtf": rtf, "network evaluations": evaluations}
    return dataclasses.replace(report, metrics=metrics, notes=(*report.notes, *notes))


def _check(config: Config, trained: Path | None) -> Sampling:
    """Refuse what cannot work before any work; return how the model is sampled.

    Raises:
        UserError: A model is missing or does not fit.
    """
    from flowse.audio.vocoder import load_vocoder
    from flowse.metrics.speaker import onnx_file

    if trained is None:
        sampling = _exported("model", config.model).sampling
    else:
        sampling, spec = guarded(config.sampling, trained), ModelSpec.read(trained / "spec.json")
        try:
            load_vocoder(resolve(config.vocoder), mel=spec.mel)
        except (FileNotFoundError, ValueError) as error:
            raise UserError(f"evaluate.vocoder: {error}") from None
        try:
            spec.require(sampling)
        except ValueError as error:
            raise UserError(f"evaluate.sampling: {error}") from None
    if recogniser := config.recogniser():
        recogniser.require("evaluate.whisper", "evaluate.whisper_backend", "; or leave it empty")
    try:
        if config.speaker:
            onnx_file(config.speaker)
    except FileNotFoundError as error:
        raise UserError(f"evaluate.speaker: {error}; or leave it empty") from None
    if config.previous:
        _exported("previous", config.previous)
    return sampling


def _exported(key: str, model: str) -> ModelConfig:
    """Read an exported model's configuration.

    Raises:
        UserError: There is no such model, or it cannot be read; the message names the key.
    """
    from flowse.export import ExportError, read_config

    try:
        return read_config(resolve(model))
    except (FileNotFoundError, ExportError) as error:
        raise UserError(f"evaluate.{key}: {error}") from None


def _by_content(item: Item) -> tuple[dict[str, Any], list[str]]:
    """Return a recording without the places of its files, and the content of each: a moved folder changes nothing."""
    from flowse.data.content import content_if_there

    files = [file for file in (item.noisy, item.clean) if file]
    return {**dataclasses.asdict(item), "noisy": "", "clean": ""}, [content_if_there(file) for file in files]


def _previous(
    config: Config, context: StageContext, scores: Sequence[Score]
) -> tuple[Previous | None, StageOutput | None]:
    """Return what the youngest evaluation of the workspace that had some of these recordings made of them, and itself.

    It is for the page alone, which no stage reads: all else is a function of the settings and inputs. `config.previous`
    takes its place.
    """
    from flowse.data.parquet import read_rows
    from flowse.score_page import beside

    for output in () if config.previous else context.earlier():
        try:
            found = beside(scores, list(read_rows([output.file("scores.parquet")], Score)), output.folder.name)
        except (UserError, ValueError, OSError):  # damaged, or of another version: a page can do without
            continue
        if found is not None:
            return found, output
    return None, None


def _track_examples(context: StageContext, audio: Mapping[str, Mapping[str, bytes | str]]) -> None:
    """Log examples to MLflow, to hear and to see: for each a folder with audio and spectrogram of every version.

    Args:
        context: Where the stage runs.
        audio: FLAC of the versions by key; an address stands for audio that is too much for MLflow as well.
    """
    from flowse.audio.flac import from_flac_bytes
    from flowse.report.spectrogram import spectrogram_png

    with tempfile.TemporaryDirectory() as scratch:
        for number, (key, versions) in enumerate(audio.items(), start=1):
            folder = Path(scratch) / f"{number:02d} {re.sub(r'[^A-Za-z0-9._-]+', '_', key)[-80:]}"
            folder.mkdir()
            for signal, data in versions.items():
                if isinstance(data, bytes):
                    (folder / f"{signal}.flac").write_bytes(data)
                    (folder / f"{signal}.png").write_bytes(spectrogram_png(*from_flac_bytes(data)))
        if audio:
            context.tracker.artifact(Path(scratch), "examples")


def _audio(
    context: StageContext,
    scored: Mapping[UnitFile, Sequence[Score]],
    held: Sequence[str],
    earlier: StageOutput | None,
) -> dict[str, dict[str, bytes | str]]:
    """Return the audio of every recording: that of the first ones of `held` itself, of all others its address.

    Args:
        context: Where the stage runs.
        scored: Scores by the file of their unit, beside which the audio is.
        held: Keys of the recordings that the page holds as far as `EMBEDDED_BYTES` goes, the most important first.
        earlier: The previous evaluation.
    """
    from flowse.report.page import EMBEDDED_BYTES

    audio: dict[str, dict[str, bytes | str]] = {}
    for file, of_unit in scored.items():
        beside = quote(Path(os.path.relpath(file.path, context.folder)).as_posix().removesuffix(".parquet"))
        for score in of_unit:
            address = f"{beside}{_audio_suffix(score.key, score.signal)}"
            audio.setdefault(score.key, {})[score.signal] = address
    left = EMBEDDED_BYTES
    for key in held:
        if key not in audio:
            continue
        files = {signal: context.parts(_audio_suffix(key, signal))[0] for signal in audio[key]}
        for path in earlier.parts(_audio_suffix(key, "enhanced")) if earlier else ():
            files["previous"] = path
        data = {signal: path.read_bytes() for signal, path in files.items()}
        if (size := sum(map(len, data.values()))) <= left:
            left -= size
            audio[key] = dict(data)
    return audio

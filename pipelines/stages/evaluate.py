"""Score the trained model, or another, against its input, without a reference and, where there is one, with it.

Reads the test mixtures of simulate, the weights of train (or `model`) and the noisy/clean folders of `pairs`.
Writes a row of scores a recording and version (`scores.parquet`), means with intervals (`summary.json`) and a page to
listen (`report.html`). Drops silent recordings of `pairs`. Fails recordings of `pairs` that cannot be read.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from flowse import score_page
from flowse.audio.vocoder import load_vocoder
from flowse.audio.waveform import check, flac_bytes, from_flac_bytes, probe, read_mono
from flowse.data.manifest import Reject
from flowse.data.parquet import read_rows, write_rows
from flowse.data.shards import read_mixture
from flowse.enhancer import Enhancer
from flowse.errors import UserError
from flowse.export import ExportError, ModelConfig, load_system, read_config
from flowse.flow.sampling import Sampling
from flowse.metrics.dnsmos import Dnsmos
from flowse.metrics.scores import SIGNALS, Score, Summary, summarise, worst
from flowse.metrics.scoring import Scorer, Take
from flowse.metrics.speaker import SpeakerEncoder
from flowse.metrics.speaker import onnx_file as onnx_file
from flowse.metrics.testsets import Item, Pairs, collect
from flowse.metrics.wer import TokenErrors
from flowse.model.spec import ModelSpec
from flowse.pretrained import resolve
from flowse.refusal import Refusal
from flowse.report import Example, Track
from flowse.seeding import derive_seed
from flowse.whisper.config import Backend, Compute, WhisperConfig
from flowse.whisper.labeller import Labeller
from pipelines.engine.accounts import StageReport, Tally, UnitReport
from pipelines.engine.stage import StageContext, Unit, UnitOutput

NAME = "evaluate"
READS = ("simulate", "train")
REVISION = 2


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is scored, with what.

    Attributes:
        model: Exported model or embedded name to score, with its own vocoder and sampling; train is then not read.
            Empty: what this run trained.
        simulated: Test on the mixtures of simulate; if not, on `pairs` alone, and simulate is not read.
        max_items: Recordings of each test set at most, chosen by a hash of their names; 0: all.
        pairs: Further test sets.
        vocoder: Vocos folder, or an embedded model's name; of what this run trained.
        sampling: Solver, steps, guidance and synthesis of what this run trained; they travel with the export.
        with_text: Give the model the transcript. Its WER is then no honest one, and the report says so.
        whisper: Recogniser for word errors, named as `WhisperConfig.model` is; empty: none.
        whisper_backend: Which program runs it, see `WhisperConfig.backend`.
        whisper_compute: Its precision, see `WhisperConfig.compute`.
        speaker: Speaker encoder (ONNX of WeSpeaker's interface): a file or an embedded model's name; empty: none.
        previous: Exported model to compare with; empty: none.
        resamples: Resamplings behind each interval.
        examples: Recordings on the page.
        unit_size: Recordings that one worker takes at once.
    """

    model: str = field(default="", metadata={"model": True})
    simulated: bool = True
    max_items: int = 48
    pairs: tuple[Pairs, ...] = ()
    vocoder: str = field(default="vocos-mel-24khz-small", metadata={"model": True})
    sampling: Sampling = field(default_factory=Sampling)
    with_text: bool = False
    whisper: str = field(default="whisper-tiny", metadata={"model": True})
    # Younger than the records of many workspaces: left out of the identity at their defaults, which do what was done
    # before there were these keys, so that no evaluation done then becomes stale.
    whisper_backend: Backend = field(default="openai", metadata={"fingerprint": "unless default"})
    whisper_compute: Compute = field(default="auto", metadata={"fingerprint": "unless default"})
    speaker: str = field(default="", metadata={"model": True})
    previous: str = field(default="", metadata={"model": True})
    resamples: int = 2000
    examples: int = 6
    unit_size: int = 8

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
        except ValueError as error:  # begins with the recogniser's own name of the key
            raise ValueError(f"whisper_{error}") from None

    def recogniser(self) -> WhisperConfig | None:
        """Return which Whisper counts word errors; None if none does."""
        if not self.whisper:
            return None
        return WhisperConfig(model=self.whisper, backend=self.whisper_backend, compute=self.whisper_compute)

    def reads(self) -> tuple[str, ...]:
        """Return the stages that this needs: simulate for its mixtures, train for its weights."""
        needed = {"simulate": self.simulated, "train": not self.model}
        return tuple(name for name in READS if needed[name])


class Worker:
    """One process that enhances and scores; every network is loaded once.

    Args:
        config: What is scored, with what.
        shards: Folder of simulate; None: not tested on.
        trained: Folder of train; None: `config.model` is scored.
        seed: The experiment's.
        device: Where the networks run.
        threads: Of the judges.
    """

    def __init__(
        self, config: Config, shards: Path | None, trained: Path | None, seed: int, device: str, threads: int
    ) -> None:
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
        takes: list[Take] = []
        rejects: list[Reject] = []
        spent = {"audio seconds": 0.0, "enhancing seconds": 0.0, "network evaluations": 0.0}
        for item in payload:
            try:
                signals, rate = self._read(item)
            except Refusal as error:
                rejects.append(
                    Reject(
                        utt_id=item.key,
                        corpus=item.corpus,
                        stage=NAME,
                        kind=error.kind,
                        reason=error.reason,
                        detail=error.detail,
                        duration_s=item.seconds,
                    )
                )
                continue
            for name, enhancer in self._models.items():
                begun = time.perf_counter()
                text = item.text if self._config.with_text else None
                signals[name] = enhancer.enhance(signals["noisy"], rate, text, derive_seed(self._seed, NAME, item.key))
                if name == "enhanced":
                    spent["audio seconds"] += item.seconds
                    spent["enhancing seconds"] += time.perf_counter() - begun
                    spent["network evaluations"] += enhancer.evaluations
            takes.append(_take(item, signals, rate))
            if item.example:
                for name, samples in signals.items():
                    data = flac_bytes(np.clip(samples, -1, 1), rate)
                    output.path(_example_suffix(item.key, name)).write_bytes(data)
        write_rows(output.path(".parquet"), Score, self._scorer(takes))
        return UnitReport(Tally.of(take.seconds for take in takes), tuple(rejects), spent)

    def _read(self, item: Item) -> tuple[dict[str, Float32[np.ndarray, " N"]], int]:
        """Return noisy and, if there is one, clean samples at one rate."""
        if item.row is not None:
            assert self._shards is not None, "only simulate's mixtures have a row in its index"
            mixture = read_mixture(self._shards, item.row)
            return {"noisy": mixture.noisy, "clean": mixture.clean}, mixture.sample_rate
        rate = probe(Path(item.noisy)).sample_rate
        signals = {"noisy": read_mono(Path(item.noisy), rate)}
        check(signals["noisy"], item.noisy)
        if item.clean:
            clean = read_mono(Path(item.clean), rate)
            check(clean, item.clean)
            # Some sets pad one of the two by a few samples.
            length = min(len(clean), len(signals["noisy"]))
            signals = {"noisy": signals["noisy"][:length], "clean": clean[:length]}
        return signals, rate


def _enhancer(config: Config, trained: Path | None, device: str) -> Enhancer:
    """Load what is scored."""
    if trained is None:
        return Enhancer.from_pretrained(config.model, device)
    spec = _spec(trained)
    system = load_system(spec, trained / "model.safetensors", device)
    return Enhancer.from_parts(system, ModelConfig(spec=spec, sampling=config.sampling), resolve(config.vocoder))


def _spec(trained: Path) -> ModelSpec:
    return ModelSpec.from_dict(json.loads((trained / "spec.json").read_text(encoding="utf-8")))


def _take(item: Item, signals: Mapping[str, Float32[np.ndarray, " _"]], rate: int) -> Take:
    """Hand a recording of a test set to the judges."""
    return Take(
        signals=signals,
        sample_rate=rate,
        key=item.key,
        test_set=item.test_set,
        seconds=item.seconds,
        language=item.language,
        speaker=item.speaker,
        text=item.text,
        snr_db=item.snr_db,
        reverberant=item.reverberant,
    )


def _example_suffix(key: str, signal: str) -> str:
    """Name an example's file within its unit: keys are long and hold slashes."""
    return f".example-{hashlib.sha256(key.encode()).hexdigest()[:12]}.{signal}.flac"


def run(config: Config, context: StageContext) -> StageReport:
    """Score every recording of the test list, then say what the scores mean."""
    shards, trained = (
        context.inputs[name].folder if name in config.reads() else None for name in ("simulate", "train")
    )
    sampling = _check(config, trained)
    index = context.inputs["simulate"].file("index.parquet") if shards else None
    items = collect(index, config.pairs, config.max_items, config.examples)
    units = [
        Unit(f"part-{number:05d}", tuple(part), Tally.of(item.seconds for item in part))
        for number, part in enumerate(_parts(items, config.unit_size))
    ]
    device = "cuda" if context.resources.num_gpus else "cpu"
    arguments = (config, shards, trained, context.seed, device, context.resources.num_cpus)
    report = context.map_units(Worker, arguments, units)
    if report.quarantined:
        return report
    scores = [score for unit in units for score in read_rows(context.folder / f"{unit.name}.parquet", Score)]
    if not scores:
        raise UserError("evaluate: none of the test recordings could be scored; see rejects.parquet of this stage")
    with context.write("scores.parquet") as path:
        write_rows(path, Score, scores)
    summaries = summarise(scores, context.seed, config.resamples)
    facts = _facts(config, sampling, report.metrics, scores)
    with context.write("summary.json") as path:
        path.write_text(
            json.dumps(_record(config, sampling, summaries, scores), indent=1, ensure_ascii=False) + "\n", "utf-8"
        )
    with context.write("report.html") as path:
        examples = _examples(context.folder, units, scores)
        path.write_text(score_page.page(summaries, scores, facts, examples, with_text=config.with_text), "utf-8")
    metrics = _tracked(summaries, report.metrics)
    for name in ("scores.parquet", "summary.json", "report.html"):
        context.tracker.artifact(context.folder / name)
    notes = (*score_page.lines(summaries), f"listen: {context.folder / 'report.html'}")
    return dataclasses.replace(report, metrics=metrics, notes=(*report.notes, *notes))


def _check(config: Config, trained: Path | None) -> Sampling:
    """Refuse what cannot work before any work; return how the model is sampled.

    Raises:
        UserError: A model is missing or does not fit.
    """
    if trained is None:
        sampling = _exported("model", config.model).sampling
    else:
        sampling, spec = config.sampling, _spec(trained)
        try:
            load_vocoder(resolve(config.vocoder), mel=spec.mel)
        except (FileNotFoundError, ValueError) as error:
            raise UserError(f"evaluate.vocoder: {error}") from None
        if sampling.steps == 0 and not (spec.objective == "regression" or spec.flow.source == "predicted"):
            raise UserError("evaluate.sampling.steps is 0, which only a model with a predictor can do; give 1 or more")
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
        UserError: Naming the key.
    """
    try:
        return read_config(resolve(model))
    except (FileNotFoundError, ExportError) as error:
        raise UserError(f"evaluate.{key}: {error}") from None


def _parts(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _record(
    config: Config, sampling: Sampling, summaries: Sequence[Summary], scores: Sequence[Score]
) -> dict[str, Any]:
    """Collect what `summary.json` holds: no timings, so that the same run gives the same bytes."""
    return {
        "recordings": len({score.key for score in scores}),
        "model": config.model,
        "sampling": dataclasses.asdict(sampling),
        "vocoder": "" if config.model else config.vocoder,
        "with_text": config.with_text,
        "summary": [dataclasses.asdict(one) for one in summaries],
        "worst": [
            {"key": noisy.key, "noisy": noisy.ovrl, "enhanced": enhanced.ovrl} for noisy, enhanced in worst(scores)
        ],
    }


def _tracked(summaries: Sequence[Summary], sums: Mapping[str, float]) -> dict[str, float]:
    """Flatten the summary for MLflow, and add speed."""
    values: dict[str, float] = {}
    for one in summaries:
        if one.group == "all":
            values |= {f"noisy/{one.metric}": one.noisy, f"enhanced/{one.metric}": one.enhanced}
            values |= {f"gain/{one.metric}": one.gain.value}
            if one.clean is not None:
                values[f"clean/{one.metric}"] = one.clean
            if one.gain_previous is not None:
                values[f"gain over previous/{one.metric}"] = one.gain_previous.value
        elif one.metric == "ovrl":
            values[f"gain/ovrl/{one.group.replace('…', ' to ')}"] = one.gain.value
    return values | _speed(sums)


def _speed(sums: Mapping[str, float]) -> dict[str, float]:
    seconds = sums.get("audio seconds", 0.0)
    return {"rtf": sums["enhancing seconds"] / seconds} if seconds else {}


def _facts(config: Config, sampling: Sampling, sums: Mapping[str, float], scores: Sequence[Score]) -> dict[str, str]:
    facts = {
        "model": Path(config.model).name or "trained here",
        "recordings": str(len({score.key for score in scores})),
        "sampling": str(sampling),
        "vocoder": "the model's own" if config.model else Path(config.vocoder).name,
        "recogniser": Path(config.whisper).name or "none (no WER)",
        "speaker encoder": Path(config.speaker).name or "none (no speaker similarity)",
    }
    if speed := _speed(sums):
        facts["RTF, one worker"] = f"{speed['rtf']:.2f}"
    windows = max(1, len({score.key for score in scores}))
    facts["network evaluations"] = f"{sums.get('network evaluations', 0) / windows:.0f} a window"
    return facts


def _examples(folder: Path, units: Sequence[Unit[tuple[Item, ...]]], scores: Sequence[Score]) -> list[Example]:
    by_key: dict[str, dict[str, Score]] = {}
    for score in scores:
        by_key.setdefault(score.key, {})[score.signal] = score
    examples = []
    for unit in units:
        for item in unit.payload:
            if item.example and item.key in by_key:
                found = by_key[item.key]
                tracks = [_track(folder, unit.name, found[signal]) for signal in SIGNALS if signal in found]
                facts = {"language": item.language, "speaker": item.speaker, "set": item.test_set}
                if item.snr_db is not None:
                    facts["SNR"] = f"{item.snr_db:.1f} dB"
                shown = {name: value for name, value in facts.items() if value}
                examples.append(Example(title=item.key, tracks=tracks, facts=shown, text=item.text))
    return examples


def _track(folder: Path, unit: str, score: Score) -> Track:
    samples, rate = from_flac_bytes((folder / f"{unit}{_example_suffix(score.key, score.signal)}").read_bytes())
    facts = {"overall": f"{score.ovrl:.2f}", "speech": f"{score.sig:.2f}", "background": f"{score.bak:.2f}"}
    if score.errors is not None and score.tokens:
        facts["WER"] = f"{TokenErrors(score.errors, 0, 0, score.tokens).rate:.0%}"
    if score.speaker_cosine is not None:
        facts["speaker"] = f"{score.speaker_cosine:.2f}"
    if score.pesq_wb is not None:
        facts["PESQ *"] = f"{score.pesq_wb:.2f}"
    return Track(label=score.signal, samples=samples, sample_rate=rate, facts=facts, text=score.heard)

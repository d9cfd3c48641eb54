"""Export the trained model: a folder that enhances by itself, checked by reloading it.

Reads the weights of train, the scores of evaluate and the record of simulate's dataset.
Writes `model/`: weights, config, vocoder, model card and the training's segments; `flowse enhance --model` takes it as
it is.
Drops nothing.
Fails nothing: a gate that does not hold, or a reload that does not give the same samples, stops it.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32

from flowse.errors import UserError
from flowse.metrics.evaluation import Evaluation
from flowse.metrics.scores import METRICS, Summary
from flowse.model.spec import ModelSpec
from flowse.pretrained import resolve
from flowse.seeding import derive_seed, generator
from flowse.training.ledger import SEGMENTS, Segment, read_segments, write_segments
from pipelines.engine.accounts import StageReport, Tally
from pipelines.engine.stage import StageContext, StageOutput

if TYPE_CHECKING:
    from flowse.export import ModelConfig
    from flowse.model.system import System

NAME = "export"
READS = ("simulate", "train", "evaluate")
REVISION = 1

FOLDER = "model"
MAX_DIFFERENCE = 1e-5
"""Largest difference of a sample between the trained and the reloaded model; full scale is 1."""

_METRICS = {metric.name: metric for metric in METRICS}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Title and storage of the exported model, and the scores that it must reach.

    Attributes:
        title: Heading of the model card.
        half: Store the weights in 16 bits: half the size, rounded to three digits; they are computed with in 32.
        registered_name: Name in MLflow's model registry that this model becomes a new version of; empty: none.
        limits: What enhanced test speech must reach, by metric of evaluate: the least mean, or for `wer` and `dwer` the
            greatest rate, e.g. {ovrl: 2.9, wer: 0.2}. Empty: no gate.
        tolerance: How much worse than noisy a metric may be at most, in its own unit, e.g. {ovrl: 0.0, estoi: 0.02}; a
            metric that is not named is not asked for.

    Raises:
        ValueError: A metric is unknown, or its value is no number.
    """

    title: str = "FlowSE"
    half: bool = False
    registered_name: str = field(default="", metadata={"fingerprint": False})
    limits: dict[str, float] = field(default_factory=dict)
    tolerance: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("limits", "tolerance"):
            unknown = sorted(set(getattr(self, name)) - set(_METRICS))
            if unknown:
                raise ValueError(f"{name}: unknown metric(s) {', '.join(unknown)}; known are {', '.join(_METRICS)}")
            if any(
                isinstance(value, bool) or not isinstance(value, int | float) for value in getattr(self, name).values()
            ):
                raise ValueError(f"{name} is {getattr(self, name)!r}; every metric needs a number")


def gate(config: Config, scores: Mapping[str, Summary]) -> list[str]:
    """Return what the model does not reach; empty if it may be exported.

    Args:
        config: The limits.
        scores: The summary of all recordings, by metric.
    """
    findings = []
    for metric, limit in config.limits.items():
        if metric not in scores:
            findings.append(f"{metric} was not measured (evaluate lacks what it needs)")
            continue
        reached, lower = scores[metric].enhanced, _METRICS[metric].lower_is_better
        if (reached > limit) if lower else (reached < limit):
            findings.append(f"{metric} is {reached:.3f}, {'at most' if lower else 'at least'} {limit:g} is asked for")
    for metric, tolerance in config.tolerance.items():
        if metric not in scores:
            findings.append(f"{metric} was not measured (evaluate lacks what it needs)")
            continue
        noisy, reached = scores[metric].noisy, scores[metric].enhanced
        worse = reached - noisy if _METRICS[metric].lower_is_better else noisy - reached
        if worse > tolerance:
            findings.append(
                f"{metric} is {reached:.3f}, worse than noisy ({noisy:.3f}) by {worse:.3f}; {tolerance:g} is tolerated"
            )
    return findings


def reference_signal(seed: int, rate: int) -> Float32[np.ndarray, " N"]:
    """Make two seconds of noise in bursts, at `rate` Hz, to compare a model with its copy."""
    samples = generator(derive_seed(seed, NAME, "test signal")).standard_normal(2 * rate)
    bursts = np.clip(np.sin(np.arange(2 * rate) * (2 * np.pi * 3 / rate)), 0, None)
    signal: Float32[np.ndarray, " N"] = (0.1 * samples * bursts).astype(np.float32)
    return signal


def check_copy(system: System, config: ModelConfig, vocoder: Path, folder: Path, seed: int) -> float:
    """Reload a written folder and return the largest difference of its output from the trained model's.

    Raises:
        UserError: The difference is larger than `MAX_DIFFERENCE`.
    """
    from flowse.enhancer import Enhancer

    rate = config.spec.mel.sample_rate
    signal = reference_signal(seed, rate)
    before = Enhancer.from_parts(system, config, vocoder).enhance(signal, rate, seed=seed)
    after = Enhancer.from_pretrained(folder).enhance(signal, rate, seed=seed)
    difference = float(np.abs(after - before).max())
    if not difference <= MAX_DIFFERENCE:
        raise UserError(
            f"export: the reloaded model differs from the trained one by {difference:.2e}, {MAX_DIFFERENCE:g} is "
            "allowed; the disk or the memory of this machine may be faulty: run it again"
        )
    return difference


def run(config: Config, context: StageContext) -> StageReport:
    """Check the gate, write the folder, reload it, and only then publish it."""
    from flowse.card import model_card
    from flowse.export import ExportError, ModelConfig, load_system, save
    from flowse.simulation.dataset import DatasetSummary

    trained, evaluated = context.inputs["train"], context.inputs["evaluate"]
    evaluation = _evaluation(evaluated)
    dataset = DatasetSummary.read(context.inputs["simulate"].file("dataset.json"))
    if evaluation.model:
        raise UserError(
            f"export: evaluate scored {evaluation.model}, not what was trained here; empty evaluate.model to export"
        )
    if findings := gate(config, evaluation.overall):
        raise UserError(
            f"export: the gate refuses this model: {'; '.join(findings)}. Train longer or on more data, or change "
            f"export.limits and export.tolerance; the scores are in {evaluated.file('report.html')}"
        )
    spec = ModelSpec.read(trained.file("spec.json"))
    try:
        system = load_system(spec, trained.file("model.safetensors"))
    except ExportError as error:
        raise UserError(f"export: {error}; run train again") from None
    if config.half:
        system = system.half().float()  # the rounded weights are compared with their copy
    exported = ModelConfig(spec=spec, sampling=evaluation.sampling)
    vocoder = resolve(evaluation.vocoder)
    parameters = sum(parameter.numel() for parameter in system.parameters())
    lacks = sorted({unit for output in context.inputs.values() for unit in output.lacks})
    segments = _segments(trained)
    lines = [segment.describe() for segment in segments]
    card = model_card(config.title, spec, parameters, evaluation, dataset, lacks, lines)
    context.storage.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=context.storage) as scratch:
        built = Path(scratch) / FOLDER
        state = {name: value.half() if config.half else value for name, value in system.state_dict().items()}
        save(built, exported, state, vocoder, card)
        if segments:
            write_segments(built / SEGMENTS, segments)
        difference = check_copy(system, exported, vocoder, built, context.seed)
        files = sorted(path for path in built.rglob("*") if path.is_file())
        size = sum(path.stat().st_size for path in files)
        for source in files:
            with context.write(f"{FOLDER}/{source.relative_to(built).as_posix()}") as path:
                shutil.copyfile(source, path)
    context.tracker.artifact(context.folder / FOLDER, FOLDER)
    notes = [f"model: {context.folder / FOLDER}", f"try: flowse enhance IN OUT --model {context.folder / FOLDER}"]
    if context.tracker.run_id:
        from pipelines.registry import log_model  # MLflow's import takes seconds

        address = log_model(
            context.tracker.uri, context.tracker.run_id, context.folder / FOLDER, config.registered_name
        )
        notes.append(f"in MLflow: {address}")
    return StageReport(
        taken=Tally(),
        kept=Tally(),
        metrics={"parameters": float(parameters), "bytes": float(size), "difference after reload": difference},
        notes=tuple(notes),
    )


def _segments(trained: StageOutput) -> tuple[Segment, ...]:
    """Read the segments of the training; none of one that was made before there were segments.

    Raises:
        UserError: They cannot be read.
    """
    if not (trained.folder / SEGMENTS).exists():
        return ()
    path = trained.file(SEGMENTS)
    try:
        return read_segments(path)
    except ValueError as error:
        raise UserError(f"export: {path}: {error}; run train again with --force") from None


def _evaluation(evaluated: StageOutput) -> Evaluation:
    """Read what evaluate found.

    Raises:
        UserError: Its record cannot be read.
    """
    path = evaluated.file("summary.json")
    try:
        return Evaluation.from_text(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"export: {path}: {error}; run evaluate again with --force") from None

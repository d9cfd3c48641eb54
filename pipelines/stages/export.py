"""Hand on the trained model: a folder that enhances by itself, checked by reloading it.

Reads the weights of train, the scores of evaluate and the record of simulate's dataset.
Writes `model/`: weights, config, vocoder and model card; `flowse enhance --model` takes it as it is.
Drops nothing.
Fails nothing: a gate that does not hold, or a reload that does not give the same samples, stops it.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from flowse import __version__
from flowse.data import licences
from flowse.enhancer import Enhancer
from flowse.errors import UserError
from flowse.export import ExportError, ModelConfig, load_system, save
from flowse.flow.sampling import Sampling
from flowse.model.spec import ModelSpec
from flowse.model.system import System
from flowse.pretrained import resolve
from flowse.seeding import derive_seed, generator
from pipelines.engine.accounts import StageReport, Tally
from pipelines.engine.stage import StageContext

NAME = "export"
READS = ("simulate", "train", "evaluate")
REVISION = 1

FOLDER = "model"
MAX_DIFFERENCE = 1e-5
"""Largest difference of a sample before saving and after loading."""

# Metrics of evaluate that a gate can ask for, and whether less of them is better.
_LOWER_IS_BETTER = {
    "ovrl": False,
    "sig": False,
    "bak": False,
    "p808": False,
    "wer": True,
    "dwer": True,
    "speaker_cosine": False,
    "estoi": False,
    "pesq_wb": False,
    "si_sdr_db": False,
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """What the model is called, and what it must reach to be handed on.

    Attributes:
        title: Heading of the model card.
        half: Store the weights in 16 bits: half the size, rounded to three digits; they are computed with in 32.
        registered_name: Name in MLflow's model registry that this model becomes a new version of; empty: none.
        limits: What enhanced test speech must reach, by metric of evaluate: the least mean, or for `wer` and `dwer` the
            greatest rate, e.g. {ovrl: 2.9, wer: 0.2}. Empty: no gate.
        tolerance: How much worse than noisy a metric may be at most, in its own unit, e.g. {ovrl: 0.0, estoi: 0.02}; a
            metric that is not named is not asked for.
    """

    title: str = "FlowSE"
    half: bool = False
    registered_name: str = field(default="", metadata={"fingerprint": False})
    limits: dict[str, float] = field(default_factory=dict)
    tolerance: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("limits", "tolerance"):
            unknown = sorted(set(getattr(self, name)) - set(_LOWER_IS_BETTER))
            if unknown:
                raise ValueError(
                    f"{name}: unknown metric(s) {', '.join(unknown)}; known are {', '.join(_LOWER_IS_BETTER)}"
                )
            if any(
                isinstance(value, bool) or not isinstance(value, int | float) for value in getattr(self, name).values()
            ):
                raise ValueError(f"{name} is {getattr(self, name)!r}; every metric needs a number")


def gate(config: Config, scores: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return what does not hold; empty if the model may be handed on.

    Args:
        config: The limits.
        scores: "noisy" and "enhanced" by metric.
    """
    findings = []
    for metric, limit in config.limits.items():
        if metric not in scores:
            findings.append(f"{metric} was not measured (evaluate lacks what it needs)")
            continue
        reached, lower = scores[metric]["enhanced"], _LOWER_IS_BETTER[metric]
        if (reached > limit) if lower else (reached < limit):
            findings.append(f"{metric} is {reached:.3f}, {'at most' if lower else 'at least'} {limit:g} is asked for")
    for metric, tolerance in config.tolerance.items():
        if metric not in scores:
            findings.append(f"{metric} was not measured (evaluate lacks what it needs)")
            continue
        noisy, reached = scores[metric]["noisy"], scores[metric]["enhanced"]
        worse = reached - noisy if _LOWER_IS_BETTER[metric] else noisy - reached
        if worse > tolerance:
            findings.append(
                f"{metric} is {reached:.3f}, worse than noisy ({noisy:.3f}) by {worse:.3f}; {tolerance:g} is tolerated"
            )
    return findings


def card(
    title: str,
    spec: ModelSpec,
    sampling: Sampling,
    parameters: int,
    evaluated: Mapping[str, Any],
    dataset: Mapping[str, Any],
) -> str:
    """Write the model card.

    Args:
        title: Heading.
        spec: The model.
        sampling: How it is sampled.
        parameters: Number of weights, the vocoder's aside.
        evaluated: Evaluate's `summary.json`.
        dataset: Simulate's `dataset.json`.
    """
    rows = [one for one in evaluated["summary"] if one["group"] == "all"]
    table = ["| metric | noisy | enhanced | clean | enhanced − noisy (95 %) |", "|---|---|---|---|---|"]
    for one in rows:
        clean = "" if one["clean"] is None else f"{one['clean']:.3f}"
        gain = one["gain"]
        table.append(
            f"| {one['metric']} | {one['noisy']:.3f} | {one['enhanced']:.3f} | {clean} | "
            f"{gain['value']:+.3f} ({gain['low']:+.3f} … {gain['high']:+.3f}) |"
        )
    source = f"from {spec.flow.source}" if spec.objective == "flow" else "one pass"
    text = "with text (" + str(len(spec.vocabulary)) + " symbols)" if spec.vocabulary else "without text"
    return "\n".join(
        [
            f"# {title}",
            "",
            f"Speech enhancement, {spec.mel.sample_rate // 1000} kHz; made with flowse-pipeline {__version__}.",
            "",
            "```",
            "flowse enhance noisy.wav enhanced.wav --model PATH/TO/THIS/FOLDER",
            "```",
            "",
            "## Model",
            "",
            f"- {parameters / 1e6:.2f} M parameters: {_networks(spec)}, {text}",
            f"- objective: {spec.objective} ({source})",
            f"- sampling: {sampling}",
            f"- vocoder: {evaluated['vocoder']} (in `vocoder/`)",
            "",
            f"## Scores on {evaluated['recordings']} test recordings",
            "",
            *table,
            "",
            "ESTOI, PESQ and SI-SDR compare sample with sample: not meaningful for non-aligned output.",
            "",
            "## Data",
            "",
            *_data_lines({name: value for name, value in dataset.items() if name != "licences"}),
            "",
            *_licence_lines(dataset),
            "",
            "## Limits",
            "",
            "- A generative model can invent sounds where the input is unintelligible; do not use it as evidence.",
            "- It was measured on the test set above only; other languages, rooms and devices may fare worse.",
            "",
        ]
    )


def _licence_lines(dataset: Mapping[str, Any]) -> list[str]:
    if "licences" not in dataset:
        told = "The dataset's record has no roll-up of licences: `python -m pipelines lineage --model` makes one."
        return ["## Licences of the data", "", told]
    return ["## Licences of the data", "", *licences.markdown(licences.from_json(dataset["licences"]))]


def _networks(spec: ModelSpec) -> str:
    """Say in words what the weights are of."""
    dit = f"DiT, {spec.model.depth} blocks of width {spec.model.dim}"
    channels = ", ".join(map(str, spec.unet.channels))
    unet = f"mask U-Net, levels of {channels} channels, {spec.unet.depth} layers of width {spec.unet.dim} along time"
    if spec.objective == "regression":
        return unet if spec.predictor == "unet" else dit
    if spec.flow.source != "predicted":
        return dit
    return f"{dit}, from the estimate of a {unet if spec.predictor == 'unet' else 'DiT'}"


def _data_lines(dataset: Mapping[str, Any]) -> list[str]:
    """List everything that the dataset's record knows, nested values indented."""
    lines = []
    for name, value in dataset.items():
        if isinstance(value, Mapping):
            lines.append(f"- {name}:")
            lines += [f"  - {key}: {_plain(item)}" for key, item in value.items()]
        else:
            lines.append(f"- {name}: {_plain(value)}")
    return lines


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(item)}" for name, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_plain(item) for item in value)
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def reference_signal(seed: int, rate: int) -> Float32[np.ndarray, " N"]:
    """Make two seconds of noise in bursts, to compare a model with its copy."""
    samples = generator(derive_seed(seed, NAME, "test signal")).standard_normal(2 * rate)
    bursts = np.clip(np.sin(np.arange(2 * rate) * (2 * np.pi * 3 / rate)), 0, None)
    signal: Float32[np.ndarray, " N"] = (0.1 * samples * bursts).astype(np.float32)
    return signal


def check_copy(system: System, config: ModelConfig, vocoder: Path, folder: Path, seed: int) -> float:
    """Reload a written folder and return the largest difference from what it was made of.

    Raises:
        UserError: It is larger than `MAX_DIFFERENCE`.
    """
    rate = config.spec.mel.sample_rate
    signal = reference_signal(seed, rate)
    before = Enhancer.from_parts(system, config, vocoder).enhance(signal, rate, seed=seed)
    after = Enhancer.from_pretrained(folder).enhance(signal, rate, seed=seed)
    difference = float(np.abs(after - before).max())
    if not difference <= MAX_DIFFERENCE:
        raise UserError(
            f"export: the reloaded model differs from the trained one by {difference:.2e}, {MAX_DIFFERENCE:g} is "
            "allowed; "
            "the disk or the memory of this machine may be faulty: run it again"
        )
    return difference


def run(config: Config, context: StageContext) -> StageReport:
    """Check the gate, write the folder, reload it, and only then let it count."""
    trained, evaluated = context.inputs["train"], context.inputs["evaluate"]
    summary = json.loads(evaluated.file("summary.json").read_text(encoding="utf-8"))
    dataset = json.loads(context.inputs["simulate"].file("dataset.json").read_text(encoding="utf-8"))
    if summary["model"]:
        raise UserError(
            f"export: evaluate scored {summary['model']}, not what was trained here; empty evaluate.model to export"
        )
    scores = {one["metric"]: one for one in summary["summary"] if one["group"] == "all"}
    if findings := gate(config, scores):
        raise UserError(
            f"export: the gate refuses this model: {'; '.join(findings)}. Train longer or on more data, or change "
            f"export.limits and export.tolerance; the scores are in {evaluated.file('report.html')}"
        )
    spec = ModelSpec.from_dict(json.loads(trained.file("spec.json").read_text(encoding="utf-8")))
    try:
        system = load_system(spec, trained.file("model.safetensors"))
    except ExportError as error:
        raise UserError(f"export: {error}; run train again") from None
    if config.half:
        system = system.half().float()  # what is handed on is what is compared
    exported = ModelConfig(spec=spec, sampling=Sampling(**summary["sampling"]))
    vocoder = resolve(summary["vocoder"])
    parameters = sum(parameter.numel() for parameter in system.parameters())
    text = card(config.title, spec, exported.sampling, parameters, summary, dataset)
    context.storage.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=context.storage) as scratch:
        built = Path(scratch) / FOLDER
        state = system.state_dict()
        save(
            built,
            exported,
            {name: value.half() for name, value in state.items()} if config.half else state,
            vocoder,
            text,
        )
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

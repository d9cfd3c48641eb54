"""The start of a training: random weights, those of an earlier model, or an earlier model as the flow's predictor."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch

from flowse.errors import UserError
from flowse.export import CONFIG, ExportError, filled_system, load_system, read_config
from flowse.files import sha256_file
from flowse.flow.config import DistilConfig
from flowse.model.spec import ModelSpec
from flowse.model.system import System, build
from flowse.pretrained import resolve
from flowse.training.checkpoint import STATE, CheckpointError, load, read_state


@dataclass(frozen=True)
class Start:
    """Weights that a training starts from.

    Attributes:
        spec: Spec of the model that they belong to; what is trained has another one where the start becomes its
            predictor, see `TrainConfig.init_from`.
        weights: Safetensors file, or folder of a checkpoint, whose averaged weights are meant.
    """

    spec: ModelSpec
    weights: Path

    @property
    def digest(self) -> str:
        """SHA-256 of the file, or of the hashes that a checkpoint keeps of its files."""
        return sha256_file(self.weights / STATE if self.weights.is_dir() else self.weights)

    def describe(self, trained: ModelSpec) -> str:
        """Return one line that says what of a model with the spec `trained` comes from this start."""
        if is_distilled(trained, self.spec):
            return f"{self.weights} is the start and the frozen teacher; the network learns to jump"
        if trained == self.spec:
            return f"starts from {self.weights}: model, flow, objective, vocabulary and statistics are its own"
        return f"{self.weights} becomes the predictor; the flow's network is new"


def trained_system(spec: ModelSpec, weights: Path, device: torch.device | str = "cpu") -> System:
    """Build a system with the weights of a file, or with the averaged weights of a checkpoint's folder.

    Raises:
        ExportError: The weights cannot be read or do not fit.
    """
    if not weights.is_dir():
        return load_system(spec, weights, device)
    try:
        return filled_system(spec, load(weights, ["ema"]).ema, weights, device)
    except CheckpointError as error:
        raise ExportError(str(error)) from error


def becomes_predictor(start: ModelSpec, wanted: ModelSpec) -> bool:
    """Whether a start is a regression model, and a flow that begins at its estimate is wanted."""
    return start.objective == "regression" and wanted.objective == "flow" and wanted.flow.source == "predicted"


def refining_spec(start: ModelSpec, wanted: ModelSpec) -> ModelSpec:
    """Return the spec of a flow that refines a regression model's estimate.

    Args:
        start: Of the regression model; everything that the two networks share is taken from here.
        wanted: Its flow is taken, and the size of the flow's network (only its depth, if the start is a DiT too).
    """
    if start.predictor != "dit":
        return dataclasses.replace(start, objective="flow", model=wanted.model, flow=wanted.flow)
    return dataclasses.replace(
        start,
        objective="flow",
        model=dataclasses.replace(start.model, depth=wanted.model.depth),
        flow=dataclasses.replace(wanted.flow, predictor_depth=start.model.depth),
    )


def is_distilled(spec: ModelSpec, start: ModelSpec) -> bool:
    """Whether a spec is that of the average velocity of a start."""
    return spec.jumps and dataclasses.replace(spec, jumps=start.jumps, guidance_max=start.guidance_max) == start


def distilled_spec(start: ModelSpec, config: DistilConfig) -> ModelSpec:
    """Return the spec of the average velocity of a flow: its own, and the network takes the end of an interval too.

    Args:
        start: Of the flow.
        config: The network takes a scale of guidance as well, if that is to be drawn.

    Raises:
        ValueError: The start is no flow, or it was distilled for other scales of guidance.
    """
    if start.objective != "flow":
        raise ValueError(f"train.objective=distil needs a trained flow to start from, not a {start.objective} model")
    if start.guidance_max and start.guidance_max != config.guidance_max:
        raise ValueError(
            f"train.distil.guidance_max={config.guidance_max} must be {start.guidance_max}, as in what it starts from, "
            "whose network is told the scale"
        )
    return dataclasses.replace(start, jumps=True, guidance_max=config.guidance_max)


def teacher_of(start: Start) -> System:
    """Load a start as the frozen teacher of a distillation.

    Raises:
        ExportError: The start's weights cannot be read or do not fit.
    """
    return trained_system(start.spec, start.weights)


def initial_system(spec: ModelSpec, start: Start | None) -> System:
    """Build the system to train: with random weights (of torch's generator), a start's, or a start as its predictor.

    A flow's weights also start the distillation of its average velocity: what they lack changes no output at first.

    Raises:
        ExportError: The start's weights cannot be read or do not fit.
    """
    if start is None:
        return build(spec)
    loaded = trained_system(start.spec, start.weights).requires_grad_(True)
    if start.spec == spec:
        return loaded
    system = build(spec)
    if is_distilled(spec, start.spec):
        system.load_state_dict(loaded.state_dict(), strict=False)
        return system
    system.predictor = loaded.network
    return system


def starting_point(name_or_path: str) -> Start:
    """Find spec and averaged weights of an exported model, the output folder of a training, or a checkpoint.

    Raises:
        UserError: It is none of them.
    """
    try:
        folder = resolve(name_or_path)
        if (folder / CONFIG).exists():
            return Start(read_config(folder).spec, folder / "model.safetensors")
        if (folder / "spec.json").exists():
            return Start(ModelSpec.read(folder / "spec.json"), folder / "model.safetensors")
        identity = read_state(folder).identity
        if "lora" in identity.get("run", {}):
            raise UserError(
                f"train.init_from={name_or_path} is a checkpoint that holds adapters alone; give the output of that "
                "training, in which they are merged"
            )
        return Start(ModelSpec.from_dict(identity["spec"]), folder)
    except (FileNotFoundError, ExportError, CheckpointError, ValueError, KeyError) as error:
        raise UserError(
            f"train.init_from={name_or_path}: no export, train folder or checkpoint can be read there: {error}"
        ) from None

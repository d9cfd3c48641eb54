"""What a training starts from: nothing, an earlier model, or an earlier model as the predictor that a flow refines."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from flowse.errors import UserError
from flowse.export import CONFIG, ExportError, load_system, read_config
from flowse.model.spec import ModelSpec
from flowse.model.system import System, build
from flowse.pretrained import resolve
from flowse.training.checkpoint import CheckpointError, read_state


@dataclass(frozen=True)
class Start:
    """Weights that a training starts from.

    Attributes:
        spec: What they mean; not always what is trained: see `Config.init_from`.
        weights: Safetensors file.
    """

    spec: ModelSpec
    weights: Path


def becomes_predictor(start: ModelSpec, wanted: ModelSpec) -> bool:
    """Whether a start is a regression model, and a flow from its estimate is wanted."""
    return start.objective == "regression" and wanted.objective == "flow" and wanted.flow.source == "predicted"


def refining(start: ModelSpec, wanted: ModelSpec) -> ModelSpec:
    """Say what is trained where a regression model's estimate is refined: all that the two share is the start's."""
    if start.predictor == "unet":
        return dataclasses.replace(start, objective="flow", model=wanted.model, flow=wanted.flow)
    return dataclasses.replace(
        start,
        objective="flow",
        model=dataclasses.replace(start.model, depth=wanted.model.depth),
        flow=dataclasses.replace(wanted.flow, predictor_depth=start.model.depth),
    )


def initial_system(spec: ModelSpec, start: Start | None) -> System:
    """Build what is trained: fresh (from torch's generator), from a start, or with a start as its predictor.

    Raises:
        ExportError: The start's weights cannot be read or do not fit.
    """
    if start is None:
        return build(spec)
    loaded = load_system(start.spec, start.weights).requires_grad_(True)
    if start.spec == spec:
        return loaded
    system = build(spec)
    system.predictor = loaded.network
    return system


def starting_point(name_or_path: str) -> Start:
    """Find spec and averaged weights of an export, a train stage's folder, or a checkpoint.

    Raises:
        UserError: It is none of them.
    """
    try:
        folder = resolve(name_or_path)
        if (folder / CONFIG).exists():
            return Start(read_config(folder).spec, folder / "model.safetensors")
        if (folder / "spec.json").exists():
            values = json.loads((folder / "spec.json").read_text(encoding="utf-8"))
            return Start(ModelSpec.from_dict(values), folder / "model.safetensors")
        identity = read_state(folder).identity
        return Start(ModelSpec.from_dict(identity["spec"]), folder / "ema.safetensors")
    except (FileNotFoundError, ExportError, CheckpointError, ValueError, KeyError) as error:
        raise UserError(
            f"train.init_from={name_or_path}: no export, train folder or checkpoint can be read there: {error}"
        ) from None

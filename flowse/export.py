"""The folder of an exported model: weights, config, vocoder and model card, written whole or not at all."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from flowse.errors import UserError
from flowse.files import atomic_folder
from flowse.flow.sampling import Sampling
from flowse.json_records import from_json
from flowse.model.spec import ModelSpec
from flowse.model.system import System, build
from flowse.pretrained import resolve

FORMAT = 1
"""Version of the layout; raised when an older version would misread the folder."""

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
CARD = "README.md"
VOCODER = "vocoder"


class ExportError(UserError):
    """A model folder that cannot be used; the message names the folder, the fault and the mend."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The content of `config.json`.

    Attributes:
        spec: The model that the weights belong to.
        sampling: How to sample from the model.
        format: Version of the layout.
    """

    spec: ModelSpec
    sampling: Sampling = dataclasses.field(default_factory=Sampling)
    format: int = FORMAT

    def to_json(self) -> str:
        """Return the text of `config.json`."""
        values = {
            "format": self.format,
            "sampling": dataclasses.asdict(self.sampling),
            "spec": self.spec.to_dict(),
        }
        return json.dumps(values, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> ModelConfig:
        """Read what `to_json` wrote.

        Raises:
            ValueError: The text is no JSON, of another format, or has unknown or missing keys.
        """
        values = json.loads(text)
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            found = values.get("format") if isinstance(values, dict) else None
            raise ValueError(f"format is {found!r}, this version reads {FORMAT}")
        if set(values) != {"format", "sampling", "spec"}:
            raise ValueError(f"keys are {sorted(values)}, expected format, sampling, spec")
        given = values["sampling"]
        if not isinstance(given, dict):
            raise ValueError(f"sampling is {str(given)[:60]!r}, not an object with keys")
        sampling = from_json(Sampling, {**dataclasses.asdict(Sampling()), **given}, "sampling")
        return cls(spec=ModelSpec.from_dict(values["spec"]), sampling=sampling)


def save(
    folder: Path,
    config: ModelConfig,
    state: Mapping[str, Tensor],
    vocoder: Path,
    card: str,
    *,
    overwrite: bool = False,
) -> None:
    """Write a model folder; it appears under its name with all of its files, or not at all.

    Args:
        folder: The folder to write; its parent is made if it is absent.
        config: The model that the weights belong to, and how to sample from it.
        state: Weights, as `System.state_dict` returns them (as a rule, the EMA weights).
        vocoder: Folder of the vocoder; it is copied, so that the model folder needs nothing else.
        card: The model card, in Markdown.
        overwrite: Replace a folder of that name.

    Raises:
        FileExistsError: The folder exists and `overwrite` is not given.
    """
    if folder.exists() and not overwrite:
        raise FileExistsError(f"{folder} exists; choose another name, or remove it first")
    with atomic_folder(folder) as temporary:
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(state.items())}
        save_file(weights, temporary / WEIGHTS, metadata={"format": "pt"})
        (temporary / CONFIG).write_text(config.to_json(), encoding="utf-8")
        (temporary / CARD).write_text(card, encoding="utf-8")
        shutil.copytree(vocoder, temporary / VOCODER, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        for path in temporary.rglob("*"):
            # safetensors lets the owner alone read its files; a model folder is for all who may read its parent.
            path.chmod(0o755 if path.is_dir() else 0o644)
        temporary.chmod(0o755)


def vocoder_of(folder: Path) -> Path:
    """Return the folder of a model's vocoder: its own, or an embedded vocoder that a file in its place names.

    Raises:
        FileNotFoundError: The file names no embedded vocoder.
    """
    path = folder / VOCODER
    return resolve(path.read_text(encoding="utf-8").strip()) if path.is_file() else path


def read_config(folder: Path) -> ModelConfig:
    """Read the config of a model folder.

    Raises:
        ExportError: The config is missing or cannot be read.
    """
    path = folder / CONFIG
    if not path.is_file():
        what = f"{folder} is no model folder: it has no {CONFIG}" if folder.is_dir() else f"{folder}: no such folder"
        raise ExportError(f"{what}; give the folder that the export stage wrote")
    try:
        return ModelConfig.from_json(path.read_text(encoding="utf-8"))
    except (ValueError, TypeError, KeyError) as error:
        raise ExportError(f"{path}: {error}") from error


def load(folder: Path, device: torch.device | str = "cpu") -> tuple[System, ModelConfig]:
    """Load a model folder, without its vocoder.

    Raises:
        ExportError: A file or a weight is missing, unknown or does not fit the config.
    """
    config = read_config(folder)
    return load_system(config.spec, folder / WEIGHTS, device), config


def load_system(spec: ModelSpec, weights: Path, device: torch.device | str = "cpu") -> System:
    """Build a system and fill all of its weights from a file.

    Args:
        spec: The model that the weights belong to.
        weights: Safetensors file.
        device: Where the system runs.

    Raises:
        ExportError: The file is missing or cut, or a weight is missing, left over, of another shape or not finite.
    """
    if not weights.is_file():
        raise ExportError(f"{weights}: no such file; the folder is incomplete, export the model again")
    try:
        state = load_file(weights, device="cpu")
    except (SafetensorError, ValueError, RuntimeError, KeyError) as error:
        why = " ".join(str(error).split())[:200]
        raise ExportError(f"{weights} cannot be read ({why}); copy it again") from error
    return filled_system(spec, state, weights, device)


def filled_system(
    spec: ModelSpec, state: Mapping[str, Tensor], source: Path, device: torch.device | str = "cpu"
) -> System:
    """Build a system and fill all of its weights.

    Args:
        spec: The model that the weights belong to.
        state: Weights by name.
        source: Where they were read from, for messages.
        device: Where the system runs.

    Raises:
        ExportError: A weight is missing, left over, of another shape or not finite.
    """
    with torch.device("meta"):  # shapes alone: a config may ask for more than the memory holds
        wanted = build(spec).state_dict()
    findings = [f"{name} is missing" for name in wanted if name not in state]
    findings += [f"{name} is not known" for name in state if name not in wanted]
    findings += [
        f"{name} has shape {tuple(state[name].shape)}, the config says {tuple(wanted[name].shape)}"
        for name in wanted
        if name in state and state[name].shape != wanted[name].shape
    ]
    findings += [
        f"{name} holds {state[name].dtype}, not fractions"
        for name in wanted
        if name in state and wanted[name].is_floating_point() and not state[name].is_floating_point()
    ]
    findings += [f"{name} is not finite" for name, tensor in state.items() if not bool(torch.isfinite(tensor).all())]
    if findings:
        more = f" and {len(findings) - 3} more" if len(findings) > 3 else ""
        raise ExportError(f"{source} does not fit its config: {'; '.join(findings[:3])}{more}")
    system = build(spec)
    system.load_state_dict(state)
    return system.to(device).eval().requires_grad_(False)

"""Import of the published FlowSE checkpoint under this project's names; a tensor without a place is an error."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from flowse.files import atomic_path, write_text
from flowse.model.spec import DiTConfig, ModelSpec
from flowse.model.system import build
from flowse.tokenizer import Tokenizer

_HEAD = 64
"""Channels of an attention head in every published model; the checkpoint does not state the number of heads."""

# Pattern of the official name -> name here. Here, queries, keys and values are one matrix, which `_join` stacks.
_NAMES = (
    (r"time_embed\.time_mlp\.([02])\.(weight|bias)", r"network.time.mlp.\1.\2"),
    (r"text_embed\.text_embed\.weight", r"network.text.embedding.weight"),
    (r"text_embed\.text_blocks\.(\d+)\.dwconv\.(weight|bias)", r"network.text.blocks.\1.depthwise.\2"),
    (r"text_embed\.text_blocks\.(\d+)\.norm\.(weight|bias)", r"network.text.blocks.\1.norm.\2"),
    (r"text_embed\.text_blocks\.(\d+)\.pwconv1\.(weight|bias)", r"network.text.blocks.\1.expand.\2"),
    (r"text_embed\.text_blocks\.(\d+)\.grn\.(gamma|beta)", r"network.text.blocks.\1.grn.\2"),
    (r"text_embed\.text_blocks\.(\d+)\.pwconv2\.(weight|bias)", r"network.text.blocks.\1.reduce.\2"),
    (r"input_embed\.proj\.(weight|bias)", r"network.input.\1"),
    (r"input_embed\.conv_pos_embed\.conv1d\.0\.(weight|bias)", r"network.position.first.\1"),
    (r"input_embed\.conv_pos_embed\.conv1d\.2\.(weight|bias)", r"network.position.second.\1"),
    (r"transformer_blocks\.(\d+)\.attn_norm\.linear\.(weight|bias)", r"network.blocks.\1.modulation.\2"),
    (r"transformer_blocks\.(\d+)\.attn\.to_([qkv])\.(weight|bias)", r"network.blocks.\1.attention.qkv.\3|\2"),
    (r"transformer_blocks\.(\d+)\.attn\.to_out\.0\.(weight|bias)", r"network.blocks.\1.attention.out.\2"),
    (r"transformer_blocks\.(\d+)\.ff\.ff\.0\.0\.(weight|bias)", r"network.blocks.\1.feed_forward.0.\2"),
    (r"transformer_blocks\.(\d+)\.ff\.ff\.2\.(weight|bias)", r"network.blocks.\1.feed_forward.3.\2"),
    (r"norm_out\.linear\.(weight|bias)", r"network.final.modulation.\1"),
    (r"proj_out\.(weight|bias)", r"network.final.out.\1"),
)
_PREFIX = "transformer."
_ROTARY = "rotary_embed.inv_freq"


class OfficialError(Exception):
    """The files are not a published FlowSE model; the message names what does not fit."""


@dataclass(frozen=True)
class Official:
    """A published model under this project's names.

    Attributes:
        spec: Rotary positions on head 0 alone, log-mel without normalisation (mean 0, deviation 1), Gaussian source.
        state: Weights under this project's names.
        used: Official names of the tensors that became weights.
        implied: Official names of the tensors that follow from the spec and were only compared with it.
    """

    spec: ModelSpec
    state: dict[str, Tensor]
    used: tuple[str, ...]
    implied: tuple[str, ...]


def translate(official: Mapping[str, Tensor], vocabulary: tuple[str, ...]) -> Official:
    """Translate an official state dict into a spec and weights under this project's names.

    Args:
        official: The checkpoint's ``model_state_dict``.
        vocabulary: Symbols in the order of the lines of the vocabulary file.

    Raises:
        OfficialError: A tensor is unknown, missing, of the wrong shape, or contradicts the spec.
    """
    placed: dict[str, Tensor] = {}
    used, implied, unknown = [], [], []
    for name, tensor in official.items():
        place = _place(name)
        if place is not None:
            placed[place] = tensor
            used.append(name)
        elif name == _PREFIX + _ROTARY:
            _check_rotary(tensor)
            implied.append(name)
        else:
            unknown.append(name)
    if unknown:
        raise OfficialError(
            f"{len(unknown)} tensor(s) are not known, the first is {unknown[0]!r}; this is another model"
        )
    state = _join(placed)
    spec = _spec(state, vocabulary)
    _check_shapes(spec, state)
    return Official(spec, state, tuple(used), tuple(implied))


def read_official(checkpoint: Path, vocabulary: Path) -> Official:
    """Read the published files.

    Args:
        checkpoint: The ``.pt`` file that holds ``model_state_dict``.
        vocabulary: The vocabulary's text file with one symbol a line; line 0 is the space.

    Raises:
        OfficialError: The files are not a published FlowSE model.
    """
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise OfficialError(f"{checkpoint} cannot be read as a checkpoint: {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict) or not isinstance(content.get("model_state_dict"), dict):
        raise OfficialError(f"{checkpoint} holds no 'model_state_dict'; give the file that FlowSE's authors published")
    try:
        symbols = Tokenizer.from_file(vocabulary).vocabulary
    except (OSError, ValueError) as error:
        raise OfficialError(f"{vocabulary} cannot be read as a vocabulary: {error}") from error
    return translate(content["model_state_dict"], symbols)


def import_official(checkpoint: Path, vocabulary: Path, out: Path) -> Official:
    """Write a published model as `spec.json` and `model.safetensors`, for enhancement or fine-tuning.

    Args:
        checkpoint: The ``.pt`` file that holds ``model_state_dict``.
        vocabulary: The vocabulary's text file with one symbol a line; line 0 is the space.
        out: Folder of the two files; created if it does not exist.

    Raises:
        OfficialError: The files are not a published FlowSE model.
    """
    official = read_official(checkpoint, vocabulary)
    with atomic_path(out / "model.safetensors") as temporary:
        save_file({name: tensor.contiguous() for name, tensor in official.state.items()}, temporary)
    text = json.dumps(official.spec.to_dict(), indent=1, ensure_ascii=False) + "\n"
    write_text(out / "spec.json", text)
    return official


def _place(name: str) -> str | None:
    if not name.startswith(_PREFIX):
        return None
    for pattern, place in _NAMES:
        match = re.fullmatch(pattern, name.removeprefix(_PREFIX))
        if match:
            return match.expand(place)
    return None


def _check_rotary(frequencies: Tensor) -> None:
    """Compare the rotary frequencies, the only tensor that is no weight, with those of the head's width."""
    expected = 10_000.0 ** (-torch.arange(0, _HEAD, 2, dtype=torch.float32) / _HEAD)
    if frequencies.is_meta:
        return
    if frequencies.shape != expected.shape or not torch.allclose(frequencies.float(), expected, rtol=1e-3):
        raise OfficialError(f"{_PREFIX}{_ROTARY} is not that of base 10000 and {_HEAD} channels; this is another model")


def _join(placed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Stack queries, keys and values, remove the singleton axes of GRN, and convert all tensors to float32."""
    state: dict[str, Tensor] = {}
    for place, tensor in placed.items():
        name, _, part = place.partition("|")
        if not part:
            state[name] = (tensor.flatten() if ".grn." in name else tensor).float()
        elif part == "q":
            parts = [placed.get(f"{name}|{letter}") for letter in "qkv"]
            if any(part is None for part in parts):
                raise OfficialError(f"{name}: queries, keys or values are missing")
            state[name] = torch.cat([part.float() for part in parts if part is not None])
    return state


def _spec(state: Mapping[str, Tensor], vocabulary: tuple[str, ...]) -> ModelSpec:
    """Derive the sizes in the spec from the shapes of the tensors.

    Raises:
        OfficialError: A tensor that determines a size is missing, or the vocabulary does not fit.
    """

    def size(name: str, axis: int) -> int:
        if name not in state:
            raise OfficialError(f"the checkpoint lacks what becomes {name!r}")
        return state[name].shape[axis]

    def count(pattern: str) -> int:
        return len({match[1] for name in state if (match := re.match(pattern, name))})

    symbols = size("network.text.embedding.weight", 0) - 1
    if symbols != len(vocabulary):
        raise OfficialError(
            f"the vocabulary has {len(vocabulary)} symbols, the checkpoint {symbols}; give its own file"
        )
    dim = size("network.input.weight", 0)
    kernel = "network.position.first.weight"
    try:
        config = DiTConfig(
            dim=dim,
            depth=count(r"network\.blocks\.(\d+)\."),
            heads=dim // _HEAD,
            ff_mult=size("network.blocks.0.feed_forward.0.weight", 0) // dim,
            dropout=0.1,
            conv_kernel=size(kernel, 2),
            conv_groups=dim // size(kernel, 1),
            text_dim=size("network.text.embedding.weight", 1),
            text_blocks=count(r"network\.text\.blocks\.(\d+)\."),
            rotary="first",
        )
    except (ValueError, ZeroDivisionError) as error:
        raise OfficialError(f"the tensors' sizes do not make a model: {error}") from error
    # The official code does not normalise the log-mel, and its flow starts from Gaussian noise.
    return ModelSpec(model=config, vocabulary=vocabulary, mel_mean=0.0, mel_std=1.0)


def _check_shapes(spec: ModelSpec, state: Mapping[str, Tensor]) -> None:
    with torch.device("meta"):
        wanted = build(spec).state_dict()
    findings = [f"{name} is missing" for name in wanted if name not in state]
    findings += [
        f"{name} is left over" if name not in wanted else f"{name} has shape {tuple(tensor.shape)}"
        for name, tensor in state.items()
        if name not in wanted or tensor.shape != wanted[name].shape
    ]
    if findings:
        raise OfficialError(f"{len(findings)} tensor(s) do not fit: {'; '.join(findings[:3])}")

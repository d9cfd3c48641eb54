"""Low-rank adaptation (LoRA; Hu et al., 2021): small matrices are trained beside the weights of a frozen base."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from flowse.model.system import System
from flowse.training.lora_config import LoraConfig

_ADAPTER = re.compile(r"(.+)\.parametrizations\.weight\.0\.(up|down)")
_BASE = ".parametrizations.weight.original"


class LowRank(nn.Module):
    """Adds the product of two thin matrices to a weight; at first it is zero, and the sum is the weight to the bit."""

    def __init__(self, weight: Float[Tensor, "O I"], config: LoraConfig) -> None:
        """Draw the first matrix from torch's global generator; the second is zero.

        Args:
            weight: The weight that is adapted.
            config: Rank and scale.
        """
        super().__init__()
        rows, columns = weight.shape
        self.scale = config.scale
        self.down = nn.Parameter(torch.empty(config.rank, columns, device=weight.device))
        self.up = nn.Parameter(torch.zeros(rows, config.rank, device=weight.device))
        nn.init.kaiming_uniform_(self.down, a=5**0.5)

    def forward(self, weight: Float[Tensor, "O I"]) -> Float[Tensor, "O I"]:
        """Return the adapted weight."""
        return adapted(weight, self.up, self.down, self.scale)


def adapted(
    weight: Float[Tensor, "O I"], up: Float[Tensor, "O R"], down: Float[Tensor, "R I"], scale: float
) -> Float[Tensor, "O I"]:
    """Return `weight` + `scale` × `up` × `down`, in float32 also under autocast: merging must give the same."""
    with torch.autocast(weight.device.type, enabled=False):
        return weight + scale * (up @ down)


def layers_to_adapt(system: System, config: LoraConfig) -> dict[str, nn.Linear]:
    """Return the linear layers of a system that match a pattern, by name.

    Args:
        system: The base; shapes alone count.
        config: Rank and patterns.

    Raises:
        ValueError: A pattern matches no linear layer, or the rank is no less than a layer's width.
    """
    layers = {name: module for name, module in system.named_modules() if isinstance(module, nn.Linear)}
    for pattern in config.targets:
        if not any(fnmatchcase(name, pattern) for name in layers):
            raise ValueError(
                f"lora.targets: {pattern!r} matches no linear layer; names are like {next(iter(layers), '')!r}"
            )
    chosen = {name: layer for name, layer in layers.items() if any(fnmatchcase(name, at) for at in config.targets)}
    for name, layer in chosen.items():
        width = min(layer.weight.shape)
        if config.rank >= width:
            raise ValueError(f"lora.rank is {config.rank}, and {name} is only {width} wide; give a smaller rank")
    return chosen


def adapt(system: System, config: LoraConfig) -> list[str]:
    """Freeze a system and put adapters beside the weights of its linear layers that match a pattern.

    Args:
        system: The base; its output stays what it was until the adapters are trained.
        config: Rank, scale and patterns.

    Returns:
        Names of the adapted layers.

    Raises:
        ValueError: As `layers_to_adapt` says.
    """
    chosen = layers_to_adapt(system, config)
    system.requires_grad_(False)
    for layer in chosen.values():
        parametrize.register_parametrization(layer, "weight", LowRank(layer.weight, config))
        layer.parametrizations.weight.original.requires_grad_(False)  # type: ignore[union-attr]
    return list(chosen)


def is_adapter(name: str) -> bool:
    """Whether a parameter of this name belongs to an adapter, and not to the base."""
    return _ADAPTER.fullmatch(name) is not None


def merged(weights: Mapping[str, Tensor], config: LoraConfig) -> dict[str, Tensor]:
    """Add the adapters to the base's weights; the result has the names and values of a system without adapters.

    Args:
        weights: All weights of an adapted system, by name.
        config: As the system was adapted.
    """
    plain: dict[str, Tensor] = {}
    for name, value in weights.items():
        if name.endswith(_BASE):
            layer = name.removesuffix(_BASE)
            up, down = (weights[f"{layer}.parametrizations.weight.0.{part}"] for part in ("up", "down"))
            plain[f"{layer}.weight"] = adapted(value, up, down, config.scale)
        elif not is_adapter(name):
            plain[name] = value
    return plain

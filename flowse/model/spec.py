"""The model's spec: everything that must travel with the weights, importable without torch."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flowse.audio.mel_config import MelConfig
from flowse.flow.config import FlowConfig
from flowse.flow.sampling import Sampling
from flowse.json_records import from_json

PREDICTORS = ("dit", "dual_path")
OBJECTIVES = ("flow", "regression")
ROTARY = ("all", "first")
PRECISIONS = ("fp32", "bf16", "int8")
"""Of inference, see `flowse.model.precision`."""


def _refuse_sizes(sizes: Mapping[str, int], most: int = 65_536) -> None:
    """Refuse sizes that no model has: building it would fill the memory or never end.

    Raises:
        ValueError: A size is below 1 or above `most`; the message names it.
    """
    for name, size in sizes.items():
        if not 1 <= size <= most:
            raise ValueError(f"{name}={size} must be in 1..{most}")


@dataclass(frozen=True, kw_only=True)
class DiTConfig:
    """Sizes and options of a DiT; the defaults suit a laptop, `PAPER` is the paper's model.

    Attributes:
        dim: Width ``D``.
        depth: Number of blocks.
        heads: Number of attention heads ``H``; `dim / heads` must be even.
        ff_mult: Width of the feed-forward layer, as a multiple of `dim`.
        dropout: Dropout probability after attention and inside the feed-forward layer.
        conv_kernel: Kernel of the convolutional position embedding, in frames; odd.
        conv_groups: Groups of the convolutional position embedding; must divide `dim`.
        text_dim: Channels of the text encoder; used only if there is a vocabulary.
        text_blocks: ConvNeXt V2 blocks of the text encoder.
        rotary: "all": all heads have rotary positions; "first": only head 0 has, as the official checkpoint needs.
        qk_norm: Whether queries and keys are normalised (training is then more stable at high learning rates and in
            bf16).
    """

    dim: int = 192
    depth: int = 4
    heads: int = 3
    ff_mult: int = 2
    dropout: float = 0.0
    conv_kernel: int = 31
    conv_groups: int = 16
    text_dim: int = 128
    text_blocks: int = 2
    rotary: str = "all"
    qk_norm: bool = False

    def __post_init__(self) -> None:
        """Refuse sizes that do not fit each other.

        Raises:
            ValueError: A value is not allowed; the message names the key, its value and the allowed values.
        """
        _refuse_sizes({"dim": self.dim, "text_dim": self.text_dim})
        _refuse_sizes({"heads": self.heads, "conv_groups": self.conv_groups, "conv_kernel": self.conv_kernel}, 4096)
        _refuse_sizes({"ff_mult": self.ff_mult}, 64)
        for name in ("depth", "text_blocks"):
            if not 0 <= getattr(self, name) <= 1000:
                raise ValueError(f"{name}={getattr(self, name)} must be in 0..1000")
        if self.dim % self.heads or (self.dim // self.heads) % 2:
            raise ValueError(f"dim={self.dim} must be heads={self.heads} times an even number")
        if self.dim % self.conv_groups:
            raise ValueError(f"dim={self.dim} must be a multiple of conv_groups={self.conv_groups}")
        if self.conv_kernel % 2 == 0:
            raise ValueError(f"conv_kernel={self.conv_kernel} must be odd, so that frames stay where they are")
        if self.text_dim % 2:
            raise ValueError(f"text_dim={self.text_dim} must be even: half cosines, half sines")
        if self.rotary not in ROTARY:
            raise ValueError(f"rotary={self.rotary!r} must be one of {', '.join(ROTARY)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout} must be in [0, 1)")


PAPER = DiTConfig(dim=1024, depth=22, heads=16, dropout=0.1, text_dim=512, text_blocks=4)
"""The published model; it has 337.1 M parameters with its vocabulary of 2,545 symbols."""


@dataclass(frozen=True, kw_only=True)
class DualPathConfig:
    """Size of a dual-path mask network.

    Attributes:
        channels: Channels at full, half and quarter frequency resolution.
        blocks: Number of dual-path blocks.
        frequency_dim: Width of the LSTM along frequency, for each direction.
        time_dim: Width of the LSTM along time, for each direction.
    """

    channels: tuple[int, ...] = (16, 32, 64)
    blocks: int = 3
    frequency_dim: int = 32
    time_dim: int = 64

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be built.

        Raises:
            ValueError: A value is not allowed; the message names the key, its value and the allowed values.
        """
        if len(self.channels) != 3 or min(self.channels) < 1:
            raise ValueError(f"channels={list(self.channels)} must be three numbers, each at least 1")
        _refuse_sizes({"channels": max(self.channels), "frequency_dim": self.frequency_dim, "time_dim": self.time_dim})
        if not 1 <= self.blocks <= 1000:
            raise ValueError(f"blocks={self.blocks} must be in 1..1000")


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Everything that is needed to build a model and to load its weights.

    Attributes:
        mel: Definition of the mel; the vocoder must have the same.
        model: Sizes and options of the DiT.
        flow: Source of the flow.
        objective: "flow": flow matching; "regression": the predictor alone estimates the clean mel in a single pass.
        predictor: Network that estimates the clean mel in a single pass, for the objective "regression" and for a flow
            whose source is "predicted": "dit", or "dual_path", a mask, which needs far less training.
        dual_path: Size of the dual-path mask.
        vocabulary: Symbols of the text encoder in the order of their ids, which begin at 1; empty: no text.
        mel_mean: Mean of the clean log-mel in the training data.
        mel_std: Standard deviation of the clean log-mel in the training data.
        jumps: Of a flow: the network estimates the average velocity over an interval, so that it takes a step of any
            length in one evaluation (see `flowse.flow.average_velocity`); "distil" trains such a network.
        guidance_max: Of a network with jumps: it takes a scale of guidance, 0 to this; 0: it takes none.

    Example:
        >>> spec = ModelSpec(model=DiTConfig(dim=256), flow=FlowConfig(source="predicted"), predictor="dual_path")
        >>> system = flowse.model.system.build(spec)
    """

    mel: MelConfig = field(default_factory=MelConfig)
    model: DiTConfig = field(default_factory=DiTConfig)
    flow: FlowConfig = field(default_factory=FlowConfig)
    objective: str = "flow"
    predictor: str = "dit"
    dual_path: DualPathConfig = field(default_factory=DualPathConfig)
    vocabulary: tuple[str, ...] = ()
    mel_mean: float = 0.0
    mel_std: float = 1.0
    jumps: bool = False
    guidance_max: float = 0.0

    def __post_init__(self) -> None:
        """Refuse a model that cannot be built.

        Raises:
            ValueError: A value is not allowed; the message names the key, its value and the allowed values.
        """
        if self.objective not in OBJECTIVES:
            raise ValueError(f"objective={self.objective!r} must be one of {', '.join(OBJECTIVES)}")
        if self.predictor not in PREDICTORS:
            raise ValueError(f"predictor={self.predictor!r} must be one of {', '.join(PREDICTORS)}")
        if self.jumps and self.objective != "flow":
            raise ValueError(f"jumps={self.jumps} needs objective='flow', not {self.objective!r}")
        if not 0 <= self.guidance_max < math.inf:
            raise ValueError(f"guidance_max={self.guidance_max} must be finite, 0 or more")
        if self.guidance_max and not self.jumps:
            raise ValueError(f"guidance_max={self.guidance_max} needs jumps; another flow is guided as it is sampled")
        if not 0 < self.mel_std < math.inf:
            raise ValueError(f"mel_std={self.mel_std} must be above 0 and finite: mels are divided by it")
        if not math.isfinite(self.mel_mean):
            raise ValueError(f"mel_mean={self.mel_mean} must be finite")
        if len(set(self.vocabulary)) != len(self.vocabulary):
            twice = sorted({symbol for symbol in self.vocabulary if self.vocabulary.count(symbol) > 1})
            raise ValueError(f"vocabulary holds {twice[:5]!r} more than once")

    def require(self, sampling: Sampling) -> None:
        """Refuse what a model of this spec cannot do.

        Raises:
            ValueError: Naming the setting and how to mend it.
        """
        if sampling.steps == 0 and self.objective == "flow" and self.flow.source != "predicted":
            raise ValueError("steps=0 is for models with a predictor; give 1 or more")
        if self.jumps and sampling.guidance > self.guidance_max:
            scales = f"scales of 0 to {self.guidance_max:g}" if self.guidance_max else "no scale, and has its own"
            raise ValueError(
                f"guidance={sampling.guidance:g}: this distilled model takes {scales}; distil it again with another "
                "train.distil.guidance_max"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON; what is younger than the format is left out at its default."""
        values = {**dataclasses.asdict(self), "vocabulary": list(self.vocabulary)}
        if not self.guidance_max:
            del values["guidance_max"]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelSpec:
        """Build the spec from the values that `to_dict` returned.

        Raises:
            ValueError: A key is unknown (a newer version wrote it) or a value is not allowed; the message names it.
        """
        if isinstance(values, Mapping) and "unet" in values:
            # Older specs have the size of a mask U-Net, the predictor before the dual-path mask.
            if values.get("predictor") == "unet":
                raise ValueError("predictor='unet' is no longer supported: use the version that exported this model")
            values = {key: value for key, value in values.items() if key != "unet"}
        defaults = json.loads(json.dumps(dataclasses.asdict(cls())))
        return from_json(cls, _completed(values, defaults, "spec"), "spec")

    @classmethod
    def read(cls, path: Path) -> ModelSpec:
        """Read a `spec.json`, which holds the values that `to_dict` returns.

        Raises:
            ValueError: The file is no JSON, a key is unknown, or a value is not allowed.
        """
        return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))


def _completed(values: Any, defaults: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the values with those that are not given, because an older version wrote them."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} is {str(values)[:60]!r}, not an object with keys")
    unknown = sorted(set(values) - set(defaults))
    if unknown:
        raise ValueError(f"{where}: unknown key(s) {', '.join(unknown)}; known are {', '.join(sorted(defaults))}")
    return {
        name: _completed(values[name], default, f"{where}.{name}")
        if isinstance(default, dict) and name in values
        else values.get(name, default)
        for name, default in defaults.items()
    }

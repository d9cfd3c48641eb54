"""The network of Vocos (Siuzdak 2023, arXiv:2306.00814) in torch alone, with the names of its published weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

_CLASSES = {
    "feature_extractor": "vocos.feature_extractors.MelSpectrogramFeatures",
    "backbone": "vocos.models.VocosBackbone",
    "head": "vocos.heads.ISTFTHead",
}
"""Of each part of `config.yaml`, the class that is known here."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class VocosFeatures:
    """Arguments of `MelSpectrogramFeatures`: the mel that the network takes; rates in Hz, lengths in samples."""

    sample_rate: int = 24_000
    n_fft: int = 1024
    hop_length: int = 256
    n_mels: int = 100
    padding: str = "center"


@dataclass(frozen=True, kw_only=True)
class VocosBackboneConfig:
    """Arguments of `VocosBackbone`."""

    input_channels: int
    dim: int
    intermediate_dim: int
    num_layers: int
    layer_scale_init_value: float | None = None
    adanorm_num_embeddings: int | None = None


@dataclass(frozen=True, kw_only=True)
class VocosHead:
    """Arguments of `ISTFTHead`; lengths in samples."""

    dim: int
    n_fft: int
    hop_length: int
    padding: str = "same"


@dataclass(frozen=True, kw_only=True)
class VocosConfig:
    """The content of `config.yaml` in the layout of ``charactr/vocos-mel-24khz``."""

    features: VocosFeatures
    backbone: VocosBackboneConfig
    head: VocosHead

    @classmethod
    def of(cls, values: Any) -> VocosConfig:
        """Read the parsed file. Only these classes are known: none is looked up by its name.

        Raises:
            ValueError: A part is missing, of an unknown class, or has unknown, missing or contradicting arguments.
        """
        config = cls(
            features=_part(VocosFeatures, values, "feature_extractor"),
            backbone=_part(VocosBackboneConfig, values, "backbone"),
            head=_part(VocosHead, values, "head"),
        )
        if config.features.padding != "center" or config.head.padding != "center":
            unknown = next(name for name in (config.features.padding, config.head.padding) if name != "center")
            raise ValueError(f'frames with padding "{unknown}"; only "center" is known here')
        if config.backbone.adanorm_num_embeddings is not None:
            raise ValueError("is conditioned on a bandwidth (adanorm_num_embeddings), and a mel has none")
        for name, left, right in (
            ("n_mels", config.features.n_mels, config.backbone.input_channels),
            ("n_fft", config.features.n_fft, config.head.n_fft),
            ("hop_length", config.features.hop_length, config.head.hop_length),
            ("dim", config.backbone.dim, config.head.dim),
        ):
            if left != right:
                raise ValueError(f"{name} is {left} in one part of the configuration and {right} in another")
        return config


def _part(kind: type[T], values: Any, name: str) -> T:
    """Read one part of the configuration."""
    part = values.get(name) if isinstance(values, Mapping) else None
    if not isinstance(part, Mapping):
        raise ValueError(f"has no {name}")
    if part.get("class_path") != _CLASSES[name]:
        raise ValueError(f"{name} is a {part.get('class_path')}, only {_CLASSES[name]} is known here")
    arguments = part.get("init_args") or {}
    if not isinstance(arguments, Mapping) or set(arguments) - {field.name for field in fields(kind)}:  # type: ignore[arg-type]
        raise ValueError(f"{name} has arguments that are not known: {arguments}")
    for argument, value in arguments.items():
        if not isinstance(value, str if argument == "padding" else int | float | None) or isinstance(value, bool):
            raise ValueError(f"{name}.{argument} is {value!r}")
    try:
        return kind(**arguments)
    except TypeError as error:
        raise ValueError(f"{name}: {error}") from error


class VocosNetwork(nn.Module):
    """Backbone and head of Vocos: log-mel in, waveform out."""

    def __init__(self, config: VocosConfig) -> None:
        """Build the network with weights of torch's own initialisation."""
        super().__init__()
        self.backbone = _Backbone(config.backbone)
        self.head = _Head(config.head)

    def forward(self, log_mel: Float[Tensor, "B F T"]) -> Float[Tensor, "B N"]:
        """Compute ``N = (T - 1) * hop_length`` samples."""
        waveform: Float[Tensor, "B N"] = self.head(self.backbone(log_mel))
        return waveform


class _Backbone(nn.Module):
    """ConvNeXt blocks that keep the number of frames."""

    def __init__(self, config: VocosBackboneConfig) -> None:
        super().__init__()
        self.embed = nn.Conv1d(config.input_channels, config.dim, kernel_size=7, padding=3)
        self.norm = nn.LayerNorm(config.dim, eps=1e-6)
        scale = config.layer_scale_init_value or 1 / config.num_layers
        self.convnext = nn.ModuleList(
            [_Block(config.dim, config.intermediate_dim, scale) for _ in range(config.num_layers)]
        )
        self.final_layer_norm = nn.LayerNorm(config.dim, eps=1e-6)

    def forward(self, x: Float[Tensor, "B F T"]) -> Float[Tensor, "B T D"]:
        x = self.norm(self.embed(x).transpose(1, 2)).transpose(1, 2)
        for block in self.convnext:
            x = block(x)
        normed: Float[Tensor, "B T D"] = self.final_layer_norm(x.transpose(1, 2))
        return normed


class _Block(nn.Module):
    """A ConvNeXt block in one dimension."""

    def __init__(self, dim: int, intermediate_dim: int, scale: float) -> None:
        super().__init__()
        self.dwconv = nn.Conv1d(dim, dim, kernel_size=7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pwconv1 = nn.Linear(dim, intermediate_dim)
        self.act = nn.GELU()
        self.pwconv2 = nn.Linear(intermediate_dim, dim)
        self.gamma = nn.Parameter(scale * torch.ones(dim))

    def forward(self, x: Float[Tensor, "B D T"]) -> Float[Tensor, "B D T"]:
        y = self.norm(self.dwconv(x).transpose(1, 2))
        y = self.gamma * self.pwconv2(self.act(self.pwconv1(y)))
        added: Float[Tensor, "B D T"] = x + y.transpose(1, 2)
        return added


class _Head(nn.Module):
    """The magnitude and phase of every frequency, and the inverse STFT."""

    def __init__(self, config: VocosHead) -> None:
        super().__init__()
        self.out = nn.Linear(config.dim, config.n_fft + 2)
        self.istft = _InverseSTFT(config.n_fft, config.hop_length)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B N"]:
        log_magnitude, phase = self.out(x).transpose(1, 2).chunk(2, dim=1)
        magnitude = log_magnitude.exp().clip(max=1e2)  # as published: a safeguard against excessive magnitudes
        waveform: Float[Tensor, "B N"] = self.istft(magnitude * (torch.cos(phase) + 1j * torch.sin(phase)))
        return waveform


class _InverseSTFT(nn.Module):
    """The inverse STFT of centred frames; its window is among the published weights."""

    window: Tensor

    def __init__(self, n_fft: int, hop_length: int) -> None:
        super().__init__()
        self.n_fft, self.hop_length = n_fft, hop_length
        self.register_buffer("window", torch.hann_window(n_fft))

    def forward(self, spectrum: Tensor) -> Float[Tensor, "B N"]:
        return torch.istft(spectrum, self.n_fft, self.hop_length, self.n_fft, self.window, center=True)

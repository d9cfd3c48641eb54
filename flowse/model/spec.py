"""The model's spec: everything that must travel with the weights, and how a system is built from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flowse.audio.mel import MelConfig
from flowse.flow.path import FlowConfig
from flowse.model.dit import DiT, DiTConfig
from flowse.model.mask_unet import MaskUNet, MaskUNetConfig
from flowse.model.system import OBJECTIVES, System

PREDICTORS = ("dit", "unet")


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """What a folder of weights means.

    Attributes:
        mel: Definition of the mel; the vocoder must share it.
        model: Size and form of the DiT.
        flow: Where the path begins.
        objective: "flow", or "regression": the clean mel in one pass, by the predictor alone.
        predictor: What estimates the clean mel in one pass, for the objective "regression" and for a flow that begins
            there: "dit", the flow's own network, or "unet", a mask U-Net, which needs far less training.
        unet: Size of the mask U-Net.
        vocabulary: Symbols of the text encoder in the order of their ids, which begin at 1; empty: no text.
        mel_mean: Mean of the training data's clean log-mel.
        mel_std: Its deviation.
    """

    mel: MelConfig = field(default_factory=MelConfig)
    model: DiTConfig = field(default_factory=DiTConfig)
    flow: FlowConfig = field(default_factory=FlowConfig)
    objective: str = "flow"
    predictor: str = "dit"
    unet: MaskUNetConfig = field(default_factory=MaskUNetConfig)
    vocabulary: tuple[str, ...] = ()
    mel_mean: float = 0.0
    mel_std: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what cannot be built.

        Raises:
            ValueError: Naming the key, its value and what is allowed.
        """
        if self.objective not in OBJECTIVES:
            raise ValueError(f"objective={self.objective!r} must be one of {', '.join(OBJECTIVES)}")
        if self.predictor not in PREDICTORS:
            raise ValueError(f"predictor={self.predictor!r} must be one of {', '.join(PREDICTORS)}")
        if not self.mel_std > 0:
            raise ValueError(f"mel_std={self.mel_std} must be above 0: mels are divided by it")
        if len(set(self.vocabulary)) != len(self.vocabulary):
            twice = sorted({symbol for symbol in self.vocabulary if self.vocabulary.count(symbol) > 1})
            raise ValueError(f"vocabulary holds {twice[:5]!r} more than once")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {**dataclasses.asdict(self), "vocabulary": list(self.vocabulary)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelSpec:
        """Read what `to_dict` wrote.

        Raises:
            ValueError: A key is unknown (a newer version wrote it) or a value is refused; the message names
                it.
        """
        parts = {"mel": MelConfig, "model": DiTConfig, "flow": FlowConfig, "unet": MaskUNetConfig}
        read = _strict(cls, values, "spec")
        for name, kind in parts.items():
            if name in read:
                part = _strict(kind, read[name], f"spec.{name}")
                read[name] = kind(**{key: tuple(v) if isinstance(v, list) else v for key, v in part.items()})
        if "vocabulary" in read:
            read["vocabulary"] = tuple(read["vocabulary"])
        return cls(**read)


def _strict(kind: type[Any], values: Mapping[str, Any], where: str) -> dict[str, Any]:
    known = {item.name for item in dataclasses.fields(kind)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(f"{where}: unknown key(s) {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    return dict(values)


def build(spec: ModelSpec) -> System:
    """Build the system that a spec describes, with fresh weights from torch's global generator."""
    size, mels = len(spec.vocabulary), spec.mel.n_mels

    def one_pass(depth: int) -> DiT | MaskUNet:
        if spec.predictor == "unet":
            return MaskUNet(spec.unet, mels)
        return DiT(dataclasses.replace(spec.model, depth=depth), mels, size)

    predictor, network = None, None
    if spec.objective == "regression":
        network = one_pass(spec.model.depth)
    elif spec.flow.source == "predicted":
        predictor = one_pass(spec.flow.predictor_depth or spec.model.depth)
    return System(
        network or DiT(spec.model, mels, size),
        predictor,
        flow=spec.flow,
        objective=spec.objective,
        mel_mean=spec.mel_mean,
        mel_std=spec.mel_std,
        log_floor=spec.mel.log_floor,
        n_mels=mels,
    )

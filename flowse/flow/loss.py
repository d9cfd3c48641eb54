"""The training losses, summed over the real frames of each utterance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from flowse.flow.path import PathPoint

VelocityModel = Callable[[Tensor, Tensor], Tensor]
"""Anything that estimates ``u_t`` from ``(x_t, t)``."""


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the loss terms.

    Attributes:
        mel_l1: Weight of the L1 between clean mel and the one-step estimate (paper, eq. 7), against 1 for the
            velocity.
    """

    mel_l1: float = 0.1

    def __post_init__(self) -> None:
        """Refuse a negative weight.

        Raises:
            ValueError: Naming the key and its value.
        """
        if self.mel_l1 < 0:
            raise ValueError(f"mel_l1={self.mel_l1} must not be negative")


def frame_sum(error: Float[Tensor, "B T F"], mask: Bool[Tensor, "B T"] | None) -> Float[Tensor, " B"]:
    """Average over mel bins and sum over the real frames of each utterance, in float32."""
    frames = error.float().mean(dim=-1)
    return (frames if mask is None else frames.masked_fill(~mask, 0.0)).sum(dim=-1)


def flow_loss(
    velocity: VelocityModel, path: PathPoint, mask: Bool[Tensor, "B T"] | None, config: LossConfig
) -> dict[str, Float[Tensor, " B"]]:
    """Compare the estimated velocity at a point of the path with the true one.

    Args:
        velocity: The model, with its conditions bound.
        path: Point and target.
        mask: The real frames.
        config: Weights.

    Returns:
        Sums over each utterance's real frames: "velocity" (mean square a frame), "mel_l1" (L1 a frame through
        the one-step estimate ``x_t + (1 - t) v``), and "loss", the weighted sum of both.
    """
    v = velocity(path.x_t, path.t).float()
    estimate = path.x_t + (1 - path.t[:, None, None]) * v
    terms = {
        "velocity": frame_sum((v - path.u_t).square(), mask),
        "mel_l1": frame_sum((estimate - path.x_1).abs(), mask),
    }
    terms["loss"] = terms["velocity"] + config.mel_l1 * terms["mel_l1"]
    return terms


def regression_loss(
    estimate: Float[Tensor, "B T F"], x_1: Float[Tensor, "B T F"], mask: Bool[Tensor, "B T"] | None
) -> dict[str, Float[Tensor, " B"]]:
    """Return the L1 between an estimate and the clean mel, over each utterance's real frames, as "loss"."""
    return {"loss": frame_sum((estimate - x_1).abs(), mask)}

"""The training losses, summed over the real frames of each utterance."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from flowse.audio.mel_config import DB_PER_NEPER
from flowse.flow.config import LossConfig
from flowse.flow.path import PathPoint

VelocityModel = Callable[[Tensor, Tensor], Tensor]
"""Any function that estimates ``u_t`` from ``(x_t, t)``."""

COMPRESSION = 0.3
"""Power of magnitudes in the compressed loss (Braun and Tashev, 2021)."""


def frame_sum(error: Float[Tensor, "B T F"], mask: Bool[Tensor, "B T"] | None) -> Float[Tensor, " B"]:
    """Average the error over mel bins, and sum it over the real frames of each utterance, in float32.

    Args:
        error: Error of each bin.
        mask: True on real frames; None: all are real.
    """
    frames = error.float().mean(dim=-1)
    return (frames if mask is None else frames.masked_fill(~mask, 0.0)).sum(dim=-1)


def flow_loss(
    velocity: VelocityModel, path: PathPoint, mask: Bool[Tensor, "B T"] | None, config: LossConfig
) -> dict[str, Float[Tensor, " B"]]:
    """Compare the estimated velocity at a point of the path with the true one.

    Args:
        velocity: The model, with its conditions bound.
        path: Point and target.
        mask: True on real frames; None: all are real.
        config: Weights of the terms.

    Returns:
        Sums over each utterance's real frames: "velocity" (mean square a frame), "mel_l1" (L1 a frame through
        the one-step estimate ``x_t + (1 - t) v``), and "loss", the weighted sum of both.
    """
    v = velocity(path.x_t, path.t).float()
    estimate = path.x_t + (1 - path.t[:, None, None]) * v
    return _weighted(frame_sum((v - path.u_t).square(), mask), estimate, path, mask, config)


LEAST_REMAINING = 0.05
"""Errors of a data prediction are divided by ``1 - t``, but by no less: else the end of the path would be all."""


def data_loss(
    estimate: Float[Tensor, "B T F"], path: PathPoint, mask: Bool[Tensor, "B T"] | None, config: LossConfig
) -> dict[str, Float[Tensor, " B"]]:
    """Compare an estimate of the clean mel, made at a point of the path, with the clean mel.

    Args:
        estimate: What the network predicts of ``x_1``.
        path: Point and target.
        mask: True on real frames; None: all are real.
        config: Weights of the terms.

    Returns:
        The terms of `flow_loss`; "velocity" is the squared error over ``max(1 - t, 0.05)²``, a velocity's as long as
        t is below 0.95 (JiT, Li and He, 2025).
    """
    remaining = (1 - path.t).clamp_min(LEAST_REMAINING)[:, None, None]
    velocity = frame_sum(((estimate.float() - path.x_1) / remaining).square(), mask)
    return _weighted(velocity, estimate.float(), path, mask, config)


def _weighted(
    velocity: Tensor, estimate: Tensor, path: PathPoint, mask: Tensor | None, config: LossConfig
) -> dict[str, Tensor]:
    terms = {"velocity": velocity, "mel_l1": frame_sum((estimate - path.x_1).abs(), mask)}
    terms["loss"] = velocity + config.mel_l1 * terms["mel_l1"]
    return terms


def regression_loss(
    estimate: Float[Tensor, "B T F"],
    x_1: Float[Tensor, "B T F"],
    mask: Bool[Tensor, "B T"] | None,
    config: LossConfig,
    mel_std: float,
) -> dict[str, Float[Tensor, " B"]]:
    """Compare a regression's estimate with the clean mel.

    Args:
        estimate: Log-mel, normalised.
        x_1: Clean log-mel, normalised.
        mask: True on real frames; None: all are real.
        config: Clamp and weights.
        mel_std: Standard deviation that the log-mels were divided by; decibels and magnitudes follow from it.

    Returns:
        "loss": sum over each utterance's real frames of the L1 distance a frame and the weighted squared error of
        compressed magnitudes.
    """
    estimate, x_1 = estimate.float(), x_1.float()
    real = x_1 if mask is None else x_1.masked_fill(~mask.unsqueeze(-1), -math.inf)
    loudest = real.amax(dim=(1, 2), keepdim=True)
    clamped = (estimate, x_1)
    if config.range_db:
        floor = loudest - config.range_db / DB_PER_NEPER / mel_std
        clamped = (torch.maximum(estimate, floor), torch.maximum(x_1, floor))
    loss = frame_sum((clamped[0] - clamped[1]).abs(), mask)
    if config.compressed:
        power = COMPRESSION * mel_std
        # Magnitudes relative to the loudest bin; estimates far above that bin are clamped, so that none overflows.
        estimated, target = ((power * (x - loudest)).clamp_max(1.0).exp() for x in (estimate, x_1))
        loss = loss + config.compressed * frame_sum((estimated - target).square(), mask)
    return {"loss": loss}

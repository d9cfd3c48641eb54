"""The probability path from a source (t = 0) to clean speech (t = 1), and the random draws of training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from flowse.flow.config import DrawConfig, FlowConfig
from flowse.seeding import derive_seed, generator


@dataclass(frozen=True)
class Draws:
    """Random draws of a batch of training examples.

    Attributes:
        t: Flow time, 0..1.
        noise: Standard normal, zero on padding.
        drop_condition: True where an utterance's noisy mel is withheld.
        drop_text: True where an utterance's text is withheld.
        interval: Uniform draws, 0..1, from which distillation chooses an utterance's interval; None: not drawn.
        guidance: Uniform draws, 0..1: its scale of guidance as a share of the largest; None: not drawn.
    """

    t: Float[Tensor, " B"]
    noise: Float[Tensor, "B T F"]
    drop_condition: Bool[Tensor, " B"]
    drop_text: Bool[Tensor, " B"]
    interval: Float[Tensor, "B 3"] | None = None
    guidance: Float[Tensor, " B"] | None = None

    def to(self, device: torch.device) -> Draws:
        """Copy to a device."""
        return Draws(
            self.t.to(device, non_blocking=True),
            self.noise.to(device, non_blocking=True),
            self.drop_condition.to(device, non_blocking=True),
            self.drop_text.to(device, non_blocking=True),
            None if self.interval is None else self.interval.to(device, non_blocking=True),
            None if self.guidance is None else self.guidance.to(device, non_blocking=True),
        )


def noise_of(seeds: Sequence[int], lengths: Sequence[int], n_mels: int) -> Float[Tensor, "B T F"]:
    """Draw each utterance's standard normal noise from its own seed: the same alone, in any batch, and on any device.

    Args:
        seeds: Seed of each utterance.
        lengths: Real frames of each utterance.
        n_mels: Mel bins ``F``.
    """
    noise = torch.zeros(len(seeds), max(lengths), n_mels)
    for index, (seed, length) in enumerate(zip(seeds, lengths, strict=True)):
        noise[index, :length] = torch.randn(length, n_mels, generator=torch.Generator().manual_seed(seed))
    return noise


def draw(seeds: Sequence[int], lengths: Sequence[int], n_mels: int, config: DrawConfig) -> Draws:
    """Draw flow time, noise, withheld conditions and interval of each utterance from its own seed alone.

    Args:
        seeds: Seed of each utterance.
        lengths: Real frames of each utterance.
        n_mels: Mel bins ``F``.
        config: Distributions.
    """
    t, drop_condition, drop_text, interval, guidance = [], [], [], [], []
    for seed in seeds:
        rng = generator(derive_seed(seed, "draws"))
        uniform, logit = float(rng.random()), float(rng.normal(config.time_mean, config.time_std))
        t.append(uniform if config.time == "uniform" else 1 / (1 + math.exp(-logit)))
        condition, text, both = rng.random(3)
        drop_condition.append(bool(condition < config.drop_condition or both < config.drop_both))
        drop_text.append(bool(text < config.drop_text or both < config.drop_both))
        interval.append(generator(derive_seed(seed, "interval")).random(3).tolist())
        guidance.append(float(generator(derive_seed(seed, "guidance")).random()))
    noise_seeds = [derive_seed(seed, "noise") for seed in seeds]
    return Draws(
        torch.tensor(t, dtype=torch.float32),
        noise_of(noise_seeds, lengths, n_mels),
        torch.tensor(drop_condition),
        torch.tensor(drop_text),
        torch.tensor(interval, dtype=torch.float32).reshape(-1, 3),
        torch.tensor(guidance, dtype=torch.float32),
    )


def source_point(
    config: FlowConfig,
    noise: Float[Tensor, "B T F"],
    noisy: Float[Tensor, "B T F"],
    predicted: Float[Tensor, "B T F"] | None = None,
) -> Float[Tensor, "B T F"]:
    """Return ``x_0``, the point where the path begins.

    Args:
        config: The source and the standard deviation of its noise.
        noise: Standard normal.
        noisy: Noisy log-mel, normalised.
        predicted: The predictor's estimate, normalised, for source "predicted".

    Raises:
        ValueError: The source is "predicted" and there is no estimate.
    """
    if config.source == "gaussian":
        return noise
    if config.source == "noisy":
        return noisy + config.sigma * noise
    if predicted is None:
        raise ValueError("source='predicted' needs the predictor's estimate")
    return predicted + config.sigma * noise


@dataclass(frozen=True)
class PathPoint:
    """A point of the straight path ``x_t = (1 - t) x_0 + t x_1`` and its velocity ``u_t = x_1 - x_0``.

    Attributes:
        t: Flow time of each utterance, 0..1.
        x_t: The point.
        u_t: Velocity there: the target of training.
        x_1: End of the path: the clean log-mel, normalised.
    """

    t: Float[Tensor, " B"]
    x_t: Float[Tensor, "B T F"]
    u_t: Float[Tensor, "B T F"]
    x_1: Float[Tensor, "B T F"]


MIN_REMAINING = 1 / 64
"""Divisor of a data prediction's velocity near t = 1; smaller ones would only enlarge errors."""


def velocity_of_data(
    estimate: Float[Tensor, "B T F"], x_t: Float[Tensor, "B T F"], t: Float[Tensor, " U"]
) -> Float[Tensor, "B T F"]:
    """Return the velocity that leads from `x_t` to an estimate of the clean mel, ``(x - x_t) / (1 - t)``.

    An Euler step that ends at t = 1 returns the estimate itself, if it is no shorter than `MIN_REMAINING`.

    Args:
        estimate: What the network predicts of ``x_1``.
        x_t: State at time `t`.
        t: Flow time, 0..1, of each row or of all.
    """
    return (estimate - x_t) / (1 - t).clamp_min(MIN_REMAINING)[:, None, None]


def point(x_0: Float[Tensor, "B T F"], x_1: Float[Tensor, "B T F"], t: Float[Tensor, " B"]) -> PathPoint:
    """Return the point at time `t` of the path from `x_0` to `x_1`."""
    weight = t[:, None, None]
    return PathPoint(t, (1 - weight) * x_0 + weight * x_1, x_1 - x_0, x_1)

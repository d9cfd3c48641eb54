"""Settings of a training, importable without torch."""

from __future__ import annotations

from dataclasses import dataclass

SCHEDULES = ("linear", "cosine", "constant")
PRECISIONS = ("fp32", "bf16")
PARALLEL = ("ddp", "fsdp")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW, its schedule and the moving average of the weights.

    Attributes:
        lr: Peak learning rate.
        warmup_steps: Steps of linear rise to the peak.
        schedule: After the peak: "linear" or "cosine" down to `final_fraction` at the last step, or
            "constant".
        final_fraction: Of the peak, at the last step.
        weight_decay: On matrices and convolutions; never on biases, norms and embeddings.
        beta_1: Memory of the gradient's mean.
        beta_2: Memory of the gradient's square.
        clip: Gradients are scaled down to this norm; 0: never.
        ema_decay: Memory of the moving average of the weights; rises to this value as ``(1 + n) / (10 + n)``.
    """

    lr: float = 3e-4
    warmup_steps: int = 100
    schedule: str = "cosine"
    final_fraction: float = 0.01
    weight_decay: float = 0.01
    beta_1: float = 0.9
    beta_2: float = 0.99
    clip: float = 1.0
    ema_decay: float = 0.999

    def __post_init__(self) -> None:
        """Refuse values that cannot train.

        Raises:
            ValueError: Naming the key, its value and what is allowed.
        """
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule={self.schedule!r} must be one of {', '.join(SCHEDULES)}")
        if self.lr <= 0:
            raise ValueError(f"lr={self.lr} must be above 0")
        for name in ("warmup_steps", "weight_decay", "clip"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must not be negative")
        for name in ("beta_1", "beta_2", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be in [0, 1)")
        if not 0 <= self.final_fraction <= 1:
            raise ValueError(f"final_fraction={self.final_fraction} must be in 0..1")


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How long to train, and what happens in between.

    Attributes:
        max_steps: Optimiser steps in all.
        log_every: Steps between two `Progress`.
        validate_every: Steps between two validations; 0: only at the end.
        checkpoint_every: Steps between two checkpoints; 0: only at the end.
        keep_last: Checkpoints kept besides the best.
        patience: Validations without a lower loss until training stops; 0: never.
        precision: "fp32", or "bf16": autocast, weights and optimiser stay in float32.
        explode_norm: A gradient norm above this stops the run like a NaN; 0: never.
    """

    max_steps: int = 1000
    log_every: int = 10
    validate_every: int = 200
    checkpoint_every: int = 200
    keep_last: int = 2
    patience: int = 0
    precision: str = "fp32"
    explode_norm: float = 1e4

    def __post_init__(self) -> None:
        """Refuse what cannot be.

        Raises:
            ValueError: Naming the key, its value and what is allowed.
        """
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision={self.precision!r} must be one of {', '.join(PRECISIONS)}")
        for name in ("max_steps", "log_every", "keep_last"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        for name in ("validate_every", "checkpoint_every", "patience", "explode_norm"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must not be negative")

"""Settings of low-rank adaptation, importable without torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """How a model is fine-tuned by low-rank adapters (LoRA), which leave its own weights as they are.

    Attributes:
        rank: Inner width of the adapters' two matrices; 0: no adapters, all weights are trained.
        alpha: The adapters' product is scaled by `alpha` / `rank`, so that another rank needs no other learning rate.
        targets: Shell-style patterns of the linear layers that get an adapter.

    Raises:
        ValueError: A value is out of its range; the message names the key.
    """

    rank: int = 0
    alpha: float = 16.0
    targets: tuple[str, ...] = ("*.attention.*", "*.feed_forward.*")

    def __post_init__(self) -> None:
        if self.rank < 0:
            raise ValueError(f"rank={self.rank} must not be negative")
        if not self.alpha > 0:
            raise ValueError(f"alpha={self.alpha} must be above 0")
        if self.rank and not self.targets:
            raise ValueError("targets is empty, and rank is above 0: name the layers that get an adapter")

    @property
    def scale(self) -> float:
        """What the adapters' product is multiplied by."""
        return self.alpha / self.rank if self.rank else 0.0

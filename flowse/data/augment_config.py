"""The settings of the augmentation, importable without torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """How training pairs are changed; every range uniformly, tempo and pitch each on their own.

    Attributes:
        probability: Of another tempo and pitch for a pair, and of an uneven frequency response; 0: no augmentation
            at all.
        tempo: How much faster it is said.
        pitch: Factor of all frequencies (vocal tract length perturbation: Jaitly and Hinton, 2013).
        equaliser_db: Largest gain or loss of the frequency response.
        level_db: Largest gain or loss of the whole, always drawn.
    """

    probability: float = 0.0
    tempo: tuple[float, float] = (0.85, 1.2)
    pitch: tuple[float, float] = (0.87, 1.15)
    equaliser_db: float = 6.0
    level_db: float = 6.0

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn.

        Raises:
            ValueError: Naming the key, its value and what is allowed.
        """
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability={self.probability} must be in 0..1")
        for name in ("tempo", "pitch"):
            low, high = getattr(self, name)
            if not 0.5 <= low <= high <= 2:
                raise ValueError(f"{name}={[low, high]} must rise, within 0.5..2")
        for name in ("equaliser_db", "level_db"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must not be negative")

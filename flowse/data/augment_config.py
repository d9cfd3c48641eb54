"""Settings of the augmentation in training, importable without torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """How training pairs are augmented; every value is drawn uniformly from its range, tempo and pitch independently.

    Attributes:
        probability: Probability that a pair gets another tempo and pitch, and independently that it gets an uneven
            frequency response; 0 turns all augmentation off, the level included.
        tempo: Range of the speed relative to the recording.
        pitch: Range of the factor of all frequencies (vocal tract length perturbation: Jaitly and Hinton, 2013).
        equaliser_db: Largest gain or loss of the frequency response, in dB.
        level_db: Largest gain or loss of the overall level, in dB; the level is drawn for every pair.
    """

    probability: float = 0.0
    tempo: tuple[float, float] = (0.85, 1.2)
    pitch: tuple[float, float] = (0.87, 1.15)
    equaliser_db: float = 6.0
    level_db: float = 6.0

    def __post_init__(self) -> None:
        """Refuse ranges that nothing can be drawn from.

        Raises:
            ValueError: A value is not allowed; the message names the key, its value and the allowed values.
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

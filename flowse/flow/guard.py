"""The guard of a refinement, its share in the result: how it is to be chosen, and the record of what was chosen."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flowse.flow.sampling import Sampling
from flowse.json_records import from_json, to_json

GUARD = "guard.json"
"""Name of the record in the folder of a training."""


@dataclass(frozen=True, kw_only=True)
class GuardConfig:
    """How the guard of a flow that refines a predictor's estimate is chosen after its training.

    Attributes:
        mixtures: Mixtures of split dev to choose it on; 0: it is not chosen, and `sampling.guard` holds.
        shares: What it may be; 0, the predictor's estimate alone, is always tried, too.
        sampling: How the refinement is sampled meanwhile; its own `guard` has no effect. Evaluations with other solvers
            use the same guard.
        vocoder: Vocos folder or an embedded model's name, for the synthesis "vocoder".
    """

    mixtures: int = 0
    shares: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    sampling: Sampling = field(default_factory=lambda: Sampling(steps=2))
    vocoder: str = field(default="vocos-mel-24khz-small", metadata={"model": True})

    def __post_init__(self) -> None:
        """Refuse impossible settings.

        Raises:
            ValueError: Naming the key, its value and what is allowed.
        """
        if self.mixtures < 0:
            raise ValueError(f"mixtures={self.mixtures} must be 0 or more")
        if not self.shares or not all(0 < share <= 1 for share in self.shares):
            raise ValueError(f"shares={list(self.shares)} must be some numbers above 0, at most 1")
        if self.sampling.steps == 0:
            raise ValueError("sampling.steps=0 refines nothing; give 1 or more")


@dataclass(frozen=True, kw_only=True)
class Guard:
    """What was chosen, and what it was chosen by.

    Attributes:
        guard: Share of the refinement in the result, 0 (the predictor's estimate alone) to 1.
        mixtures: Mixtures that it was chosen on.
        ovrl: Their mean DNSMOS overall by share, whose key is its shortest decimal.
    """

    guard: float
    mixtures: int
    ovrl: Mapping[str, float]

    @classmethod
    def of(cls, ovrl: Mapping[float, float], mixtures: int) -> Guard:
        """Choose the share with the highest score; of equal ones the smallest, which changes least.

        Args:
            ovrl: Mean DNSMOS overall by share; holds the share 0, so that the result is never below it.
            mixtures: Mixtures that were scored.

        Raises:
            ValueError: The share 0 was not scored, or a score is not finite.
        """
        if 0 not in ovrl:
            raise ValueError("the share 0 was not scored: the guard must be allowed to be the predictor alone")
        if not all(math.isfinite(score) for score in ovrl.values()):
            raise ValueError(f"scores {dict(ovrl)} must be finite")
        best = max(ovrl, key=lambda share: (ovrl[share], -share))
        return cls(guard=best, mixtures=mixtures, ovrl={f"{share:g}": score for share, score in ovrl.items()})

    def __str__(self) -> str:
        """Return one line for people."""
        scores = ", ".join(f"{share}: {score:.3f}" for share, score in self.ovrl.items())
        return f"guard {self.guard:g}, by DNSMOS overall of {self.mixtures} mixtures of split dev ({scores})"

    def write(self, path: Path) -> None:
        """Write the record."""
        path.write_text(json.dumps(to_json(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Guard | None:
        """Read the record of a training's folder; None: no guard was chosen there.

        Raises:
            ValueError: The record cannot be read.
        """
        path = folder / GUARD
        return from_json(cls, json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None

"""Settings of sampling speech from a model: the solver, guidance, and how the log-mel becomes sound."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field

from flowse.audio.protection import PROTECTIONS

METHODS = ("euler", "ab2", "midpoint", "heun", "dopri5")
GRIDS = ("uniform", "sway", "epss")
SYNTHESES = ("vocoder", "noisy_phase")


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How speech is sampled from a model; `flowse.flow.solver.sample` and `flowse.enhancer.Enhancer` take it whole.

    Attributes:
        steps: Solver steps; 0 takes the predictor's estimate alone; "dopri5" chooses its own.
        guidance: Scale of classifier-free guidance; 0: none.
        method: "euler" (one network evaluation a step), "ab2" (one as well, of second order), "midpoint", "heun"
            (two), or "dopri5" (adaptive, by the package torchdiffeq).
        grid: Spacing of the steps, "uniform", "sway" or "epss", see `flowse.flow.solver.time_grid`.
        synthesis: How the log-mel becomes sound: "vocoder"; or "noisy_phase", gains on the noisy spectrum, which is
            sample-aligned and invents nothing, but leaves the noise within a mel bin.
        limit_db: Largest attenuation of any mel bin, in dB; None: no limit. A little noise left sounds more natural,
            and masks estimation errors.
        protect: Leaves some of the input in where enhancement has little to give: "none", "listening" or "asr", see
            `flowse.audio.protection`; for the synthesis "noisy_phase", whose output is aligned with its input.
        guard: Of a flow that refines a predictor's estimate: the share of the refinement in the result, 0 (the
            predictor's estimate alone) to 1. Chosen on validation data, it keeps the result from being worse there.

    Example:
        >>> Sampling(method="midpoint", steps=8)  # 16 network evaluations
        >>> Sampling(method="ab2", grid="epss", steps=8)  # 8 network evaluations
    """

    steps: int = 32
    guidance: float = 0.0
    method: str = "euler"
    grid: str = "uniform"
    synthesis: str = "vocoder"
    limit_db: float | None = None
    protect: str = field(default="none", metadata={"fingerprint": "unless default"})
    guard: float = field(default=1.0, metadata={"fingerprint": "unless default"})

    def __post_init__(self) -> None:
        """Refuse impossible settings.

        Raises:
            ValueError: Naming the key, its value and what is allowed.
        """
        if not 0 <= self.steps <= 10_000:
            raise ValueError(f"steps={self.steps} must be in 0..10000")
        if not 0 <= self.guidance < math.inf:
            raise ValueError(f"guidance={self.guidance} must be finite, 0 or more")
        if self.method not in METHODS:
            raise ValueError(f"method={self.method!r} must be one of {', '.join(METHODS)}")
        if self.grid not in GRIDS:
            raise ValueError(f"grid={self.grid!r} must be one of {', '.join(GRIDS)}")
        if not 0 <= self.guard <= 1:
            raise ValueError(f"guard={self.guard} must be in 0..1")
        if self.synthesis not in SYNTHESES:
            raise ValueError(f"synthesis={self.synthesis!r} must be one of {', '.join(SYNTHESES)}")
        if self.limit_db is not None and not 0 <= self.limit_db < math.inf:
            raise ValueError(f"limit_db={self.limit_db} must be finite, 0 or more")
        if self.protect not in PROTECTIONS:
            raise ValueError(f"protect={self.protect!r} must be one of {', '.join(PROTECTIONS)}")
        if self.protect != "none" and self.synthesis != "noisy_phase":
            raise ValueError(f"protect={self.protect!r} needs synthesis='noisy_phase', not {self.synthesis!r}")

    def override(
        self,
        *,
        steps: int | None = None,
        guidance: float | None = None,
        synthesis: str | None = None,
        limit_db: float | None = None,
        protect: str | None = None,
    ) -> Sampling:
        """Return these settings with the given ones replaced; None keeps a setting as it is.

        Raises:
            ValueError: A value is impossible.
        """
        given = {
            "steps": steps, "guidance": guidance, "synthesis": synthesis, "limit_db": limit_db, "protect": protect
        }  # fmt: skip
        changes = {name: value for name, value in given.items() if value is not None}
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]

    def __str__(self) -> str:
        """Return the settings in one line, for model cards and reports."""
        limit = "" if self.limit_db is None else f", at most {self.limit_db:g} dB"
        protect = "" if self.protect == "none" else f", protected for {self.protect}"
        grid = "" if self.grid == "uniform" else f" ({self.grid})"
        guard = "" if self.guard == 1 else f", guard {self.guard:g}"
        solver = f"{self.method}, {self.steps} steps{grid}, guidance {self.guidance:g}"
        return f"{solver}, {self.synthesis}{limit}{protect}{guard}"

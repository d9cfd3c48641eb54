"""What the doctor found: one thing, how bad it is, where, and what mends it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Severity = Literal["ok", "warning", "error"]
_ORDER: tuple[Severity, ...] = ("ok", "warning", "error")


@dataclass(frozen=True)
class Finding:
    """One thing that the doctor looked at.

    Attributes:
        severity: "error": work would stop or be in vain; "warning": work goes on, the result may suffer; "ok".
        where: Corpus, config key or part of the machine.
        text: What was found there.
        mend: What to do about it; empty if nothing.
    """

    severity: Severity
    where: str
    text: str
    mend: str = ""

    @property
    def sound(self) -> bool:
        """Whether nothing has to be done before work can start."""
        return self.severity != "error"

    def __str__(self) -> str:
        """The finding as one line."""
        line = f"{self.where}: {self.text}" + (f"; {self.mend}" if self.mend else "")
        return f"{self.severity if self.severity == 'ok' else self.severity.upper():<8} {line}"


def report(findings: Iterable[Finding]) -> str:
    """Write a line a finding, the worst last, and a line that sums up."""
    listed = sorted(findings, key=lambda one: _ORDER.index(one.severity))
    errors = sum(one.severity == "error" for one in listed)
    warnings = sum(one.severity == "warning" for one in listed)
    verdict = f"{errors} error{'' if errors == 1 else 's'}, {warnings} warning{'' if warnings == 1 else 's'}"
    return "\n".join([*(str(one) for one in listed), verdict])

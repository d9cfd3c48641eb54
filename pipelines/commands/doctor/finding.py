"""A finding of doctor: what is wrong or right, where, how bad it is, and what mends it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Severity = Literal["ok", "warning", "error"]
_ORDER: tuple[Severity, ...] = ("ok", "warning", "error")


@dataclass(frozen=True)
class Finding:
    """What doctor found about one thing.

    Attributes:
        severity: "error": work would stop or be in vain; "warning": work goes on, but the result may suffer; "ok".
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
        """Return the finding as one line."""
        line = f"{self.where}: {self.text}" + (f"; {self.mend}" if self.mend else "")
        return f"{self.severity if self.severity == 'ok' else self.severity.upper():<8} {line}"


def report(findings: Iterable[Finding]) -> str:
    """Write one line for each finding, the worst last, and a line with the number of errors and warnings."""
    listed = sorted(findings, key=lambda finding: _ORDER.index(finding.severity))
    errors = sum(finding.severity == "error" for finding in listed)
    warnings = sum(finding.severity == "warning" for finding in listed)
    verdict = f"{errors} error{'' if errors == 1 else 's'}, {warnings} warning{'' if warnings == 1 else 's'}"
    return "\n".join([*(str(finding) for finding in listed), verdict])

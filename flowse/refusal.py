"""The exception that turns one recording away: why, for machines and for people, and whether it was judged at all."""

from __future__ import annotations

from typing import Literal

RefusalKind = Literal["dropped", "failed"]
"""A dropped recording was judged unfit; a failed one could not be judged, because something about it is broken."""


class Refusal(Exception):
    """A recording or a mixture that cannot go on; a stage turns it into a reject row.

    Attributes:
        reason: Machine-readable, e.g. "too_short" or "undecodable".
        detail: One line for people: what is wrong where, and what mends it.
        kind: "dropped" or "failed".
    """

    def __init__(self, reason: str, detail: str = "", kind: RefusalKind = "dropped") -> None:
        super().__init__(reason, detail, kind)
        self.reason = reason
        self.detail = detail
        self.kind: RefusalKind = kind

    @classmethod
    def failed(cls, reason: str, detail: str = "") -> Refusal:
        """Refuse what could not be judged because something about it is broken."""
        return cls(reason, detail, "failed")

    def __str__(self) -> str:
        """Return reason and detail."""
        return f"{self.reason}: {self.detail}"

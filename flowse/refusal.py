"""The exception for a recording or mixture that cannot be used, with its reason for machines and for people."""

from __future__ import annotations

from typing import Literal

RefusalKind = Literal["dropped", "failed"]
"""A dropped recording was judged unfit; a failed recording could not be judged because something is broken."""


class Refusal(Exception):
    """A recording or mixture cannot be used; a stage turns the refusal into a reject row.

    Attributes:
        reason: Machine-readable reason, e.g. "too_short" or "undecodable".
        detail: One line for people: what is wrong, where, and how to mend it.
        kind: "dropped" or "failed".
    """

    def __init__(self, reason: str, detail: str = "", kind: RefusalKind = "dropped") -> None:
        super().__init__(reason, detail, kind)
        self.reason = reason
        self.detail = detail
        self.kind: RefusalKind = kind

    @classmethod
    def failed(cls, reason: str, detail: str = "") -> Refusal:
        """Return the refusal of a recording that could not be judged because something is broken."""
        return cls(reason, detail, "failed")

    def __str__(self) -> str:
        """Return reason and detail in one line."""
        return f"{self.reason}: {self.detail}"

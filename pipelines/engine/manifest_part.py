"""A part of a manifest as the payload of a unit: its rows, and which of them are refused unread."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flowse.data.manifest import Kind, Reject, Utterance
from flowse.refusal import Refusal


@dataclass(frozen=True)
class ManifestPart:
    """Rows of one kind in a part of a manifest; keeps `pipelines.engine.stage.Divisible`.

    Attributes:
        path: Parquet of `Utterance` rows.
        rows: Number of the rows that count.
        kind: Kind of the rows that count; None: every row does.
        refused: Reason and detail of rows that must not be read, by their position among those that count.
    """

    path: Path
    rows: int
    kind: Kind | None = None
    refused: Mapping[int, tuple[str, str]] = field(default_factory=dict)

    def refuse(self, rows: Mapping[int, tuple[str, str]]) -> ManifestPart:
        """Return the part with some more rows refused; they fail."""
        return dataclasses.replace(self, refused={**self.refused, **rows})

    def read(self, stage: str) -> tuple[list[Utterance], list[Reject]]:
        """Return the rows to work on, and the reject rows of those that are refused.

        Args:
            stage: Name of the stage that rejects them.
        """
        from flowse.data.parquet import read_rows

        rows = [row for row in read_rows(self.path, Utterance) if self.kind in (None, row.kind)]
        rejects = [Reject.of(rows[at], stage, Refusal.failed(*why)) for at, why in sorted(self.refused.items())]
        return [row for at, row in enumerate(rows) if at not in self.refused], rejects

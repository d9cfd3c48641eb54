"""The list of what a training left out: utterances that cannot be used, and steps whose gradient was not applied."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from flowse.errors import DamagedFile
from flowse.files import atomic_path

NAME = "skipped.parquet"

Kind = Literal["unreadable", "spoilt", "suspect"]
"""Why an utterance is listed: it cannot be read; its own loss was not finite; or its loss was the largest of a step
whose gradient was too large or not finite, which proves nothing."""


class BudgetSpent(Exception):
    """A training left out more than it may; the message says what, where the list is, and what to do."""


class NonFiniteLoss(BudgetSpent):
    """Loss or gradient is NaN, infinite or exploding in more steps than may be skipped."""


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """An utterance that was left out, or that is to blame for a step that was not applied.

    Attributes:
        step: Number of the step; -1: before the first, in the validation set.
        key: Key of the utterance; empty: no utterance of the step can be blamed.
        kind: "unreadable": counts nothing from this step on; "spoilt": its loss is not finite, the step was not
            applied, and the utterance counts nothing afterwards; "suspect": the step was not applied, nothing else.
        reason: Machine-readable reason, e.g. "damaged", "non_finite_loss", "exploding_gradient".
        detail: One line for people.
        loss: Loss a frame of the utterance; NaN for one that was not read.
        grad_norm: Norm of the step's gradient; NaN for an utterance that was not read.
        rank: Rank that had the utterance.
        dataset: Digest of the dataset that it is in.
    """

    step: int
    key: str
    kind: Kind
    reason: str
    detail: str
    loss: float = float("nan")
    grad_norm: float = float("nan")
    rank: int = 0
    dataset: str = ""


def blame(
    step: int, losses: Sequence[tuple[str, float]], grad_norm: float, *, rank: int = 0, dataset: str = ""
) -> list[Skipped]:
    """Say which of a rank's utterances may have spoilt a step's gradient.

    Args:
        step: Number of the step.
        losses: Key of every utterance that counts in it, and its loss a frame.
        grad_norm: Norm of the step's gradient.
        rank: Rank that had them.
        dataset: Digest of the dataset.

    Returns:
        All whose loss is not finite; if there is none, the one with the largest loss.
    """
    if not losses:
        return []
    broken = [(key, loss) for key, loss in losses if not math.isfinite(loss)]
    kind: Kind = "spoilt" if broken else "suspect"
    reason = "non_finite_loss" if broken else "exploding_gradient"
    rows = []
    for key, loss in broken or [max(losses, key=lambda pair: pair[1])]:
        detail = (
            f"step {step} was not applied: the gradient's norm is {grad_norm:g}, the loss of {key} {loss:g} a frame"
        )
        facts = {"loss": loss, "grad_norm": grad_norm, "rank": rank, "dataset": dataset}
        rows.append(Skipped(step=step, key=key, kind=kind, reason=reason, detail=detail, **facts))  # type: ignore[arg-type]
    return rows


def chosen(found: Iterable[Skipped]) -> list[Skipped]:
    """Choose among what all ranks blame: what spoilt the step, or else the one utterance with the largest loss."""
    rows = list(found)
    spoilt = [row for row in rows if row.kind == "spoilt"]
    return spoilt or sorted(rows, key=lambda row: -row.loss)[:1]


@dataclass
class SkipList:
    """What a training left out so far; a resumed training leaves out the same, so that it ends as the first try.

    Attributes:
        rows: All of it, in the order in which it was found.
        dataset: Digest of the dataset that is trained on: utterances of an earlier one may have been mended.
    """

    rows: list[Skipped] = field(default_factory=list)
    dataset: str = ""

    @classmethod
    def read(cls, folder: Path, dataset: str = "") -> SkipList:
        """Read the list of a folder of checkpoints; empty, if there is none."""
        path = folder / NAME
        if not path.exists():
            return cls([], dataset)
        from flowse.data.parquet import read_rows

        return cls(list(read_rows(path, Skipped)), dataset)

    @classmethod
    def recovered(cls, folder: Path, dataset: str = "") -> tuple[SkipList, str]:
        """Read the list; put one that is damaged aside, since what it held is found again as it comes up.

        Returns:
            The list, and what a person should know; empty: nothing.
        """
        try:
            return cls.read(folder, dataset), ""
        except DamagedFile:
            aside = folder / f"damaged-{NAME}"
            (folder / NAME).replace(aside)
            note = f"{folder / NAME} was damaged and lies now in {aside.name}: what it listed is judged again"
            return cls([], dataset), note

    def write(self, folder: Path) -> None:
        """Write the list; it is whole or as before."""
        from flowse.data.parquet import write_rows

        with atomic_path(folder / NAME) as temporary:
            write_rows(temporary, Skipped, self.rows)

    def skips(self, step: int) -> bool:
        """Whether the gradient of a step was not applied."""
        return any(row.step == step and row.kind != "unreadable" for row in self.rows)

    def left_out(self, step: int) -> set[str]:
        """Return the keys of the utterances that count nothing in a step."""
        return {
            row.key
            for row in self.rows
            if row.dataset == self.dataset
            and ((row.kind == "unreadable" and row.step <= step) or (row.kind == "spoilt" and row.step < step))
        }

    def unknown(self, rows: Iterable[Skipped]) -> list[Skipped]:
        """Return the rows that the list does not hold yet; an utterance is listed as unreadable once."""
        known = {(row.key, row.kind, row.dataset) for row in self.rows if row.kind == "unreadable"}
        return [row for row in rows if (row.key, row.kind, row.dataset) not in known]

    def note(self, rows: Iterable[Skipped]) -> None:
        """Add rows."""
        self.rows += rows

    @property
    def skipped_steps(self) -> int:
        """Number of steps whose gradient was not applied."""
        return len({row.step for row in self.rows if row.kind != "unreadable"})

    @property
    def utterances(self) -> int:
        """Number of training utterances of this dataset that count nothing any more."""
        counted = (row for row in self.rows if row.step >= 0 and row.dataset == self.dataset)
        return len({row.key for row in counted if row.kind != "suspect"})

"""All outputs of a workspace, finished or begun, and which of them were made from which."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from flowse.errors import UserError
from flowse.training.ledger import NOTES, SEGMENTS, Segment, read_segments
from flowse.training.skipped import NAME as SKIPPED
from flowse.training.skipped import Skipped
from pipelines.engine.workspace import Output, outputs


def segments_of(output: Output) -> tuple[Segment, ...]:
    """Return the segments of a training; none of another output, or of one whose segments cannot be read."""
    try:
        return read_segments(output.folder / SEGMENTS) if output.stage == "train" else ()
    except (OSError, ValueError):
        return ()


def events_of(folder: Path, most: int = 20) -> list[str]:
    """Return what befell a training, a line each: what it left out, and its notes.

    Args:
        folder: Output of the training.
        most: Mixtures and steps that are named; more are counted.
    """
    from flowse.data.parquet import read_rows

    left_out = list(read_rows(folder / SKIPPED, Skipped)) if (folder / SKIPPED).exists() else []
    lines = [f"{row.reason} {row.key or 'no mixture'} (dataset {row.dataset[:12]}): {row.detail}" for row in left_out]
    if len(lines) > most:
        lines[most:] = [f"and {len(lines) - most} more in {folder / SKIPPED}"]
    notes = folder / NOTES
    return lines + (notes.read_text(encoding="utf-8").splitlines() if notes.exists() else [])


class Workspace:
    """All outputs in a workspace, and what each was made from.

    Attributes:
        folder: The workspace.
        outputs: The outputs in the order of the stages, each stage's youngest last.
    """

    def __init__(self, folder: Path, stages: Sequence[str]) -> None:
        """Read the identity of every output.

        Args:
            folder: The workspace.
            stages: Names of the stages in their order.

        Raises:
            UserError: There is no output in it, or a record cannot be read.
        """
        self.folder = folder
        self.outputs = outputs(folder, stages)
        if not self.outputs:
            raise UserError(f"{folder}: no stage has run in this workspace; give another --workspace")

    def of(self, stage: str) -> list[Output]:
        """Return a stage's outputs, the youngest last."""
        return [output for output in self.outputs if output.stage == stage]

    def parents(self, output: Output) -> dict[str, Output | None]:
        """Return what an output was made from, by stage; None where it is gone.

        That is the output of the recorded name, or, where no name was recorded, the one of the recorded digest.
        """
        found: dict[str, Output | None] = {}
        named = output.finished.record.parents if output.finished else {}
        for stage, digest in output.identity.inputs.items():
            candidates = self.of(stage)
            by_name = (parent for parent in candidates if parent.fingerprint == named.get(stage))
            by_digest = (parent for parent in candidates if parent.finished and parent.finished.digest == digest)
            found[stage] = next(by_name, None) or next(by_digest, None)
        return found

    def ancestors(self, output: Output) -> list[Output]:
        """Return an output and all that it was made from, in the order of the stages.

        A training was made from the datasets of all its segments.
        """
        seen = {output.name: output}
        waiting = [output]
        while waiting:
            made = waiting.pop()
            for parent in (*self.parents(made).values(), *self.earlier_data(made).values()):
                if parent is not None and parent.name not in seen:
                    seen[parent.name] = parent
                    waiting.append(parent)
        return [candidate for candidate in self.outputs if candidate.name in seen]

    def earlier_data(self, output: Output) -> dict[str, Output | None]:
        """Return the datasets that a training read in earlier segments, by digest; None where one is gone."""
        known = set(output.identity.inputs.values())
        digests = dict.fromkeys(segment.dataset for segment in segments_of(output) if segment.dataset not in known)
        return {
            digest: next((data for data in self.outputs if data.finished and data.finished.digest == digest), None)
            for digest in digests
        }

    def readers(self, output: Output) -> Iterator[Output]:
        """Yield the outputs that were made from an output directly."""
        for reader in self.outputs:
            parents = (*self.parents(reader).values(), *self.earlier_data(reader).values())
            if any(parent is not None and parent.name == output.name for parent in parents):
                yield reader

"""All outputs of a workspace, finished or begun, and which of them were made from which."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from flowse.errors import UserError
from pipelines.engine.workspace import Output, outputs


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
        """Return an output and all that it was made from, in the order of the stages."""
        seen = {output.name: output}
        waiting = [output]
        while waiting:
            for parent in self.parents(waiting.pop()).values():
                if parent is not None and parent.name not in seen:
                    seen[parent.name] = parent
                    waiting.append(parent)
        return [candidate for candidate in self.outputs if candidate.name in seen]

    def readers(self, output: Output) -> Iterator[Output]:
        """Yield the outputs that were made from an output directly."""
        for reader in self.outputs:
            parents = self.parents(reader).values()
            if any(parent is not None and parent.name == output.name for parent in parents):
                yield reader

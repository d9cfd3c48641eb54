"""All outputs of a workspace, finished or begun, and who was made from whom."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from flowse.errors import UserError
from pipelines.engine import ledger
from pipelines.engine.ledger import IDENTITY_RECORD, REJECTS_SUFFIX, Json, StageFolder


@dataclass(frozen=True)
class Output:
    """One output of a stage: a folder `<workspace>/<stage>/<fingerprint>`.

    Attributes:
        stage: Name of the stage.
        folder: The folder.
        identity: What the fingerprint is the hash of.
        finished: Its record; None if it was only begun.
    """

    stage: str
    folder: Path
    identity: Json
    finished: StageFolder | None

    @property
    def fingerprint(self) -> str:
        """Name of the folder."""
        return self.folder.name

    @property
    def name(self) -> str:
        """Stage and fingerprint, e.g. "simulate/6e2f5d28da546903"."""
        return f"{self.stage}/{self.fingerprint}"

    def parts(self, suffix: str) -> list[Path]:
        """Return the files with this suffix of all units that are done."""
        if self.finished is not None:
            return self.finished.parts(suffix)
        return [self.folder / f"{unit}{suffix}" for unit, record in ledger.done_units(self.folder).items()
                if f"{unit}{suffix}" in record["files"]]  # fmt: skip

    def rejects(self) -> list[Path]:
        """Return the files of its reject rows."""
        whole = self.folder / "rejects.parquet"
        return [whole] if whole.exists() else sorted(self.folder.glob(f"*{REJECTS_SUFFIX}"))


class Workspace:
    """All outputs in a workspace, and who read whom."""

    def __init__(self, folder: Path, stages: Sequence[str]) -> None:
        """Look at every record.

        Args:
            folder: The workspace.
            stages: Names of the stages in their order.

        Raises:
            UserError: There is no output in it.
        """
        self.folder = folder
        self.outputs: list[Output] = []
        for stage in stages:
            found = []
            for path in (folder / stage).glob(f"*/{IDENTITY_RECORD}"):
                identity = ledger.read_json(path)
                if identity is not None:
                    found.append((path.stat().st_mtime_ns, path.parent, identity))
            for _, where, identity in sorted(found, key=lambda one: one[:2]):
                self.outputs.append(Output(stage, where, identity, ledger.open_stage(where)))
        if not self.outputs:
            raise UserError(f"{folder}: no stage has run in this workspace; give another --workspace")

    def of(self, stage: str) -> list[Output]:
        """Return a stage's outputs, the youngest last."""
        return [one for one in self.outputs if one.stage == stage]

    def parents(self, output: Output) -> dict[str, Output | None]:
        """Return what an output was made from, by stage; None where it is gone."""
        found: dict[str, Output | None] = {}
        named = output.finished.record.get("parents", {}) if output.finished else {}
        for key, digest in output.identity.items():
            if not key.startswith("input "):
                continue
            stage = key.removeprefix("input ")
            options = self.of(stage)
            found[stage] = next((one for one in options if one.fingerprint == named.get(stage)), None) or next(
                (one for one in options if one.finished is not None and one.finished.digest == digest), None
            )
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
        return [one for one in self.outputs if one.name in seen]

    def readers(self, output: Output) -> Iterator[Output]:
        """Yield the outputs that were made from an output directly."""
        for one in self.outputs:
            if any(parent is not None and parent.name == output.name for parent in self.parents(one).values()):
                yield one

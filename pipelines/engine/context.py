"""What a running stage is given: folders, inputs, resources, and a place where its units run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from flowse.errors import UserError
from flowse.files import atomic_path
from pipelines.engine import console, local_units
from pipelines.engine.accounts import StageReport
from pipelines.engine.backend import Backend
from pipelines.engine.records import QUARANTINE_SUFFIX, FileFacts
from pipelines.engine.resources import Capacity, Node, Resources
from pipelines.engine.stage import Arguments, Payload, StageOutput, Tracker, Unit, Worker
from pipelines.engine.tracking import Untracked


@dataclass(frozen=True)
class UnrecordedOutput:
    """Files of a stage that has no record, as its readers see them; keeps `pipelines.engine.stage.StageOutput`.

    Attributes:
        folder: Where the files are.
        units: Names of the units whose files count; None: every file of the folder counts.
        digest: Empty: no fingerprint is made from it.
    """

    folder: Path
    units: Sequence[str] | None = None
    digest: str = ""

    def parts(self, suffix: str) -> list[Path]:
        """Return the units' files with this suffix, ordered by name."""
        if self.units is None:
            return sorted(self.folder.glob(f"*{suffix}"))
        return [path for unit in sorted(self.units) if (path := self.folder / f"{unit}{suffix}").exists()]

    def file(self, name: str) -> Path:
        """Return a stage-level file.

        Raises:
            UserError: The stage wrote none of that name.
        """
        path = self.folder / name
        if not path.exists():
            raise UserError(f"the stage wrote no {name} into {self.folder}")
        return path

    def tree(self, name: str) -> Path:
        """Return a stage-level folder; see `file`."""
        return self.file(name)


class Context:
    """All that a running stage may know about where it runs; keeps `pipelines.engine.stage.StageContext`.

    Only the folder has to be given: without more, a context runs units in this process and tracks nothing, e.g.

        rooms.run(rooms.Config(), Context(folder, inputs={"ingest": UnrecordedOutput(manifest_folder)}))

    Attributes:
        units: Names of the units that are done, in the order in which the stage gave them.
        files: Stage-level files that it has written, with size and hash.
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str = "",
        seed: int = 0,
        inputs: Mapping[str, StageOutput] | None = None,
        roots: Mapping[str, Path] | None = None,
        resources: Resources | None = None,
        backend: Backend | None = None,
        retries: int = 0,
        tracker: Tracker | None = None,
    ) -> None:
        """Create the output folder; nothing runs yet.

        Args:
            folder: The stage's output folder.
            name: Name of the stage, for messages; empty: the folder's name.
            seed: The experiment's seed.
            inputs: Finished stages that it reads.
            roots: Folder of every corpus, by name.
            resources: What one worker takes; None: one core.
            backend: What runs units; None: this process.
            retries: How often a failed unit is tried again.
            tracker: The stage's MLflow run; None: nothing is tracked.
        """
        self.folder, self.name, self.seed = folder, name or folder.name, seed
        self.inputs: Mapping[str, StageOutput] = inputs or {}
        self.roots: Mapping[str, Path] = roots or {}
        self.resources = resources or Resources()
        self.storage = folder.resolve() / ".state"
        self.tracker: Tracker = tracker or Untracked()
        self.units: list[str] = []
        self.files: dict[str, FileFacts] = {}
        self._backend = backend or Backend(Capacity((Node(1.0),)), local_units.map_units, local=True)
        self._retries = retries
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def capacity(self) -> Capacity:
        """What the cluster has."""
        return self._backend.capacity

    @property
    def local(self) -> bool:
        """Whether everything runs in this process."""
        return self._backend.local

    def map_units(
        self,
        worker: Callable[[*Arguments], Worker[Payload]],
        arguments: tuple[*Arguments],
        units: Sequence[Unit[Payload]],
    ) -> StageReport:
        """Run `worker(*arguments)` over the units that are not done yet; return the account of all units together.

        Raises:
            UserError: Units are quarantined: the stage stays incomplete; what is done is kept.
        """
        report = self._backend.map_units(
            self.name, worker, arguments, units, folder=self.folder, resources=self.resources, retries=self._retries
        )
        if report.quarantined:
            note = self.folder / f"{report.quarantined[0]}{QUARANTINE_SUFFIX}"
            raise UserError(
                f"{self.name} is incomplete: {len(report.quarantined)} of {len(units)} units are in quarantine "
                f"({', '.join(report.quarantined[:5])}); read {note}, mend the cause, run again: only these units are "
                "done then"
            )
        self.units += [unit.name for unit in units]
        return report

    def parts(self, suffix: str) -> list[Path]:
        """Return the files with this suffix of the units that are done, in the order in which the units were given."""
        return [path for unit in self.units if (path := self.folder / f"{unit}{suffix}").exists()]

    @contextmanager
    def write(self, name: str) -> Iterator[Path]:
        """Give a temporary path that becomes the stage-level file `name` (may have sub-folders)."""
        with atomic_path(self.folder / name) as temporary:
            yield temporary
        self.files[name] = FileFacts.of(self.folder / name)

    def say(self, line: str) -> None:
        """Print one line."""
        console.say(line)

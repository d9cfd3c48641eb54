"""What a running stage is given: folders, inputs, resources, and a place where its units run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flowse import console
from flowse.errors import UserError
from flowse.files import atomic_path, sha256_file
from pipelines.engine import local_units
from pipelines.engine.accounts import StageReport, merge
from pipelines.engine.backend import Backend
from pipelines.engine.fingerprint import UnitKeys
from pipelines.engine.follower import Follower
from pipelines.engine.mirror import mirror_of
from pipelines.engine.records import QUARANTINE_SUFFIX, FileFacts, UnitRecord
from pipelines.engine.resources import Capacity, Node, Resources
from pipelines.engine.stage import Arguments, Payload, StageOutput, Tracker, Unit, UnitFile, Worker
from pipelines.engine.tracking import Untracked
from pipelines.engine.units import UNITS, label_of
from pipelines.engine.workspace import open_stage, output_folders, write_planned

if TYPE_CHECKING:
    from flowse.data.audio_ahead import Reader


@dataclass(frozen=True)
class UnrecordedOutput:
    """Files of a stage that has no record, as its readers see them; keeps `pipelines.engine.stage.StageOutput`.

    Attributes:
        folder: Where the files are.
        units: Names of the units whose files count, in the order in which they are read; None: every file counts.
        digest: Empty: no fingerprint is made from it.
        lacks: Quarantined units that it does without.
    """

    folder: Path
    units: Sequence[str] | None = None
    digest: str = ""
    lacks: tuple[str, ...] = ()

    def unit_files(self, suffix: str) -> list[UnitFile]:
        """Return the units' files with this suffix; without `units`, those of the folder and of `units/` by name."""
        if self.units is None:
            paths = [*sorted(self.folder.glob(f"*{suffix}")), *sorted((self.folder / UNITS).glob(f"*{suffix}"))]
        else:
            paths = [path for unit in self.units if (path := self.folder / UNITS / f"{unit}{suffix}").exists()]
        units = [(path, path.name.removesuffix(suffix)) for path in paths]
        return [UnitFile(path, label_of(unit), sha256_file(path), unit) for path, unit in units]

    def parts(self, suffix: str) -> list[Path]:
        """Return the paths of `unit_files`."""
        return [file.path for file in self.unit_files(suffix)]

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


@dataclass(frozen=True)
class _Made:
    """A unit that a context has made, or found done.

    Attributes:
        record: The unit's record.
        corpus: Whose utterances it holds; empty: no single corpus'.
    """

    record: UnitRecord
    corpus: str


class Context:
    """All that a running stage may know about where it runs; keeps `pipelines.engine.stage.StageContext`.

    Only the folder has to be given: without more, a context runs units in this process and tracks nothing, e.g.

        rooms.run(rooms.Config(), Context(folder, inputs={"ingest": UnrecordedOutput(manifest_folder)}))

    Attributes:
        hidden: Names of the units that readers do not see.
        lacks: Quarantined units that the output, or what it is made from, does without: "<stage>/<unit>".
        files: Stage-level files that it has written, with size and hash.
        worked_s: Length, in seconds, of what the units held that were not done before.
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str = "",
        seed: int = 0,
        units_folder: Path | None = None,
        keys: UnitKeys | None = None,
        inputs: Mapping[str, StageOutput] | None = None,
        roots: Mapping[str, Path] | None = None,
        resources: Resources | None = None,
        backend: Backend | None = None,
        retries: int = 0,
        may_lack: Collection[str] = (),
        tracker: Tracker | None = None,
        code_commit: str = "",
        follower: Follower | None = None,
    ) -> None:
        """Create the output folder; nothing runs yet.

        Args:
            folder: The stage's output folder.
            name: Name of the stage, for messages; empty: the folder's name.
            seed: The experiment's seed.
            units_folder: Where the units' files are; None: `folder/units`.
            keys: Gives units their keys; None: by the stage's name, the seed and their content alone.
            inputs: Finished stages that it reads.
            roots: Folder of every corpus, by name.
            resources: What one worker takes; None: one core.
            backend: What runs units; None: this process.
            retries: How often a failed unit is tried again.
            may_lack: Units that the output may do without if they are quarantined: "<unit>" or "<stage>/<unit>".
            tracker: The stage's MLflow run; None: nothing is tracked.
            code_commit: Commit of the code that runs; empty: unknown.
            follower: The stage that makes its units of this one's, if it may begin with them.
        """
        self.folder, self.name, self.seed = folder, name or folder.name, seed
        self.units_folder = units_folder or folder / UNITS
        self.inputs: Mapping[str, StageOutput] = inputs or {}
        self.roots: Mapping[str, Path] = roots or {}
        self.resources = resources or Resources()
        self.storage = folder.resolve() / ".state"
        self.tracker: Tracker = tracker or Untracked()
        self.code_commit = code_commit
        self.files: dict[str, FileFacts] = {}
        self.hidden: set[str] = set()
        self.lacks = {unit for output in self.inputs.values() for unit in output.lacks}
        self.worked_s = 0.0
        self._made: dict[str, _Made] = {}
        self._instead: dict[str, str] = {}  # name of a unit by that of the unit which it replaces
        self._keys = keys or UnitKeys(self.name, seed=seed)
        self._backend = backend or Backend(Capacity((Node(1.0),)), local_units.map_units, local=True)
        self._retries, self._may_lack, self._follower = retries, frozenset(may_lack), follower
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def capacity(self) -> Capacity:
        """What the cluster has now."""
        return self._backend.now()

    @property
    def await_nodes_s(self) -> float:
        """How long the stage waits for nodes that can hold its workers."""
        return self._backend.await_nodes_s

    @property
    def reader(self) -> Reader | None:
        """Reads audio for a worker of the stage; None: the worker itself."""
        return self._backend.reader(self.resources, self.roots, self.folder)

    @property
    def local(self) -> bool:
        """Whether everything runs in this process."""
        return self._backend.local

    def earlier(self) -> Iterator[StageOutput]:
        """Yield what other settings or inputs made of this stage in this workspace, the youngest first."""
        for folder in reversed(output_folders(self.folder.parent.parent, self.folder.parent.name)):
            try:
                finished = None if folder.name == self.folder.name else open_stage(folder)
            except UserError:
                continue  # another version made it, in a form that this one does not read
            if finished is not None:
                yield finished

    @property
    def output(self) -> UnrecordedOutput:
        """What the stage has left so far, as its readers would see it."""
        return UnrecordedOutput(self.folder, self.units)

    @property
    def units(self) -> list[str]:
        """Names of the units that readers will see, in their order."""
        return [unit for unit in self._order() if unit not in self.hidden]

    def records(self) -> list[UnitRecord]:
        """Return the records of all units that are done, hidden ones as well, in their order."""
        return [self._made[unit].record for unit in self._order()]

    def _order(self) -> list[str]:
        """Return the names of all units; one that replaces another stands in the other's place."""
        instead, later = self._instead, set(self._instead.values())
        order = [self._standing_for(unit) for unit in self._made if unit not in later]
        return [*order, *instead]

    def _standing_for(self, unit: str) -> str:
        while unit in self._instead:
            unit = self._instead[unit]
        return unit

    def named(self, units: Sequence[Unit[Payload]]) -> list[Unit[Payload]]:
        """Give units their keys; of units that are equal, the first is left.

        Raises:
            ValueError: Units with the same content hold utterances: their content does not tell them apart.
        """
        found: dict[str, Unit[Payload]] = {}
        for unit in units:
            keyed = dataclasses.replace(unit, key=self._keys(unit.content))
            if keyed.name in found and keyed.taken.utterances:
                raise ValueError(f"{self.name}: two units have the name {keyed.name}; their contents must differ")
            found.setdefault(keyed.name, keyed)
        return list(found.values())

    def map_units(
        self,
        worker: Callable[[*Arguments], Worker[Payload]],
        arguments: tuple[*Arguments],
        units: Sequence[Unit[Payload]],
        *,
        hidden: bool = False,
    ) -> StageReport:
        """Run `worker(*arguments)` over the units that are not done yet; return the account of all units together.

        Raises:
            UserError: Units are quarantined: the stage stays incomplete; what is done is kept.
        """
        named = self.named(units)
        self.units_folder.mkdir(parents=True, exist_ok=True)
        self._plan(named, hidden)
        given_up = [unit.name for unit in named if self._may_do_without(unit.name) and self._note(unit.name).exists()]
        outcome = self._backend.map_units(
            self.name,
            worker,
            arguments,
            [unit for unit in named if unit.name not in given_up],
            folder=self.units_folder,
            notes=self.folder,
            resources=self.resources,
            retries=self._retries,
            **({"follower": self._follower} if self._follower is not None and not hidden else {}),
        )
        lacking = [unit for unit in outcome.quarantined if not self._may_do_without(unit)]
        if lacking:
            note = self._note(lacking[0])
            raise UserError(
                f"{self.name} is incomplete: {len(lacking)} of {len(named)} units are in quarantine "
                f"({', '.join(lacking[:5])}); read {note}, mend the cause, run again: only these units are "
                "done then; or do without them: `run --accept-quarantine NAME…`"
            )
        self.lacks.update(f"{self.name}/{unit}" for unit in (*given_up, *outcome.quarantined))
        self.worked_s += outcome.worked_s
        for unit in named:
            if unit.name in outcome.records:
                self.add(unit, outcome.records[unit.name], hidden=hidden)
        return outcome.report

    def _may_do_without(self, unit: str) -> bool:
        return unit in self._may_lack or f"{self.name}/{unit}" in self._may_lack

    def _note(self, unit: str) -> Path:
        """Return the file that says why a unit is quarantined."""
        return self.folder / f"{unit}{QUARANTINE_SUFFIX}"

    def _plan(self, units: Sequence[Unit[Payload]], hidden: bool) -> None:
        """Write down which units the output will consist of, before they are done."""
        names = [unit.name for unit in units]
        unseen = {*self.hidden, *(names if hidden else ()), *(unit.replaces for unit in units if unit.replaces)}
        write_planned(self.folder, [*self._order(), *(name for name in names if name not in self._made)], unseen)

    def add(self, unit: Unit[Payload], record: UnitRecord, *, hidden: bool = False) -> None:
        """Count a unit that is done to the output."""
        self._made[unit.name] = _Made(record, unit.corpus)
        if hidden:
            self.hidden.add(unit.name)
        if unit.replaces and unit.replaces != unit.name:
            self._instead[unit.replaces] = unit.name
            self.hidden.add(unit.replaces)

    def unit_files(self, suffix: str, hidden: bool = False) -> list[UnitFile]:
        """Return the files with this suffix of the units that are done, in the order in which the units were given."""
        found = {
            name: unit
            for unit in self._order()
            if (unit in self.hidden) == hidden and (name := f"{unit}{suffix}") in self._made[unit].record.files
        }
        if mirror := mirror_of(self.units_folder):  # workers on other machines, or an earlier run, have done some
            files = [(name, self._made[unit].record.files[name]) for name, unit in found.items()]
            if hidden:  # intermediate results: only workers read them
                for name, facts in files:
                    mirror.know(self.units_folder / name, facts.sha256)
            else:
                mirror.bring(self.units_folder, files)
        return [
            UnitFile(self.units_folder / name, label_of(unit), self._made[unit].record.files[name].sha256, unit)
            for name, unit in found.items()
        ]

    def parts(self, suffix: str) -> list[Path]:
        """Return the paths of `unit_files`."""
        return [file.path for file in self.unit_files(suffix)]

    def account(self) -> StageReport:
        """Return the account of all units that the output consists of: neither hidden nor replaced ones."""
        return merge(self._made[unit].record.report for unit in self.units)

    def accounts(self) -> dict[str, StageReport]:
        """Return the account of each corpus that the units name, in the order of the units."""
        reports: dict[str, list[StageReport]] = {}
        for unit in self.units:
            reports.setdefault(self._made[unit].corpus, []).append(self._made[unit].record.report)
        return {corpus: merge(of_corpus) for corpus, of_corpus in reports.items()}

    @contextmanager
    def write(self, name: str) -> Iterator[Path]:
        """Give a temporary path that becomes the stage-level file `name` (may have sub-folders)."""
        with atomic_path(self.folder / name) as temporary:
            yield temporary
        self.files[name] = FileFacts.of(self.folder / name)

    def say(self, line: str) -> None:
        """Print one line."""
        console.say(line)

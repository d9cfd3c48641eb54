"""The contract that every stage keeps, as types: what it is given, and what it has to return.

A stage is a module with a docstring of four sentences (*Reads, Writes, Drops, Fails*) and these names, in this order:

    NAME, READS, REVISION   its name; the stages that it reads; an integer, raised by hand when its meaning changes
    Config                  frozen dataclass: only what can change the output; with a method `reads()` where a setting
                            makes some of READS needless
    Worker                  one process' share of the work: costly state in `__init__`, one unit of work in `__call__`,
                            and no Ray in it. A stage that is not cut into units (train, export) has none.
    run(config, context)    the only function that touches the cluster; it returns a StageReport

A stage may have a function `following(config, roots, device, reader) -> Following` if it makes one unit of each unit
of the only stage that it reads: its units are then begun while that stage still runs (`pipelines.engine.follower`).
Three more are looked for: `continues` (see `pipelines.stages.train`), `headline(metrics)`, the scores by which runs are
compared, and `dataset_digest(output)`, where an output is a dataset with a digest of its own.

mypy checks each stage against the Protocols here where `pipelines.experiment.STAGES` lists them and where `run` hands
its Worker to `StageContext.map_units`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, TypeVarTuple, runtime_checkable

from pipelines.engine.accounts import StageReport, Tally, UnitReport
from pipelines.engine.resources import Capacity, Resources

if TYPE_CHECKING:
    from flowse.data.audio_ahead import Reader

Item = TypeVar("Item")
Payload = TypeVar("Payload")
Arguments = TypeVarTuple("Arguments")
Held = TypeVar("Held", covariant=True)  # a payload as a unit holds it
Accepted = TypeVar("Accepted", contravariant=True)  # a payload as a worker accepts it


@dataclass(frozen=True)
class Unit(Generic[Held]):
    """The smallest piece of work that is done again as a whole after a crash.

    Attributes:
        label: Readable, e.g. "demo-speech"; many units may have the same.
        payload: What the worker is called with; small and picklable.
        taken: What the payload holds, for counting and for progress before it is done.
        content: Digest of everything that the unit's files are a function of, besides the stage, its REVISION, the
            settings that enter unit keys (`pipelines.engine.fingerprint.unit_settings`) and the seed. Units with equal
            content are one unit: what an earlier run has done of them is not done again.
        corpus: Whose utterances these are, for accounts by corpus; empty: no single corpus'.
        replaces: Name of an earlier unit of the stage whose place this one takes; empty: it stands behind the others.
        key: Digest that makes the name unique; the context gives it (`pipelines.engine.fingerprint.UnitKeys`).
    """

    label: str
    payload: Held
    taken: Tally
    content: str = ""
    corpus: str = ""
    replaces: str = ""
    key: str = ""

    @property
    def name(self) -> str:
        """Stem of the unit's files: label and key."""
        return f"{self.label}-{self.key}" if self.key else self.label


@dataclass(frozen=True)
class UnitFile:
    """A file of a unit that is done.

    Attributes:
        path: Where it is.
        label: The unit's label.
        sha256: Hash of its content, hexadecimal: the `content` of a unit that is made of this file alone.
        unit: Name of the unit.
    """

    path: Path
    label: str
    sha256: str
    unit: str


@dataclass(frozen=True)
class Following:
    """How a stage makes one unit of one unit of the only stage that it reads.

    Attributes:
        worker: Called with `arguments` in each process.
        arguments: For the worker's constructor.
        suffix: Of the file that a unit is made of.
        unit_of: Makes a unit of that file alone.
    """

    worker: Callable[..., Worker[Any]]
    arguments: tuple[Any, ...]
    suffix: str
    unit_of: Callable[[UnitFile], Unit[Any]]


@runtime_checkable
class Divisible(Protocol):
    """A payload of several rows, some of which can be refused; a row on which workers die is found by that."""

    @property
    def rows(self) -> int:
        """Number of rows."""

    def refuse(self, rows: Mapping[int, tuple[str, str]]) -> Any:
        """Return the payload with some rows refused: each becomes a reject row, and nothing of it is read.

        Args:
            rows: Reason and detail by position; they come on top of what is refused already, and fail, not drop.
        """


class UnitOutput(Protocol):
    """Where a worker writes a unit's files; they appear under their own names all at once or not at all."""

    @property
    def name(self) -> str:
        """Name of the unit, the stem of its files."""

    def path(self, suffix: str) -> Path:
        """Return a temporary path for the unit's file `<unit name><suffix>`, e.g. suffix ".parquet"."""

    def count(self, seconds: float, share: float = 1.0) -> None:
        """Say, for the progress that people see, that one more utterance of the unit is done.

        Args:
            seconds: Its length.
            share: Which share of the work on it is done now, where it is done in parts.
        """


class Worker(Protocol[Accepted]):
    """One process' share of a stage.

    Its constructor takes the arguments that `run` hands to `map_units`, and holds what is costly to make (models).
    """

    def __call__(self, payload: Accepted, output: UnitOutput) -> UnitReport:
        """Do one unit of work: write its files to `output` and account for every utterance of it.

        Raises:
            UserError: Something that only a person can mend stops the whole stage. Any other exception is taken for
                the unit's own trouble: the unit is tried again, then quarantined.
        """


class StageOutput(Protocol):
    """A finished stage as its readers see it."""

    @property
    def folder(self) -> Path:
        """Where its files are."""

    @property
    def digest(self) -> str:
        """Hash over the hashes of all its files; part of the fingerprint of each stage that reads it."""

    @property
    def lacks(self) -> tuple[str, ...]:
        """Units that were quarantined and that it, or what it was made from, does without: "<stage>/<unit>"."""

    def unit_files(self, suffix: str) -> list[UnitFile]:
        """Return every unit's file with this suffix, in the order in which the stage gave its units.

        Raises:
            DamagedFile: A file differs from its record.
        """

    def parts(self, suffix: str) -> list[Path]:
        """Return the paths of `unit_files`."""

    def file(self, name: str) -> Path:
        """Return a stage-level file by name.

        Raises:
            UserError: The stage has no such file, or the file differs from its record.
        """

    def tree(self, name: str) -> Path:
        """Return a stage-level folder, e.g. a model, by name.

        Raises:
            UserError: The stage has no such folder, or a file in it differs from its record.
        """


class Tracker(Protocol):
    """The stage's own MLflow run."""

    run_id: str | None
    uri: str

    def params(self, values: Mapping[str, Any]) -> None:
        """Log parameters."""

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Log metrics, at a step if it is given."""

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags."""

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Log a file (or a folder, recursively) as an artifact."""


class StageContext(Protocol):
    """All that a stage may know about where it runs.

    Attributes:
        seed: The experiment's seed.
        folder: The stage's own output folder.
        inputs: The finished stages that it reads (`reads_of`).
        roots: Folder of every corpus, by its name in the config; a row's audio is `roots[row.corpus] / row.path`.
        resources: What one worker of this stage may use; `num_cpus` is a number of cores, not 0.
        storage: Absolute folder for a stage's private working state (training checkpoints); no output. The stage makes
            it.
        tracker: The stage's MLflow run.
        code_commit: Commit of the code that runs; empty: unknown.
    """

    seed: int
    folder: Path
    inputs: Mapping[str, StageOutput]
    roots: Mapping[str, Path]
    resources: Resources
    storage: Path
    tracker: Tracker
    code_commit: str

    @property
    def capacity(self) -> Capacity:
        """What the cluster has now."""

    @property
    def await_nodes_s(self) -> float:
        """How long, in seconds, the stage waits for nodes that can hold its workers; 0: not at all."""

    @property
    def reader(self) -> Reader | None:
        """Reads audio for a worker of this stage (`flowse.data.audio_ahead`); None: the worker itself. Picklable."""

    @property
    def local(self) -> bool:
        """Whether everything runs in this process: no Ray is connected then."""

    def earlier(self) -> Iterator[StageOutput]:
        """Yield what other settings or inputs made of this stage in this workspace, the youngest first.

        For pages alone: what a later stage reads is a function of the settings and inputs.
        """

    def map_units(
        self,
        worker: Callable[[*Arguments], Worker[Payload]],
        arguments: tuple[*Arguments],
        units: Sequence[Unit[Payload]],
        *,
        hidden: bool = False,
    ) -> StageReport:
        """Run `worker(*arguments)` over the units that are not done yet; return the account of all units together.

        It may be called more than once.

        Args:
            worker: Called with `arguments` in each process.
            arguments: For the worker's constructor.
            units: What is to be done.
            hidden: The units are intermediate results of this stage: its readers do not see them, and they enter
                neither its digest nor its account.
        """

    def unit_files(self, suffix: str, hidden: bool = False) -> list[UnitFile]:
        """Return the files with this suffix of the units that are done, in the order in which the units were given."""

    def parts(self, suffix: str) -> list[Path]:
        """Return the paths of `unit_files`."""

    def account(self) -> StageReport:
        """Return the account of all units that the output consists of: neither hidden nor replaced ones."""

    def accounts(self) -> dict[str, StageReport]:
        """Return the account of each corpus that the units name, in the order of the units."""

    def write(self, name: str) -> AbstractContextManager[Path]:
        """Give a temporary path that becomes the stage-level file `name` when the block ends without an exception."""

    def say(self, line: str) -> None:
        """Print one line for people."""


class Stage(Protocol):
    """A stage's module: mypy compares the modules of `pipelines.experiment.STAGES` with this."""

    @property
    def NAME(self) -> str:
        """Name of the stage: its folder in the workspace, its section in both configurations."""

    @property
    def READS(self) -> tuple[str, ...]:
        """Names of the stages before it whose outputs it reads; see `reads_of`."""

    @property
    def REVISION(self) -> int:
        """Raised by hand when the same Config means another output: what was made before is stale then."""

    @property
    def Config(self) -> Callable[..., Any]:
        """Frozen dataclass of all that can change the output; the fingerprint is made of it."""

    def run(self, config: Any, context: StageContext) -> StageReport:
        """Make the stage's output in `context.folder` and account for every utterance that came in."""


class ExperimentSettings(Protocol):
    """An experiment's configuration as the engine sees it; its further attributes are sections, named after stages."""

    @property
    def name(self) -> str:
        """Names the workspace and the MLflow experiment; changes no output."""

    @property
    def seed(self) -> int:
        """The only source of randomness."""


def reads_of(stage: Stage, section: Any) -> tuple[str, ...]:
    """Return the stages that `stage` reads with its configuration `section`."""
    reads: tuple[str, ...] = section.reads() if hasattr(section, "reads") else stage.READS
    return reads


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield consecutive lists of at most `size` items."""
    batch: list[Item] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch

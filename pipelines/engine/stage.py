"""The contract every stage keeps: what it is given, what one unit of its work returns, and what it reports.

A stage is a module with a docstring of four sentences (*Reads, Writes, Drops, Fails*) and five names, always in this
order:

    NAME, READS, REVISION   its name, the stages it reads, an integer raised by hand when its meaning changes
    Config                  frozen dataclass: only what can change the output; with a method `reads()` where a setting
                            makes some of READS needless
    Worker                  one process' share: costly state in `__init__`, one unit of work in `__call__`; no Ray in it
    run(config, context)    the only function that touches the cluster; returns a StageReport
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from flowse.data.manifest import Reject


@dataclass(frozen=True)
class Tally:
    """A number of utterances and their length together in seconds."""

    utterances: int = 0
    seconds: float = 0.0

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.utterances + other.utterances, self.seconds + other.seconds)

    @property
    def hours(self) -> float:
        """Length in hours."""
        return self.seconds / 3600

    @classmethod
    def of(cls, durations_s: Iterable[float]) -> Tally:
        """Count utterances of the given lengths in seconds."""
        listed = list(durations_s)
        return cls(len(listed), math.fsum(listed))


@dataclass(frozen=True)
class Unit:
    """The smallest piece of work that is done again as a whole after a crash.

    Attributes:
        name: Deterministic; the stem of the unit's files.
        payload: What the worker is called with; small and picklable. The unit's content must be a pure function of
            the stage's config, the seed and this payload.
        taken: What the payload holds, for counting and for progress before it is done.
    """

    name: str
    payload: Any
    taken: Tally


@dataclass(frozen=True)
class UnitReport:
    """What became of one unit's utterances.

    Attributes:
        kept: What the unit's files hold.
        rejects: One row for every utterance that was not kept.
        metrics: Sums over the unit, e.g. {"bytes": ...}; added up over units.
        taken: What came in, where only the worker could measure it (ingest learns a file's length by decoding it);
            None: what the unit says.
    """

    kept: Tally
    rejects: tuple[Reject, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    taken: Tally | None = None


class UnitOutput(Protocol):
    """Where a worker writes a unit's files; they appear under their own names all at once or not at all."""

    def path(self, suffix: str) -> Path:
        """Return a temporary path for the unit's file `<unit name><suffix>`, e.g. suffix ".parquet"."""


class Worker(Protocol):
    """One process' share of a stage."""

    def __call__(self, payload: Any, output: UnitOutput) -> UnitReport:
        """Do one unit of work: write its files to `output` and account for every utterance of it."""


class StageOutput(Protocol):
    """A finished stage as its readers see it."""

    folder: Path
    digest: str

    def parts(self, suffix: str) -> list[Path]:
        """Return every unit's file with this suffix, ordered by unit name."""

    def file(self, name: str) -> Path:
        """Return a stage-level file by name.

        Raises:
            UserError: The stage has no such file.
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


@dataclass(frozen=True)
class Resources:
    """What one worker of a stage takes from the cluster.

    Attributes:
        workers: How many at once; None fills the cluster.
        num_cpus: Cores, and threads, of one worker; 0: an equal share of the cluster's cores among `workers`.
        num_gpus: GPUs of one worker.
        unit_timeout_s: A unit that takes longer is taken for hung: its worker is killed, the unit tried again.
    """

    workers: int | None = None
    num_cpus: int = 1
    num_gpus: float = 0.0
    unit_timeout_s: float = 3600.0

    def __post_init__(self) -> None:
        if self.num_cpus < 0 or (self.num_cpus == 0 and self.workers is None):
            raise ValueError(
                f"num_cpus is {self.num_cpus}; say how many cores a worker takes, or 0 and the number of workers"
            )
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"workers is {self.workers}; leave it empty to fill the cluster, or ask for at least one")
        if self.num_gpus < 0 or self.unit_timeout_s <= 0:
            raise ValueError(
                f"num_gpus is {self.num_gpus} and unit_timeout_s {self.unit_timeout_s}; neither may be negative"
            )


class StageContext(Protocol):
    """All that a stage may know about where it runs.

    Attributes:
        seed: The experiment's seed.
        folder: The stage's own output folder.
        inputs: The finished stages that it reads (`reads_of`).
        roots: Folder of every corpus, by its name in the config; a row's audio is `roots[row.corpus] / row.path`.
        resources: What one worker of this stage may use.
        storage: Absolute folder for a stage's private working state (training checkpoints); not an output.
        tracker: The stage's MLflow run.
    """

    seed: int
    folder: Path
    inputs: Mapping[str, StageOutput]
    roots: Mapping[str, Path]
    resources: Resources
    storage: Path
    tracker: Tracker

    def map_units(
        self, worker: Callable[..., Worker], arguments: Sequence[Any], units: Sequence[Unit], **options: Any
    ) -> StageReport:
        """Run `worker(*arguments)` over the units that are not done yet; return the books of all units."""

    def write(self, name: str) -> AbstractContextManager[Path]:
        """Give a temporary path that becomes the stage-level file `name` when the block ends without an exception."""

    def say(self, line: str) -> None:
        """Print one line for the people who watch."""


@dataclass(frozen=True)
class StageReport:
    """The books of a stage: taken = kept + dropped + failed, in utterances and in seconds.

    Attributes:
        taken: What came in.
        kept: What goes on.
        dropped: Judged unfit, by reason.
        failed: Not judged because something broke, by reason.
        quarantined: Units that failed for infrastructure's sake; not in the totals; the stage is then incomplete.
        metrics: Figures worth a place in MLflow and in the summary.
        notes: Lines for the summary at the end, e.g. where the report is.

    Raises:
        ValueError: The books do not balance.
    """

    taken: Tally
    kept: Tally
    dropped: Mapping[str, Tally] = field(default_factory=dict)
    failed: Mapping[str, Tally] = field(default_factory=dict)
    quarantined: tuple[str, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        out = sum((*self.dropped.values(), *self.failed.values()), self.kept)
        same_seconds = math.isclose(out.seconds, self.taken.seconds, rel_tol=1e-6, abs_tol=1e-3)
        if out.utterances != self.taken.utterances or not same_seconds:
            raise ValueError(
                f"the books do not balance: {self.taken} came in, but kept + dropped + failed is {out}; "
                "a worker lost or invented an utterance"
            )


def books(taken: Tally, report: UnitReport) -> StageReport:
    """Turn what a worker says of one unit into books.

    Args:
        taken: What the unit holds, unless the report measured it.
        report: Kept utterances and reject rows.

    Raises:
        ValueError: Some utterance is neither kept nor rejected, or is both.
    """
    sums: dict[str, dict[str, Tally]] = {"dropped": {}, "failed": {}}
    for reject in report.rejects:
        by_reason = sums[reject.kind]
        by_reason[reject.reason] = by_reason.get(reject.reason, Tally()) + Tally(1, reject.duration_s)
    return StageReport(
        taken=report.taken or taken,
        kept=report.kept,
        dropped=sums["dropped"],
        failed=sums["failed"],
        metrics=dict(report.metrics),
    )


def merge(parts: Iterable[StageReport]) -> StageReport:
    """Add up the books of units to the books of a stage."""
    taken, kept = Tally(), Tally()
    dropped: dict[str, Tally] = {}
    failed: dict[str, Tally] = {}
    metrics: dict[str, float] = {}
    quarantined: list[str] = []
    for part in parts:
        taken, kept = taken + part.taken, kept + part.kept
        for total, more in ((dropped, part.dropped), (failed, part.failed)):
            for reason, tally in more.items():
                total[reason] = total.get(reason, Tally()) + tally
        for key, value in part.metrics.items():
            metrics[key] = metrics.get(key, 0.0) + value
        quarantined += part.quarantined
    return StageReport(
        taken=taken,
        kept=kept,
        dropped=dict(sorted(dropped.items())),
        failed=dict(sorted(failed.items())),
        quarantined=tuple(quarantined),
        metrics=metrics,
    )


def reads_of(stage: Any, section: Any) -> tuple[str, ...]:
    """Return the stages that `stage` reads with its configuration `section`."""
    reads: tuple[str, ...] = section.reads() if hasattr(section, "reads") else stage.READS
    return reads


def batched(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Yield consecutive lists of at most `size` items."""
    batch: list[Any] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch

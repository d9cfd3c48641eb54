"""What became of utterances: counts and seconds that came in, were kept, dropped or failed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

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
class UnitReport:
    """What a worker says of one unit: what became of its utterances.

    Attributes:
        kept: Utterances that the unit's files hold.
        rejects: One row for every utterance that was not kept.
        metrics: Sums over the unit, e.g. {"bytes": ...}; they are added up over units.
        taken: What came in, where only the worker could measure it (ingest learns a file's length by decoding it);
            None: the unit's own tally.
    """

    kept: Tally
    rejects: tuple[Reject, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    taken: Tally | None = None


@dataclass(frozen=True)
class StageReport:
    """The account of a unit or of a whole stage: taken = kept + dropped + failed, in utterances and in seconds.

    Attributes:
        taken: Utterances that came in.
        kept: Utterances that the output holds.
        dropped: Utterances that were judged unfit, by reason.
        failed: Utterances that could not be judged because something broke, by reason.
        quarantined: Units that failed for infrastructure's sake; they are not in the totals, and the stage is then
            incomplete.
        metrics: Figures worth a place in MLflow and in the summary.
        notes: Lines for the summary at the end, e.g. where the report is.

    Raises:
        ValueError: The account does not balance.
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


def account_unit(taken: Tally, report: UnitReport) -> StageReport:
    """Sum what a worker says of one unit, with its reject rows counted by reason.

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
    """Add up the accounts of units to the account of a stage; reasons come in alphabetical order."""
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

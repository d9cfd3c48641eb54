"""Turn away speech that is too noisy, too narrow in band or clipped, before a model learns from it; off by default.

Reads the manifest of ingest; only its rows of kind "speech".
Writes a manifest part a unit; if it is on, also the measured values of each unit (`.quality.parquet`) and
`report.html`: their histograms. Drops speech beyond a threshold (`clipped`, `narrow_band`, `low_snr`, `low_dnsmos`).
Fails what cannot be read any more.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from flowse.data.manifest import Reject, Utterance
from flowse.errors import UserError
from flowse.fetching import ahead
from flowse.quality import MEASURES, Quality, QualityLimits, judge
from flowse.refusal import Refusal
from pipelines.engine.accounts import StageReport, Tally, UnitReport
from pipelines.engine.fingerprint import content_of
from pipelines.engine.manifest_part import ManifestPart
from pipelines.engine.stage import StageContext, Unit, UnitFile, UnitOutput

if TYPE_CHECKING:
    from flowse.metrics.quality import QualityMeter
    from flowse.quality_page import CorpusQuality

NAME = "quality"
READS: tuple[str, ...] = ("ingest",)
REVISION = 1

_VALUES = ".quality.parquet"


@dataclass(frozen=True, kw_only=True)
class CorpusLimits(QualityLimits):
    """Thresholds of one corpus: those that are given replace those of the stage.

    A threshold that lets everything pass takes the stage's away: `min_dnsmos: 1`, `min_bandwidth_hz: 0`,
    `min_snr_db: -20`, `max_clipped: 1`.

    Attributes:
        name: Name of the corpus in `ingest.speech`.
    """

    name: str = field(metadata={"unit": False})


@dataclass(frozen=True, kw_only=True)
class Config(QualityLimits):
    """What is measured, and the thresholds; other thresholds need no second measurement.

    Attributes:
        enabled: Whether anything is measured; null: if there is any threshold. true without thresholds only measures
            and reports, false keeps thresholds for later. If nothing is measured, all speech passes unread.
        dnsmos: Whether DNSMOS is measured: 0.12 s of one core a second of audio, where all else together takes 0.001.
        longest_s: Of an utterance that is longer, so many seconds in its middle are measured.
        corpora: Other thresholds for some corpora.
    """

    enabled: bool | None = field(default=None, metadata={"unit": False})
    dnsmos: bool = True
    longest_s: float = 30.0
    corpora: tuple[CorpusLimits, ...] = field(default=(), metadata={"unit": False})

    def __post_init__(self) -> None:
        super().__post_init__()
        names = [corpus.name for corpus in self.corpora]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"corpora names {', '.join(repeated)} twice; give all thresholds of a corpus in one place")
        if self.longest_s < 1:
            raise ValueError(f"longest_s is {self.longest_s:g}; it must be at least 1")
        if not self.dnsmos and any(limits.min_dnsmos is not None for limits in (self, *self.corpora)):
            raise ValueError("min_dnsmos is given, but dnsmos is false; leave one of them out")

    @property
    def measures(self) -> bool:
        """Whether anything is measured."""
        if self.enabled is not None:
            return self.enabled
        return any(limits.of(measure) is not None for limits in (self, *self.corpora) for measure in MEASURES)

    def limits_of(self, corpus: str) -> QualityLimits:
        """Return the thresholds of a corpus; none if nothing is measured."""
        if not self.measures:
            return QualityLimits()
        own = next((limits for limits in self.corpora if limits.name == corpus), QualityLimits())
        return self.replaced(own)


@dataclass(frozen=True)
class Measured:
    """Payload of a unit: a part of ingest's manifest, what was measured of it (None: nothing), and what passes."""

    part: Path
    values: Path | None
    limits: QualityLimits


class Worker:
    """Measures the speech of manifest parts, or judges what was measured; DNSMOS is loaded once.

    Args:
        config: What is measured.
        roots: Folder of every corpus.
    """

    def __init__(self, config: Config, roots: Mapping[str, Path]) -> None:
        self._config, self._roots = config, roots

    @cached_property
    def _meter(self) -> QualityMeter:
        from flowse.metrics.quality import QualityMeter

        return QualityMeter(dnsmos=self._config.dnsmos, longest_s=self._config.longest_s)

    def __call__(self, payload: ManifestPart | Measured, output: UnitOutput) -> UnitReport:
        """Measure a part, or write the rows of a part that pass."""
        if isinstance(payload, ManifestPart):
            return self._measure(payload, output)
        return self._judge(payload, output)

    def _measure(self, payload: ManifestPart, output: UnitOutput) -> UnitReport:
        from flowse.data.parquet import write_rows

        rows, rejects = payload.read(NAME)
        found = []
        for row in ahead(rows, self._path):
            found.append(self._meter.of_row(row, self._path(row)))
            output.count(row.duration_s)
        unread = [
            Quality(
                utt_id=reject.utt_id,
                corpus=reject.corpus,
                refused=reject.reason,
                detail=reject.detail,
                kind=reject.kind,
            )
            for reject in rejects
        ]
        write_rows(output.path(_VALUES), Quality, [*found, *unread])
        report = _account(rows, [quality.refusal() for quality in found])
        return dataclasses.replace(report, rejects=(*report.rejects, *rejects))

    def _path(self, row: Utterance) -> Path:
        return self._roots[row.corpus] / row.path

    def _judge(self, payload: Measured, output: UnitOutput) -> UnitReport:
        from flowse.data.parquet import read_rows, write_rows

        rows = [row for row in read_rows(payload.part, Utterance) if row.kind == "speech"]
        refusals: dict[str, Refusal | None] = {}
        counts: Counter[str] = Counter()
        for quality in [] if payload.values is None else read_rows(payload.values, Quality):
            counts.update(_bins(quality))
            try:
                judge(quality, payload.limits)
                refusals[quality.utt_id] = None
            except Refusal as refusal:
                refusals[quality.utt_id] = refusal
        # A row without values is in neither sum: the account would not balance, and nothing would be committed.
        judged = rows if payload.values is None else [row for row in rows if row.utt_id in refusals]
        verdicts = [refusals.get(row.utt_id) for row in judged]
        kept = (row for row, verdict in zip(judged, verdicts, strict=True) if verdict is None)
        write_rows(output.path(".parquet"), Utterance, kept)
        return _account(judged, verdicts, counts)


def _account(
    rows: Sequence[Utterance], refusals: Sequence[Refusal | None], counts: Mapping[str, float] | None = None
) -> UnitReport:
    """Account for the rows of a unit; a row without a refusal is kept."""
    judged = list(zip(rows, refusals, strict=True))
    rejects = [Reject.of(row, NAME, refusal) for row, refusal in judged if refusal is not None]
    kept = Tally.of(row.duration_s for row, refusal in judged if refusal is None)
    return UnitReport(kept, tuple(rejects), dict(counts or {}))


def _bins(quality: Quality) -> Iterable[str]:
    """Name the bins of the histograms that an utterance counts in, e.g. "bin snr_db 12"."""
    for measure in MEASURES:
        value = measure.value(quality)
        if value is not None:
            yield f"bin {measure.name} {measure.bin_of(value)}"


def run(config: Config, context: StageContext) -> StageReport:
    """Measure the speech of every part of ingest's manifest, if anything is to be measured; judge; write the page."""
    from flowse.data.parquet import durations_s

    files = [
        (file, Tally.of(lengths))
        for file in context.inputs["ingest"].unit_files(".parquet")
        if (lengths := durations_s(file.path, "speech"))
    ]
    if not files:
        raise UserError("quality: ingest kept no speech; see the rejects of ingest, and ingest.speech")
    arguments = (config, dict(context.roots))
    values: dict[str, UnitFile] = {}
    if config.measures:
        recordings: list[Unit[ManifestPart | Measured]] = [
            Unit(
                _hidden(file),
                ManifestPart(file.path, taken.utterances, "speech"),
                taken,
                content_of("measure", file.sha256),
                file.label,
            )
            for file, taken in files
        ]
        context.map_units(Worker, arguments, recordings, hidden=True)
        values = {measured.label: measured for measured in context.unit_files(_VALUES, hidden=True)}
    units: list[Unit[ManifestPart | Measured]] = []
    for file, taken in files:
        limits, measured = config.limits_of(file.label), values.get(_hidden(file))
        if measured is None:
            if config.measures:
                continue  # its measurement is quarantined, and the run accepts that
            payload, content = Measured(file.path, None, limits), content_of("pass", file.sha256)
        else:
            payload = Measured(file.path, measured.path, limits)
            content = content_of("judge", file.sha256, measured.sha256, limits)
        units.append(Unit(file.label, payload, taken, content, file.label))
    report = context.map_units(Worker, arguments, units)
    if not config.measures:
        return report
    return _reported(config, context, report)


def _hidden(file: UnitFile) -> str:
    """Label the unit that measures a part by the part's content, so that its file is found by that.

    Not by the part's unit: a recording that was only touched gives the same part under another name.
    """
    return f"{file.label}-{file.sha256[:12]}-values"


def _reported(config: Config, context: StageContext, report: StageReport) -> StageReport:
    """Write the page of histograms; return the report with medians in place of the bins."""
    from flowse.quality_page import quality_page, quantile

    corpora = [_of_corpus(config, name, of_corpus) for name, of_corpus in context.accounts().items()]
    with context.write("report.html") as path:
        path.write_text(quality_page(corpora), encoding="utf-8")
    context.tracker.artifact(context.folder / "report.html")
    medians = {
        f"{of.corpus} median {measure.name}": median
        for of in corpora
        for measure in MEASURES
        if (median := quantile(measure, of.histograms[measure.name], 0.5)) is not None
    }
    notes = (*report.notes, f"histograms: {context.folder / 'report.html'}")
    return dataclasses.replace(report, metrics=medians, notes=notes)


def _of_corpus(config: Config, corpus: str, report: StageReport) -> CorpusQuality:
    from flowse.quality_page import CorpusQuality

    return CorpusQuality(
        corpus=corpus,
        limits=config.limits_of(corpus),
        utterances=report.taken.utterances - sum(tally.utterances for tally in report.failed.values()),
        hours=report.taken.hours,
        histograms={
            measure.name: [round(report.metrics.get(f"bin {measure.name} {index}", 0)) for index in range(measure.bins)]
            for measure in MEASURES
        },
        dropped={reason: tally.utterances for reason, tally in report.dropped.items()},
    )

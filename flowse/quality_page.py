"""The page of a quality gate: the distribution of the measured values in each corpus, and what the thresholds drop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flowse.quality import MEASURES, Measure, QualityLimits
from flowse.report.page import NOT_THERE, Cell, Table, render
from flowse.report.plots import Plot, histogram_plot


@dataclass(frozen=True, kw_only=True)
class CorpusQuality:
    """What was measured of one corpus.

    Attributes:
        corpus: Its name.
        limits: Its thresholds.
        utterances: Number of utterances that were measured.
        hours: Their length.
        histograms: Number of utterances in each bin of a measure, by the measure's name.
        dropped: Number of utterances that were dropped, by reason.
    """

    corpus: str
    limits: QualityLimits
    utterances: int
    hours: float
    histograms: Mapping[str, Sequence[int]]
    dropped: Mapping[str, int]


def quantile(measure: Measure, counts: Sequence[int], share: float) -> float | None:
    """Return the value below which a share of utterances lies, as the lower edge of its bin; None: there are none."""
    total = sum(counts)
    reached = 0
    for index, count in enumerate(counts):
        reached += count
        if count and reached >= share * total:
            return measure.low + index * measure.step
    return None


def quality_page(corpora: Sequence[CorpusQuality]) -> str:
    """Write the page: a table of each measure and a histogram a corpus and measure, thresholds drawn.

    Args:
        corpora: At least one.
    """
    measures = [measure for measure in MEASURES if any(sum(of.histograms[measure.name]) for of in corpora)]
    total = sum(of.utterances for of in corpora)
    gone = sum(sum(of.dropped.values()) for of in corpora)
    return render(
        "Quality of the speech",
        lead=f"{total:,} utterances ({sum(of.hours for of in corpora):,.2f} h) were measured, {gone:,} are dropped.",
        tables=[_dropped_table(corpora), *(_values_table(measure, corpora) for measure in measures)],
        plots=[plot for measure in measures for plot in _plots(measure, corpora)],
    )


def _dropped_table(corpora: Sequence[CorpusQuality]) -> Table:
    rows: list[Sequence[str | Cell]] = [
        (
            of.corpus,
            f"{of.utterances:,}",
            *(_cell(of.dropped.get(measure.reason, 0), of.utterances) for measure in MEASURES),
        )
        for of in corpora
    ]
    return Table(
        title="Dropped",
        columns=("corpus", "measured", *(measure.reason for measure in MEASURES)),
        rows=rows,
        note="An utterance counts under the first threshold that it misses, from left to right.",
    )


def _cell(count: int, total: int) -> Cell:
    return Cell(text=f"{count:,} ({count / total:.1%})", kind="bad") if count else Cell(text="0", kind="dim")


def _values_table(measure: Measure, corpora: Sequence[CorpusQuality]) -> Table:
    shares = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95)
    rows = [
        (
            of.corpus,
            *(_number(quantile(measure, of.histograms[measure.name], share)) for share in shares),
            _number(of.limits.of(measure)),
        )
        for of in corpora
    ]
    return Table(
        title=measure.label,
        columns=("corpus", *(f"{share:.0%} lie below" for share in shares), "threshold"),
        rows=rows,
        note=f"Lower edges of bins that are {measure.step:g} wide.",
    )


def _number(value: float | None) -> str:
    return NOT_THERE if value is None else f"{value:,.6g}"


def _plots(measure: Measure, corpora: Sequence[CorpusQuality]) -> list[Plot]:
    """Draw one histogram for each corpus, all over the same bins: those that any corpus uses."""
    used = [index for of in corpora for index, count in enumerate(of.histograms[measure.name]) if count]
    limits = [measure.bin_of(limit) for of in corpora if (limit := of.limits.of(measure)) is not None]
    first, last = max(0, min([*used, *limits]) - 1), min(measure.bins, max([*used, *limits]) + 2)
    return [
        histogram_plot(
            f"{measure.label}: {of.corpus}",
            edges=[measure.low + index * measure.step for index in range(first, last + 1)],
            counts=of.histograms[measure.name][first:last],
            label=measure.label,
            threshold=of.limits.of(measure),
            passes_above=measure.side == "least",
        )
        for of in corpora
        if sum(of.histograms[measure.name])
    ]

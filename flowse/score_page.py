"""The page of scores and examples that evaluate leaves, and its short form for the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from flowse.metrics.bootstrap import Interval
from flowse.metrics.scores import METRICS, Metric, Score, Summary, worst
from flowse.report import Example, Table, grouped_plot, render, scatter_plot


def _lag_note(scores: Sequence[Score]) -> str:
    lags = [score.lag_ms for score in scores if score.signal == "enhanced" and score.lag_ms is not None]
    alike = [score.alignment for score in scores if score.signal == "enhanced" and score.alignment is not None]
    if not lags:
        return ""
    return (
        "* Compares sample with sample: not meaningful for non-aligned output. Measured lag of the enhanced speech: "
        f"median {np.median(np.abs(lags)):.1f} ms, largest {max(np.abs(lags)):.1f} ms; waveform correlation: median "
        f"{np.median(alike):.2f}."
    )


def _by_metric(summaries: Sequence[Summary], group: str = "all") -> dict[str, Summary]:
    return {one.metric: one for one in summaries if one.group == group}


def _gain_cell(metric: Metric, gain: Interval) -> str | tuple[str, str]:
    text = f"{gain.value:+.{metric.digits}f} [{gain.low:+.{metric.digits}f}, {gain.high:+.{metric.digits}f}]"
    if not gain.sure:
        return (text, "dim")
    return (text, "good" if (gain.value < 0) == metric.lower else "bad")


def _score_table(title: str, summaries: Sequence[Summary], group: str, note: str) -> Table:
    found = _by_metric(summaries, group)
    previous = any(one.previous is not None for one in found.values())
    columns = ["", "noisy", "enhanced", "clean", "enhanced − noisy, 95 %", "n"]
    if previous:
        columns[4:4] = ["previous"]
        columns.insert(-1, "enhanced − previous, 95 %")
    rows: list[list[str | tuple[str, str]]] = []
    for metric in METRICS:
        one = found.get(metric.name)
        if one is None:
            continue
        number = f".{metric.digits}f"
        row: list[str | tuple[str, str]] = [
            metric.label,
            format(one.noisy, number),
            format(one.enhanced, number),
            "" if one.clean is None else format(one.clean, number),
            _gain_cell(metric, one.gain),
            str(one.recordings),
        ]
        if previous:
            row[4:4] = ["" if one.previous is None else format(one.previous, number)]
            row.insert(-1, "" if one.gain_previous is None else _gain_cell(metric, one.gain_previous))
        rows.append(row)
    return Table(title=title, columns=columns, rows=rows, note=note)


def _group_table(summaries: Sequence[Summary]) -> Table | None:
    """Enhanced minus noisy, group by group."""
    groups = list(dict.fromkeys(one.group for one in summaries if one.group != "all"))
    if not groups:
        return None
    shown = [metric for metric in METRICS if metric.name in ("ovrl", "bak", "wer", "speaker_cosine", "estoi")]
    rows: list[list[str | tuple[str, str]]] = []
    for group in groups:
        found = _by_metric(summaries, group)
        cells = [_gain_cell(metric, found[metric.name].gain) if metric.name in found else "" for metric in shown]
        rows.append([group, *cells, str(max(one.recordings for one in found.values()))])
    return Table(title="Enhanced − noisy by group", columns=["", *(metric.label for metric in shown), "n"], rows=rows)


def _worst_table(scores: Sequence[Score]) -> Table:
    rows: list[list[str | tuple[str, str]]] = [
        [
            noisy.key,
            noisy.language,
            "" if noisy.snr_db is None else f"{noisy.snr_db:.1f}",
            f"{noisy.ovrl:.2f}",
            f"{enhanced.ovrl:.2f}",
            (f"{enhanced.ovrl - noisy.ovrl:+.2f}", "bad" if enhanced.ovrl < noisy.ovrl else ""),
        ]
        for noisy, enhanced in worst(scores)
    ]
    return Table(
        title="The ten that gained least",
        columns=["recording", "language", "SNR, dB", "overall, noisy", "enhanced", "gain"],
        rows=rows,
    )


def page(
    summaries: Sequence[Summary],
    scores: Sequence[Score],
    facts: Mapping[str, str],
    examples: Sequence[Example],
    *,
    with_text: bool,
) -> str:
    """Write the page.

    Args:
        summaries: What the scores say together.
        scores: Of every version of every recording.
        facts: What was scored, with what.
        examples: To listen to.
        with_text: Whether the model was given the transcripts, which is then said.
    """
    found = _by_metric(summaries)
    gain = found["ovrl"].gain
    lead = (
        f"DNSMOS overall goes from {found['ovrl'].noisy:.2f} to {found['ovrl'].enhanced:.2f} "
        f"({gain.value:+.2f}, 95 % interval {gain.low:+.2f} to {gain.high:+.2f}) on "
        f"{found['ovrl'].recordings} recordings."
    )
    if with_text:
        lead += " The model was given the transcripts: its word errors are not those of an honest test."
    tables = [
        _score_table("Scores", summaries, "all", _lag_note(scores)),
        _group_table(summaries),
        _worst_table(scores),
    ]
    noisy = {score.key: score.ovrl for score in scores if score.signal == "noisy"}
    enhanced = {score.key: score.ovrl for score in scores if score.signal == "enhanced"}
    plots = [
        scatter_plot(
            "One dot a recording: above the line it became better.",
            list(noisy.values()),
            [enhanced[key] for key in noisy],
            "DNSMOS overall",
        )
    ]
    buckets = [one for one in summaries if one.metric == "ovrl" and one.group.startswith("SNR ")]
    if buckets:
        series = {
            name: [float(getattr(one, name) or math.nan) for one in buckets] for name in ("noisy", "enhanced", "clean")
        }
        names = [one.group.removeprefix("SNR ").removesuffix(" dB") for one in buckets]
        plots.append(grouped_plot("DNSMOS overall by SNR of the input, in dB.", names, series, "DNSMOS overall"))
    return render(
        "Speech enhancement: scores and examples",
        lead=lead,
        facts=facts,
        tables=[table for table in tables if table is not None],
        plots=plots,
        examples=examples,
    )


def lines(summaries: Sequence[Summary]) -> list[str]:
    """Write the table of all recordings for a terminal."""
    table = [f"{'':<18}{'noisy':>8}{'enhanced':>10}{'clean':>8}   gain, 95 %"]
    found = _by_metric(summaries)
    for metric in METRICS:
        one = found.get(metric.name)
        if one is not None:
            clean = "" if one.clean is None else f"{one.clean:.{metric.digits}f}"
            cell = _gain_cell(metric, one.gain)
            table.append(
                f"{metric.label:<18}{one.noisy:>8.{metric.digits}f}{one.enhanced:>10.{metric.digits}f}{clean:>8}   "
                f"{cell if isinstance(cell, str) else cell[0]}"
            )
    return table

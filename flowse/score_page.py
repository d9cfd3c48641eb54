"""The page of scores and examples that evaluate writes, and its short form for the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from flowse.metrics.bootstrap import Interval
from flowse.metrics.evaluation import Evaluation
from flowse.metrics.scores import METRICS, SIGNALS, Metric, Score, Summary, Versions, worst
from flowse.metrics.testsets import Item
from flowse.report import Example, Table, Track, grouped_plot, render, scatter_plot

Cell = str | tuple[str, str]
"""A cell of a table: its text, and perhaps its class."""


def _lag_note(scores: Sequence[Score]) -> str:
    """Warn of metrics that need aligned output, with the lag and correlation that were measured."""
    lags = [score.lag_ms for score in scores if score.signal == "enhanced" and score.lag_ms is not None]
    correlations = [score.alignment for score in scores if score.signal == "enhanced" and score.alignment is not None]
    if not lags:
        return ""
    return (
        "* Compares sample with sample: not meaningful for non-aligned output. Measured lag of the enhanced speech: "
        f"median {np.median(np.abs(lags)):.1f} ms, largest {max(np.abs(lags)):.1f} ms; waveform correlation: median "
        f"{np.median(correlations):.2f}."
    )


def _by_metric(summaries: Sequence[Summary], group: str = "all") -> dict[str, Summary]:
    return {summary.metric: summary for summary in summaries if summary.group == group}


def _gain_cell(metric: Metric, gain: Interval) -> Cell:
    """Write a gain with its interval; good or bad only where the interval leaves out zero."""
    text = f"{gain.value:+.{metric.digits}f} [{gain.low:+.{metric.digits}f}, {gain.high:+.{metric.digits}f}]"
    if not gain.excludes_zero:
        return (text, "dim")
    return (text, "good" if (gain.value < 0) == metric.lower_is_better else "bad")


def _score_table(title: str, summaries: Sequence[Summary], group: str, note: str) -> Table:
    found = _by_metric(summaries, group)
    previous = any(summary.previous is not None for summary in found.values())
    columns = ["", "noisy", "enhanced", "clean", "enhanced − noisy, 95 %", "n"]
    if previous:
        columns[4:4] = ["previous"]
        columns.insert(-1, "enhanced − previous, 95 %")
    rows: list[list[Cell]] = []
    for metric in METRICS:
        summary = found.get(metric.name)
        if summary is None:
            continue
        number = f".{metric.digits}f"
        row: list[Cell] = [
            metric.label,
            format(summary.noisy, number),
            format(summary.enhanced, number),
            "" if summary.clean is None else format(summary.clean, number),
            _gain_cell(metric, summary.gain),
            str(summary.recordings),
        ]
        if previous:
            row[4:4] = ["" if summary.previous is None else format(summary.previous, number)]
            row.insert(-1, "" if summary.gain_previous is None else _gain_cell(metric, summary.gain_previous))
        rows.append(row)
    return Table(title=title, columns=columns, rows=rows, note=note)


def _group_table(summaries: Sequence[Summary]) -> Table | None:
    """Lay out enhanced minus noisy, group by group; None if there are no groups."""
    groups = list(dict.fromkeys(summary.group for summary in summaries if summary.group != "all"))
    if not groups:
        return None
    shown = [metric for metric in METRICS if metric.name in ("ovrl", "bak", "wer", "speaker_cosine", "estoi")]
    rows: list[list[Cell]] = []
    for group in groups:
        found = _by_metric(summaries, group)
        cells = [_gain_cell(metric, found[metric.name].gain) if metric.name in found else "" for metric in shown]
        rows.append([group, *cells, str(max(summary.recordings for summary in found.values()))])
    return Table(title="Enhanced − noisy by group", columns=["", *(metric.label for metric in shown), "n"], rows=rows)


def _worst_table(scores: Sequence[Score]) -> Table:
    rows: list[list[Cell]] = [
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


def facts(record: Evaluation, recogniser: str, speaker: str) -> dict[str, str]:
    """List what was scored, with what, for the end of the page.

    Args:
        record: The evaluation.
        recogniser: Model that counted word errors; empty: none.
        speaker: Model that compared speakers; empty: none.
    """
    return {
        "model": Path(record.model).name or "trained here",
        "recordings": str(record.recordings),
        "sampling": str(record.sampling),
        "vocoder": Path(record.vocoder).name or "the model's own",
        "recogniser": Path(recogniser).name or "none (no WER)",
        "speaker encoder": Path(speaker).name or "none (no speaker similarity)",
    }


def page(record: Evaluation, scores: Sequence[Score], facts: Mapping[str, str], examples: Sequence[Example]) -> str:
    """Write the page.

    Args:
        record: The evaluation.
        scores: Of every version of every recording.
        facts: What was scored, with what, see `facts`.
        examples: Recordings to listen to, see `example`.
    """
    summaries = record.summary
    found = _by_metric(summaries)
    gain = found["ovrl"].gain
    lead = (
        f"DNSMOS overall goes from {found['ovrl'].noisy:.2f} to {found['ovrl'].enhanced:.2f} "
        f"({gain.value:+.2f}, 95 % interval {gain.low:+.2f} to {gain.high:+.2f}) on "
        f"{found['ovrl'].recordings} recordings."
    )
    if record.with_text:
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
    buckets = [row for row in summaries if row.metric == "ovrl" and row.group.startswith("SNR ")]
    if buckets:
        series = {
            name: [float(getattr(row, name) or math.nan) for row in buckets] for name in ("noisy", "enhanced", "clean")
        }
        names = [row.group.removeprefix("SNR ").removesuffix(" dB") for row in buckets]
        plots.append(grouped_plot("DNSMOS overall by SNR of the input, in dB.", names, series, "DNSMOS overall"))
    return render(
        "Speech enhancement: scores and examples",
        lead=lead,
        facts=facts,
        tables=[table for table in tables if table is not None],
        plots=plots,
        examples=examples,
    )


def example(item: Item, scores: Versions, audio: Mapping[str, tuple[np.ndarray, int]]) -> Example:
    """Make an example of a scored recording.

    Args:
        item: The recording.
        scores: By version.
        audio: Samples of each version, and their sampling rate in Hz.
    """
    tracks = [
        Track(
            label=signal,
            samples=audio[signal][0],
            sample_rate=audio[signal][1],
            facts=_track_facts(scores[signal]),
            text=scores[signal].heard,
        )
        for signal in SIGNALS
        if signal in scores
    ]
    facts = {"language": item.language, "speaker": item.speaker, "set": item.test_set}
    if item.snr_db is not None:
        facts["SNR"] = f"{item.snr_db:.1f} dB"
    shown = {name: value for name, value in facts.items() if value}
    return Example(title=item.key, tracks=tracks, facts=shown, text=item.text)


def _track_facts(score: Score) -> dict[str, str]:
    facts = {"overall": f"{score.ovrl:.2f}", "speech": f"{score.sig:.2f}", "background": f"{score.bak:.2f}"}
    if score.errors is not None and score.tokens:
        facts["WER"] = f"{score.errors / score.tokens:.0%}"
    if score.speaker_cosine is not None:
        facts["speaker"] = f"{score.speaker_cosine:.2f}"
    if score.pesq_wb is not None:
        facts["PESQ *"] = f"{score.pesq_wb:.2f}"
    return facts


def lines(summaries: Sequence[Summary]) -> list[str]:
    """Write the table of all recordings for a terminal."""
    table = [f"{'':<18}{'noisy':>8}{'enhanced':>10}{'clean':>8}   gain, 95 %"]
    found = _by_metric(summaries)
    for metric in METRICS:
        summary = found.get(metric.name)
        if summary is not None:
            noisy, enhanced = (f"{value:.{metric.digits}f}" for value in (summary.noisy, summary.enhanced))
            clean = "" if summary.clean is None else f"{summary.clean:.{metric.digits}f}"
            cell = _gain_cell(metric, summary.gain)
            gain = cell if isinstance(cell, str) else cell[0]
            table.append(f"{metric.label:<18}{noisy:>8}{enhanced:>10}{clean:>8}   {gain}")
    return table

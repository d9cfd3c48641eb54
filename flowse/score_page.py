"""The page of scores and recordings that evaluate writes, and its short form for the terminal."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from flowse.metrics.bootstrap import Interval
from flowse.metrics.evaluation import Evaluation
from flowse.metrics.scores import (
    METRICS,
    Metric,
    Score,
    Signal,
    Summary,
    Versions,
    by_recording,
    has_speech,
    loudest_left,
    summarise,
    worst,
)
from flowse.report.page import NOT_THERE, Cell, Column, Listening, Recording, Table, Track, number_cell, render
from flowse.report.plots import grouped_plot, scatter_plot

HEARD: tuple[Signal, ...] = ("noisy", "enhanced", "clean", "previous")
"""Versions in the order of the player's keys 1, 2, 3 and 4."""

Audio = Mapping[str, Mapping[str, bytes | str]]
"""Audio by recording and version: FLAC that the page holds, or the address of a FLAC file beside the page."""

_BY_MODELS = ("errors", "tokens", "errors_clean", "tokens_clean", "speaker_cosine")
_BY_NAME = {metric.name: metric for metric in METRICS}
_INTERVAL = "with the 95 % interval over resampled recordings; coloured where the interval leaves out 0"


@dataclass(frozen=True, kw_only=True)
class Previous:
    """An earlier evaluation of recordings that are in this one too.

    Attributes:
        name: Which evaluation it is, for people.
        scores: What its model made of each recording, by the recording's key.
    """

    name: str
    scores: Mapping[str, Score] = field(default_factory=dict)


def beside(scores: Sequence[Score], earlier: Sequence[Score], name: str) -> Previous | None:
    """Find what an earlier evaluation made of the same noisy recordings.

    Args:
        scores: Of this evaluation.
        earlier: Of the other one.
        name: Of the other one, for people.

    Returns:
        None if it had none of the recordings: under the same name may be another mixture.
    """
    then = by_recording(earlier)
    found: dict[str, Score] = {}
    for key, versions in by_recording(scores).items():
        if "enhanced" not in (before := then.get(key, {})) or "noisy" not in before:
            continue
        here, there = versions["noisy"], before["noisy"]
        if all(getattr(here, name) == getattr(there, name) for name in ("seconds", "snr_db", "peak", "ovrl", "text")):
            # Another recogniser or speaker encoder gives the noisy version another score: its scores are no comparison.
            other: dict[str, Any] = {name: None for name in _BY_MODELS if getattr(here, name) != getattr(there, name)}
            found[key] = dataclasses.replace(before["enhanced"], signal="previous", **other)
    return Previous(name=name, scores=found) if found else None


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


def _gain_cell(metric: Metric, gain: Interval | None) -> Cell:
    """Write a gain with its interval; good or bad only where the interval leaves out zero."""
    if gain is None or not math.isfinite(gain.value):
        return Cell(text=NOT_THERE, kind="dim")
    low, high = (
        format(end, f"+.{metric.digits}f") if math.isfinite(end) else NOT_THERE for end in (gain.low, gain.high)
    )
    good = "good" if (gain.value < 0) == metric.lower_is_better else "bad"
    return Cell(
        text=format(gain.value, f"+.{metric.digits}f"),
        detail=f"[{low}, {high}]",
        kind=good if gain.excludes_zero else "dim",
    )


def _score_table(summaries: Sequence[Summary], compared: Sequence[Summary], note: str) -> Table:
    """Lay out the means of all recordings; the gain stands beside the metric's name.

    Args:
        summaries: Of this evaluation.
        compared: Of the recordings that the previous model enhanced too; empty: there is no previous model.
        note: Goes under the table.
    """
    found, then = _by_metric(summaries), _by_metric(compared)
    columns = [
        Cell(text="metric"),
        Cell(text="gain", tip=f"Enhanced − noisy, {_INTERVAL}."),
        *(Cell(text=signal) for signal in HEARD[:3]),
    ]
    if then:
        columns.append(Cell(text="previous", tip="What the previous model made of the recordings."))
        columns.append(Cell(text="enhanced − previous", tip=f"On the recordings that both have enhanced, {_INTERVAL}."))
    columns.append(Cell(text="n", tip="Recordings that have the metric in every version compared."))
    rows: list[list[Cell]] = []
    for metric in METRICS:
        summary = found.get(metric.name)
        if summary is None:
            continue
        row = [
            Cell(text=metric.label, tip=metric.explained),
            _gain_cell(metric, summary.gain),
            *(number_cell(value, metric.digits) for value in (summary.noisy, summary.enhanced, summary.clean)),
        ]
        if then:
            other = then.get(metric.name)
            row.append(number_cell(other.previous if other else None, metric.digits))
            row.append(_gain_cell(metric, other.gain_previous if other else None))
        rows.append([*row, Cell(text=str(summary.recordings))])
    return Table(title="Scores", columns=columns, rows=rows, note=note)


def _group_table(summaries: Sequence[Summary]) -> Table | None:
    """Lay out enhanced minus noisy, group by group; None if there are no groups."""
    groups = list(dict.fromkeys(summary.group for summary in summaries if summary.group != "all"))
    if not groups:
        return None
    named = ("ovrl", "bak", "wer", "speaker_cosine", "estoi", "residual_db")
    shown = [_BY_NAME[name] for name in named if any(summary.metric == name for summary in summaries)]
    rows: list[list[str | Cell]] = []
    for group in groups:
        found = _by_metric(summaries, group)
        cells = [_gain_cell(metric, found[metric.name].gain if metric.name in found else None) for metric in shown]
        rows.append([group, *cells, str(max(summary.recordings for summary in found.values()))])
    columns = [Cell(text="group"), *(Cell(text=metric.label, tip=metric.explained) for metric in shown), Cell(text="n")]
    return Table(title="Enhanced − noisy by group", columns=columns, rows=rows)


def _rate(errors: int | None, tokens: int | None) -> float | None:
    return errors / tokens if errors is not None and tokens else None


def _listening(recordings: Sequence[Versions], audio: Audio) -> Listening:
    """List the recordings in their order; columns without any value are left out.

    Of a recording without speech only the level is shown: what listeners would say of its speech means nothing.
    """
    overall, wer, speaker, left = (_BY_NAME[name] for name in ("ovrl", "wer", "speaker_cosine", "residual_db"))
    columns: list[tuple[Column, list[Cell]]] = []

    def add(column: Column, cells: list[Cell]) -> None:
        if any(cell.text not in ("", NOT_THERE) for cell in cells):
            columns.append((column, cells))

    def overall_of(versions: Versions, signal: Signal) -> float | None:
        return versions[signal].ovrl if signal in versions and has_speech(versions) else None

    gains = [
        versions["enhanced"].ovrl - versions["noisy"].ovrl if has_speech(versions) else None for versions in recordings
    ]
    tip = f"DNSMOS overall, enhanced − noisy. {overall.explained}"
    add(
        Column(head="gain", tip=tip, sorted=True),
        [number_cell(gain, 2, sign=True, kind="bad" if (gain or 0) < 0 else "") for gain in gains],
    )
    for signal in HEARD[:2] + HEARD[3:]:
        cells = [number_cell(overall_of(versions, signal), 2) for versions in recordings]
        add(Column(head=signal, tip=f"DNSMOS overall, {signal}. {overall.explained}"), cells)
    for signal in HEARD[:2]:
        rates = [_rate(versions[signal].errors, versions[signal].tokens) for versions in recordings]
        cells = [_percent_cell(rate) for rate in rates]
        add(Column(head=f"WER {signal}", tip=wer.explained), cells)
    cells = [number_cell(versions["enhanced"].speaker_cosine, 2) for versions in recordings]
    add(Column(head="speaker", tip=speaker.explained), cells)
    for signal in HEARD[:2]:
        cells = [number_cell(versions[signal].residual_db, 1) for versions in recordings]
        add(Column(head=f"no speech, {signal}, dBFS", tip=left.explained), cells)
    noisy = [versions["noisy"] for versions in recordings]
    add(Column(head="SNR, dB", tip="Of the noisy recording."), [number_cell(score.snr_db, 1) for score in noisy])
    add(Column(head="length, s"), [number_cell(score.seconds, 1) for score in noisy])
    rooms = {None: "", True: "reverberant", False: "dry"}
    for head, words in (
        ("language", [score.language for score in noisy]),
        ("set", [score.test_set for score in noisy]),
        ("room", [rooms[score.reverberant] for score in noisy]),
    ):
        if len(set(words)) > 1:  # a lone value tells nothing of a recording
            add(Column(head=head, numbers=False, choices=True), [Cell(text=word) for word in words])
    rows = zip(*(cells for _, cells in columns), strict=True)
    return Listening(
        title="Recordings by DNSMOS overall, those that gained least first",
        columns=[column for column, _ in columns],
        recordings=[
            recording(versions, audio.get(versions["noisy"].key, {}), row)
            for versions, row in zip(recordings, rows, strict=True)
        ],
    )


def _percent_cell(share: float | None) -> Cell:
    return number_cell(share, 2) if share is None else Cell(text=f"{share:.0%}", value=share)


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


def page(
    record: Evaluation,
    scores: Sequence[Score],
    facts: Mapping[str, str],
    audio: Audio,
    previous: Previous | None = None,
) -> str:
    """Write the page.

    Args:
        record: The evaluation.
        scores: Of every version of every recording.
        facts: What was scored, with what, see `facts`.
        audio: Of the recordings; what has none can only be read about.
        previous: An earlier evaluation, shown beside this one; it changes none of this one's figures.
    """
    summaries = record.summary
    found = _by_metric(summaries)
    overall = _BY_NAME["ovrl"]
    lead = " ".join(_leads(found))
    if record.with_text:
        lead += " The model was given the transcripts: its word errors are not those of an honest test."
    compared: Sequence[Summary] = summaries if any(row.previous is not None for row in summaries) else ()
    shown = {key: dict(versions) for key, versions in by_recording(scores).items()}
    if previous is not None:
        for key, score in previous.scores.items():
            shown[key]["previous"] = score
        common = [score for key in previous.scores for score in shown[key].values()]
        compared = [row for row in summarise(common, 0, 2000) if row.group == "all"]
        if then := _by_metric(compared).get("ovrl"):
            cell = _gain_cell(overall, then.gain_previous)
            lead += (
                f" Against the previous evaluation ({previous.name}) it is {cell.text} {cell.detail} on the "
                f"{then.recordings} recordings that both have."
            )
    tables = [_score_table(summaries, compared, _lag_note(scores)), _group_table(summaries)]
    recordings = [shown[noisy.key] for noisy, _ in worst(scores, len(shown))]
    plots = []
    if recordings:
        before, after = ([versions[signal].ovrl for versions in recordings] for signal in HEARD[:2])
        title = "One dot a recording: above the line it became better."
        plots.append(scatter_plot(title, before, after, "DNSMOS overall"))
    recordings += [shown[noisy.key] for _, noisy, _ in loudest_left(scores, len(shown))]
    buckets = [row for row in summaries if row.metric == "ovrl" and row.group.startswith("SNR ")]
    if buckets:
        series = {
            name: [math.nan if (value := getattr(row, name)) is None else float(value) for row in buckets]
            for name in ("noisy", "enhanced", "clean")
            if any(getattr(row, name) is not None for row in buckets)
        }
        names = [row.group.removeprefix("SNR ").removesuffix(" dB") for row in buckets]
        plots.append(grouped_plot("DNSMOS overall by SNR of the input, in dB.", names, series, "DNSMOS overall"))
    return render(
        "Speech enhancement: scores and recordings",
        lead=lead,
        facts=dict(facts) | ({"previous": previous.name} if previous else {}),
        tables=[table for table in tables if table is not None],
        plots=plots,
        listening=_listening(recordings, audio),
    )


def _leads(found: Mapping[str, Summary]) -> Iterator[str]:
    """Yield the sentences that say how it went: with speech, and with recordings without."""
    if (ovrl := found.get("ovrl")) is not None:
        yield (
            f"DNSMOS overall goes from {ovrl.noisy:.2f} to {ovrl.enhanced:.2f} ({ovrl.gain.value:+.2f}, 95 % interval "
            f"{ovrl.gain.low:+.2f} to {ovrl.gain.high:+.2f}) on {ovrl.recordings} recordings."
        )
    if (left := found.get("residual_db")) is not None:
        yield (
            f"Where nobody speaks, the level goes from {left.noisy:.1f} to {left.enhanced:.1f} dBFS on "
            f"{left.recordings} recordings."
        )


def recording(versions: Versions, audio: Mapping[str, bytes | str], cells: Sequence[str | Cell] = ()) -> Recording:
    """Describe a scored recording for the player.

    Args:
        versions: Its scores, by version.
        audio: Of each version: FLAC that the page holds, or the address of a file beside the page.
        cells: Its row in the table.
    """
    tracks = [
        Track(
            label=signal,
            flac=held if isinstance(held := audio[signal], bytes) else b"",
            address=held if isinstance(held, str) else "",
            facts=_track_facts(versions[signal]),
            text=versions[signal].heard,
        )
        for signal in HEARD
        if signal in versions and signal in audio
    ]
    noisy = versions["noisy"]
    facts = {"language": noisy.language, "speaker": noisy.speaker, "set": noisy.test_set}
    if noisy.snr_db is not None:
        facts["SNR"] = f"{noisy.snr_db:.1f} dB"
    shown = {name: value for name, value in facts.items() if value}
    return Recording(title=noisy.key, tracks=tracks, cells=cells, facts=shown, text=noisy.text)


def _track_facts(score: Score) -> dict[str, str]:
    if score.residual_db is not None:
        return {"level": f"{score.residual_db:.1f} dBFS"}
    facts = {"overall": score.ovrl, "speech": score.sig, "background": score.bak}
    shown = {name: number_cell(value, 2).text for name, value in facts.items()}
    if score.errors is not None and score.tokens:
        shown["WER"] = f"{score.errors / score.tokens:.0%}"
    if score.speaker_cosine is not None:
        shown["speaker"] = f"{score.speaker_cosine:.2f}"
    if score.pesq_wb is not None:
        shown["PESQ *"] = f"{score.pesq_wb:.2f}"
    return shown


def lines(summaries: Sequence[Summary]) -> list[str]:
    """Write the table of all recordings for a terminal."""
    table = [f"{'':<18}{'noisy':>8}{'enhanced':>10}{'clean':>8}   gain, 95 %"]
    found = _by_metric(summaries)
    for metric in METRICS:
        summary = found.get(metric.name)
        if summary is not None:
            noisy, enhanced = (f"{value:.{metric.digits}f}" for value in (summary.noisy, summary.enhanced))
            clean = "" if summary.clean is None else f"{summary.clean:.{metric.digits}f}"
            gain = _gain_cell(metric, summary.gain)
            table.append(f"{metric.label:<18}{noisy:>8}{enhanced:>10}{clean:>8}   {gain.text} {gain.detail}".rstrip())
    return table

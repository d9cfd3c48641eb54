"""The page of a report: one HTML file with tables, plots and a player that switches between versions of a recording."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from markupsafe import Markup

from flowse.audio.flac import from_flac_bytes
from flowse.names import readable
from flowse.report.plots import Plot
from flowse.report.spectrogram import spectrogram_png

EMBEDDED_BYTES = 12_000_000
"""FLAC bytes that a page holds at most; it is about a third larger for being text. Further audio lies beside it."""

NOT_THERE = "–"
"""Shown where a value is missing or is no number."""


@dataclass(frozen=True, kw_only=True)
class Track:
    """One version of a recording.

    Attributes:
        label: Name of the version, e.g. "noisy".
        flac: The audio, mono FLAC, which the page then holds and draws; empty: it lies beside the page.
        address: Address of the FLAC file beside the page, relative to the page, with slashes; empty: there is none.
        facts: Scores and other values by name, shown under the version.
        text: The recogniser's transcript.
    """

    label: str
    flac: bytes = b""
    address: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    text: str = ""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: What it shows.
        detail: Said beside the text, or below it where the page is narrow, e.g. an interval.
        value: What it is sorted by, of a column of numbers; None: it stands at the end.
        kind: "good", "bad", "dim" or empty.
        tip: Explains the cell to who points at it or reaches it by keyboard.
    """

    text: str
    detail: str = ""
    value: float | None = None
    kind: str = ""
    tip: str = ""


def number_cell(value: float | None, digits: int, *, sign: bool = False, kind: str = "") -> Cell:
    """Return the cell of a number; of None, NaN and infinity one that says that there is none."""
    if value is None or not math.isfinite(value):
        return Cell(text=NOT_THERE, kind="dim")
    return Cell(text=format(value, f"{'+' if sign else ''}.{digits}f"), value=value, kind=kind)


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of the table of recordings.

    Attributes:
        head: Its name.
        tip: Explains it: what it is, its range, which direction is better.
        numbers: Whether it holds numbers, which are right-aligned and sorted by value.
        choices: Whether the page offers to show only the recordings with one of its values.
        sorted: Whether the recordings come in its ascending order.
    """

    head: str
    tip: str = ""
    numbers: bool = True
    choices: bool = False
    sorted: bool = False


@dataclass(frozen=True, kw_only=True)
class Recording:
    """A recording in all its versions.

    Attributes:
        title: Its name.
        tracks: Its versions, in the order in which they are shown; empty: it can only be read about.
        cells: Its row in the table, without the name.
        facts: What is known of it, by name.
        text: The reference transcript.
    """

    title: str
    tracks: Sequence[Track] = ()
    cells: Sequence[str | Cell] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    text: str = ""


@dataclass(frozen=True, kw_only=True)
class Listening:
    """The part of a page that plays recordings and lists them.

    Attributes:
        title: Heading of the table.
        columns: Its columns, without that of the names.
        recordings: In the order in which they are shown; the first one with audio is in the player.
        note: A sentence under the table.
    """

    title: str
    columns: Sequence[Column]
    recordings: Iterable[Recording]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table.

    Attributes:
        title: Heading.
        columns: Heads of the columns; the first column is left-aligned, the others are right-aligned.
        rows: Cells; plain texts where there is no more to say.
        note: A sentence under the table.
    """

    title: str
    columns: Sequence[str | Cell]
    rows: Sequence[Sequence[str | Cell]]
    note: str = ""


def render(
    title: str,
    *,
    lead: str = "",
    facts: Mapping[str, str] | None = None,
    tables: Sequence[Table] = (),
    plots: Sequence[Plot] = (),
    listening: Listening | None = None,
) -> str:
    """Write the page as one HTML document that needs no server; its policy forbids all scripts but its own.

    Args:
        title: Title of the page.
        lead: A sentence that says what was found.
        facts: Model, data and settings, by name; at the end of the page.
        tables: Shown first.
        plots: Shown after the recordings.
        listening: Recordings to hear, shown after the tables.
    """
    rows: list[_Row] = []
    sounds: list[dict[str, Any]] = []
    taken: set[str] = set()
    for recording in listening.recordings if listening else ():
        row = _Row.of(recording, taken)
        rows.append(row)
        taken.add(row.name)
        if any(track.flac for track in recording.tracks):
            sounds.append({"name": row.name, "tracks": [_sound(track) for track in recording.tracks]})
    page: str = _template().render(
        title=title,
        lead=lead,
        facts=facts or {},
        tables=[_plain(table) for table in tables],
        plots=[(plot.title, Markup(plot.svg)) for plot in plots],
        listening=listening,
        rows=rows,
        choices=_choices(listening, rows) if listening else {},
        most=max((len(row.recording.tracks) for row in rows), default=0),
        heard=[row.described for row in rows if row.recording.tracks],
        sounds=sounds,
        style=Markup(_source("page.css")),
        script=Markup(_source("page.js")),
        policy=_policy(),
    )
    return page


@dataclass(frozen=True)
class _Row:
    """A recording as the template takes it: with a name for links, cells and a description for the script."""

    name: str
    recording: Recording
    cells: list[Cell]

    @classmethod
    def of(cls, recording: Recording, taken: set[str]) -> _Row:
        # A hash of the title, so that a link to a recording holds in the page of the next evaluation.
        digest = hashlib.sha256(recording.title.encode(errors="surrogatepass")).hexdigest()
        name = next(name for n in range(len(digest)) if (name := f"r-{digest[n : n + 12]}") not in taken)
        return cls(name, recording, [_cell(cell) for cell in recording.cells])

    @property
    def described(self) -> dict[str, Any]:
        of = self.recording
        return {
            "name": self.name,
            "title": _readable(of.title),
            "text": _readable(of.text),
            "facts": _readable_facts(of.facts),
            "tracks": [
                {
                    "label": _readable(track.label),
                    "text": _readable(track.text),
                    "facts": _readable_facts(track.facts),
                    "address": track.address,
                }
                for track in of.tracks
            ],
        }


def _sound(track: Track) -> dict[str, Any]:
    """Return a version's audio and spectrogram as texts, for the script."""
    if not track.flac:
        return {}
    samples, rate = from_flac_bytes(track.flac)
    return {
        "flac": base64.b64encode(track.flac).decode(),
        "png": base64.b64encode(spectrogram_png(samples, rate)).decode(),
        "khz": f"{rate / 2000:g} kHz",
        "seconds": len(samples) / rate,
    }


def _cell(cell: str | Cell) -> Cell:
    return Cell(text=cell) if isinstance(cell, str) else cell


def _plain(table: Table) -> dict[str, Any]:
    return {
        "title": table.title,
        "columns": [_cell(column) for column in table.columns],
        "rows": [[_cell(cell) for cell in row] for row in table.rows],
        "note": table.note,
    }


def _choices(listening: Listening, rows: Sequence[_Row]) -> dict[int, list[str]]:
    """Return the values of each column of which one can be chosen, by the column's position; one value is no choice."""
    found = {
        at: sorted({_readable(row.cells[at].text) for row in rows})
        for at, column in enumerate(listening.columns)
        if column.choices
    }
    return {at: values for at, values in found.items() if len(values) > 1}


def _readable(text: str) -> str:
    """Return a text of which no character hides, or turns the order of what follows; lines stay lines."""
    return "\n".join(readable(line) for line in text.split("\n"))


def _readable_facts(facts: Mapping[str, str]) -> dict[str, str]:
    return {_readable(name): _readable(value) for name, value in facts.items()}


def _shown(value: Any) -> Any:
    """Make every text that a template shows readable; what is markup already stays as it is."""
    return value if isinstance(value, Markup) or not isinstance(value, str) else _readable(value)


@cache
def _environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("flowse.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # Facts stay in their order, and NaN, which no browser reads, is an error here.
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False, "allow_nan": False}
    return environment


def _template() -> Any:
    return _environment().get_template("page.html")


@cache
def _source(name: str) -> str:
    environment = _environment()
    text: str = environment.loader.get_source(environment, name)[0]
    return text


@cache
def _policy() -> str:
    """Return a second lock behind the escaping of every text: what came through could neither run nor send anything."""
    script = base64.b64encode(hashlib.sha256(_source("page.js").encode()).digest()).decode()
    return (
        "default-src 'none'; img-src data:; media-src 'self' file:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{script}'; base-uri 'none'; form-action 'none'"
    )

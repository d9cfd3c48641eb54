"""Licences of the recordings in a dataset: hours by use, corpus and licence, and the terms to look at."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow.compute as pc

from flowse.data.manifest import Utterance
from flowse.data.parquet import read_columns
from flowse.data.shards import IndexRow
from flowse.names import readable

Use = Literal["speech", "competing speech", "noise", "room"]
USES: tuple[Use, ...] = ("speech", "competing speech", "noise", "room")

UNKNOWN = "unknown"
SIMULATED = "simulated"
"""Name of the corpus of simulated rooms, which contain nobody's recording."""
_NO_LICENCE_NEEDED = "none needed"
_MEANS_UNKNOWN = {"", "?", "-", "n/a", "na", "none", "nan", "unknown"}


@dataclass(frozen=True, kw_only=True)
class LicenceUse:
    """The recordings of one corpus under one licence that a dataset uses in one way.

    Attributes:
        use: How the dataset uses the recordings, one of `USES`.
        corpus: Name of the corpus; "simulated" for simulated rooms.
        licence: SPDX name or the corpus' own words; "unknown" if the corpus states none.
        recordings: Number of different utterances, noise recordings or rooms.
        hours: Total length of the mixtures that contain them, in hours; a mixture with two noises counts for both.
        terms: Terms to look at before using the model: "unknown", "non-commercial", "no derivatives"; may be empty.
    """

    use: str
    corpus: str
    licence: str
    recordings: int
    hours: float
    terms: tuple[str, ...]


def terms_of(licence: str) -> tuple[str, ...]:
    """Return the terms that a licence's name points to; see `LicenceUse.terms`.

    Args:
        licence: SPDX name ("CC-BY-NC-4.0") or free words ("research only").
    """
    plain = licence.strip().lower()
    if plain in _MEANS_UNKNOWN:
        return (UNKNOWN,)
    words = set(re.split(r"[^a-z0-9]+", plain))
    found = []
    if words & {"nc", "noncommercial"} or re.search(
        r"non.?commercial|not for commercial|(research|academic|educational|evaluation)( use| purposes?)? only", plain
    ):
        found.append("non-commercial")
    if words & {"nd", "noderivatives", "noderivs"} or re.search(r"no.?deriv", plain):
        found.append("no derivatives")
    return tuple(found)


def licence_name(licence: str) -> str:
    """Return a licence's name, or "unknown" if the name says nothing ("", "n/a", "none")."""
    return UNKNOWN if licence.strip().lower() in _MEANS_UNKNOWN else licence.strip()


@dataclass
class _Sum:
    """Seconds of mixtures, and the number of different recordings in them."""

    seconds: float = 0.0
    recordings: int = 0


def roll_up(
    indexes: Sequence[Path], recipes: Sequence[Path], sources: Iterable[Path], rooms: Path | None
) -> list[LicenceUse]:
    """Add up the recordings in a dataset, shard by shard.

    Args:
        indexes: Index of every shard (`flowse.data.shards.IndexRow`).
        recipes: Recipes of every shard (`flowse.simulation.recipe.Recipe`).
        sources: Manifests (`Utterance`) of the noises and the competing speakers.
        rooms: Index of the bank of rooms (`RirRow`); None if there is none.

    Returns:
        The uses, sorted by use, corpus and licence.
    """
    # Only this function needs pandas, whose import takes a quarter of a second.
    import pandas as pd

    sums: dict[tuple[str, str, str], _Sum] = defaultdict(_Sum)
    hashes: dict[tuple[str, str], list[np.ndarray]] = defaultdict(list)
    for path in indexes:
        table = read_columns(path, IndexRow, ["utt_id", "corpus", "licence", "seconds"]).to_pandas()
        table["licence"] = table["licence"].map(licence_name)
        for (corpus, licence), group in table.groupby(["corpus", "licence"], sort=True):
            sums["speech", corpus, licence].seconds += float(group["seconds"].sum())
            # Memory holds 64 bits for each utterance: ten million hashes fit, ten million names hardly do.
            utterances = pd.util.hash_array(group["utt_id"].to_numpy(object), categorize=False)
            hashes[corpus, licence].append(np.unique(utterances))
    for (corpus, licence), parts in hashes.items():
        sums["speech", corpus, licence].recordings = len(np.unique(np.concatenate(parts)))
    seconds = _seconds_of_sources(recipes)
    _add_recordings(sums, {"noise": seconds["noise"], "competing speech": seconds["competing speech"]}, sources)
    if rooms is not None and seconds["room"]:
        _add_rooms(sums, seconds["room"], rooms)
    uses = [
        LicenceUse(
            use=use,
            corpus=corpus,
            licence=licence,
            recordings=total.recordings,
            hours=total.seconds / 3600,
            terms=terms_of(licence),
        )
        for (use, corpus, licence), total in sums.items()
    ]
    order = {str(use): position for position, use in enumerate(USES)}
    return sorted(uses, key=lambda use: (order[use.use], use.corpus, use.licence))


def _seconds_of_sources(recipes: Sequence[Path]) -> dict[str, dict[str, float]]:
    """Return, by use and id, the seconds of mixtures that contain each noise, competing utterance and room."""
    found: dict[str, dict[str, float]] = {use: defaultdict(float) for use in ("noise", "competing speech", "room")}
    for path in recipes:
        table = read_columns(path, None, ["duration_s", "noise_ids", "competitor_id", "room_id"])
        columns = ("duration_s", "noise_ids", "competitor_id", "room_id")
        for length_s, noises, competitor, room in zip(*(table[name].to_pylist() for name in columns), strict=True):
            for noise in noises:
                found["noise"][noise] += length_s
            if competitor:
                found["competing speech"][competitor] += length_s
            if room:
                found["room"][room] += length_s
    return found


def _add_recordings(
    sums: dict[tuple[str, str, str], _Sum], seconds: Mapping[str, Mapping[str, float]], sources: Iterable[Path]
) -> None:
    """Look noises and competing utterances up in the manifests; a recording that is in none is of unknown origin."""
    missing = {use: dict(of_recordings) for use, of_recordings in seconds.items()}
    if not any(missing.values()):
        return
    for path in sources:
        table = read_columns(path, Utterance, ["utt_id", "corpus", "licence"])
        for name, corpus, licence in zip(
            *(table[column].to_pylist() for column in ("utt_id", "corpus", "licence")), strict=True
        ):
            for use, of_recordings in missing.items():
                if name in of_recordings:
                    total = sums[use, corpus, licence_name(licence)]
                    total.seconds += of_recordings.pop(name)
                    total.recordings += 1
    for use, of_recordings in missing.items():
        for length_s in of_recordings.values():
            sums[use, UNKNOWN, UNKNOWN].seconds += length_s
            sums[use, UNKNOWN, UNKNOWN].recordings += 1


def _add_rooms(sums: dict[tuple[str, str, str], _Sum], seconds: Mapping[str, float], rooms: Path) -> None:
    table = read_columns(rooms, None, ["room_id", "origin", "corpus", "licence"])
    # With threads, the order of the groups varies from call to call, and with it the rounding of the sums.
    groups = table.group_by(["room_id"], use_threads=False)
    origins = groups.aggregate([("origin", "min"), ("corpus", "min"), ("licence", "min")])
    for row in origins.filter(pc.is_in(origins["room_id"], pc.cast(list(seconds), "string"))).to_pylist():
        simulated = row["origin_min"] == "simulated"
        corpus = SIMULATED if simulated else row["corpus_min"]
        total = sums["room", corpus, _NO_LICENCE_NEEDED if simulated else licence_name(row["licence_min"])]
        total.seconds += seconds[row["room_id"]]
        total.recordings += 1


def warnings(uses: Sequence[LicenceUse]) -> list[str]:
    """Return one line for each kind of terms that must be settled before the model is given away or sold."""
    lines = []
    for term, words in (
        ("non-commercial", "may not be used commercially"),
        ("no derivatives", "may not be changed and passed on"),
        (UNKNOWN, "has no known licence"),
    ):
        concerned = [use for use in uses if term in use.terms]
        if concerned:
            names = ", ".join(f"{use.corpus} ({use.use}, {use.licence}, {use.hours:.3g} h)" for use in concerned)
            lines.append(f"{words}: {names}")
    return lines


HEADER = ("heard as", "corpus", "licence", "recordings", "hours", "note")


def cells(uses: Sequence[LicenceUse]) -> list[tuple[str, ...]]:
    """Return a row of text for each use, with the columns of `HEADER`."""
    return [
        (use.use, use.corpus, use.licence, f"{use.recordings:,}", f"{use.hours:,.3f}", ", ".join(use.terms).upper())
        for use in uses
    ]


def as_markdown(text: str) -> str:
    """Write a text from outside, such as a licence's name, as Markdown: none of it is markup or ends a cell."""
    return re.sub(r"([\\`*_\[\]|<>])", r"\\\1", readable(text))


def markdown(uses: Sequence[LicenceUse]) -> list[str]:
    """Return the lines of a model card's table of licences, and the warnings below it."""
    lines = [f"| {' | '.join(HEADER)} |", "|---|---|---|---:|---:|---|"]
    lines += [f"| {' | '.join(map(as_markdown, row))} |" for row in cells(uses)]
    found = warnings(uses)
    if found:
        lines += ["", *(f"- **Part of the data {as_markdown(line)}.**" for line in found)]
    lines += ["", "Hours: length of the mixtures in which a recording is heard."]
    return lines

"""Licences of what a dataset was made of: hours by use, corpus and licence, and what each licence asks for."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pyarrow.parquet as pq

Use = Literal["speech", "competing speech", "noise", "room"]
USES: tuple[Use, ...] = ("speech", "competing speech", "noise", "room")

UNKNOWN = "unknown"
SIMULATED = "simulated"
"""Corpus of rooms that were simulated: nobody's recording is in them."""
_NO_LICENCE_NEEDED = "none needed"
_MEANS_UNKNOWN = {"", "?", "-", "n/a", "na", "none", "nan", "unknown"}


@dataclass(frozen=True, kw_only=True)
class LicenceUse:
    """What one corpus gave to a dataset under one licence.

    Attributes:
        use: As what it is heard.
        corpus: The corpus; "simulated" for rooms that were simulated.
        licence: SPDX name or the corpus' own words; "unknown" if nobody said.
        recordings: Different utterances, noise recordings or rooms of it.
        hours: Length of the mixtures in which they are heard, in hours; a mixture with two noises counts for both.
        terms: What to look at before using the model: "unknown", "non-commercial", "no derivatives"; empty if none.
    """

    use: str
    corpus: str
    licence: str
    recordings: int
    hours: float
    terms: tuple[str, ...]


def terms_of(licence: str) -> tuple[str, ...]:
    """Return what a licence's name warns of.

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


def named(licence: str) -> str:
    """Return a licence's name, or "unknown" where it says nothing ("", "n/a", "none")."""
    return UNKNOWN if licence.strip().lower() in _MEANS_UNKNOWN else licence.strip()


@dataclass
class _Sum:
    """Seconds, and who was heard."""

    seconds: float = 0.0
    recordings: int = 0


def roll_up(
    indexes: Sequence[Path], recipes: Sequence[Path], sources: Iterable[Path], rooms: Path | None
) -> list[LicenceUse]:
    """Add up what is heard in a dataset, a shard at a time.

    Args:
        indexes: Index of every shard (`flowse.data.shards.IndexRow`).
        recipes: Recipes of every shard (`flowse.simulation.recipe.Recipe`).
        sources: Manifests (`Utterance`) in which noises and competing speakers are found.
        rooms: Index of the bank of rooms (`RirRow`); None if there is none.

    Returns:
        By use, corpus and licence, in that order.
    """
    sums: dict[tuple[str, str, str], _Sum] = defaultdict(_Sum)
    hashes: dict[tuple[str, str], list[np.ndarray]] = defaultdict(list)
    for path in indexes:
        table = pq.read_table(path, columns=["utt_id", "corpus", "licence", "seconds"]).to_pandas()
        table["licence"] = table["licence"].map(named)
        for (corpus, licence), group in table.groupby(["corpus", "licence"], sort=True):
            sums["speech", corpus, licence].seconds += float(group["seconds"].sum())
            # 64 bits an utterance: ten million fit into memory, ten million names hardly.
            seen = pd.util.hash_array(group["utt_id"].to_numpy(object), categorize=False)
            hashes[corpus, licence].append(np.unique(seen))
    for (corpus, licence), parts in hashes.items():
        sums["speech", corpus, licence].recordings = len(np.unique(np.concatenate(parts)))
    heard = _heard(recipes)
    _add_named(sums, {"noise": heard["noise"], "competing speech": heard["competing speech"]}, sources)
    if rooms is not None and heard["room"]:
        _add_rooms(sums, heard["room"], rooms)
    found = [
        LicenceUse(
            use=use,
            corpus=corpus,
            licence=licence,
            recordings=about.recordings,
            hours=about.seconds / 3600,
            terms=terms_of(licence),
        )
        for (use, corpus, licence), about in sums.items()
    ]
    return sorted(found, key=lambda one: ([str(use) for use in USES].index(one.use), one.corpus, one.licence))


def _heard(recipes: Sequence[Path]) -> dict[str, dict[str, float]]:
    """Seconds of mixture in which each noise, competing utterance and room is heard."""
    heard: dict[str, dict[str, float]] = {use: defaultdict(float) for use in ("noise", "competing speech", "room")}
    for path in recipes:
        table = pq.read_table(path, columns=["duration_s", "noise_ids", "competitor_id", "room_id"])
        seconds = table["duration_s"].to_pylist()
        for length_s, noises, other, room in zip(
            seconds, *(table[name].to_pylist() for name in ("noise_ids", "competitor_id", "room_id")), strict=True
        ):
            for noise in noises:
                heard["noise"][noise] += length_s
            if other:
                heard["competing speech"][other] += length_s
            if room:
                heard["room"][room] += length_s
    return heard


def _add_named(
    sums: dict[tuple[str, str, str], _Sum], heard: Mapping[str, Mapping[str, float]], sources: Iterable[Path]
) -> None:
    """Look the recordings up in the manifests; one that is in none counts as of unknown origin."""
    missing = {use: dict(counts) for use, counts in heard.items()}
    if not any(missing.values()):
        return
    for path in sources:
        table = pq.read_table(path, columns=["utt_id", "corpus", "licence"])
        for name, corpus, licence in zip(
            *(table[column].to_pylist() for column in ("utt_id", "corpus", "licence")), strict=True
        ):
            for use, counts in missing.items():
                if name in counts:
                    about = sums[use, corpus, named(licence)]
                    about.seconds += counts.pop(name)
                    about.recordings += 1
    for use, counts in missing.items():
        for length_s in counts.values():
            sums[use, UNKNOWN, UNKNOWN].seconds += length_s
            sums[use, UNKNOWN, UNKNOWN].recordings += 1


def _add_rooms(sums: dict[tuple[str, str, str], _Sum], heard: Mapping[str, float], rooms: Path) -> None:
    table = pq.read_table(rooms, columns=["room_id", "origin", "corpus", "licence"])
    origins = table.group_by(["room_id"]).aggregate([("origin", "min"), ("corpus", "min"), ("licence", "min")])
    for row in origins.filter(pc.is_in(origins["room_id"], pc.cast(list(heard), "string"))).to_pylist():
        simulated = row["origin_min"] == "simulated"
        corpus = SIMULATED if simulated else row["corpus_min"]
        about = sums["room", corpus, _NO_LICENCE_NEEDED if simulated else named(row["licence_min"])]
        about.seconds += heard[row["room_id"]]
        about.recordings += 1


def to_json(uses: Sequence[LicenceUse]) -> list[dict[str, Any]]:
    """Write uses as plain values, e.g. for `dataset.json`."""
    return [asdict(one) | {"terms": list(one.terms)} for one in uses]


def from_json(rows: Iterable[Mapping[str, Any]]) -> list[LicenceUse]:
    """Read what `to_json` wrote."""
    return [LicenceUse(**{**row, "terms": tuple(row["terms"])}) for row in rows]


def warnings(uses: Sequence[LicenceUse]) -> list[str]:
    """Say, a line each, what must be settled before the model is given away or sold."""
    lines = []
    for term, words in (
        ("non-commercial", "may not be used commercially"),
        ("no derivatives", "may not be changed and passed on"),
        (UNKNOWN, "has no known licence"),
    ):
        held = [one for one in uses if term in one.terms]
        if held:
            names = ", ".join(f"{one.corpus} ({one.use}, {one.licence}, {one.hours:.3g} h)" for one in held)
            lines.append(f"{words}: {names}")
    return lines


HEADS = ("heard as", "corpus", "licence", "recordings", "hours", "note")


def cells(uses: Sequence[LicenceUse]) -> list[tuple[str, ...]]:
    """Return one row of text a use, in the columns of `HEADS`."""
    return [
        (one.use, one.corpus, one.licence, f"{one.recordings:,}", f"{one.hours:,.3f}", ", ".join(one.terms).upper())
        for one in uses
    ]


def markdown(uses: Sequence[LicenceUse]) -> list[str]:
    """Write the table for a model card, and what it warns of."""
    lines = [f"| {' | '.join(HEADS)} |", "|---|---|---|---:|---:|---|"]
    lines += [f"| {' | '.join(row)} |" for row in cells(uses)]
    found = warnings(uses)
    if found:
        lines += ["", *(f"- **Part of the data {line}.**" for line in found)]
    lines += ["", "Hours: length of the mixtures in which a recording is heard."]
    return lines

"""Laws of licences: every recording in a mixture counts under its licence, and terms that bind the model are named."""

from __future__ import annotations

import functools
import operator
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flowse.data import licences
from flowse.data.licences import LicenceUse, as_markdown, licence_name, markdown, roll_up, terms_of, warnings
from flowse.data.manifest import Utterance
from flowse.data.parquet import read_rows
from flowse.data.shards import read_index
from flowse.simulation.dataset import DatasetSummary
from flowse.simulation.recipe import Recipe
from pipelines.engine.plan import StagePlan
from tests.pipelines.small_workspace import run_data_stages


@pytest.mark.parametrize(
    ("licence", "terms"),
    [
        ("CC0-1.0", ()),
        ("CC BY 4.0", ()),
        ("Apache-2.0", ()),
        ("none needed", ()),
        ("CC-BY-NC-SA-4.0", ("non-commercial",)),
        ("cc by-nc 4.0", ("non-commercial",)),
        ("CC BY-NC-ND 3.0", ("non-commercial", "no derivatives")),
        ("Research only", ("non-commercial",)),
        ("free for non commercial use", ("non-commercial",)),
        ("", ("unknown",)),
        (" Unknown ", ("unknown",)),
    ],
)
def test_a_licences_name_gives_its_terms(licence: str, terms: tuple[str, ...]) -> None:
    assert terms_of(licence) == terms


def test_all_empty_licence_names_become_unknown() -> None:
    assert {licence_name(licence) for licence in ("", " ", "n/a", "None", "unknown", "?")} == {"unknown"}
    assert licence_name(" CC0-1.0 ") == "CC0-1.0"


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> dict[str, StagePlan]:
    return run_data_stages(tmp_path_factory.mktemp("licences"))[2]


def written(plans: dict[str, StagePlan]) -> list[LicenceUse]:
    simulated = plans["simulate"].finished
    assert simulated is not None
    uses = DatasetSummary.read(simulated.file("dataset.json")).licences
    assert uses is not None
    return uses


def test_hours_and_recordings_are_those_of_the_recipes(plans: dict[str, StagePlan]) -> None:
    """The test adds them up itself, from the recipes and the manifest alone."""
    simulated, ingested = plans["simulate"].finished, plans["ingest"].finished
    assert simulated is not None
    assert ingested is not None
    rows = {row.utt_id: row for row in read_rows(ingested.parts(".parquet"), Utterance)}
    seconds: Counter[tuple[str, str, str]] = Counter()
    names: dict[tuple[str, str, str], set[str]] = {}
    for recipe in read_rows(simulated.parts(".recipes.parquet"), Recipe):
        sources = [("speech", recipe.utt_id), *(("noise", name) for name in recipe.noise_ids)]
        sources += [("competing speech", recipe.competitor_id)] if recipe.competitor_id else []
        for use, name in sources:
            key = (use, rows[name].corpus, rows[name].licence or "unknown")
            seconds[key] += recipe.duration_s
            names.setdefault(key, set()).add(name)
        if recipe.room_id:
            measured = recipe.room_id.startswith("rirs")
            key = ("room", "rirs", "Apache-2.0") if measured else ("room", "simulated", "none needed")
            seconds[key] += recipe.duration_s
            names.setdefault(key, set()).add(recipe.room_id)
    found = {(use.use, use.corpus, use.licence): use for use in written(plans)}
    assert found.keys() == seconds.keys()
    assert {kind for kind, _, _ in found} == set(licences.USES)
    for key, use in found.items():
        assert use.hours == pytest.approx(seconds[key] / 3600, rel=1e-9)
        assert use.recordings == len(names[key])
    speech_s = sum(row.seconds for row in read_index(simulated.file("index.parquet")))
    assert sum(use.hours for key, use in found.items() if key[0] == "speech") == pytest.approx(speech_s / 3600)


def test_warnings_name_the_terms_that_bind_the_model(plans: dict[str, StagePlan]) -> None:
    uses = written(plans)
    lines = warnings(uses)
    assert len(lines) == 2
    assert "may not be used commercially: speech (speech, CC-BY-NC-4.0" in lines[0]
    assert "has no known licence: more (speech, unknown" in lines[1]
    simulated = plans["simulate"].finished
    assert simulated is not None
    assert sum("part of the data" in note for note in simulated.report.notes) == 2
    card = "\n".join(markdown(uses))
    assert card.count("NON-COMMERCIAL") == sum("non-commercial" in use.terms for use in uses)
    assert "| noise | noise | CC-BY-4.0 | 9 |" in card


def test_a_recording_that_no_manifest_knows_counts_as_unknown(plans: dict[str, StagePlan]) -> None:
    simulated = plans["simulate"].finished
    assert simulated is not None
    uses = roll_up(simulated.parts(".index.parquet"), simulated.parts(".recipes.parquet"), [], None)
    noises = [use for use in uses if use.use == "noise"]
    assert [(use.corpus, use.licence, use.terms) for use in noises] == [("unknown", "unknown", ("unknown",))]
    known = {use.use: 0.0 for use in uses}
    for use in written(plans):
        known[use.use] = known.get(use.use, 0.0) + use.hours
    assert noises[0].hours == pytest.approx(known["noise"])


def test_the_hours_of_rooms_are_the_same_in_every_call(tmp_path: Path) -> None:
    """They are sums of floats, which depend on the order: it must be that of the index, whatever the threads do."""
    rooms = [f"r{number}" for number in np.random.default_rng(0).permutation(3000)]
    lengths_s = np.random.default_rng(1).uniform(1, 20, len(rooms))
    columns = {"room_id": rooms, "origin": ["simulated"] * 3000, "corpus": [""] * 3000, "licence": [""] * 3000}
    pq.write_table(pa.table(columns), tmp_path / "rooms.parquet", row_group_size=100)
    recipes = {"duration_s": lengths_s, "noise_ids": [[]] * 3000, "competitor_id": [""] * 3000, "room_id": rooms}
    pq.write_table(pa.table(recipes), tmp_path / "recipes.parquet")
    threads = pa.cpu_count()
    pa.set_cpu_count(4)
    try:
        hours = {
            roll_up([], [tmp_path / "recipes.parquet"], [], tmp_path / "rooms.parquet")[0].hours for _ in range(10)
        }
    finally:
        pa.set_cpu_count(threads)
    # One after the other: from Python 3.12 on, `sum` compensates for rounding.
    assert hours == {functools.reduce(operator.add, lengths_s.tolist(), 0.0) / 3600}


def test_an_empty_dataset_uses_nothing_and_warns_of_nothing(tmp_path: Path) -> None:
    assert roll_up([], [], [], None) == []
    assert warnings([]) == []


@pytest.mark.parametrize(
    "name", ["a|b", "<img src=x onerror=alert(1)>", "[x](javascript:alert(1))", "a\n| b", "`x`", "*y*"]
)
def test_a_hostile_name_is_no_markup_and_no_cell_of_the_card(name: str) -> None:
    written = as_markdown(name)
    assert "\n" not in written
    assert not re.search(r"(?<!\\)[`*_\[\]|<>]", written)

"""The licence roll-up: what is heard is counted under its licence, and what binds the model is said."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from flowse.data import licences
from flowse.data.licences import LicenceUse, from_json, markdown, named, roll_up, terms_of, to_json, warnings
from flowse.data.manifest import Utterance
from flowse.data.parquet import read_rows
from flowse.data.shards import read_index
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
def test_terms_of_known_licences(licence: str, terms: tuple[str, ...]) -> None:
    assert terms_of(licence) == terms


def test_all_ways_to_say_nothing_are_one() -> None:
    assert {named(licence) for licence in ("", " ", "n/a", "None", "unknown", "?")} == {"unknown"}
    assert named(" CC0-1.0 ") == "CC0-1.0"


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> dict[str, StagePlan]:
    return run_data_stages(tmp_path_factory.mktemp("licences"))[2]


def written(plans: dict[str, StagePlan]) -> list[LicenceUse]:
    simulated = plans["simulate"].finished
    assert simulated is not None
    return from_json(json.loads(simulated.file("dataset.json").read_text())["licences"])


def test_hours_are_those_of_the_recipes(plans: dict[str, StagePlan]) -> None:
    """Added up by hand, from every recipe and the manifest alone."""
    simulated, ingested = plans["simulate"].finished, plans["ingest"].finished
    assert simulated is not None
    assert ingested is not None
    rows = {row.utt_id: row for row in read_rows(ingested.parts(".parquet"), Utterance)}
    seconds: Counter[tuple[str, str, str]] = Counter()
    who: dict[tuple[str, str, str], set[str]] = {}
    for recipe in read_rows(simulated.parts(".recipes.parquet"), Recipe):
        heard = [("speech", recipe.utt_id), *(("noise", name) for name in recipe.noise_ids)]
        heard += [("competing speech", recipe.competitor_id)] if recipe.competitor_id else []
        for use, name in heard:
            key = (use, rows[name].corpus, rows[name].licence or "unknown")
            seconds[key] += recipe.duration_s
            who.setdefault(key, set()).add(name)
        if recipe.room_id:
            measured = recipe.room_id.startswith("rirs")
            key = ("room", "rirs", "Apache-2.0") if measured else ("room", "simulated", "none needed")
            seconds[key] += recipe.duration_s
            who.setdefault(key, set()).add(recipe.room_id)
    found = {(one.use, one.corpus, one.licence): one for one in written(plans)}
    assert found.keys() == seconds.keys()
    assert {use for use, _, _ in found} == set(licences.USES)
    for key, one in found.items():
        assert one.hours == pytest.approx(seconds[key] / 3600, rel=1e-9)
        assert one.recordings == len(who[key])
    speech_s = sum(row.seconds for row in read_index(simulated.file("index.parquet")))
    assert sum(one.hours for key, one in found.items() if key[0] == "speech") == pytest.approx(speech_s / 3600)


def test_what_binds_the_model_is_said(plans: dict[str, StagePlan]) -> None:
    uses = written(plans)
    lines = warnings(uses)
    assert len(lines) == 2
    assert "may not be used commercially: speech (speech, CC-BY-NC-4.0" in lines[0]
    assert "has no known licence: more (speech, unknown" in lines[1]
    simulated = plans["simulate"].finished
    assert simulated is not None
    assert sum("part of the data" in note for note in simulated.report.notes) == 2
    card = "\n".join(markdown(uses))
    assert card.count("NON-COMMERCIAL") == sum("non-commercial" in one.terms for one in uses)
    assert "| noise | noise | CC-BY-4.0 | 9 |" in card


def test_plain_values_and_back(plans: dict[str, StagePlan]) -> None:
    uses = written(plans)
    assert from_json(json.loads(json.dumps(to_json(uses)))) == uses


def test_a_recording_that_no_manifest_knows_counts_as_unknown(plans: dict[str, StagePlan]) -> None:
    simulated = plans["simulate"].finished
    assert simulated is not None
    uses = roll_up(simulated.parts(".index.parquet"), simulated.parts(".recipes.parquet"), [], None)
    noises = [one for one in uses if one.use == "noise"]
    assert [(one.corpus, one.licence, one.terms) for one in noises] == [("unknown", "unknown", ("unknown",))]
    known = {one.use: 0.0 for one in uses}
    for one in written(plans):
        known[one.use] = known.get(one.use, 0.0) + one.hours
    assert noises[0].hours == pytest.approx(known["noise"])


def test_nothing_in_nothing_out(tmp_path: Path) -> None:
    assert roll_up([], [], [], None) == []
    assert warnings([]) == []

"""Laws of plans: they come back as they were written, and name all that decides their mixtures, and nothing else."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from flowse.data.manifest import Utterance
from flowse.data.parquet import RowsError, read_rows, write_rows
from flowse.simulation import plans
from flowse.simulation.plans import PlannedMixture, Planner, read_plan, sources_digest, write_plan
from flowse.simulation.recipe import MixtureConfig
from flowse.simulation.rir_bank import RirRow
from flowse.simulation.sources import Sources
from tests.flowse.simulation.recordings import Recordings, write_recordings

CONFIG = MixtureConfig(competitor=0.5, equaliser=0.5, packet_loss=0.5)


@pytest.fixture(name="recordings")
def _recordings(tmp_path: Path) -> Recordings:
    return write_recordings(tmp_path / "recordings")


def _plan(recordings: Recordings, config: MixtureConfig = CONFIG, seed: int = 1) -> list[PlannedMixture]:
    planner = Planner(config, seed, recordings.sources, min_s=1.05)
    return [planner.plan(row, copy) for row in recordings.speech for copy in range(2)]


def _bytes(folder: Path, mixtures: list[PlannedMixture]) -> bytes:
    write_plan(folder / "plan.parquet", mixtures)
    return (folder / "plan.parquet").read_bytes()


def _changed(sources: Sources, path: Path, **changes: object) -> None:
    """Change every row of one of the lists."""
    kind = RirRow if path == sources.rooms else Utterance
    write_rows(path, kind, [dataclasses.replace(row, **changes) for row in list(read_rows(path, kind))])


def test_a_plan_comes_back_as_it_was_written(recordings: Recordings, tmp_path: Path) -> None:
    mixtures = _plan(recordings)
    write_plan(tmp_path / "plan.parquet", mixtures)
    assert list(read_plan(tmp_path / "plan.parquet")) == mixtures
    write_plan(tmp_path / "empty.parquet", [])
    assert list(read_plan(tmp_path / "empty.parquet")) == []


def test_the_same_seed_gives_the_same_plan_whatever_the_order(recordings: Recordings, tmp_path: Path) -> None:
    mixtures = _plan(recordings)
    planner = Planner(CONFIG, 1, recordings.sources, min_s=1.05)
    for mixture in reversed(mixtures):
        assert planner.plan(mixture.row, mixture.copy) == mixture
    assert _bytes(tmp_path, mixtures) == _bytes(tmp_path, _plan(recordings))
    assert _bytes(tmp_path, mixtures) != _bytes(tmp_path, _plan(recordings, seed=2))


def test_what_is_too_short_has_no_recipe_and_what_has_no_split_cannot_be_planned(recordings: Recordings) -> None:
    for mixture in _plan(recordings):
        assert (mixture.recipe is None) == (mixture.row.duration_s < 1.05)
    with pytest.raises(ValueError, match="no split"):
        Planner(CONFIG, 1, recordings.sources).plan(dataclasses.replace(recordings.speech[0], split=None), 0)


def test_a_plan_names_every_recording_and_response_of_its_recipes(recordings: Recordings) -> None:
    for mixture in _plan(recordings):
        if mixture.recipe is not None:
            named = "\n".join(mixture.sources)
            others = [mixture.recipe.competitor_id] if mixture.recipe.competitor_id else []
            for name in (*mixture.recipe.noise_ids, *others, mixture.recipe.room_id):
                assert f'["{name}", ' in named or not name


@pytest.mark.parametrize("what", ["noises", "competitors", "rooms"])
def test_other_content_is_another_plan(recordings: Recordings, tmp_path: Path, what: str) -> None:
    before = _bytes(tmp_path, _plan(recordings))
    drawn_from = sources_digest(CONFIG, recordings.sources, "train", ["speech"])
    _changed(recordings.sources, getattr(recordings.sources, what), content="0" * 32)
    after = _bytes(tmp_path, _plan(recordings))
    assert after != before
    assert sources_digest(CONFIG, recordings.sources, "train", ["speech"]) != drawn_from


def test_where_a_response_lies_and_whose_it_is_change_no_plan(recordings: Recordings, tmp_path: Path) -> None:
    before = _bytes(tmp_path, _plan(recordings))
    drawn_from = sources_digest(CONFIG, recordings.sources, "train", ["speech"])
    _changed(recordings.sources, recordings.sources.rooms, unit="elsewhere", offset=7, licence="other")
    assert _bytes(tmp_path, _plan(recordings)) == before
    assert sources_digest(CONFIG, recordings.sources, "train", ["speech"]) == drawn_from


def test_competitors_of_another_corpus_and_sources_of_another_split_do_not_count(recordings: Recordings) -> None:
    before = {split: sources_digest(CONFIG, recordings.sources, split, ["speech"]) for split in ("train", "test")}
    rows = list(read_rows(recordings.sources.competitors, Utterance))
    more = [dataclasses.replace(row, utt_id=f"x/{row.utt_id}", corpus="x") for row in rows]
    write_rows(recordings.sources.competitors, Utterance, [*rows, *more])
    noises = list(read_rows(recordings.sources.noises, Utterance))
    train = next(row for row in noises if row.split == "train")
    write_rows(recordings.sources.noises, Utterance, [*noises, dataclasses.replace(train, utt_id="noise/x")])
    assert sources_digest(CONFIG, recordings.sources, "test", ["speech"]) == before["test"]
    assert sources_digest(CONFIG, recordings.sources, "train", ["speech"]) != before["train"]
    other = dataclasses.replace(CONFIG, codec=0.06)
    assert sources_digest(other, recordings.sources, "test", ["speech"]) != before["test"]


def test_a_file_that_is_no_plan_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plan.parquet").write_bytes(b"PAR1")
    with pytest.raises(RowsError, match=r"plan\.parquet"):
        list(read_plan(tmp_path / "plan.parquet"))


def test_a_setting_that_is_younger_than_the_first_plans_moves_none_while_it_has_its_default(
    recordings: Recordings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def digest(config: MixtureConfig) -> dict[str, str]:
        return sources_digest(config, recordings.sources, "train", ["demo"])

    before = digest(CONFIG)
    assert digest(dataclasses.replace(CONFIG, noise_only=0.1)) != before
    assert "noise_only" not in plans._drawn_by(CONFIG)
    assert plans._drawn_by(CONFIG)["early_s"] == CONFIG.early_s

"""Laws of the lists that mixtures are drawn from: they hold one split each, are bounded, and show what leaks."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from flowse.data.manifest import Utterance
from flowse.data.parquet import read_rows, write_rows
from flowse.simulation import sources as sources_module
from flowse.simulation.sources import SplitSources, find_split_leaks, write_competitors, write_noises
from tests.flowse.simulation.recordings import BANK_RATE, Recordings, write_recordings


@pytest.fixture(name="recordings")
def _recordings(tmp_path: Path) -> Recordings:
    return write_recordings(tmp_path / "recordings")


def test_a_split_has_its_own_noises_speakers_and_rooms_and_no_others(recordings: Recordings) -> None:
    for split in ("train", "test"):
        read = SplitSources.read(recordings.sources, split)
        assert dict(read.noises) == {row.utt_id: row for row in recordings.noises if row.split == split}
        assert dict(read.competitors) == {row.utt_id: row for row in recordings.speech if row.split == split}
        assert {row.split for rows in read.rirs.values() for row in rows.values()} == {split}
        assert {noise.noise_id for noise in read.candidates.noises} == set(read.noises)
        assert dict(read.candidates.rooms) == {room_id: len(rows) for room_id, rows in read.rirs.items()}


def test_the_noises_of_each_split_are_counted(recordings: Recordings, tmp_path: Path) -> None:
    without_split = dataclasses.replace(recordings.noises[0], utt_id="noise/x", split=None)
    write_rows(tmp_path / "more.parquet", Utterance, [without_split, recordings.speech[0]])
    counts = write_noises([*recordings.parts, tmp_path / "more.parquet"], tmp_path / "noises.parquet")
    assert counts == {"train": 4, "test": 2, "": 1}


def test_the_rooms_are_counted_by_split_and_sample_rate(recordings: Recordings) -> None:
    assert recordings.sources.rooms_by_split() == {"train": 4, "test": 2}
    assert recordings.sources.sample_rates() == {BANK_RATE}


def test_competitors_are_bounded_and_do_not_depend_on_the_parts(
    recordings: Recordings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources_module, "COMPETITORS", 2)
    listed = []
    for name, parts in (("a", recordings.parts), ("b", recordings.parts[::-1])):
        write_competitors(parts, tmp_path / name)
        listed.append({row.utt_id: row for row in read_rows(tmp_path / name, Utterance)})
    assert listed[0] == listed[1]
    assert sorted(row.split or "" for row in listed[0].values()) == ["test", "test", "train", "train"]


def test_speech_without_a_speaker_does_not_compete(recordings: Recordings, tmp_path: Path) -> None:
    unknown = [dataclasses.replace(row, speaker="") for row in recordings.speech]
    write_rows(tmp_path / "part.parquet", Utterance, unknown)
    write_competitors([tmp_path / "part.parquet"], tmp_path / "competitors.parquet")
    assert list(read_rows(tmp_path / "competitors.parquet", Utterance)) == []


def test_a_speaker_in_two_splits_is_a_leak(recordings: Recordings, tmp_path: Path) -> None:
    assert find_split_leaks(recordings.parts, recordings.sources) == []
    moved = dataclasses.replace(recordings.speech[0], utt_id="speech/x", path="x.flac", split="test")
    write_rows(tmp_path / "more.parquet", Utterance, [moved])
    (leak,) = find_split_leaks([*recordings.parts, tmp_path / "more.parquet"], recordings.sources)
    assert str(leak) == "speaker 'speech:speaker 0' stands in train and test"

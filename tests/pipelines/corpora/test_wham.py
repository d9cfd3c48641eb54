"""WHAM!: two channels, three splits, and tables that state which clips are cut from one recording."""

from __future__ import annotations

from typing import Any

import pytest

from flowse.errors import UserError

SAME = "01aa010b_0.97482_209a010p_-0.97482.wav"
HEAD = "utterance_id,Noise Band,File ID,L to R Width (cm),Reverberation Level,Location ID,Location Day ID\n"


@pytest.fixture
def corpus(bench: Any) -> Any:
    for number, part in enumerate(("tr", "cv", "tt")):
        # The names are those of wsj0's mixtures: the three splits may share them.
        bench.audio(f"wham_noise/{part}/{SAME}", f"wham_noise/{part}/{part}_2.wav", channels=2)
        lines = f"{SAME},1,f{number},17 cm,l,place{number},d1\n{part}_2.wav,2,f{number},17 cm,h,place{number},d2\n"
        bench.text(f"wham_noise/metadata/noise_meta_{part}.csv", HEAD + lines)
    bench.text("wham_noise/metadata/mix_param_meta_tr.csv", "utterance_id\n")
    return bench


def test_clips_are_read_by_split_with_the_recording_that_they_are_cut_from(corpus: Any) -> None:
    found = corpus.measure("wham", "noise")
    assert {(row.path.removeprefix("wham_noise/"), row.speaker, row.split) for row in found.kept} == {
        (f"{part}/{name}", f"f{number}", split)
        for number, (part, split) in enumerate((("tr", "train"), ("cv", "dev"), ("tt", "test")))
        for name in (SAME, f"{part}_2.wav")
    }
    assert {(row.channels, row.licence, row.kind) for row in found.kept} == {(2, "CC-BY-NC-4.0", "noise")}
    assert not found.rejects


def test_without_the_splits_of_the_corpus_the_location_stands_for_the_speaker(corpus: Any) -> None:
    rows = corpus.read("wham", "noise", use_split=False)
    assert {(row.speaker, row.split) for row in rows} == {(f"place{number}", None) for number in range(3)}


def test_the_files_are_those_of_lhotses_recipe(corpus: Any) -> None:
    from lhotse.recipes.wham import prepare_wham

    manifests = prepare_wham(corpus.root / "wham_noise")
    expected = {str(recording.sources[0].source) for part in manifests.values() for recording in part["recordings"]}
    assert {str(corpus.root / row.path) for row in corpus.read("wham", "noise")} == expected


def test_without_tables_the_clips_are_read(corpus: Any) -> None:
    for table in (corpus.root / "wham_noise/metadata").iterdir():
        table.unlink()
    assert [row.speaker for row in corpus.measure("wham", "noise").kept] == [""] * 6


def test_the_uncut_recordings_are_read_with_their_table(bench: Any) -> None:
    bench.audio("high_res_wham/audio/a.wav", "high_res_wham/audio/b.wav", rate=48_000, channels=2)
    bench.text(
        "high_res_wham/high_res_metadata.csv",
        "Filename,Location ID,WHAM! Split\na.wav,bar,Train\nb.wav,park,Valid\ngone.wav,cafe,Test\n",
    )
    found = bench.measure("wham", "noise")
    assert [(row.path.rpartition("/")[2], row.split) for row in found.kept] == [("a.wav", "train"), ("b.wav", "dev")]
    assert found.reasons == ["not_found"]
    assert [row.speaker for row in bench.read("wham", "noise", use_split=False)] == ["bar", "park", "cafe"]


def test_the_digest_sees_clips_and_tables(corpus: Any) -> None:
    assert corpus.changes("wham", lambda: corpus.audio("wham_noise/tr/new.wav", channels=2))
    assert corpus.changes("wham", lambda: corpus.text("wham_noise/metadata/noise_meta_tr.csv", HEAD))


def test_mistakes_are_named(bench: Any) -> None:
    with pytest.raises(UserError, match="has no folder tr, cv or tt"):
        bench.read("wham", "noise")
    with pytest.raises(UserError, match=r"gives nothing for ingest\.speech; name it in ingest\.noise"):
        bench.read("wham", "speech")

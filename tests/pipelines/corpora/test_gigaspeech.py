"""GigaSpeech: segments of long recordings, chosen by subset, with punctuation in place of tags."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flowse.errors import UserError
from pipelines.corpora import Unfit, gigaspeech

POD, YOU = "audio/podcast/P0000/POD0000000001.opus", "audio/youtube/P0000/YOU0000000001.opus"


def segment(sid: str, begin: float, end: float, text: str, *subsets: str, speaker: str = "N/A") -> dict[str, Any]:
    tags = [f"{{{subset}}}" for subset in subsets]
    return {"sid": sid, "speaker": speaker, "begin_time": begin, "end_time": end, "subsets": tags, "text_tn": text}


def audio(aid: str, path: str, segments: list[dict[str, Any]], duration: float) -> dict[str, Any]:
    subsets = sorted({subset for segment in segments for subset in segment["subsets"]})
    return {
        "title": "N/A",
        "aid": aid,
        "path": path,
        "source": "podcast",
        "codec": "opus",
        "channels": 1,
        "sample_rate": 16000,
        "duration": duration,
        "md5": "0",
        "subsets": subsets,
        "segments": segments,
    }


@pytest.fixture
def corpus(bench: Any) -> Any:
    bench.audio(POD, seconds=6.0)
    bench.audio(YOU, seconds=3.0)
    everything = ("XL", "L", "M", "S", "XS")
    podcast = [
        segment("POD1_S0", 0.0, 1.0, "WELL <COMMA> IT'S LATE <QUESTIONMARK>", *everything),
        segment("POD1_S1", 1.0, 2.0, "<MUSIC>", *everything),
        segment("POD1_S2", 2.5, 4.25, "GOOD NIGHT <PERIOD>", "XL", "L"),
        segment("POD1_S3", 5.0, 6.02, "ENDS WITH THE FILE", "XL"),
        segment("POD1_S4", 5.5, 9.0, "THE FILE WAS CUT", "XL"),
    ]
    youtube = [
        segment("YOU1_S0", 0.5, 1.5, "FIRST <EXCLAMATIONPOINT>", "DEV", speaker="Ann"),
        segment("YOU1_S1", 1.5, 2.5, "SECOND", "TEST"),
    ]
    bench.audios = [audio("POD1", POD, podcast, 6.0), audio("YOU1", YOU, youtube, 3.0)]
    listing = {"dataset": "GigaSpeech", "language": "EN", "version": "v1.0.0", "audios": bench.audios}
    bench.text("GigaSpeech.json", json.dumps(listing))
    return bench


def test_segments_are_cut_from_the_long_files_and_only_large_overruns_are_rejected(corpus: Any) -> None:
    found = corpus.measure("gigaspeech")
    assert [(row.path, row.offset_s, round(row.duration_s, 3), row.text) for row in found.kept] == [
        (POD, 0.0, 1.0, "WELL, IT'S LATE?"),
        (POD, 2.5, 1.75, "GOOD NIGHT."),
        (POD, 5.0, 1.0, "ENDS WITH THE FILE"),
        (YOU, 0.5, 1.0, "FIRST!"),
        (YOU, 1.5, 1.0, "SECOND"),
    ]
    assert found.reasons == ["not_speech", "truncated"]
    assert {row.language for row in found.kept} == {"en"}
    assert {row.licence for row in found.kept} == {gigaspeech.LICENCE}
    assert [row.speaker for row in found.kept] == ["", "", "", "Ann", ""]
    assert [row.split for row in found.kept] == ["train", "train", "train", "dev", "test"]


def test_a_subset_holds_the_segments_that_are_labelled_with_it(corpus: Any) -> None:
    assert [row.offset_s for row in corpus.read("gigaspeech", subsets=["XS"])] == [0.0, 1.0]
    assert [row.offset_s for row in corpus.read("gigaspeech", subsets=["L"])] == [0.0, 1.0, 2.5]
    assert [row.split for row in corpus.read("gigaspeech", subsets=["DEV", "TEST"])] == ["dev", "test"]
    assert {row.split for row in corpus.read("gigaspeech", use_split=False)} == {None}


def test_the_segments_are_those_of_lhotses_recipe(corpus: Any) -> None:
    from lhotse.recipes.gigaspeech import parse_utterance

    expected = [
        (Path(recording.sources[0].source).relative_to(corpus.root).as_posix(), segment.start, segment.duration)
        for recording, segments in (parse_utterance(audio, corpus.root) for audio in corpus.audios)
        for segment in segments
    ]
    assert [(row.path, row.offset_s, row.duration_s) for row in corpus.read("gigaspeech")] == expected


def test_segments_without_speech_are_unfit_and_state_their_label(corpus: Any) -> None:
    refused = [row for row in corpus.read("gigaspeech") if isinstance(row, Unfit)]
    assert [(row.reason, row.detail) for row in refused] == [("not_speech", "POD1_S1 is labelled <MUSIC>")]


@pytest.mark.parametrize(
    ("tagged", "plain"),
    [
        ("A <COMMA> B <PERIOD>", "A, B."),
        ("<SIL>", ""),
        ("<NOISE> <OTHER>", ""),
        ("YES <NOISE> NO", "YES NO"),
        ("PLAIN", "PLAIN"),
    ],
)
def test_tags_become_punctuation_or_nothing(tagged: str, plain: str) -> None:
    assert gigaspeech.punctuated(tagged) == plain


def test_the_archive_may_unpack_to_a_folder_of_its_own(corpus: Any) -> None:
    inner = corpus.root / "GigaSpeech"
    inner.mkdir()
    for name in ("audio", "GigaSpeech.json"):
        (corpus.root / name).rename(inner / name)
    assert corpus.measure("gigaspeech").paths[0] == f"GigaSpeech/{POD}"


def test_the_digest_sees_the_list_and_the_files(corpus: Any) -> None:
    assert corpus.changes("gigaspeech", lambda: corpus.audio("audio/podcast/P0000/POD2.opus"))
    assert corpus.changes("gigaspeech", lambda: corpus.text("GigaSpeech.json", '{"audios": []}'))
    assert corpus.digest("gigaspeech", subsets=["S"]) != corpus.digest("gigaspeech")


def test_mistakes_are_named(corpus: Any) -> None:
    with pytest.raises(UserError, match="subsets: HUGE; allowed: XL, L, M, S, XS, DEV, TEST"):
        corpus.read("gigaspeech", subsets=["HUGE"])
    with pytest.raises(UserError, match=r"a list is needed: \[XL\]"):
        corpus.read("gigaspeech", subsets="XL")
    with pytest.raises(UserError, match=r"gives nothing for ingest\.noise; name it in ingest\.speech"):
        corpus.read("gigaspeech", "noise")
    corpus.text("GigaSpeech.json", '{"audios": [{"aid": "POD1", "path": "x.opus"}]}')
    with pytest.raises(UserError, match="recording 'POD1' is not as its corpus describes it: KeyError"):
        corpus.read("gigaspeech")
    (corpus.root / "GigaSpeech.json").unlink()
    with pytest.raises(UserError, match="list of segments is missing"):
        corpus.read("gigaspeech")

"""WenetSpeech: Mandarin segments of long recordings, chosen by subset and confidence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flowse.data.manifest import Utterance
from flowse.data.parquet import read_rows, write_rows
from flowse.errors import UserError
from pipelines.corpora import wenetspeech
from pipelines.engine.manifest_part import ManifestPart
from pipelines.engine.units import UnitFolder
from pipelines.stages import transcribe

TRAIN, NET = "audio/train/youtube/B00000/Y0000000000_--5llN02F84.opus", "audio/test_net/youtube/B00000/T0.opus"


def segment(sid: str, begin: float, end: float, text: str, confidence: float, *subsets: str) -> dict[str, Any]:
    return {
        "sid": sid,
        "confidence": confidence,
        "begin_time": begin,
        "end_time": end,
        "subsets": list(subsets),
        "text": text,
    }


@pytest.fixture
def corpus(bench: Any) -> Any:
    bench.audio(TRAIN, seconds=6.0)
    bench.audio(NET, seconds=2.0)
    youtube = [
        segment("Y_S0", 0.0, 1.5, "怎么样这些日子住得还习惯吧", 1.0, "L", "M", "S"),
        segment("Y_S1", 1.5, 2.5, " 這些日子 ", 0.95, "L"),
        segment("Y_S2", 2.5, 3.5, "听不清", 0.7, "W"),
        segment("Y_S3", 5.0, 6.03, "完了", 1.0, "L"),
        segment("Y_S4", 5.5, 8.0, "没有了", 1.0, "L"),
    ]
    audios = [
        {"aid": "Y", "duration": 6.0, "md5": "0", "path": TRAIN, "tags": ["drama"], "segments": youtube},
        {"aid": "T", "duration": 2.0, "path": NET, "segments": [segment("T_S0", 0.0, 1.0, "好", 1.0, "TEST_NET")]},
        {"aid": "U", "duration": 9.0, "path": "audio/train/youtube/B00000/unlabelled.opus", "segments": []},
    ]
    bench.text("WenetSpeech.json", json.dumps({"audios": audios}, ensure_ascii=False))
    return bench


def test_segments_are_cut_from_the_long_files_with_their_text_unchanged(corpus: Any) -> None:
    found = corpus.measure("wenetspeech")
    assert [(row.path, row.offset_s, round(row.duration_s, 3), row.text, row.split) for row in found.kept] == [
        (NET, 0.0, 1.0, "好", "test"),  # in order of path
        (TRAIN, 0.0, 1.5, "怎么样这些日子住得还习惯吧", "train"),
        (TRAIN, 1.5, 1.0, "這些日子", "train"),
        (TRAIN, 5.0, 1.0, "完了", "train"),
    ]
    assert {(row.language, row.licence, row.speaker) for row in found.kept} == {("zh", wenetspeech.LICENCE, "")}
    assert found.reasons == ["truncated"]


def test_a_segment_of_several_subsets_is_read_once(corpus: Any) -> None:
    assert [row.offset_s for row in corpus.read("wenetspeech", subsets=["S", "M", "L"])] == [0.0, 1.5, 5.0, 5.5]
    assert [row.offset_s for row in corpus.read("wenetspeech", subsets=["S"])] == [0.0]
    assert {row.split for row in corpus.read("wenetspeech", use_split=False)} == {None}


def test_low_confidence_is_rejected_with_its_value(corpus: Any) -> None:
    found = corpus.measure("wenetspeech", subsets=["L", "W"], min_confidence=0.98)
    assert found.reasons == ["low_confidence", "low_confidence", "truncated"]
    assert "Y_S2: 0.70, under 0.98" in {reject.detail for reject in found.rejects.values()}
    assert "low_confidence" not in corpus.measure("wenetspeech", subsets=["W"], min_confidence=0.6).reasons


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the recipe leaves its file open
def test_the_segments_are_those_of_lhotses_recipe(corpus: Any) -> None:
    from lhotse.recipes.wenet_speech import prepare_wenet_speech

    for subset in ("L", "M", "TEST_NET"):
        manifests = prepare_wenet_speech(corpus.root, [subset])[subset]
        paths = {recording.id: Path(recording.sources[0].source) for recording in manifests["recordings"]}
        expected = {
            (paths[supervision.recording_id].relative_to(corpus.root).as_posix(), supervision.start, supervision.text)
            for supervision in manifests["supervisions"]
        }
        rows = corpus.read("wenetspeech", subsets=[subset])
        ours = {(row.path, row.offset_s, row.text) for row in rows}
        assert ours == expected


def test_the_digest_sees_the_list_and_the_files(corpus: Any) -> None:
    assert corpus.changes("wenetspeech", lambda: corpus.audio("audio/dev/youtube/B00000/D0.opus"))
    assert corpus.changes("wenetspeech", lambda: corpus.text("WenetSpeech.json", '{"audios": []}'))


def test_mistakes_are_named(corpus: Any) -> None:
    with pytest.raises(UserError, match="min_confidence is 95"):
        corpus.read("wenetspeech", min_confidence=95)
    with pytest.raises(UserError, match="subsets: XL; allowed: L, M, S, W"):
        corpus.read("wenetspeech", subsets=["XL"])


def test_traditional_characters_are_simplified_by_transcribe_and_not_by_the_reader(corpus: Any, tmp_path: Path) -> None:
    rows = [row for row in corpus.measure("wenetspeech").kept if row.offset_s == 1.5]
    assert [row.text for row in rows] == ["這些日子"]
    write_rows(tmp_path / "part.parquet", Utterance, rows)
    worker = transcribe.Worker(transcribe.Config(texts="trust"), {"c": corpus.root}, "cpu", "whisper:none")
    output = UnitFolder(tmp_path, "texts")
    worker(ManifestPart(tmp_path / "part.parquet", 0), output)
    assert [row.text for row in read_rows(output.path(".parquet"), Utterance)] == ["这些日子"]

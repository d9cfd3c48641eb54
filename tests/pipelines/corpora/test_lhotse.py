"""Manifests of lhotse: every supervision becomes a row; segments whose audio lhotse would change are unfit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flowse.errors import UserError
from pipelines.corpora import Unfit

lhotse = pytest.importorskip("lhotse")


@pytest.fixture
def corpus(bench: Any) -> Any:
    bench.audio("a/long.flac", "b/long.flac", seconds=4.0)
    bench.audio("stereo.wav", seconds=1.0, channels=2)
    recordings = [recording(bench.root / name) for name in ("a/long.flac", "b/long.flac")]
    supervisions = [
        supervision(recordings[0], "one", 0.5, 1.0, "zh-CN", "這些"),
        supervision(recordings[0], "two", 2.0, 2.02, "Chinese", "日子"),
        supervision(recordings[1], "three", 0.5, 1.0, "yue", "好", {"split": "test", "licence": "CC0-1.0"}),
    ]
    lhotse.RecordingSet.from_recordings(recordings).to_file(bench.root / "recordings.jsonl.gz")
    lhotse.SupervisionSet.from_segments(supervisions).to_file(bench.root / "supervisions.jsonl.gz")
    cuts = lhotse.CutSet.from_manifests(
        recordings=lhotse.RecordingSet.from_recordings(recordings),
        supervisions=lhotse.SupervisionSet.from_segments(supervisions),
    )
    cuts.to_file(bench.root / "cuts.jsonl.gz")
    bench.cuts = list(cuts)
    return bench


def recording(path: Path) -> Any:
    return lhotse.Recording.from_file(path, recording_id=path.parent.name + path.stem)


def supervision(
    recording: Any, name: str, start: float, duration: float, language: str, text: str, custom: Any = None
) -> Any:
    return lhotse.SupervisionSegment(
        id=name,
        recording_id=recording.id,
        start=start,
        duration=duration,
        language=language,
        text=text,
        speaker=f"s-{name}",
        custom=custom,
    )


def write(bench: Any, *cuts: Any) -> None:
    lhotse.CutSet.from_cuts(cuts).to_file(bench.root / "cuts.jsonl.gz")


BOTH = {"recordings": "recordings.jsonl.gz", "supervisions": "supervisions.jsonl.gz"}


@pytest.mark.parametrize("options", [{"cuts": "cuts.jsonl.gz"}, BOTH])
def test_supervisions_become_rows_in_cuts_and_in_files_of_their_own(corpus: Any, options: dict[str, str]) -> None:
    found = corpus.measure("lhotse", **options)
    assert [(row.utt_id, row.path, row.offset_s, round(row.duration_s, 3), row.text) for row in found.kept] == [
        ("c/one", "a/long.flac", 0.5, 1.0, "這些"),
        ("c/two", "a/long.flac", 2.0, 2.0, "日子"),
        ("c/three", "b/long.flac", 0.5, 1.0, "好"),
    ]
    assert {row.language for row in found.kept} == {"zh"}
    assert [row.speaker for row in found.kept] == ["s-one", "s-two", "s-three"]
    assert (found.kept[2].split, found.kept[2].licence) == ("test", "CC0-1.0")
    assert not found.rejects
    assert corpus.read("lhotse", use_split=False, **options)[2].split is None


def test_the_same_samples_are_read_as_by_lhotse(corpus: Any) -> None:
    import numpy as np

    from flowse.audio.waveform import read

    rows = corpus.read("lhotse", cuts="cuts.jsonl.gz")
    trimmed = lhotse.CutSet.from_cuts(corpus.cuts).trim_to_supervisions()
    for row, cut in zip(rows, trimmed, strict=True):
        ours, rate = read(corpus.root / row.path, offset_s=row.offset_s, duration_s=row.duration_s)
        np.testing.assert_array_equal(ours, cut.load_audio()[:, : ours.shape[1]])
        assert rate == cut.sampling_rate


def test_windows_of_a_recording_keep_the_times_of_the_recording(corpus: Any) -> None:
    whole = lhotse.MonoCut("w", 0.0, 4.0, 0, recording=corpus.cuts[0].recording)
    bare = whole.truncate(offset=1.0, duration=2.0)
    write(corpus, bare, corpus.cuts[0].truncate(offset=1.0, duration=2.5).with_id("v"))
    rows = corpus.read("lhotse", cuts="cuts.jsonl.gz")
    assert [(row.offset_s, row.duration_s) for row in rows] == [(1.0, 2.0), (1.0, 0.5), (2.0, 1.5)]


def test_recordings_without_supervisions_become_rows(corpus: Any) -> None:
    found = corpus.measure("lhotse", "noise", recordings="recordings.jsonl.gz")
    assert found.paths == ["a/long.flac", "b/long.flac"]


def test_segments_that_lhotse_would_change_are_unfit_with_a_reason(corpus: Any) -> None:
    stereo = lhotse.Recording.from_file(corpus.root / "stereo.wav")
    cut = corpus.cuts[0].truncate(duration=1.0)
    command = lhotse.Recording("cmd", [lhotse.AudioSource("command", [0], "sox x -t wav -")], 16_000, 16_000, 1.0)
    write(
        corpus,
        lhotse.MonoCut("left", 0.0, 1.0, 0, recording=stereo),
        lhotse.MultiCut("both", 0.0, 1.0, [0, 1], recording=stereo),
        cut.perturb_speed(1.1).drop_supervisions().with_id("fast"),
        lhotse.MonoCut("command", 0.0, 1.0, 0, recording=command),
        cut.pad(duration=3.0).with_id("padded"),
    )
    found = corpus.measure("lhotse", cuts="cuts.jsonl.gz")
    assert [row.utt_id for row in found.kept] == ["c/both"]
    assert {name: reject.reason for name, reject in found.rejects.items()} == {
        "c/left": "one_of_the_channels",
        "c/fast": "transformed",
        "c/command": "not_one_file",
        "c/padded": "not_a_recording",
    }
    assert all(isinstance(row, Unfit) for row in corpus.read("lhotse", cuts="cuts.jsonl.gz") if row.utt_id != "c/both")


def test_audio_that_was_moved_is_found_below_the_root(corpus: Any) -> None:
    old = corpus.root
    corpus.root = old.rename(old.parent / "elsewhere")
    with pytest.raises(UserError, match=r"does not lie below the root .*options\.moved_from"):
        corpus.read("lhotse", cuts="cuts.jsonl.gz")
    found = corpus.measure("lhotse", cuts="cuts.jsonl.gz", moved_from=str(old))
    assert [row.path for row in found.kept] == ["a/long.flac", "a/long.flac", "b/long.flac"]


def test_the_digest_sees_the_manifests(corpus: Any) -> None:
    assert corpus.changes("lhotse", lambda: write(corpus, corpus.cuts[0]), cuts="cuts.jsonl.gz")


@pytest.mark.parametrize("options", [{"cuts": "cuts.jsonl.gz"}, BOTH, {"cuts": "cuts.yaml"}])
def test_the_digest_sees_the_audio_that_the_manifests_name(corpus: Any, options: dict[str, str]) -> None:
    """Of the same size, in files of other manifests too, and where it was moved."""
    lhotse.CutSet.from_cuts(corpus.cuts).to_file(corpus.root / "cuts.yaml")
    audio = corpus.root / "b" / "long.flac"
    replace = lambda: audio.write_bytes(bytes(audio.stat().st_size))  # noqa: E731
    assert corpus.changes("lhotse", replace, **options)
    assert not corpus.changes("lhotse", lambda: (corpus.root / "stereo.wav").unlink(), **options)
    old = corpus.root
    corpus.root = old.rename(old.parent / "elsewhere")
    audio = corpus.root / "b" / "long.flac"
    assert corpus.changes("lhotse", replace, **options, moved_from=str(old))


def test_mistakes_are_named(corpus: Any) -> None:
    with pytest.raises(UserError, match="name one of them"):
        corpus.read("lhotse")
    with pytest.raises(UserError, match="needs `recordings`"):
        corpus.read("lhotse", cuts="cuts.jsonl.gz", supervisions="supervisions.jsonl.gz")
    with pytest.raises(UserError, match="manifest of corpus 'c' is missing"):
        corpus.read("lhotse", cuts="none.jsonl.gz")
    (corpus.root / "bad.jsonl").write_text('{"id": 3}\n{')
    with pytest.raises(UserError, match="is damaged, or no manifest"):
        corpus.read("lhotse", cuts="bad.jsonl")
    lhotse.RecordingSet.from_recordings([recording(corpus.root / "a/long.flac")]).to_file(corpus.root / "r.jsonl")
    with pytest.raises(UserError, match=r"three belongs to blong, which r\.jsonl does not hold"):
        corpus.read("lhotse", recordings="r.jsonl", supervisions="supervisions.jsonl.gz")

"""A manifest as a CutSet: lhotse hears the same samples, and reading it back gives the same rows."""

from __future__ import annotations

import dataclasses
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from flowse.audio.waveform import read
from flowse.data.content import content_of
from flowse.data.manifest import Utterance, make_utt_id
from flowse.data.parquet import write_rows
from flowse.errors import UserError
from flowse.fetching import use_source
from pipelines.commands.export_cuts import export_cuts
from pipelines.corpora import lhotse as reader
from pipelines.engine.nearby import Nearby

lhotse = pytest.importorskip("lhotse")


@pytest.fixture
def rows(tmp_path: Path) -> list[Utterance]:
    root = tmp_path / "audio"
    (root / "a").mkdir(parents=True)
    noise = np.random.default_rng(0).normal(0, 0.1, (48_000, 2))
    soundfile.write(root / "a" / "mono.flac", noise[:, 0], 24_000)
    soundfile.write(root / "stereo.wav", noise, 16_000)
    segment = Utterance(
        utt_id=make_utt_id("c", "a/mono.flac", 0.5),
        corpus="c",
        kind="speech",
        path="a/mono.flac",
        offset_s=0.5,
        duration_s=1.25,
        sample_rate=24_000,
        channels=1,
        speaker="Ann",
        split="dev",
        licence="CC-BY-4.0",
        language="zh",
        language_prob=0.75,
        text="你好",
        text_source="whisper:0123",
        text_logprob=-0.5,
    )
    whole = dataclasses.replace(
        segment,
        utt_id=make_utt_id("c", "stereo.wav"),
        path="stereo.wav",
        offset_s=0.0,
        duration_s=3.0,
        sample_rate=16_000,
        channels=2,
        text="",
        text_source="",
        text_logprob=None,
        language_prob=None,
    )
    return [segment, whole]


def exported(tmp_path: Path, rows: list[Utterance], name: str = "cuts.jsonl.gz") -> Path:
    write_rows(tmp_path / "part.parquet", Utterance, rows)
    assert export_cuts([tmp_path / "part.parquet"], {"c": tmp_path / "audio"}, tmp_path / "out" / name) == len(rows)
    return tmp_path / "out" / name


@pytest.mark.parametrize("name", ["cuts.jsonl", "cuts.jsonl.gz"])
@pytest.mark.parametrize("kind", ["speech", "noise"])
def test_what_is_written_is_read_back_as_it_was(tmp_path: Path, rows: list[Utterance], name: str, kind: str) -> None:
    rows = [dataclasses.replace(row, kind=kind) for row in rows]
    if kind == "noise":
        rows = [
            dataclasses.replace(row, language="", language_prob=None, text="", text_source="", text_logprob=None)
            for row in rows
        ]
    path = exported(tmp_path, rows, name)
    options = reader.Options(cuts=str(path))
    back = list(reader.read(tmp_path / "audio", "c", rows[0].kind, options, 0))
    # Rate and channels are measured by ingest; ids are made within the corpus anew.
    measured = {row.utt_id: (row.sample_rate, row.channels) for row in rows}
    for row, again in zip(rows, back, strict=True):
        assert again.utt_id == make_utt_id("c", row.utt_id)
        rate, channels = measured[row.utt_id]
        assert dataclasses.replace(again, utt_id=row.utt_id, sample_rate=rate, channels=channels) == row


def test_lhotse_hears_the_same_samples(tmp_path: Path, rows: list[Utterance]) -> None:
    cuts = lhotse.CutSet.from_file(exported(tmp_path, rows))
    for row, cut in zip(rows, cuts, strict=True):
        ours, rate = read(tmp_path / "audio" / row.path, offset_s=row.offset_s, duration_s=row.duration_s)
        np.testing.assert_array_equal(cut.load_audio(), ours)
        assert (cut.sampling_rate, cut.id) == (rate, row.utt_id)
        assert [(supervision.text, supervision.speaker, supervision.language) for supervision in cut.supervisions] == [
            (row.text or None, "Ann", "zh")
        ]
    lhotse.validate(cuts)


def test_mistakes_leave_no_file(tmp_path: Path, rows: list[Utterance]) -> None:
    with pytest.raises(UserError, match=r"written as \.jsonl or \.jsonl\.gz"):
        export_cuts([tmp_path / "x"], {}, tmp_path / "cuts.json")
    with pytest.raises(UserError, match="writes no manifest"):
        export_cuts([], {}, tmp_path / "cuts.jsonl")
    (tmp_path / "audio" / "stereo.wav").unlink()
    with pytest.raises(UserError, match=r"stereo\.wav .*it was there when the manifest was made"):
        exported(tmp_path, rows)
    assert not list((tmp_path / "out").iterdir())


def test_a_recording_that_is_another_now_is_named_and_no_file_is_left(tmp_path: Path, rows: list[Utterance]) -> None:
    audio = tmp_path / "audio" / "stereo.wav"
    known = [rows[0], dataclasses.replace(rows[1], content=content_of(audio))]
    assert exported(tmp_path, known).exists()
    audio.write_bytes(audio.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match=r"stereo\.wav: holds other bytes than ingest decoded"):
        exported(tmp_path, known, "others.jsonl")
    assert not (tmp_path / "out" / "others.jsonl").exists()


def test_recordings_that_are_no_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    soundfile.write(tmp_path / "x.wav", np.zeros(1600), 16_000)
    (tmp_path / "audio").mkdir()
    with tarfile.open(tmp_path / "audio" / "a.tar", "w") as tar:
        tar.add(tmp_path / "x.wav", arcname="x.wav")
    row = Utterance(utt_id="c/a-tar/x-wav", corpus="c", kind="speech", path="a.tar/x.wav", duration_s=0.1)
    write_rows(tmp_path / "part.parquet", Utterance, [row])
    use_source(Nearby())
    try:
        with pytest.raises(UserError, match=r"corpus 'c': lies in a store or in tar files.*unpack"):
            export_cuts([tmp_path / "part.parquet"], {"c": tmp_path / "audio"}, tmp_path / "cuts.jsonl")
    finally:
        use_source(None)
    assert not (tmp_path / "cuts.jsonl").exists()

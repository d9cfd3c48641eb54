"""Laws of m4a and AAC: the samples that were written, segments that are slices, and refusals with a reason."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from flowse.audio.level import level_dbfs
from flowse.audio.waveform import probe, read, sample_format
from flowse.refusal import Refusal
from tests.aac import write_aac


def write(path: Path, samples: np.ndarray, rate: int = 24_000) -> Path:
    kind, subtype = FORMATS[path.suffix[1:]]
    sf.write(path, samples, rate, format=kind, subtype=subtype)
    return path


def reason(path: Path, **segment: float) -> str:
    """Return the reason with which reading the file is refused."""
    with pytest.raises(Refusal) as caught:
        read(path, **segment)  # type: ignore[arg-type]
    assert str(path) in caught.value.detail
    return caught.value.reason


def chirp(seconds: float, rate: int = 24_000) -> np.ndarray:
    """Return a rising tone, in which no two moments are alike."""
    time = np.arange(round(seconds * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * (200 * time + 500 * time**2 / seconds))).astype(np.float32)[None]


CONTAINERS = {"m4a": {}, "faststart.m4a": {"movflags": "faststart"}, "fragments.mp4": {"movflags": "dash"}, "aac": {}}


def with_duration(content: bytes, units: int) -> bytes:
    """Return an m4a whose header declares another length of its track."""
    at = content.index(b"mdhd") + 20
    return content[:at] + struct.pack(">I", units) + content[at + 4 :]


def test_without_pyav_the_refusal_of_m4a_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    path = tmp_path / "a.m4a"
    path.write_bytes(b"\0\0\0\x20ftypM4A " * 20)
    with pytest.raises(Refusal, match="pip install av"):
        read(path)


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_m4a_is_read_without_the_encoders_delay(tmp_path: Path, rate: int) -> None:
    samples = chirp(2.0, rate)
    path = write_aac(tmp_path / "a.m4a", samples, rate)
    got, got_rate = read(path)
    assert (got_rate, got.dtype, got.shape) == (rate, np.float32, samples.shape)
    assert level_dbfs((got - samples)[0, 3000:-3000]) < level_dbfs(samples[0]) - 25


def test_the_sample_format_is_known_for_files_that_libsndfile_reads(tmp_path: Path) -> None:
    sf.write(tmp_path / "a.wav", chirp(0.5)[0], 24_000, subtype="PCM_24")
    assert sample_format(tmp_path / "a.wav") == "PCM_24"
    assert sample_format(write_aac(tmp_path / "a.m4a", chirp(0.5))) == ""


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_segment_of_aac_is_a_slice_of_the_whole(tmp_path: Path, name: str) -> None:
    path = write_aac(tmp_path / f"a.{name}", np.concatenate([chirp(8.0), -chirp(8.0) / 2]), **CONTAINERS[name])
    whole, rate = read(path)
    for offset_s, duration_s in ((0.0, 0.5), (0.1, 0.3), (0.26, 1.0), (3.3333, 0.01), (5.4321, 2.0)):
        part, _ = read(path, offset_s=offset_s, duration_s=duration_s)
        start = round(offset_s * rate)
        np.testing.assert_allclose(part, whole[:, start : start + round(duration_s * rate)], atol=1e-4)
    rest, _ = read(path, offset_s=7.5)
    np.testing.assert_allclose(rest, whole[:, round(7.5 * rate) :], atol=1e-4)


def test_an_m4a_copied_from_a_stream_has_no_silence_before_its_first_sample(tmp_path: Path) -> None:
    path = write_aac(tmp_path / "a.m4a", chirp(4.0), first=36_000)
    whole, _ = read(path)
    assert whole.shape == (1, probe(path).frames)
    # FFmpeg writes the encoder's delay as audio here; the recording follows it without silence in between.
    np.testing.assert_allclose(whole[:, -96_000:], read(write_aac(tmp_path / "b.m4a", chirp(4.0)))[0], atol=1e-4)
    assert 96_000 <= whole.shape[1] < 98_000
    np.testing.assert_allclose(read(path, offset_s=2.0, duration_s=1.0)[0], whole[:, 48_000:72_000], atol=1e-4)


@pytest.mark.parametrize("name", CONTAINERS)
def test_probe_of_aac_returns_the_length_and_rate_that_read_does(tmp_path: Path, name: str) -> None:
    path = write_aac(tmp_path / f"a.{name}", np.concatenate([chirp(1.3), chirp(1.3)]), **CONTAINERS[name])
    info = probe(path)
    got, rate = read(path)
    assert ((info.channels, info.frames), info.sample_rate) == (got.shape, rate)


def test_a_segment_of_m4a_may_end_late_by_a_rounding_error_only(tmp_path: Path) -> None:
    path = write_aac(tmp_path / "a.m4a", chirp(1.0))
    assert read(path, offset_s=0.5, duration_s=0.52)[0].shape == (1, 12_000)
    assert reason(path, offset_s=0.5, duration_s=0.6) == "truncated"
    assert reason(path, offset_s=1.5, duration_s=0.01) == "truncated"


def test_a_truncated_m4a_is_refused_and_a_segment_before_the_truncation_can_be_read(tmp_path: Path) -> None:
    path = write_aac(tmp_path / "a.m4a", chirp(4.0), movflags="faststart")
    whole, _ = read(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert reason(path) == "truncated"
    assert reason(path, offset_s=3.0, duration_s=0.5) == "truncated"
    np.testing.assert_allclose(read(path, offset_s=0.1, duration_s=0.5)[0], whole[:, 2400:14_400], atol=1e-4)


def test_m4a_without_its_table_of_contents_is_undecodable(tmp_path: Path) -> None:
    path = write_aac(tmp_path / "a.m4a", chirp(2.0))  # the table comes last
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert reason(path) == "undecodable"


def test_m4a_under_another_suffix_is_read(tmp_path: Path) -> None:
    path = write_aac(tmp_path / "a.m4a", chirp(1.0)).rename(tmp_path / "a.mp3")
    assert read(path)[0].shape == (1, probe(path).frames) == (1, 24_000)


@pytest.mark.parametrize("units", [0, 1000, 24_000, 480_000, 2**32 - 1])
def test_an_m4a_of_a_wrong_length_is_read_to_the_end(tmp_path: Path, units: int) -> None:
    whole, _ = read(write_aac(tmp_path / "a.m4a", chirp(2.0)))
    path = tmp_path / "wrong.m4a"
    path.write_bytes(with_duration((tmp_path / "a.m4a").read_bytes(), units))
    got, _ = read(path)
    assert got.shape == (1, probe(path).frames)
    assert 48_000 <= got.shape[1] < 48_000 + 1024
    np.testing.assert_allclose(got[:, :48_000], whole, atol=1e-4)


def test_an_m4a_whose_tags_are_not_utf8_is_read(tmp_path: Path) -> None:
    path = write_aac(tmp_path / "a.m4a", chirp(1.0))
    content = path.read_bytes()
    at = content.index(b"Lavf")
    path.write_bytes(content[:at] + b"\xe9\xff" + content[at + 2 :])
    assert read(path)[0].shape == (1, probe(path).frames) == (1, 24_000)


def test_an_m4a_without_a_codec_is_undecodable(tmp_path: Path) -> None:
    path = write_aac(tmp_path / "a.m4a", chirp(1.0))
    content = path.read_bytes()
    at = content.index(b"esds")
    for place, change in ((content.index(b"mp4a", at - 60), b"zzzz"), (content.index(b"\x40\x15", at), b"\x20")):
        path.write_bytes(content[:place] + change + content[place + len(change) :])
        try:
            assert read(path)[0].shape == (1, probe(path).frames)
        except Refusal as refusal:
            assert refusal.reason in ("undecodable", "empty_file", "truncated")  # noqa: PT017

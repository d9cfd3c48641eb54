"""Laws of waveforms: a readable file gives the samples that were written, a broken file is refused with a reason."""

from __future__ import annotations

import struct
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from flowse.audio.level import level_dbfs
from flowse.audio.waveform import check, probe, read, read_mono, read_span, resample, to_mono
from flowse.refusal import Refusal
from tests.aac import write_aac

FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "aiff": ("AIFF", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}


def tone(seconds: float = 1.0, rate: int = 24_000, hertz: float = 440.0, peak: float = 0.5) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    return (peak * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


def noise(n_samples: int, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(n_samples)).astype(np.float32)


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


@pytest.mark.parametrize("suffix", FORMATS)
def test_reading_any_format_returns_the_samples_that_were_written(tmp_path: Path, suffix: str) -> None:
    samples = tone()
    path = write(tmp_path / f"a.{suffix}", samples)
    got, rate = read(path)
    assert (got.dtype, got.shape, rate) == (np.float32, (1, 24_000), 24_000)
    error_db = level_dbfs((got[0] - samples)[500:-500]) - level_dbfs(samples)
    assert error_db < (-80 if suffix in ("wav", "aiff", "flac") else -20)


@pytest.mark.parametrize("suffix", FORMATS)
def test_probe_returns_the_length_and_rate_that_read_does(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"a.{suffix}", np.stack([tone(0.7), tone(0.7)], axis=1))
    info = probe(path)
    got, rate = read(path)
    assert (info.channels, info.frames) == got.shape
    assert (info.sample_rate, info.duration_s) == (rate, pytest.approx(0.7))


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
def test_a_segment_is_a_slice_of_the_whole(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"a.{suffix}", noise(48_000))
    whole, _ = read(path)
    part, _ = read(path, offset_s=0.5, duration_s=0.25)
    np.testing.assert_allclose(part, whole[:, 12_000:18_000], atol=1e-6)


def test_a_segment_may_end_late_by_a_rounding_error_only(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", noise(24_000))
    assert read(path, offset_s=0.5, duration_s=0.52)[0].shape == (1, 12_000)
    assert reason(path, offset_s=0.5, duration_s=0.6) == "truncated"
    assert reason(path, offset_s=1.5, duration_s=0.01) == "truncated"


@pytest.mark.parametrize(("offset_s", "duration_s"), [(-1.0, None), (0.0, 0.0), (0.0, -1.0)])
def test_a_negative_segment_raises_a_value_error(tmp_path: Path, offset_s: float, duration_s: float | None) -> None:
    with pytest.raises(ValueError, match="offset_s"):
        read(tmp_path / "a.wav", offset_s=offset_s, duration_s=duration_s)


def test_reading_mono_mixes_and_resamples(tmp_path: Path) -> None:
    left, right = tone(rate=48_000, peak=0.2), tone(rate=48_000, peak=0.4)
    path = write(tmp_path / "a.wav", np.stack([left, right], axis=1), 48_000)
    got = read_mono(path, 16_000)
    assert got.shape == (16_000,)
    assert np.abs(got - tone(rate=16_000, peak=0.3))[200:-200].max() < 1e-3


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_truncated_file_is_refused(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"a.{suffix}", noise(48_000))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert reason(path) == "truncated"


@pytest.mark.parametrize("suffix", ["wav", "aiff", "ogg", "opus"])
def test_probe_refuses_a_truncated_file(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"a.{suffix}", noise(48_000))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(Refusal, match="truncated"):
        probe(path)


def test_a_segment_before_the_truncation_can_be_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", noise(48_000))
    whole, _ = read(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    np.testing.assert_array_equal(read(path, offset_s=0.1, duration_s=0.5)[0], whole[:, 2400:14_400])


def test_a_streamed_wav_of_unknown_length_is_whole(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", noise(4800))
    data = bytearray(path.read_bytes())
    at = data.index(b"data") + 4
    data[at : at + 4] = struct.pack("<I", 0xFFFF_FFFF)
    path.write_bytes(data)
    assert read(path)[0].shape == (1, 4800)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "empty_file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git_lfs_pointer"),
        (b"\n <!DOCTYPE html><html>", "html_instead_of_audio"),
        (b"<HTML><head>", "html_instead_of_audio"),
        (b"not audio at all" * 100, "undecodable"),
        (b"RIFF\x00\x00\x00\x00WAVE", "undecodable"),
    ],
)
@pytest.mark.parametrize("suffix", ["wav", "flac", "m4a"])
def test_each_kind_of_file_without_audio_has_its_own_reason(
    tmp_path: Path, content: bytes, expected: str, suffix: str
) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(content)
    assert reason(path) == expected
    with pytest.raises(Refusal, match=expected):
        probe(path)


def test_a_file_without_samples_is_refused_as_empty(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", np.zeros(0, np.float32))
    assert reason(path) == "empty_file"
    with pytest.raises(Refusal, match="empty_file"):
        probe(path)


def test_a_missing_file_is_refused_as_not_found(tmp_path: Path) -> None:
    assert reason(tmp_path / "a.wav") == "not_found"
    assert reason(tmp_path) == "not_found"


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (np.array([0.1, np.nan]), "nan_samples"),
        (np.array([0.1, -np.inf]), "nan_samples"),
        (np.zeros(100), "silent"),
        (np.zeros(0), "silent"),
        (np.resize([1, -1], 100) * 10 ** (-71 / 20), "silent"),
        (np.full(100, 0.1), "silent"),
        (np.resize([1, -1], 100) * 10 ** (-71 / 20) + 0.3, "silent"),
    ],
)
def test_samples_that_cannot_be_used_are_refused_with_a_reason(samples: np.ndarray, expected: str) -> None:
    with pytest.raises(Refusal) as caught:
        check(samples.astype(np.float32), "a.wav")
    assert caught.value.reason == expected
    assert "a.wav" in caught.value.detail


def test_quiet_samples_are_accepted() -> None:
    square = (np.resize([1, -1], 100) * 10 ** (-69 / 20)).astype(np.float32)
    check(square)
    check(square + np.float32(0.3))


def test_a_single_channel_stays_as_it_is() -> None:
    samples = noise(100)[None]
    np.testing.assert_array_equal(to_mono(samples), samples[0])


def test_channels_are_averaged() -> None:
    a, b = noise(1000, 0), noise(1000, 1)
    np.testing.assert_allclose(to_mono(np.stack([a, b])), (a + b) / 2, atol=1e-7)


def test_channels_that_cancel_each_other_give_the_strongest_channel() -> None:
    a = noise(1000)
    np.testing.assert_array_equal(to_mono(np.stack([-0.9 * a, a])), a)


def test_eight_unrelated_channels_do_not_count_as_cancelling() -> None:
    channels = np.stack([noise(24_000, seed) for seed in range(8)])
    np.testing.assert_allclose(to_mono(channels), channels.mean(0), atol=1e-7)


@pytest.mark.parametrize(("rate", "new_rate"), [(16_000, 24_000), (44_100, 24_000), (22_050, 24_000), (48_000, 16_000)])
@pytest.mark.parametrize("n_samples", [1, 2, 333, 10_001])
def test_resampling_gives_the_rounded_length(rate: int, new_rate: int, n_samples: int) -> None:
    assert resample(noise(n_samples), rate, new_rate).shape == (round(n_samples * new_rate / rate),)


def test_resampling_there_and_back_keeps_the_band_of_both_rates() -> None:
    samples = tone(rate=24_000, hertz=3000)
    back = resample(resample(samples, 24_000, 16_000), 16_000, 24_000)
    assert np.abs(back - samples)[500:-500].max() < 1e-4


def test_resampling_to_the_same_rate_changes_nothing() -> None:
    samples = noise(100)
    np.testing.assert_array_equal(resample(samples, 24_000, 24_000), samples)


def test_a_rate_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="positive"):
        resample(noise(10), 0, 24_000)


def chirp(seconds: float, rate: int = 24_000) -> np.ndarray:
    """Return a rising tone, in which no two moments are alike."""
    time = np.arange(round(seconds * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * (200 * time + 500 * time**2 / seconds))).astype(np.float32)[None]


@pytest.mark.parametrize("name", [*(f"a.{suffix}" for suffix in FORMATS), "a.m4a", "a.aac"])
def test_consecutive_spans_add_up_to_the_whole_file_at_its_declared_length(tmp_path: Path, name: str) -> None:
    path, samples, rate = tmp_path / name, chirp(1.3), 24_000
    if name.endswith(("m4a", "aac")):
        write_aac(path, samples)
    else:
        kind, subtype = FORMATS[name.rpartition(".")[2]]
        sf.write(path, samples.T, rate, format=kind, subtype=subtype)
    frames = probe(path).frames
    edges = [0, 7_000, 19_999, frames]
    joined = np.concatenate([read_span(path, *span, rate) for span in pairwise(edges)], axis=1)
    whole, _ = read(path)
    assert joined.shape == (1, frames)
    shared = min(frames, whole.shape[1])
    # Spans of lossy formats may differ at the start of a decoder: the comparison is only as exact as the tone needs.
    assert level_dbfs((joined - whole[:, :frames])[0, :shared]) < level_dbfs(samples[0]) - 30


@pytest.mark.parametrize(("rate", "compression"), [(8_000, 0.95), (24_000, 0.5), (44_100, 0.95), (48_000, 0.0)])
def test_a_segment_of_mp3_is_a_slice_of_the_whole(tmp_path: Path, rate: int, compression: float) -> None:
    """A decoder that begins in the middle without pre-roll gives other samples for a sixth of a second."""
    rng = np.random.default_rng(0)
    loudness = np.repeat(rng.uniform(0, 0.5, 30), rate // 10)
    sf.write(
        tmp_path / "a.mp3", loudness * rng.standard_normal(len(loudness)), rate,
        format="MP3", subtype="MPEG_LAYER_III", compression_level=compression,
    )  # fmt: skip
    whole, _ = read(tmp_path / "a.mp3")
    for start in map(int, rng.integers(0, 2 * rate, 8)):
        stop = start + rate // 2
        segment = read_span(tmp_path / "a.mp3", start, stop, rate)
        np.testing.assert_allclose(segment, whole[:, start:stop], atol=1e-6)


def test_only_the_span_with_samples_that_are_not_finite_is_refused(tmp_path: Path) -> None:
    samples = chirp(1.0)[0].copy()
    samples[20_000] = np.nan
    sf.write(tmp_path / "a.wav", samples, 24_000, subtype="FLOAT")
    read_span(tmp_path / "a.wav", 0, 20_000, 24_000)
    with pytest.raises(Refusal, match=r"a\.wav: samples are not finite"):
        read_span(tmp_path / "a.wav", 20_000, 24_000, 24_000)


CONTAINERS = {"m4a": {}, "faststart.m4a": {"movflags": "faststart"}, "fragments.mp4": {"movflags": "dash"}, "aac": {}}


@pytest.mark.parametrize("suffix", ["opus", "ogg"])
def test_a_late_segment_of_a_long_recording_is_a_slice_of_the_whole(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"a.{suffix}", np.tile(noise(48_000), 30))
    whole, _ = read(path)
    for offset_s in (0.001, 1.2345, 29.9, 58.0):
        part, _ = read(path, offset_s=offset_s, duration_s=1.5)
        start = round(offset_s * 24_000)
        np.testing.assert_allclose(part, whole[:, start : start + 36_000], atol=1e-6)


def with_duration(content: bytes, units: int) -> bytes:
    """Return an m4a whose header declares another length of its track."""
    at = content.index(b"mdhd") + 20
    return content[:at] + struct.pack(">I", units) + content[at + 4 :]

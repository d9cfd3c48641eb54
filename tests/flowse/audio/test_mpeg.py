"""Laws of mp3: joined files, files without a count of their frames and files with a wrong one are read to the end."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from flowse.audio.mpeg import frame_at, links_of
from flowse.audio.waveform import probe, read

MODES = ["CONSTANT", "AVERAGE", "VARIABLE"]


def mp3(seconds: float, mode: str, rate: int = 24_000, channels: int = 1, seed: int = 0) -> bytes:
    rng = np.random.default_rng(seed)
    loudness = np.repeat(rng.uniform(0, 0.4, round(10 * seconds)), rate // 10)
    samples = np.stack([loudness * rng.standard_normal(len(loudness))] * channels, axis=1)
    buffer = io.BytesIO()
    options = {"format": "MP3", "subtype": "MPEG_LAYER_III", "bitrate_mode": mode, "compression_level": 0.5}
    sf.write(buffer, samples, rate, **options)
    return buffer.getvalue()


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("rate", "channels"), [(24_000, 1), (44_100, 2), (8_000, 1)])
def test_joined_mp3_files_are_read_to_the_sample(tmp_path: Path, mode: str, rate: int, channels: int) -> None:
    parts = [mp3(2.0, mode, rate, channels), mp3(1.0, mode, rate, channels, seed=1)]
    apart = [read(written(tmp_path / f"{number}.mp3", part))[0] for number, part in enumerate(parts)]
    for between in (b"", b"ID3\x03\0\0\0\0\0\x10" + bytes(16), b"TAG" + bytes(125)):
        path = written(tmp_path / "joined.mp3", between.join(parts))
        got, _ = read(path)
        assert got.shape == (channels, probe(path).frames)
        np.testing.assert_allclose(got, np.concatenate(apart, axis=1), atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("rate", [24_000, 44_100])
def test_an_mp3_without_a_count_of_its_frames_is_read_to_the_end(tmp_path: Path, mode: str, rate: int) -> None:
    content = mp3(4.0, mode, rate)
    first = frame_at(content, 0)
    assert first is not None
    frames = links_of(content)[0].frames * (1152 if first.version == 3 else 576)
    path = written(tmp_path / "a.mp3", content[first.size :])
    got, _ = read(path)
    assert got.shape == (1, probe(path).frames)
    assert abs(got.shape[1] - frames) <= 1152


@pytest.mark.parametrize("mode", MODES)
def test_a_count_of_too_few_frames_hides_nothing(tmp_path: Path, mode: str) -> None:
    content = bytearray(mp3(4.0, mode))
    whole, _ = read(written(tmp_path / "right.mp3", bytes(content)))
    at = max(content.find(b"Xing"), content.find(b"Info")) + 8
    content[at : at + 4] = (10).to_bytes(4, "big")
    path = written(tmp_path / "wrong.mp3", bytes(content))
    np.testing.assert_allclose(read(path)[0], whole, atol=1e-6)
    assert probe(path).frames == whole.shape[1]


def test_mp3_files_in_order_are_left_to_the_decoder(tmp_path: Path) -> None:
    from flowse.audio.containers import HEAD_BYTES, PLAIN, layout_of

    for mode in MODES:
        content = mp3(2.0, mode)
        path = written(tmp_path / f"{mode}.mp3", content)
        assert layout_of(path, content[:HEAD_BYTES], len(content), whole=True) == PLAIN

"""Laws of the quality meter: values of samples and of rows agree, and what cannot be read has a reason, no values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("speechmos", reason="the [pipeline] extra is not installed")

import soundfile as sf

from flowse.data.manifest import Utterance
from flowse.metrics.dnsmos import Dnsmos
from flowse.metrics.quality import QualityMeter
from flowse.seeding import generator

RATE = 16_000


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return (0.1 * generator(seed).standard_normal(round(seconds * RATE))).astype(np.float32)


def row(path: str, duration_s: float, offset_s: float = 0.0) -> Utterance:
    return Utterance(utt_id=f"c/{path}", corpus="c", kind="speech", path=path, duration_s=duration_s, offset_s=offset_s)


def test_a_row_has_the_values_of_its_samples(tmp_path: Path) -> None:
    sf.write(tmp_path / "a.wav", noise(3.0), RATE, subtype="FLOAT")
    meter = QualityMeter()
    found = meter.of_row(row("a.wav", 3.0), tmp_path / "a.wav")
    assert found == meter.of_samples(noise(3.0)[None], RATE, "c/a.wav", "c")
    assert found.dnsmos == pytest.approx(Dnsmos()(noise(3.0), RATE).ovrl, abs=1e-3)
    assert found.bandwidth_hz == pytest.approx(RATE / 2, abs=100)
    assert found.refusal() is None


def test_a_segment_is_measured_and_not_its_file(tmp_path: Path) -> None:
    quiet_band = np.sin(2 * np.pi * 1000 * np.arange(2 * RATE) / RATE).astype(np.float32) * 0.1
    sf.write(tmp_path / "a.wav", np.concatenate([noise(2.0), quiet_band]), RATE)
    meter = QualityMeter(dnsmos=False)
    first = meter.of_row(row("a.wav", 2.0), tmp_path / "a.wav")
    second = meter.of_row(row("a.wav", 1.5, offset_s=2.2), tmp_path / "a.wav")
    assert first.bandwidth_hz is not None
    assert first.bandwidth_hz > 7900
    assert second.bandwidth_hz is not None
    assert second.bandwidth_hz < 1200
    assert first.dnsmos is None


def test_of_a_long_utterance_the_middle_is_measured(tmp_path: Path) -> None:
    tone = np.sin(2 * np.pi * 1000 * np.arange(4 * RATE) / RATE).astype(np.float32) * 0.1
    sf.write(tmp_path / "a.wav", np.concatenate([noise(4.0), tone, noise(4.0)]), RATE)
    found = QualityMeter(dnsmos=False, longest_s=3.0).of_row(row("a.wav", 12.0), tmp_path / "a.wav")
    assert found.bandwidth_hz is not None
    assert found.bandwidth_hz < 1200


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "not_found"), (b"", "empty_file"), (b"RIFF....", "undecodable")]
)
def test_what_cannot_be_read_has_a_reason(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "a.wav"
    if content is not None:
        path.write_bytes(content)
    found = QualityMeter(dnsmos=False).of_row(row("a.wav", 1.0), path)
    assert (found.refused, found.kind, found.bandwidth_hz) == (reason, "failed", None)


def test_silence_is_dropped_and_not_measured(tmp_path: Path) -> None:
    sf.write(tmp_path / "a.wav", np.zeros(RATE, np.float32), RATE)
    found = QualityMeter(dnsmos=False).of_row(row("a.wav", 1.0), tmp_path / "a.wav")
    assert (found.refused, found.kind) == ("silent", "dropped")

"""A spectrogram shows what sounds, where it sounds, in few bytes."""

from __future__ import annotations

import io

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="the [eval] extra is not installed")

from PIL import Image

from flowse.report.spectrogram import spectrogram_png
from flowse.seeding import generator


def test_a_tone_is_at_its_frequency() -> None:
    t = np.arange(24_000) / 24_000
    picture = Image.open(io.BytesIO(spectrogram_png(0.5 * np.sin(2 * np.pi * 3000 * t), 24_000, 100, 120)))
    assert picture.size == (100, 120)
    brightest = np.asarray(picture.convert("RGB"), float)[:, 50].sum(axis=1).argmax()
    # 3 kHz of 12 kHz, counted from the bottom.
    assert brightest == pytest.approx(120 * (1 - 3000 / 12_000), abs=2)


def test_a_pixel_takes_a_byte_at_most_and_silence_is_dark() -> None:
    noise = 0.1 * generator(0).standard_normal(24_000)
    assert len(spectrogram_png(noise, 24_000)) < 480 * 150
    silent = Image.open(io.BytesIO(spectrogram_png(np.zeros(100), 24_000))).convert("L")
    assert np.asarray(silent).max() < 10

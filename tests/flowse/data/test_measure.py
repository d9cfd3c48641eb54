"""Laws of measuring a recording: the header completes the row, and what cannot be used is refused with a reason."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from flowse.audio.waveform import AudioInfo
from flowse.data.manifest import Utterance
from flowse.data.measure import apply_header, check_recording
from flowse.refusal import Refusal

INFO = AudioInfo(frames=16_000, sample_rate=16_000, channels=2)
ROW = Utterance(utt_id="c/x", corpus="c", kind="speech", path="x.wav")


def _segment(offset_s: float, duration_s: float = 0.0) -> Utterance:
    return apply_header(dataclasses.replace(ROW, offset_s=offset_s, duration_s=duration_s), INFO)


def test_a_row_without_a_length_lasts_to_the_end_of_its_file() -> None:
    assert _segment(0.0) == dataclasses.replace(ROW, duration_s=1.0, sample_rate=16_000, channels=2)
    assert _segment(0.25).duration_s == pytest.approx(0.75)


def test_a_segment_keeps_its_length_unless_it_overruns_its_file_by_milliseconds() -> None:
    assert _segment(0.5, 0.25).duration_s == 0.25
    assert _segment(0.5, 0.54).duration_s == pytest.approx(0.5)


@pytest.mark.parametrize(("offset_s", "duration_s"), [(0.5, 0.56), (0.0, 3.0), (1.0, 0.0), (1.0, 0.01), (5.0, 0.0)])
def test_a_file_that_ends_well_before_its_segment_is_refused(offset_s: float, duration_s: float) -> None:
    with pytest.raises(Refusal, match=r"truncated: x.wav ends at 1.00 s, its segment at") as caught:
        _segment(offset_s, duration_s)
    assert caught.value.kind == "failed"


@pytest.mark.parametrize("value_s", [-0.5, -1.0, float("nan"), float("inf"), float("-inf")])
def test_times_that_are_no_stretch_of_a_recording_are_refused(value_s: float) -> None:
    for offset_s, duration_s, column in ((value_s, 0.0, "offset_s"), (0.0, value_s, "duration_s")):
        with pytest.raises(Refusal, match=rf"bad_segment: x.wav: {column} is {value_s:g}; correct it") as caught:
            _segment(offset_s, duration_s)
        assert caught.value.kind == "failed"


def _check(tmp_path: Path, samples: np.ndarray, row: Utterance = ROW) -> None:
    sf.write(tmp_path / "x.wav", samples, 16_000, subtype="FLOAT")
    measured = dataclasses.replace(row, duration_s=len(samples) / 16_000, sample_rate=16_000, channels=1)
    check_recording(measured, tmp_path / "x.wav", min_s=0.5, max_s=2.0)


def test_what_cannot_be_used_is_refused_with_its_reason(tmp_path: Path) -> None:
    tone = np.sin(np.arange(16_000) / 10)
    _check(tmp_path, tone)
    for samples, reason in (
        (tone[:4000], r"too_short: x.wav: 0.250 s, under 0.5 s"),
        (np.tile(tone, 3), r"too_long: x.wav: 3 s, over 2 s"),
        (0 * tone, "silent"),
        (np.where(np.arange(16_000) == 7, np.nan, tone), "nan_samples"),
    ):
        with pytest.raises(Refusal, match=reason):
            _check(tmp_path, samples)


def test_an_impulse_response_may_be_short(tmp_path: Path) -> None:
    _check(tmp_path, np.eye(1, 800, 40)[0], dataclasses.replace(ROW, kind="rir"))

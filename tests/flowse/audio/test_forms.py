"""Laws of the forms of a recording: all of them are the same samples, come back as they came, or say what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch

from flowse.audio.forms import as_channels
from flowse.refusal import Refusal
from flowse.seeding import generator

# Multiples of 2⁻⁸ are the same samples in every type but uint8.
STEREO = (generator(0).integers(-100, 100, (2, 500)) / 256).astype(np.float32)
PCM = (STEREO * 32768).astype(np.int16)
FORMS: dict[str, Any] = {
    "float32": STEREO,
    "float64": STEREO.astype(np.float64),
    "float16": STEREO.astype(np.float16),
    "int16": PCM,
    "int32": PCM.astype(np.int32) * 65536,
    "(N, C)": STEREO.T,
    "int16 (N, C)": PCM.T,
    "not contiguous": np.repeat(STEREO, 2, axis=1)[:, ::2],
    "read-only": np.frombuffer(STEREO.tobytes(), np.float32).reshape(2, -1),
    "tensor": torch.from_numpy(STEREO),
    "tensor (N, C)": torch.from_numpy(STEREO).T,
    "int16 tensor": torch.from_numpy(PCM),
    "tensor with a gradient": torch.from_numpy(STEREO).clone().requires_grad_(),
    "bfloat16 tensor": torch.from_numpy(STEREO).bfloat16(),
    "list": STEREO.tolist(),
    "list of arrays": [STEREO[0], STEREO[1]],
    "row": {"array": STEREO, "sampling_rate": 16_000, "path": None},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_channels_and_comes_back_as_it_came(form: str) -> None:
    given = FORMS[form]
    channels, rate, restore = as_channels(given, None if form == "row" else 16_000)
    np.testing.assert_array_equal(channels, STEREO)
    assert (channels.dtype, rate) == (np.float32, 16_000)
    back = restore(channels)
    expected = given["array"] if form == "row" else given
    if isinstance(expected, torch.Tensor):
        assert isinstance(back, torch.Tensor)
        assert (back.dtype, back.device) == (expected.dtype, expected.device)
        assert torch.equal(back, expected)
        return
    assert isinstance(back, np.ndarray)
    assert back.dtype == (np.float32 if isinstance(expected, list) else expected.dtype)
    np.testing.assert_array_equal(back, expected)


@pytest.mark.parametrize("mono", [STEREO[0], PCM[0], torch.from_numpy(STEREO[0]), STEREO[0].tolist(), STEREO[:1]])
def test_one_channel_keeps_its_dimensions(mono: Any) -> None:
    channels, _, restore = as_channels(mono, 8000)
    np.testing.assert_array_equal(channels, STEREO[:1])
    assert np.shape(restore(channels)) == np.shape(mono)


@pytest.mark.parametrize("shape", [(0,), (0, 2), (2, 0), (1, 1), (3, 2), (64, 65)])
def test_small_and_empty_recordings_keep_their_shape(shape: tuple[int, ...]) -> None:
    channels, _, restore = as_channels(np.zeros(shape, np.float32), 8000)
    assert restore(channels).shape == shape


def test_eight_bits_are_centred_and_integers_saturate() -> None:
    channels, _, restore = as_channels(np.array([0, 128, 192, 255], np.uint8), 8000)
    assert channels[0].tolist() == [-1.0, 0.0, 0.5, 127 / 128]
    assert restore(channels * 3).tolist() == [0, 128, 255, 255]
    for dtype in (np.int16, np.int32):
        limits = np.iinfo(dtype)
        _, _, restore = as_channels(np.zeros(3, dtype), 8000)
        made = restore(np.array([[-2.0, 0.0, 2.0]], np.float32))
        assert made.tolist() == [limits.min, 0, limits.max]


@pytest.mark.parametrize("channels", [1, 2])
def test_a_file_knows_its_rate_and_is_converted_to_another(tmp_path: Path, channels: int) -> None:
    sf.write(tmp_path / "a.flac", PCM[:channels].T, 16_000)
    read, rate, restore = as_channels(tmp_path / "a.flac", None)
    assert rate == 16_000
    np.testing.assert_array_equal(read, STEREO[:channels])
    assert restore(read).shape == ((500,) if channels == 1 else (2, 500))
    halved, rate, _ = as_channels(str(tmp_path / "a.flac"), 8000)
    assert (rate, halved.shape) == (8000, (channels, 250))
    with pytest.raises(Refusal, match="not_found"):
        as_channels(tmp_path / "b.flac", None)


@pytest.mark.parametrize(
    ("given", "rate", "said"),
    [
        (np.zeros(()), 8000, "a single float64"),
        (np.zeros((1, 2, 3)), 8000, "one by one"),
        (np.zeros((300, 300)), 8000, "nobody knows which side"),
        (np.zeros((80, 300)), 8000, "80 channels and is a spectrogram or a batch"),
        (np.zeros(5, np.int64), 8000, "full scale nobody knows"),
        ([1, 2, 3], 8000, "full scale nobody knows"),
        (np.zeros(5, bool), 8000, "got bool"),
        (np.zeros(5, complex), 8000, "got complex128"),
        (np.array(["a"]), 8000, "got <U1"),
        ([[0.5], [0.5, 0.25]], 8000, "not equally long"),
        (np.zeros(5), None, "say it"),
        (np.zeros(5), 0, "at least 1000"),
        (np.zeros(5), -8000, "at least 1000"),
        (np.zeros(5), 1, "at least 1000"),
        (np.zeros(5), True, "whole"),
        (np.zeros(5), 8000.5, "whole"),
        (np.zeros(5), float("nan"), "whole"),
        (np.zeros(5), float("inf"), "whole"),
        ({"array": [0.5]}, None, "keys array and sampling_rate"),
        ({"array": [0.5], "sampling_rate": 8000}, 16_000, "the row says sampling_rate=8000"),
    ],
)
def test_what_is_no_waveform_is_refused(given: Any, rate: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        as_channels(given, rate)


@pytest.mark.parametrize("rate", [16_000, 16_000.0, np.int64(16_000), np.float32(16_000), torch.tensor(16_000)])
def test_a_rate_may_be_any_whole_number(rate: Any) -> None:
    assert as_channels(STEREO, rate)[1] == 16_000

"""Laws of the enhancer: an identity model returns its input at any rate and length; equal seeds give equal bytes."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch

from flowse.audio.mel_config import MelConfig
from flowse.audio.offset import without_offset
from flowse.enhancer import Enhancer, Windowing
from flowse.flow.config import FlowConfig
from flowse.flow.sampling import Sampling
from flowse.model.spec import DiTConfig, DualPathConfig, ModelSpec
from flowse.model.system import build
from flowse.pretrained import DEFAULT
from flowse.seeding import generator

SMALL = DiTConfig(dim=32, depth=1, heads=2, conv_groups=4, text_dim=16, text_blocks=1)
SHORT = Windowing(window_s=2, overlap_s=1, fade_s=0.1, batch=3)


class Sinusoids:
    """A cheap vocoder: a sinusoid that is as loud as the mel in every frame."""

    mel = MelConfig()

    def decode(self, log_mel: torch.Tensor) -> torch.Tensor:
        level = (log_mel.mean(-1) - self.mel.log_floor).repeat_interleave(self.mel.hop_length, 1)
        n = (log_mel.shape[1] - 1) * self.mel.hop_length
        return level[:, :n] * 0.005 * torch.sin(torch.arange(n) * 0.05)


def spec(**changes: Any) -> ModelSpec:
    return ModelSpec(model=SMALL, mel_mean=-6.0, mel_std=3.0, **changes)


def make(windowing: Windowing = SHORT, **changes: Any) -> Enhancer:
    torch.manual_seed(0)
    described = spec(**changes)
    system = build(described)
    with torch.no_grad():
        for parameter in system.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return Enhancer(system.eval(), described, Sinusoids(), Sampling(steps=2), windowing)


class Identity(Enhancer):
    """An enhancer whose network and vocoder together change nothing."""

    def _network(self, noisy: Any, sampling: Sampling, ids: Any, seeds: Sequence[int]) -> Any:
        return noisy


@pytest.fixture(scope="module")
def identity() -> Identity:
    return Identity(build(spec()), spec(), Sinusoids(), windowing=SHORT)


def recording(n: int, channels: int = 1, seed: int = 0) -> np.ndarray:
    """Return coloured noise at about -20 dBFS whose level rises and falls."""
    rng = generator(seed)
    white = rng.standard_normal((channels, n + 8))
    coloured = sum(white[:, i : i + n] for i in range(8)) / 8
    return (0.2 * coloured * (0.6 + 0.4 * np.sin(np.arange(n) / 9000))).astype(np.float32)


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 24000, 44100, 48000, 96000])
def test_identity_model_returns_the_input_at_any_rate(identity: Identity, rate: int) -> None:
    x = recording(5 * rate + 17, channels=2)
    assert np.abs(identity.enhance(x, rate) - x).max() < 1e-4


@pytest.mark.parametrize("n", [1, 2, 100, 23999, 48000, 48001, 71999, 72001, 120007])
def test_identity_model_returns_the_input_of_any_length(identity: Identity, n: int) -> None:
    x = recording(n)[0]
    y = identity.enhance(x, 24000)
    assert y.shape == x.shape
    # Two samples are mostly offset, which the enhancer takes out of every recording.
    assert np.abs(y - without_offset(x)).max() < 1e-4


def test_windows_cover_the_recording_and_overlap_by_at_least_overlap_s() -> None:
    for n in (1, 47999, 48000, 48001, 100_000, 1_000_003):
        starts = SHORT.starts(n, 24000)
        assert starts[0] == 0
        assert starts == sorted(set(starts))
        length = min(n, 48000)
        assert starts[-1] + length == n
        assert all(b - a <= 24000 for a, b in itertools.pairwise(starts))


@pytest.mark.parametrize(
    ("n", "rate", "channels"), [(1, 16000, 1), (777, 44100, 3), (50_001, 16000, 2), (130_003, 48000, 1)]
)
def test_the_output_has_the_shape_and_type_of_the_input_and_is_finite(n: int, rate: int, channels: int) -> None:
    x = recording(n, channels)
    y = make().enhance(x, rate)
    assert y.shape == x.shape
    assert y.dtype == x.dtype
    assert np.isfinite(y).all()


@pytest.mark.parametrize("source", ["gaussian", "noisy", "predicted"])
def test_equal_seeds_give_equal_bytes_and_other_seeds_other_bytes(source: str) -> None:
    x = recording(100_000, 2)
    enhancer = make(flow=FlowConfig(source=source))
    first = enhancer.enhance(x, 24000, seed=3)
    assert first.tobytes() == enhancer.enhance(x, 24000, seed=3).tobytes()
    assert first.tobytes() != enhancer.enhance(x, 24000, seed=4).tobytes()


def test_the_batch_size_does_not_change_the_output() -> None:
    x = recording(200_000)
    small, large = (make(Windowing(window_s=2, overlap_s=1, fade_s=0.1, batch=b)).enhance(x, 24000) for b in (1, 5))
    np.testing.assert_allclose(small, large, atol=1e-4)


def test_no_peak_is_higher_than_the_recordings_although_its_offset_is_taken_out(identity: Identity) -> None:
    """A wave clipped on one side has an offset; without it, its other side would be higher than full scale."""
    x = np.clip(np.abs(recording(40_000)) * 20 - 1.6, -1.0, 1.0).astype(np.float32)
    assert abs(float(x.mean())) > 0.1
    assert np.abs(identity.enhance(x, 24000)).max() <= 1.0


def test_a_cpu_gets_windows_and_channels_one_by_one() -> None:
    rows = []

    class Counts(Identity):
        def _network(self, noisy: Any, sampling: Sampling, ids: Any, seeds: Sequence[int]) -> Any:
            rows.append(len(noisy))
            return noisy

    Counts(build(spec()), spec(), Sinusoids(), windowing=SHORT).enhance(recording(200_000, 2), 24000)
    assert set(rows) == {1}


def test_a_channel_is_enhanced_as_if_it_were_alone() -> None:
    x = recording(45_000, 2)
    enhancer = make()
    both = enhancer.enhance(x, 24000)
    np.testing.assert_allclose(both[1], enhancer.enhance(x[1], 24000), atol=1e-5)


@pytest.mark.parametrize("gain", [0.03, 0.1, 4.0])
def test_level_is_restored(gain: float) -> None:
    x = recording(40_000)[0]
    enhancer = make()
    np.testing.assert_allclose(
        enhancer.enhance(np.float32(gain) * x, 24000) / gain, enhancer.enhance(x, 24000), rtol=1e-2, atol=1e-4
    )


def test_the_output_does_not_clip() -> None:
    class Loud(Identity):
        def _network(self, noisy: Any, sampling: Sampling, ids: Any, seeds: Sequence[int]) -> Any:
            return 10 * noisy

    x = recording(130_000)
    loud = Loud(build(spec()), spec(), Sinusoids(), windowing=SHORT)
    for rate in (16000, 24000, 48000):
        assert np.abs(loud.enhance(x, rate)).max() <= 0.99 + 1e-6


def test_the_band_above_the_models_gets_the_gain_of_the_band_below() -> None:
    class Silencer(Identity):
        def _network(self, noisy: Any, sampling: Sampling, ids: Any, seeds: Sequence[int]) -> Any:
            return 0.1 * noisy

    x = generator(0).standard_normal(96_000).astype(np.float32) * 0.05
    y = Silencer(build(spec()), spec(), Sinusoids(), windowing=SHORT).enhance(x, 48000)
    np.testing.assert_allclose(y[500:-500], 0.1 * x[500:-500], atol=2e-3)


def test_silence_stays_silent_and_an_empty_recording_stays_empty() -> None:
    enhancer = make()
    assert not np.any(enhancer.enhance(np.zeros(30_000, np.float32), 16000))
    assert enhancer.enhance(np.zeros((2, 0), np.float32), 16000).shape == (2, 0)


def test_tensors_come_back_as_tensors() -> None:
    x = torch.from_numpy(recording(30_000))
    y = make().enhance(x, 24000)
    assert isinstance(y, torch.Tensor)
    assert y.shape == x.shape
    np.testing.assert_array_equal(y.numpy(), make().enhance(x.numpy(), 24000))


def test_all_forms_of_a_recording_give_the_same_output(tmp_path: Path) -> None:
    enhancer = make()
    pcm = np.round(recording(30_000, 2) * 32768).astype(np.int16)
    sf.write(tmp_path / "x.wav", pcm.T, 16_000)
    x = (pcm / 32768).astype(np.float32)
    expected = enhancer.enhance(x, 16_000)
    tensor = enhancer(torch.from_numpy(x), 16_000)
    assert isinstance(tensor, torch.Tensor)
    assert enhancer(torch.from_numpy(pcm.T), 16_000).dtype == torch.int16
    same: list[Any] = [
        enhancer(x, 16_000),
        enhancer(x.T, 16_000).T,
        tensor.numpy(),
        enhancer(x.tolist(), 16_000),
        enhancer(pcm, 16_000) / 32768,
        enhancer(tmp_path / "x.wav"),
        enhancer(str(tmp_path / "x.wav")),
        enhancer({"array": x.T, "sampling_rate": 16_000}).T,
    ]
    for output in same:
        np.testing.assert_allclose(output, expected, atol=0.51 / 32768)


def test_an_enhancer_says_what_it_is_and_moves() -> None:
    enhancer = make()
    assert (enhancer.sample_rate, str(enhancer.device)) == (24_000, "cpu")
    assert repr(enhancer).startswith("Enhancer(flow, 0.0")
    assert repr(enhancer).endswith(" M parameters, 24000 Hz, euler, 2 steps, guidance 0, vocoder, on cpu)")
    assert str(make().to("meta").device) == "meta"
    assert make().to("cpu").enhance(recording(3000), 24_000).shape == (1, 3000)


def test_without_a_name_the_model_is_the_command_lines() -> None:
    enhancer = Enhancer.from_pretrained()
    assert enhancer.name == DEFAULT
    assert repr(enhancer).startswith("Enhancer(flowse-small: regression, 0.40 M parameters, 24000 Hz, ")


def test_arrays_that_are_no_waveform_are_refused() -> None:
    enhancer = make()
    with pytest.raises(ValueError, match="not finite"):
        enhancer.enhance(np.full(3000, np.nan, np.float32), 16000)
    with pytest.raises(ValueError, match="floating point"):
        enhancer.enhance(np.zeros(3000, np.int64), 16000)
    with pytest.raises(ValueError, match="at least 1000"):
        enhancer.enhance(recording(3000), 0)
    with pytest.raises(ValueError, match=r"samples of 1\.0e\+30"):
        enhancer.enhance(np.full(3000, -1e30, np.float32), 16000)
    loud = 2.0**31 * recording(3000)
    assert np.isfinite(enhancer.enhance(loud, 16000)).all()
    with pytest.raises(ValueError, match="overlap_s=1"):
        Windowing(window_s=1, overlap_s=1)


def test_text_is_used_or_a_warning_says_why_not() -> None:
    speaking = make(vocabulary=tuple(" abcdefghijklmnopqrstuvwxyz"))
    x = recording(30_000)[0]
    assert np.any(speaking.enhance(x, 24000, text="hello") != speaking.enhance(x, 24000))
    with pytest.warns(UserWarning, match="longer than a window"):
        speaking.enhance(recording(60_000)[0], 24000, text="hello")
    with pytest.warns(UserWarning, match="unknown to the model: 9"):
        speaking.enhance(x, 24000, text="hello 9")
    with pytest.warns(UserWarning, match="trained without"):
        make().enhance(x, 24000, text="hello")


def test_memory_does_not_grow_with_length(identity: Identity) -> None:
    """Ten minutes are read in pieces that are never longer than a batch of windows, and no more is in memory."""
    rate, n = 8000, 600 * 8000
    longest, latest = 0, 0
    source = recording(4 * rate)

    def read(start: int, stop: int) -> np.ndarray:
        nonlocal longest, latest
        longest, latest = max(longest, stop - start), stop
        return source[:, np.arange(start, stop) % source.shape[1]]

    written = ahead = 0
    for piece in identity.stream(read, n, rate):
        written += piece.shape[1]
        ahead = max(ahead, latest - written)
    assert written == n
    assert longest == 2 * rate
    assert ahead <= (SHORT.batch + 1) * 2 * rate


def test_noisy_phase_of_an_unchanged_mel_is_the_input() -> None:
    described = spec(objective="regression")  # its untrained network outputs zero, so the mel stays as it is
    sampling = Sampling(synthesis="noisy_phase")
    enhancer = Enhancer(build(described), described, Sinusoids(), sampling, SHORT)
    x = recording(110_000)
    np.testing.assert_allclose(enhancer.enhance(x, 24000), x, atol=1e-4)


@pytest.mark.parametrize(("limit_db", "taken_db"), [(None, 69.5), (12.0, 12.0), (0.0, 0.0)])
def test_no_sound_is_attenuated_by_more_than_the_limit(limit_db: float | None, taken_db: float) -> None:
    tiny = DualPathConfig(channels=(4, 4, 6), blocks=1, frequency_dim=4, time_dim=4)
    described = spec(objective="regression", predictor="dual_path", dual_path=tiny)
    system = build(described)
    with torch.no_grad():
        system.network.output.bias.fill_(-50.0)  # all gains are the least gain, −8 nepers
    enhancer = Enhancer(system, described, Sinusoids(), Sampling(synthesis="noisy_phase"), SHORT)
    x = recording(110_000)
    quiet = enhancer.enhance(x, 24000, sampling=enhancer.sampling.override(limit_db=limit_db))
    enhancer.sampling = Sampling(synthesis="noisy_phase", limit_db=limit_db)
    np.testing.assert_array_equal(enhancer.enhance(x, 24000), quiet)
    assert 10 * np.log10(np.mean(x**2) / np.mean(quiet**2)) == pytest.approx(taken_db, abs=0.5)


def test_evaluations_are_counted() -> None:
    enhancer = make()
    enhancer.enhance(recording(30_000), 24000, sampling=Sampling(steps=5))
    assert enhancer.evaluations == 5


def test_an_unknown_model_is_refused_with_a_clear_message(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="embedded model"):
        Enhancer.from_pretrained("no-such-model")


@pytest.mark.parametrize(("ratio_db", "left"), [(50.0, True), (0.0, False)])
def test_a_clean_recording_is_left_to_a_listener_as_it_is(ratio_db: float, left: bool) -> None:
    class Scales(Enhancer):
        def _network(self, noisy: Any, sampling: Sampling, ids: Any, seeds: Sequence[int]) -> Any:
            return noisy / (1 + 10 ** (-ratio_db / 20))

    enhancer = Scales(build(spec()), spec(), Sinusoids(), Sampling(synthesis="noisy_phase"), SHORT)
    x = recording(40_000)
    plain = enhancer.enhance(x, 24000)
    protected = enhancer.enhance(x, 24000, sampling=enhancer.sampling.override(protect="listening"))
    assert np.allclose(protected, x, atol=1e-5) is left
    assert np.allclose(protected, plain, atol=1e-6) is not left


def test_what_is_not_aligned_cannot_be_mixed_with_its_input() -> None:
    with pytest.raises(ValueError, match="protect='asr' needs synthesis='noisy_phase'"):
        Sampling(synthesis="vocoder").override(protect="asr")

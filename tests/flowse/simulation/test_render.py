"""Laws of rendering: the mixture is what its recipe asks for, the target is aligned with it, and nothing is random."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from flowse.audio.level import active_level_dbfs, level_dbfs
from flowse.data.shards import NO_SPEECH_DB
from flowse.refusal import Refusal
from flowse.seeding import generator
from flowse.simulation.recipe import Recipe
from flowse.simulation.render import (
    PEAK,
    Rendered,
    convolve_circular,
    convolve_rir,
    loop_to_length,
    measure_lag,
    render,
)
from flowse.simulation.rirs import Rir

RATE = 24_000
PLAIN = Recipe(
    key="demo/a-00",
    utt_id="demo/a",
    copy=0,
    split="train",
    crop_s=0.0,
    duration_s=2.0,
    noise_ids=("n",),
    noise_snrs_db=(5.0,),
    noise_offsets_s=(0.25,),
    noise_sources=(-1,),
    competitor_id="",
    competitor_snr_db=0.0,
    competitor_source=-1,
    room_id="",
    speech_source=-1,
    target="early",
    early_s=0.05,
    level_dbfs=-25.0,
    equaliser_db=(),
    clipping_share=None,
    band_limit_hz=None,
    codec="",
    codec_kbps=0.0,
    lost_packets=(),
)
IN_ROOM = dataclasses.replace(PLAIN, room_id="room", speech_source=0, noise_sources=(1,))


def _speech(seconds: float = 2.0, seed: int = 0) -> np.ndarray:
    """Noise in bursts with pauses: active level and level differ, as in speech."""
    length = round(seconds * RATE)
    bursts = np.sin(2 * math.pi * 1.5 * np.arange(length) / RATE) > -0.2
    coloured = np.convolve(generator(seed).standard_normal(length), np.ones(8) / 8, mode="same")
    return (0.1 * coloured * bursts).astype(np.float32)


def _noise(seconds: float = 3.0, seed: int = 1) -> np.ndarray:
    return (0.3 * generator(seed).standard_normal(round(seconds * RATE))).astype(np.float32)


def _rir(seed: int, delay: int = 40) -> Rir:
    """A direct path, and a tail that decays by 60 dB in 0.4 s."""
    time_s = np.arange(RATE // 2) / RATE
    samples = 0.05 * generator(seed).standard_normal(len(time_s)) * 10 ** (-3 * time_s / 0.4)
    samples = np.concatenate((np.zeros(delay), samples))
    samples[delay] = 1.0
    return Rir(samples.astype(np.float32), delay)


ROOM = {0: _rir(10), 1: _rir(11)}


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 12.5])
@pytest.mark.parametrize("recipe", [PLAIN, IN_ROOM], ids=["dry", "in a room"])
def test_the_achieved_ratio_and_level_are_the_requested_ones(snr_db: float, recipe: Recipe) -> None:
    """Measured on the mixture itself: active level of speech over that of noise at the microphone, and RMS level."""
    recipe = dataclasses.replace(recipe, noise_snrs_db=(snr_db,), target="reverberant")
    made = render(recipe, _speech(), [_noise()], ROOM, RATE)
    measured = active_level_dbfs(made.clean, RATE) - active_level_dbfs(made.noisy - made.clean, RATE)
    assert measured == pytest.approx(snr_db, abs=0.1)
    assert made.checks.snr_db == pytest.approx(snr_db, abs=0.1)
    assert level_dbfs(made.noisy) == pytest.approx(-25.0, abs=0.1)


@pytest.mark.parametrize("target", ["dry", "early", "reverberant"])
@pytest.mark.parametrize("recipe", [PLAIN, IN_ROOM], ids=["dry", "in a room"])
def test_clean_and_rest_add_up_to_noisy_exactly(recipe: Recipe, target: str) -> None:
    made = render(dataclasses.replace(recipe, target=target), _speech(), [_noise()], ROOM, RATE)
    np.testing.assert_array_equal(made.clean + made.rest, made.noisy)
    assert made.noisy.dtype == made.clean.dtype == np.float32


def test_two_noises_each_have_their_own_ratio() -> None:
    recipe = dataclasses.replace(
        PLAIN,
        noise_ids=("n", "m"),
        noise_snrs_db=(3.0, 9.0),
        noise_offsets_s=(0.0, 0.0),
        noise_sources=(-1, -1),
    )
    made = render(recipe, _speech(), [_noise(), _noise(seed=2)], {}, RATE)
    assert made.checks.noise_snrs_db == pytest.approx((3.0, 9.0), abs=0.1)
    together = -10 * math.log10(10**-0.3 + 10**-0.9)
    assert made.checks.snr_db == pytest.approx(together, abs=0.15)


@pytest.mark.parametrize("delay", [0, 17, 40])
@pytest.mark.parametrize("target", ["dry", "early", "reverberant"])
def test_target_and_reverberant_speech_correlate_most_at_lag_zero(target: str, delay: int) -> None:
    """Whatever the direct path's delay, with noise 40 dB down."""
    room = {0: _rir(10, delay), 1: _rir(11)}
    recipe = dataclasses.replace(IN_ROOM, target=target, noise_snrs_db=(40.0,))
    made = render(recipe, _speech(), [_noise()], room, RATE)
    spectrum = np.fft.rfft(made.noisy, 2**17) * np.conj(np.fft.rfft(made.clean, 2**17))
    assert int(np.argmax(np.fft.irfft(spectrum))) == 0
    assert made.checks.lag == 0


def test_targets_are_nested_and_equal_without_late_reverberation() -> None:
    """A response that ends within 50 ms makes early and reverberant the same; a bare direct path, all three."""
    short = Rir(ROOM[0].samples[: 40 + 1100], 40)
    made = {
        target: render(dataclasses.replace(IN_ROOM, target=target), _speech(), [_noise()], {0: short, 1: short}, RATE)
        for target in ("dry", "early", "reverberant")
    }
    np.testing.assert_allclose(made["early"].clean, made["reverberant"].clean, atol=1e-6)
    assert np.abs(made["dry"].clean - made["early"].clean).max() > 1e-3
    click = Rir(np.eye(1, 50, 40, dtype=np.float32)[0], 40)
    for target in made:
        recipe = dataclasses.replace(IN_ROOM, target=target, noise_sources=(-1,))
        in_click = render(recipe, _speech(), [_noise()], {0: click, 1: click}, RATE)
        outside = render(PLAIN, _speech(), [_noise()], {}, RATE)
        np.testing.assert_allclose(in_click.clean, outside.clean, atol=1e-5)
        np.testing.assert_allclose(in_click.noisy, outside.noisy, atol=1e-5)


def test_the_direct_path_has_no_delay() -> None:
    impulse = np.zeros(5000, np.float32)
    impulse[1234] = 1.0
    assert int(np.argmax(np.abs(convolve_rir(impulse, ROOM[0])))) == 1234


def test_circular_convolution_commutes_with_rotation() -> None:
    noise = _noise(1.0)
    np.testing.assert_allclose(
        convolve_circular(np.roll(noise, 777), ROOM[0]), np.roll(convolve_circular(noise, ROOM[0]), 777), atol=1e-4
    )
    np.testing.assert_allclose(
        convolve_circular(noise[:100], ROOM[0]).sum(), noise[:100].sum() * ROOM[0].samples.sum(), rtol=1e-3
    )


@pytest.mark.parametrize("level_dbfs", [-6.0, -1.0])
def test_the_clipping_guard_attenuates_both_waveforms_alike(level_dbfs: float) -> None:
    """Nothing clips, and clean / noisy keep their ratio: the guarded mixture is the unguarded one, scaled."""
    loud = render(dataclasses.replace(PLAIN, level_dbfs=level_dbfs), _speech(), [_noise()], {}, RATE)
    usual = render(PLAIN, _speech(), [_noise()], {}, RATE)
    assert max(np.abs(loud.noisy).max(), np.abs(loud.clean).max()) <= PEAK + 1e-6
    assert loud.checks.guard_db > 0
    factor = np.abs(loud.noisy).max() / np.abs(usual.noisy).max()
    np.testing.assert_allclose(loud.noisy, usual.noisy * factor, atol=1e-5)
    np.testing.assert_allclose(loud.clean, usual.clean * factor, atol=1e-5)


def test_the_levels_of_the_recordings_do_not_matter() -> None:
    usual = render(IN_ROOM, _speech(), [_noise()], ROOM, RATE)
    scaled = render(IN_ROOM, _speech() * np.float32(0.03), [_noise() * np.float32(3)], ROOM, RATE)
    np.testing.assert_allclose(usual.noisy, scaled.noisy, atol=1e-5)
    np.testing.assert_allclose(usual.clean, scaled.clean, atol=1e-5)


def test_rendering_twice_gives_the_same_bits() -> None:
    recipe = dataclasses.replace(
        IN_ROOM, codec="opus", codec_kbps=24.0, lost_packets=(3, 4), clipping_share=0.01, band_limit_hz=6000.0
    )
    first, again = (render(recipe, _speech(), [_noise()], ROOM, RATE) for _ in range(2))
    assert first.noisy.tobytes() == again.noisy.tobytes()
    assert first.clean.tobytes() == again.clean.tobytes()


def test_a_competitor_is_interference_at_its_own_ratio() -> None:
    recipe = dataclasses.replace(PLAIN, noise_snrs_db=(60.0,), competitor_id="demo/b", competitor_snr_db=8.0)
    made = render(recipe, _speech(), [_noise()], {}, RATE, competitor=_speech(0.9, seed=5))
    assert made.checks.snr_db == pytest.approx(8.0, abs=0.2)
    alone = render(PLAIN, _speech(), [_noise()], {}, RATE)
    shape = np.corrcoef(made.clean, alone.clean)[0, 1]
    assert shape == pytest.approx(1.0, abs=1e-6)


def test_a_short_noise_is_looped_without_a_step() -> None:
    """No step between samples of a looped tone is much larger than the tone's own, and the level stays."""
    tone = np.sin(2 * math.pi * 440.3 * np.arange(RATE) / RATE).astype(np.float32)
    looped = loop_to_length(tone, 5000, 5 * RATE, RATE)
    assert len(looped) == 5 * RATE
    assert np.abs(np.diff(looped)).max() < 1.6 * np.abs(np.diff(tone)).max()
    noise = _noise(0.7)
    frames = loop_to_length(noise, 100, 5 * RATE, RATE)[: 5 * RATE // 2400 * 2400].reshape(-1, 2400)
    levels = 10 * np.log10(np.square(frames).mean(1))
    assert levels.max() - levels.min() < 1.5


def test_a_long_noise_is_cut_at_its_offset() -> None:
    noise = _noise(3.0)
    np.testing.assert_array_equal(loop_to_length(noise, 777, RATE, RATE), noise[777 : 777 + RATE])


def test_a_silent_part_of_a_noise_is_not_amplified() -> None:
    """The recording of a barking dog is mostly digital silence: the bark is taken, not the pause."""
    bark = np.zeros(10 * RATE, np.float32)
    bark[7 * RATE : 8 * RATE] = _noise(1.0)
    taken = loop_to_length(bark, 0, 2 * RATE, RATE)
    assert np.square(taken).mean() > 0.3 * np.square(_noise(1.0)).mean()


@pytest.mark.parametrize(
    ("speech", "noise", "reason"),
    [(np.zeros(RATE, np.float32), _noise(), "silent"), (_speech(), np.zeros(RATE, np.float32), "silent_noise")],
)
def test_silence_is_refused(speech: np.ndarray, noise: np.ndarray, reason: str) -> None:
    with pytest.raises(Refusal) as caught:
        render(PLAIN, speech, [noise], {}, RATE)
    assert caught.value.reason == reason


def test_the_lag_of_a_wrong_delay_is_recorded() -> None:
    """If the bank states the direct path 12 samples too late, the mixture comes 12 samples early."""
    wrong = {0: Rir(ROOM[0].samples, 52), 1: ROOM[1]}
    assert render(dataclasses.replace(IN_ROOM, target="dry"), _speech(), [_noise()], wrong, RATE).checks.lag == -12


def test_lag_is_found() -> None:
    samples = _speech()
    for shift in (-30, -1, 0, 1, 12):
        assert measure_lag(samples, np.roll(samples, shift), RATE) == shift


def _made(**effects: object) -> Rendered:
    return render(dataclasses.replace(IN_ROOM, **effects), _speech(), [_noise()], ROOM, RATE)  # type: ignore[arg-type]


def test_effects_touch_the_noisy_waveform_alone() -> None:
    plain = _made()
    for effects in (
        {"equaliser_db": (3.0, -3.0, 0.0, 6.0, -6.0)},
        {"clipping_share": 0.02},
        {"band_limit_hz": 4000.0},
        {"codec": "mp3", "codec_kbps": 24.0},
        {"codec": "opus", "codec_kbps": 16.0},
        {"lost_packets": (10, 11)},
    ):
        made = _made(**effects)
        np.testing.assert_allclose(made.clean, plain.clean, atol=1e-6)
        assert np.abs(made.noisy - plain.noisy).max() > 1e-3
        assert len(made.noisy) == len(plain.noisy)
        assert abs(made.checks.lag) <= 2


@pytest.mark.parametrize("of_speech", [0.0, 0.1, -0.4])
@pytest.mark.parametrize("of_noise", [0.0, 0.1, -0.4])
def test_a_constant_offset_of_a_recording_changes_no_ratio(of_speech: float, of_noise: float) -> None:
    made = render(PLAIN, _speech() + np.float32(of_speech), [_noise() + np.float32(of_noise)], {}, RATE)
    levels = [active_level_dbfs(part - part.mean(), RATE) for part in (made.clean, made.rest)]
    # A frame more or less may count as active.
    assert levels[0] - levels[1] == pytest.approx(5.0, abs=0.1)
    assert made.checks.snr_db == pytest.approx(5.0, abs=0.05)
    assert made.checks.level_dbfs == pytest.approx(-25.0, abs=0.05)


def test_a_constant_is_no_noise_and_no_speech() -> None:
    with pytest.raises(Refusal, match="silent_noise"):
        render(PLAIN, _speech(), [np.full(3 * RATE, 0.1, np.float32)], {}, RATE)
    with pytest.raises(Refusal, match="silent"):
        render(PLAIN, np.full(2 * RATE, 0.1, np.float32), [_noise()], {}, RATE)


@pytest.mark.parametrize("effects", [{}, {"codec": "opus", "codec_kbps": 16.0, "clipping_share": 0.01}])
def test_a_mixture_without_speech_is_its_noises_at_the_level_asked_for_and_its_target_is_silence(
    effects: dict[str, object],
) -> None:
    two = {"noise_ids": ("n", "m"), "noise_snrs_db": (3.0, 9.0), "noise_offsets_s": (0.0, 0.0)}
    recipe = dataclasses.replace(IN_ROOM, **two, noise_sources=(1, 1), speech_source=-1, target="silence", **effects)
    made = render(recipe, np.zeros(2 * RATE, np.float32), [_noise(), _noise(seed=2)], ROOM, RATE)
    assert not made.clean.any()
    assert made.noisy.any()
    assert (made.checks.snr_db, made.checks.clean_level_dbfs, made.checks.lag) == (NO_SPEECH_DB, NO_SPEECH_DB, 0)
    # The noises keep their levels to each other.
    assert made.checks.noise_snrs_db == pytest.approx((3.0, 9.0), abs=0.1)
    if not effects:
        np.testing.assert_array_equal(made.rest, made.noisy)
        assert level_dbfs(made.noisy) == pytest.approx(-25.0, abs=0.1)

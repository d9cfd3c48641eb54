"""Mixtures drawn and made on the device that trains: no two alike, thousands of hours an hour on a GPU."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from flowse.seeding import derive_seed
from flowse.simulation.rirs import LEAD
from pipelines.pretrain.mask.pools import RATE, Pool, Pools

LEVEL_DBFS = -25.0
"""Active level of a mixture, about what the enhancer brings every window to."""

_FRAME = 480
_BANDS = 8


@dataclass(frozen=True, kw_only=True)
class MixConfig:
    """What mixtures are like; shares and probabilities in 0…1.

    Attributes:
        seconds: Length.
        snr_edges_db: Edges of the ranges that the SNR is drawn from.
        snr_weights: How often each range is.
        silent: Share without a voice.
        noises: How often one, two or three recorded noises sound at once.
        coloured: Share with steady noise of a random spectrum besides.
        babble: Share with a crowd of voices besides.
        reverberant: Share in a room.
        pauses: Share in which the voice is silent for a while.
        wide: Share of 16 kHz recordings, cut off at 8 kHz.
        narrow: Share of telephone bands.
        clipped: Share whose peaks are cut off.
        holed: Share with the spectral holes of a lossy codec.
        equaliser_db: Largest gain or loss of the microphone's response.
        level_db: Deviation of the level.
    """

    seconds: float = 4.0
    snr_edges_db: tuple[float, ...] = (-8.0, -3.0, 2.0, 7.0, 12.0, 20.0, 40.0)
    snr_weights: tuple[float, ...] = (0.13, 0.21, 0.22, 0.20, 0.16, 0.08)
    silent: float = 0.04
    noises: tuple[float, ...] = (0.5, 0.32, 0.18)
    coloured: float = 0.3
    babble: float = 0.12
    reverberant: float = 0.45
    pauses: float = 0.35
    wide: float = 0.45
    narrow: float = 0.06
    clipped: float = 0.05
    holed: float = 0.08
    equaliser_db: float = 6.0
    level_db: float = 3.0

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn.

        Raises:
            ValueError: Naming the values.
        """
        if len(self.snr_edges_db) != len(self.snr_weights) + 1:
            raise ValueError(f"snr_edges_db={self.snr_edges_db} must have one number more than snr_weights")
        if self.seconds < 1:
            raise ValueError(f"seconds={self.seconds} must be at least 1")


class Mixer:
    """Draws batches; the same seed and step give the same batch on the same kind of device."""

    def __init__(self, pools: Pools, config: MixConfig, seed: int) -> None:
        """Get ready.

        Args:
            pools: Speech, noise and rooms.
            config: What mixtures are like.
            seed: Root of all randomness.
        """
        self.pools, self.config, self.seed = pools, config, seed
        self.samples = round(config.seconds * RATE)
        whole = self.samples + pools.rooms.voice.shape[1]
        self._size = 1 << (whole - 1).bit_length()
        self._hertz = torch.fft.rfftfreq(self._size, 1 / RATE, device=pools.device)

    @torch.no_grad()
    def batch(self, step: int, size: int) -> tuple[Float[Tensor, "B N"], Float[Tensor, "B N"]]:
        """Make the mixtures of a step.

        Args:
            step: Which.
            size: How many.

        Returns:
            Noisy and target, sample-aligned; the target is silent where nobody speaks.
        """
        c, rooms = self.config, self.pools.rooms
        rng = torch.Generator(self.pools.device).manual_seed(derive_seed(self.seed, "pretrain/mask/mix", step))
        draw = _Draw(rng, size)
        voice = self._take(self.pools.speech, draw, rate=self._speed(draw, 0.4, 0.88, 1.14))
        voice = voice * self._spoken(draw)
        # Echo, microphone and band are one multiplication of spectra.
        room = (draw.below(c.reverberant) * draw.integers(1, max(2, len(rooms.voice)))).long() % len(rooms.voice)
        microphone = self._equaliser(draw, c.equaliser_db) * self._band(draw)
        voiced = self._spectrum(voice) * microphone
        heard, target = (
            self._waveform(voiced * self._spectrum(of[room]))[:, LEAD : LEAD + self.samples]
            for of in (rooms.voice, rooms.early)
        )
        noise = self._spectrum(self._noise(draw)) * microphone
        far = draw.below(0.7)[:, None]
        noise = noise * torch.where(far, self._spectrum(rooms.noise[room]), self._spectrum(rooms.noise[:1]))
        noise = self._waveform(noise)[:, LEAD : LEAD + self.samples]
        speaks = ~draw.below(c.silent)
        level = active_power(heard)
        snr = self._snr(draw)
        noise = noise * (level / active_power(noise) * 10 ** (-snr / 10)).sqrt()[:, None]
        heard, target = heard * speaks[:, None], target * speaks[:, None]
        noisy = heard + noise
        gain = 10 ** ((LEVEL_DBFS + c.level_db * draw.normal()) / 20) / active_power(noisy).sqrt()
        noisy, target = noisy * gain[:, None], target * gain[:, None]
        return self._damaged(noisy, draw), target

    def _take(self, pool: Pool, draw: _Draw, rate: Tensor | None = None) -> Float[Tensor, "B N"]:
        """Cut pieces out of a pool at random, each recording as often as it is long, short ones again and again."""
        place = (draw.uniform().double() * len(pool.samples)).long().clamp_max(len(pool.samples) - 1)
        which = torch.searchsorted(pool.start, place, right=True) - 1
        start, length = pool.start[which, None], pool.length[which, None]
        offset = torch.arange(self.samples, device=place.device)[None].expand(len(place), -1)
        begun = place[:, None] - start
        if rate is None:
            return pool.samples[start + (begun + offset) % length].float() / 32768
        exact = offset * rate[:, None].double()
        left = exact.floor()
        t = (exact - left).float()
        before, at, after, beyond = (
            pool.samples[start + (begun + left.long() + shift) % length].float() / 32768 for shift in (-1, 0, 1, 2)
        )
        # Catmull-Rom: exact where t is 0, smooth between.
        return at + 0.5 * t * (
            after - before
            + t * (2 * before - 5 * at + 4 * after - beyond + t * (3 * (at - after) + beyond - before))
        )  # fmt: skip

    def _speed(self, draw: _Draw, share: float, low: float, high: float) -> Float[Tensor, " B"]:
        """Draw factors of tempo and pitch together."""
        factor = torch.exp(draw.uniform() * math.log(high / low) + math.log(low))
        return torch.where(draw.below(share), factor, torch.ones_like(factor))

    def _spoken(self, draw: _Draw) -> Float[Tensor, "B N"]:
        """Draw when the voice is silent: somewhere, for up to two thirds of the time."""
        middle, half = draw.uniform() * 1.2 - 0.1, draw.uniform() * 0.33
        half = torch.where(draw.below(self.config.pauses), half, -torch.ones_like(half))
        time = torch.linspace(0, 1, self.samples, device=middle.device)[None]
        away = ((time - middle[:, None]).abs() - half[:, None]) * self.config.seconds
        # Ten milliseconds of fade, so that no click betrays the pause.
        return (away / 0.01).clamp(0, 1)

    def _noise(self, draw: _Draw) -> Float[Tensor, "B N"]:
        """Draw one to three recorded noises, steady noise, and a crowd."""
        c = self.config
        count = draw.choice(c.noises) + 1
        total: Tensor | None = None
        for number in range(len(c.noises)):
            noise = self._take(self.pools.noise, draw, rate=self._speed(draw, 0.7, 0.7, 1.4))
            noise = self._waveform(self._spectrum(noise) * self._equaliser(draw, 8.0))[:, : self.samples]
            loud = 10 ** (-(draw.uniform() * 12 if number else 0 * draw.uniform()) / 20)
            loud = loud * (number < count) / rms(noise)
            total = noise * loud[:, None] if total is None else total + noise * loud[:, None]
        assert total is not None
        white = torch.randn(total.shape, generator=draw.rng, device=total.device)
        # Power falls with frequency by 0 to 9 dB an octave.
        octaves = (self._hertz / 100).clamp_min(1).log2()
        tilt = 10 ** (-(draw.uniform()[:, None] * 9) * octaves / 20) * self._equaliser(draw, 10.0)
        steady = self._waveform(self._spectrum(white) * tilt)[:, : self.samples]
        crowd = sum((self._take(self.pools.speech, draw) for _ in range(5)), self._take(self.pools.speech, draw))
        for sound, share in ((steady, c.coloured), (crowd, c.babble)):
            loud = 10 ** ((draw.uniform() * 20 - 10) / 20) * draw.below(share) / rms(sound)
            total = total + sound * loud[:, None]
        return total

    def _snr(self, draw: _Draw) -> Float[Tensor, " B"]:
        edges = torch.tensor(self.config.snr_edges_db, device=draw.rng.device)
        which = draw.choice(self.config.snr_weights)
        return edges[which] + draw.uniform() * (edges[which + 1] - edges[which])

    def _equaliser(self, draw: _Draw, most_db: float) -> Float[Tensor, "B K"]:
        """Draw smooth frequency responses, over octaves from 60 Hz on; flat for a third."""
        points = (draw.uniform(_BANDS) * 2 - 1) * most_db * (~draw.below(0.35))[:, None]
        place = ((self._hertz / 60).clamp_min(1).log2() * ((_BANDS - 1) / math.log2(RATE / 2 / 60))).clamp_max(
            _BANDS - 1 - 1e-4
        )
        left = place.floor().long()
        weight = place - left
        curve = points[:, left] * (1 - weight) + points[:, left + 1] * weight
        gain: Tensor = 10 ** (curve / 20)
        return gain

    def _band(self, draw: _Draw) -> Float[Tensor, "B K"]:
        """Draw what the recording's rate and microphone let through."""
        c = self.config
        kind = draw.uniform()
        top = torch.full_like(kind, RATE)
        top = torch.where(kind < c.wide, 7600 + 400 * draw.uniform(), top)
        top = torch.where(kind < c.narrow, 3300 + 600 * draw.uniform(), top)
        top = torch.where(kind > 0.94, 4000 + 7500 * draw.uniform(), top)
        low = torch.where(draw.below(0.25), 40 + 110 * draw.uniform(), torch.zeros_like(kind))
        low = torch.where((kind < c.narrow) & draw.below(0.5), low + 180, low)
        upper = ((top[:, None] - self._hertz) / 120).clamp(0, 1)
        lower = ((self._hertz - low[:, None]) / 20 + 1).clamp(0, 1)
        passed: Tensor = upper * lower
        return passed

    def _damaged(self, noisy: Float[Tensor, "B N"], draw: _Draw) -> Float[Tensor, "B N"]:
        """Cut peaks off, and empty the weak parts of the spectrum as lossy codecs do."""
        c = self.config
        limit = noisy.abs().amax(dim=1) * (0.15 + 0.55 * draw.uniform())
        limit = torch.where(draw.below(c.clipped), limit, torch.full_like(limit, math.inf))
        noisy = noisy.clamp(-limit[:, None], limit[:, None])
        chosen = draw.below(c.holed).nonzero()[:, 0]
        depth = 15 + 25 * draw.uniform()
        if len(chosen):
            window = torch.hann_window(512, device=noisy.device)
            spectrum = torch.stft(noisy[chosen], 512, 256, window=window, return_complex=True)
            power = spectrum.abs().square()
            # What lies far below its neighbourhood is not sent.
            around = torch.nn.functional.avg_pool2d(power[:, None], (31, 3), stride=1, padding=(15, 1))[:, 0]
            kept = power > around * 10 ** (-depth[chosen, None, None] / 10)
            noisy[chosen] = torch.istft(spectrum * kept, 512, 256, window=window, length=noisy.shape[1])
        return noisy

    def _spectrum(self, x: Tensor) -> Tensor:
        spectrum: Tensor = torch.fft.rfft(x, self._size)
        return spectrum

    def _waveform(self, spectrum: Tensor) -> Tensor:
        waveform: Tensor = torch.fft.irfft(spectrum, self._size)
        return waveform


class _Draw:
    """Random numbers, one a mixture."""

    def __init__(self, rng: torch.Generator, size: int) -> None:
        self.rng, self.size = rng, size

    def uniform(self, *more: int) -> Float[Tensor, B * _]:
        return torch.rand((self.size, *more), generator=self.rng, device=self.rng.device)

    def normal(self) -> Float[Tensor, " B"]:
        return torch.randn(self.size, generator=self.rng, device=self.rng.device)

    def below(self, share: float) -> Bool[Tensor, " B"]:
        return self.uniform() < share

    def integers(self, low: int, high: int) -> Tensor:
        return (low + self.uniform() * (high - low)).long().clamp_max(high - 1)

    def choice(self, weights: tuple[float, ...]) -> Tensor:
        edges = torch.tensor(weights, device=self.rng.device).cumsum(0)
        return torch.searchsorted(edges / edges[-1], self.uniform()).clamp_max(len(weights) - 1)


def rms(x: Float[Tensor, "B N"]) -> Float[Tensor, " B"]:
    """Return the root of the mean square, never 0."""
    return x.square().mean(dim=1).add(1e-12).sqrt()


def active_power(x: Float[Tensor, "B N"]) -> Float[Tensor, " B"]:
    """Return the mean power of the frames of 20 ms that lie less than 15 dB below their own mean, never 0."""
    power = x[:, : x.shape[1] // _FRAME * _FRAME].reshape(len(x), -1, _FRAME).square().mean(dim=2)
    level = power.mean(dim=1)
    for _ in range(3):
        active = power > level[:, None] * 10**-1.5
        level = (power * active).sum(dim=1) / active.sum(dim=1).clamp_min(1)
    return level + 1e-12

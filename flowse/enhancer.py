"""Enhancement of waveforms of any sample rate, number of channels and length."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import SupportsInt, overload

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor, nn

from flowse.audio.forms import NoTensor, Recording, as_channels, checked_rate
from flowse.audio.level import active_level_dbfs
from flowse.audio.mel import LogMel
from flowse.audio.mel_config import DB_PER_NEPER
from flowse.audio.noisy_phase import apply_mel_gain
from flowse.audio.offset import without_offset
from flowse.audio.protection import input_share
from flowse.audio.vocoder import Vocoder, load_vocoder, require_same_mel
from flowse.audio.waveform import resample
from flowse.export import ModelConfig, load, vocoder_of
from flowse.flow.sampling import Sampling
from flowse.hub import find_model
from flowse.model.precision import reduce_precision
from flowse.model.spec import ModelSpec
from flowse.model.system import System
from flowse.pretrained import DEFAULT
from flowse.seeding import derive_seed
from flowse.tokenizer import Tokenizer

LEVEL_DBFS = -25.0
"""Active level of a window at the network's input: the middle of the range of training mixtures."""

MAX_GAIN_DB = 40.0
"""Largest gain for a window: a quieter window is silence with the noise of a converter."""

CEILING = 0.99
"""Highest peak of the output, unless the peak of the input is higher."""

Read = Callable[[int, int], Float32[np.ndarray, "C N"]]
"""A function that returns the samples [start, stop) of a recording."""


_LOUDEST = 1e12
"""Full scale is 1; 32-bit integers that were never divided reach 2e9. The power of much more is beyond float32."""


@dataclass(frozen=True, kw_only=True)
class Windowing:
    """How a long recording is split into windows.

    Attributes:
        window_s: Length of a window, in seconds; whole seconds fall on a sample at every rate.
        overlap_s: Least overlap of neighbouring windows, in seconds; the seam lies at the quietest point of the
            overlap.
        fade_s: Length of the crossfade at the seam, in seconds.
        batch: Number of windows that a GPU enhances at once. A CPU gets them one by one: what four of them need does
            not fit its caches, and takes twice the time.
    """

    window_s: int = 20
    overlap_s: int = 2
    fade_s: float = 0.1
    batch: int = 4

    def __post_init__(self) -> None:
        """Refuse windows that cannot be joined.

        Raises:
            ValueError: The lengths contradict each other, or the batch is empty; the message names the values.
        """
        if not 0 < 4 * self.fade_s <= self.overlap_s < self.window_s:
            raise ValueError(
                f"overlap_s={self.overlap_s} must be 4 x fade_s={self.fade_s} or more and less than "
                f"window_s={self.window_s}"
            )
        if self.batch < 1:
            raise ValueError(f"batch={self.batch} must be at least 1")

    def starts(self, n_samples: int, rate: int) -> list[int]:
        """Return the first sample of each window; all windows are full, unless the recording is shorter than one."""
        window, hop = self.window_s * rate, (self.window_s - self.overlap_s) * rate
        if n_samples <= window:
            return [0]
        return [*range(0, n_samples - window, hop), n_samples - window]


class Enhancer:
    """A model with its vocoder, ready to enhance recordings.

    Every window is scaled to the same level for the network and back to its own level afterwards. The band above the
    network's (everything above 12 kHz of a 48 kHz recording) is kept. In each frame it gets the gain that the network
    gave to the octave below, but never more than 1: it is attenuated where the network removed noise.

    Example:
        >>> enhancer = Enhancer.from_pretrained()
        >>> enhanced = enhancer(waveform, 16_000)
    """

    def __init__(
        self,
        system: System,
        spec: ModelSpec,
        vocoder: Vocoder,
        sampling: Sampling | None = None,
        windowing: Windowing | None = None,
        name: str = "",
    ) -> None:
        """Combine a model with a vocoder.

        Args:
            system: The model, on the device on which it is to run.
            spec: Spec of the model.
            vocoder: Vocoder on the same device and with the same mel definition.
            sampling: Solver settings for calls without their own; None: the defaults of `Sampling`.
            windowing: How long recordings are split into windows; None: the defaults of `Windowing`.
            name: What the model is called, for people.

        Raises:
            ValueError: The vocoder's mel is not the model's.
        """
        require_same_mel(spec.mel, vocoder)
        self.system = system
        self.spec = spec
        self.vocoder = vocoder
        self.sampling = sampling or Sampling()
        self.windowing = windowing or Windowing()
        self.name = name
        self.evaluations = 0
        """Number of network evaluations for each window in the last call; the computing time is proportional to it."""
        self._log_mel = LogMel(spec.mel).to(system.device)
        self._tokenizer = Tokenizer(spec.vocabulary) if spec.vocabulary else None

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path = DEFAULT,
        device: torch.device | str = "cpu",
        windowing: Windowing | None = None,
        precision: str = "fp32",
    ) -> Enhancer:
        """Load an exported model.

        Args:
            name_or_path: Name of an embedded model, a folder that the export stage wrote, or an address that
                `flowse.hub.find_model` fetches: `hf:owner/name`, or MLflow's. Without it: the command line's default.
            device: Device on which the model is to run; `to` changes it.
            windowing: How long recordings are split into windows; None: the defaults of `Windowing`.
            precision: "fp32", or fewer bits, see `flowse.model.precision.reduce_precision`.

        Raises:
            FileNotFoundError: There is no such model.
            ValueError: The precision does not suit the model or the device.
            ExportError: The folder is no complete model.
            UserError: The address cannot be fetched.
        """
        folder = find_model(str(name_or_path))
        system, config = load(folder, device)
        reduce_precision(system, precision)
        return cls.from_parts(system, config, vocoder_of(folder), windowing, str(name_or_path))

    @classmethod
    def from_parts(
        cls, system: System, config: ModelConfig, vocoder: Path, windowing: Windowing | None = None, name: str = ""
    ) -> Enhancer:
        """Combine a loaded model with the vocoder in the folder `vocoder`."""
        return cls(
            system,
            config.spec,
            load_vocoder(vocoder, system.device, mel=config.spec.mel),
            config.sampling,
            windowing,
            name,
        )

    @property
    def sample_rate(self) -> int:
        """Sample rate of the network, in Hz; recordings of any other are converted to it and back."""
        return self.spec.mel.sample_rate

    @property
    def device(self) -> torch.device:
        """Device on which the model runs."""
        return self.system.device

    def to(self, device: torch.device | str) -> Enhancer:
        """Move the model and its vocoder to a device; return this enhancer."""
        for part in (self.system, self._log_mel, self.vocoder):
            if isinstance(part, nn.Module):
                part.to(device)
        return self

    def __repr__(self) -> str:
        """Say which model this is, how large, at which sample rate, how it is sampled, and where it runs."""
        weights = sum(parameter.numel() for parameter in self.system.parameters())
        named = f"{self.name}: " if self.name else ""
        return (
            f"Enhancer({named}{self.spec.objective}, {weights / 1e6:.2f} M parameters, {self.sample_rate} Hz, "
            f"{self.sampling}, on {self.device})"
        )

    @overload
    def enhance(
        self,
        audio: Tensor,
        sample_rate: SupportsInt,
        text: str | None = None,
        seed: int = 0,
        sampling: Sampling | None = None,
    ) -> Tensor: ...
    @overload
    def enhance(
        self,
        audio: NoTensor,
        sample_rate: SupportsInt | None = None,
        text: str | None = None,
        seed: int = 0,
        sampling: Sampling | None = None,
    ) -> np.ndarray: ...
    def enhance(
        self,
        audio: Recording,
        sample_rate: SupportsInt | None = None,
        text: str | None = None,
        seed: int = 0,
        sampling: Sampling | None = None,
    ) -> np.ndarray | Tensor:
        """Enhance a recording; `enhancer(audio, sample_rate)` is the same.

        All forms of the same recording give the same output.

        Args:
            audio: The samples `(N,)`, `(C, N)` or `(N, C)` (the shorter side are the channels) as numpy array, torch
                tensor or lists: floating point with full scale ±1, or int16, int32 or uint8 with their own. Or the path
                of an audio file, or a dictionary with `array` and `sampling_rate` (Hugging Face `datasets`). Channels
                are enhanced separately, from the same noise.
            sample_rate: In Hz. A file knows its own; given for a file, it is the rate of the result.
            text: Transcript, if known; used only if the recording fits into one window.
            seed: Seed of the noise; the same seed gives the same samples.
            sampling: Solver settings; None: `self.sampling`, some of whose values `Sampling.override` can replace.

        Returns:
            The enhanced waveform: same class, shape, data type, sample rate and level as the input; floating point is
            not clipped, integers saturate. Lists and files give float32 arrays.

        Raises:
            ValueError: The samples are not finite, of an unknown type or shape, or their rate is missing.
            Refusal: The file is missing, damaged or no audio.
        """
        channels, rate, restore = as_channels(audio, sample_rate)
        pieces: Iterator[np.ndarray] = self.stream(
            lambda start, stop: channels[:, start:stop],
            channels.shape[1] if channels.size else 0,
            rate,
            text=text,
            seed=seed,
            sampling=sampling,
        )
        return restore(np.concatenate([channels if not channels.size else channels[:, :0], *pieces], axis=1))

    __call__ = enhance

    def stream(
        self,
        read: Read,
        n_samples: int,
        sample_rate: int,
        *,
        text: str | None = None,
        seed: int = 0,
        sampling: Sampling | None = None,
    ) -> Iterator[Float32[np.ndarray, "C N"]]:
        """Enhance a recording of any length in bounded memory: `batch` windows at a time.

        Args:
            read: Returns a stretch of the recording; called for overlapping stretches, in order.
            n_samples: Length of the recording.
            sample_rate: In Hz.
            text: Transcript, if known; used only if the recording fits into one window.
            seed: Seed of the noise; the same seed gives the same samples.
            sampling: Solver settings; None: `self.sampling`.

        Yields:
            Consecutive pieces of the enhanced recording, `n_samples` long in total.

        Raises:
            ValueError: The sample rate is below `LEAST_RATE`, the recording ends early, or a sample is not finite or
                above 1e12.
        """
        checked_rate(sample_rate)
        if not n_samples:
            return
        starts = self.windowing.starts(n_samples, sample_rate)
        ids = self._encode(text, len(starts))
        windows = self._windows(read, starts, n_samples, sample_rate, sampling or self.sampling, ids, seed)
        # Near the ends of a window the network lacks context, so the seam keeps away from them.
        margin = self.windowing.overlap_s * sample_rate // 4
        yield from _join(windows, margin, round(self.windowing.fade_s * sample_rate))

    def _encode(self, text: str | None, n_windows: int) -> Int[Tensor, "1 L"] | None:
        """Return the token ids of a transcript; warn if the transcript cannot be used."""
        if not text or not text.strip():
            return None
        if self._tokenizer is None:
            warnings.warn("the text is not used: this model was trained without", stacklevel=4)
            return None
        if n_windows > 1:
            warnings.warn(
                f"the text is not used: the recording is longer than a window ({self.windowing.window_s} s)",
                stacklevel=4,
            )
            return None
        language = "zh" if any("一" <= symbol <= "鿿" for symbol in text) else ""
        encoded = self._tokenizer.encode(text, language)
        if encoded.unknown:
            unknown = "".join(dict.fromkeys(encoded.unknown))
            warnings.warn(
                f"{encoded.n_unknown} symbol(s) of the text are unknown to the model: {unknown}", stacklevel=4
            )
        return torch.tensor([encoded.ids], dtype=torch.long)

    def _windows(
        self,
        read: Read,
        starts: Sequence[int],
        n_samples: int,
        rate: int,
        sampling: Sampling,
        ids: Tensor | None,
        seed: int,
    ) -> Iterator[_Window]:
        """Enhance the windows, `windowing.batch` at a time."""
        length = min(n_samples, self.windowing.window_s * rate)
        # Each channel is a row: rows are split into batches again, so that the device's memory does not grow with them.
        at_once = 1 if self.device.type == "cpu" else self.windowing.batch
        for first in range(0, len(starts), self.windowing.batch):
            noisy, seeds = [], []
            batch = starts[first : first + self.windowing.batch]
            for start in batch:
                samples = read(start, start + length)
                if samples.shape[1] != length:
                    raise ValueError(f"the recording ends at sample {start + samples.shape[1]} of {n_samples}")
                if not np.isfinite(samples).all():
                    raise ValueError("the recording has samples that are not finite (NaN); encode it again")
                if (peak := float(np.abs(samples).max(initial=0.0))) > _LOUDEST:
                    raise ValueError(f"the recording has samples of {peak:.1e}, where full scale is 1; encode it again")
                noisy.append(samples)
                seeds += [derive_seed(seed, "enhance", start)] * len(samples)
            rows = np.concatenate(noisy)
            enhanced = np.concatenate(
                [
                    self._rows(rows[i : i + at_once], rate, sampling, ids, seeds[i : i + at_once])
                    for i in range(0, len(rows), at_once)
                ]
            )
            yield from (
                _Window(start, before, after)
                for start, before, after in zip(batch, noisy, np.split(enhanced, len(batch)), strict=True)
            )

    def _rows(
        self,
        rows: Float32[np.ndarray, "B N"],
        rate: int,
        sampling: Sampling,
        ids: Tensor | None,
        seeds: Sequence[int],
    ) -> Float32[np.ndarray, "B N"]:
        """Enhance rows of equal length; the result has their rate and level, and no constant offset."""
        # Of the recording as it came: without its offset, a wave clipped on one side is higher than full scale.
        ceilings = np.maximum(CEILING, np.abs(rows).max(axis=1, initial=0.0))
        rows = np.stack([without_offset(row) for row in rows])
        own = self.spec.mel.sample_rate
        noisy = np.stack([resample(row, rate, own) for row in rows])
        gains = np.array([_level_gain(row, own) for row in noisy], np.float32)[:, None]
        out = np.zeros_like(noisy)
        audible = np.flatnonzero(np.abs(noisy).max(axis=1, initial=0.0) > 0)
        if len(audible):
            chosen = [seeds[int(index)] for index in audible]
            made = self._network(noisy[audible] * gains[audible], sampling, ids, chosen) / gains[audible]
            share = input_share(noisy[audible], made, sampling.protect, own)
            out[audible] = made + share * (noisy[audible] - made)
        return np.stack(
            [
                self._restore(row, before, after, rate, float(ceiling))
                for row, before, after, ceiling in zip(rows, noisy, out, ceilings, strict=True)
            ]
        )

    def _network(
        self,
        noisy: Float32[np.ndarray, "B N"],
        sampling: Sampling,
        ids: Tensor | None,
        seeds: Sequence[int],
    ) -> Float32[np.ndarray, "B N"]:
        """Run mel, network and vocoder at the model's sample rate."""
        mel = self.spec.mel
        n = noisy.shape[1]
        # The length is a multiple of the hop, so that the vocoder's output is not too short, and long enough for the
        # network's convolutions.
        length = max(mel.hop_length * math.ceil(n / mel.hop_length), 2 * mel.n_fft)
        padded = torch.from_numpy(np.pad(noisy, ((0, 0), (0, length - n)))).to(self.system.device)
        with torch.inference_mode():
            noisy_mel = self._log_mel(padded)
            log_mel, self.evaluations = self.system.enhance(
                noisy_mel,
                None,
                None if ids is None else ids.expand(len(noisy), -1),
                sampling,
                seed=list(seeds),
            )
            if sampling.limit_db is not None:
                log_mel = torch.maximum(log_mel, noisy_mel - sampling.limit_db / DB_PER_NEPER)
            if sampling.synthesis == "noisy_phase":
                waveform = apply_mel_gain(padded, noisy_mel, log_mel, self._log_mel)
            else:
                waveform = self.vocoder.decode(log_mel)
        out: Float32[np.ndarray, "B N"] = waveform[:, :n].float().cpu().numpy()
        return out

    def _restore(
        self,
        row: Float32[np.ndarray, " N"],
        noisy: Float32[np.ndarray, " M"],
        out: Float32[np.ndarray, " M"],
        rate: int,
        ceiling: float,
    ) -> Float32[np.ndarray, " N"]:
        """Resample an enhanced window to its own rate, and add the band above the model's; no peak above `ceiling`."""
        own = self.spec.mel.sample_rate
        full = _to_length(resample(out, own, rate), len(row))
        if rate != own:
            carried = _to_length(resample(noisy, own, rate), len(row))
            gain = _upper_band_gain(noisy, out, own, min(rate, own) / 2, self.spec.mel.hop_length)
            times = np.arange(len(row)) * (own / (rate * self.spec.mel.hop_length))
            full = full + (row - carried) * np.interp(times, np.arange(len(gain)), gain).astype(np.float32)
        peak = float(np.abs(full).max(initial=0.0))
        return (full * (ceiling / peak)).astype(np.float32) if peak > ceiling else full.astype(np.float32)


@dataclass(frozen=True)
class _Window:
    """A stretch of a recording from sample `start` on, before and after enhancement."""

    start: int
    noisy: Float32[np.ndarray, "C N"]
    enhanced: Float32[np.ndarray, "C N"]


def _level_gain(samples: Float32[np.ndarray, " N"], rate: int) -> float:
    """Return the factor that scales a window to the network's level."""
    level = active_level_dbfs(samples, rate)
    return 1.0 if level == -math.inf else 10 ** (min(LEVEL_DBFS - level, MAX_GAIN_DB) / 20)


def _to_length(samples: Float32[np.ndarray, " N"], length: int) -> Float32[np.ndarray, " M"]:
    """Cut or pad the few samples by which resampling there and back changes the length."""
    return np.pad(samples[:length], (0, max(0, length - len(samples))))


def _upper_band_gain(
    noisy: Float32[np.ndarray, " N"], out: Float32[np.ndarray, " N"], rate: int, nyquist: float, hop: int
) -> Float[np.ndarray, " T"]:
    """Return, for each frame, the gain (at most 1) that the network gave to the octave below `nyquist`, in Hz."""
    size = 4 * hop
    powers = []
    for samples in (noisy, out):
        padded = np.pad(samples, size // 2)
        frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]
        spectrum = np.fft.rfft(frames * np.hanning(size), axis=1)
        bins = np.fft.rfftfreq(size, 1 / rate)
        # The transition band of the resampler lies above 0.9 of the Nyquist frequency.
        upper = (bins > nyquist / 2) & (bins < 0.9 * nyquist)
        powers.append((np.abs(spectrum[:, upper]) ** 2).sum(axis=1))
    ratio = np.minimum(1.0, (powers[1] + 1e-12) / (powers[0] + 1e-12))
    smooth: Float[np.ndarray, " T"] = np.sqrt(np.convolve(np.pad(ratio, 1, mode="edge"), np.ones(3) / 3, "valid"))
    return smooth


def _seam(shared: Float32[np.ndarray, "C N"], margin: int, fade: int) -> int:
    """Return the middle of the quietest stretch of an overlap, at least `margin` samples away from both ends."""
    power = np.square(shared, dtype=np.float64).sum(axis=0)
    total = np.concatenate([[0.0], np.cumsum(power)])
    middles = np.arange(margin, len(power) - margin + 1)
    half = fade // 2
    return int(middles[np.argmin(total[middles + half] - total[middles - half])])


def _join(windows: Iterator[_Window], margin: int, fade: int) -> Iterator[Float32[np.ndarray, "C N"]]:
    """Crossfade windows into consecutive pieces; the gains add up to 1, so equal windows join without a trace."""
    half = fade // 2
    tail: _Window | None = None  # the part of the windows so far that is not yielded yet
    for window in windows:
        if tail is None:
            tail = window
            continue
        first, last = max(tail.start, window.start), tail.start + tail.enhanced.shape[1]
        shared = window.noisy[:, first - window.start : last - window.start]
        middle = first + _seam(shared, margin, fade)
        begin, end = middle - half, middle + half
        ramp = ((np.arange(end - begin) + 0.5) / max(1, end - begin)).astype(np.float32)
        yield tail.enhanced[:, : begin - tail.start]
        old = tail.enhanced[:, begin - tail.start : end - tail.start]
        new = window.enhanced[:, begin - window.start : end - window.start]
        yield old * (1 - ramp) + new * ramp
        rest = end - window.start
        tail = _Window(end, window.noisy[:, rest:], window.enhanced[:, rest:])
    if tail is not None:
        yield tail.enhanced

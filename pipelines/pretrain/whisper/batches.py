"""Batches of the tiny Whisper: cached clips joined, disturbed and cut to windows, a pure function of the step."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import scipy.signal
import torch
from torch import Tensor

from flowse.seeding import derive_seed, generator
from pipelines.pretrain.whisper.clips import CLIPS, Clip
from pipelines.pretrain.whisper.vocabulary import Vocabulary, encode, tokenizer_for

Mel = npt.NDArray[np.float32]

FLOOR = -10.0
"""log10 of the power that Whisper gives to digital silence."""

FRAMES_PER_SECOND = 100
WINDOW_FRAMES = 3_000
IGNORE = -100
"""Target that cross-entropy leaves out."""

WEIGHTS = {"en": 3.0, "zh": 3.0, "fr": 1.2, "de": 1.2, "es": 1.2, "ru": 1.2, "ja": 1.1} | {
    language: 0.8 for language in ("ar", "it", "ko", "nl", "pl", "pt")
}
"""How often a language is drawn, relative to the others."""

LANGUAGES = tuple(sorted(CLIPS))


@dataclass(frozen=True)
class Batch:
    """One training step's data.

    Attributes:
        mel: Windows [B, 80, T], scaled as Whisper's `log_mel_spectrogram` does.
        tokens: Decoder input [B, L], compact rows.
        targets: Decoder target [B, L], compact rows; `IGNORE` where nothing is asked.
        languages: Index into `LANGUAGES` [B]; `len(LANGUAGES)` for no speech.
        phonemes: CTC targets, end to end [sum of phoneme_lengths].
        phoneme_lengths: Phonemes of each window [B]; 0 where the text is unknown.
        frames: Encoder frames (20 ms) that hold sound [B].
    """

    mel: Tensor
    tokens: Tensor
    targets: Tensor
    languages: Tensor
    phonemes: Tensor
    phoneme_lengths: Tensor
    frames: Tensor


class Corpus:
    """The cached clips of a folder, with the tokens and phonemes of each."""

    def __init__(self, folder: Path) -> None:
        self.clips: list[Clip] = []
        self._mels: list[tuple[npt.NDArray[np.float16], int]] = []
        for listing in sorted(folder.glob("*.json")):
            part = np.load(listing.with_suffix(".npy"), mmap_mode="r")
            start = 0
            for row in json.loads(listing.read_text(encoding="utf-8")):
                self.clips.append(Clip(**row))
                self._mels.append((part, start))
                start += row["frames"]
        self.tokens = [encode(clip.text, clip.language) for clip in self.clips]
        self.vocabulary = Vocabulary(token for tokens in self.tokens for token in tokens)
        self.symbols = sorted({symbol for clip in self.clips for symbol in clip.phonemes})
        number = {symbol: i + 1 for i, symbol in enumerate(self.symbols)}  # 0 is CTC's blank
        self.phonemes = [[number[symbol] for symbol in clip.phonemes] for clip in self.clips]
        self.made: dict[str, list[int]] = defaultdict(list)
        self.real: dict[str, list[int]] = defaultdict(list)
        self.by_speaker: dict[str, list[int]] = defaultdict(list)
        self.noise: list[int] = []
        for i, clip in enumerate(self.clips):
            if clip.source == "noise":
                self.noise.append(i)
            elif clip.source == "real":
                self.real[clip.language].append(i)
                self.by_speaker[clip.speaker + ("+" if clip.text else "")].append(i)
            else:
                self.made[clip.language].append(i)

    def mel(self, index: int) -> Mel:
        """log10 mel power [T, 80] of a clip."""
        part, start = self._mels[index]
        return np.asarray(part[start : start + self.clips[index].frames], dtype=np.float32)


def _interpolate(mel: Mel, positions: npt.NDArray[np.float64], axis: int) -> Mel:
    """Read `mel` at fractional `positions` of `axis`."""
    low = np.clip(positions.astype(int), 0, mel.shape[axis] - 1)
    high = np.minimum(low + 1, mel.shape[axis] - 1)
    weight = np.clip(positions - low, 0, 1).astype(np.float32)
    weight = weight[:, None] if axis == 0 else weight[None, :]
    read: Mel = mel.take(low, axis) * (1 - weight) + mel.take(high, axis) * weight
    return read


def warp(mel: Mel, rng: np.random.Generator, strength: float = 1.0) -> Mel:
    """Change the speed unevenly (about ±20 %) and the length of the vocal tract (about ±12 %)."""
    knots = rng.uniform(1 - 0.25 * strength, 1 + 0.25 * strength, size=2 + len(mel) // 40)
    speed = np.interp(np.linspace(0, 1, len(mel)), np.linspace(0, 1, len(knots)), knots)
    reached = np.cumsum(speed)
    count = max(8, int(len(mel) ** 2 / reached[-1] / rng.uniform(1 - 0.15 * strength, 1 + 0.15 * strength)))
    positions = np.interp(np.linspace(0, reached[-1], count), reached, np.arange(len(mel)))
    mel = _interpolate(mel, positions, axis=0)
    alpha = rng.uniform(1 - 0.12 * strength, 1 + 0.12 * strength)
    return _interpolate(mel, np.arange(80) * alpha, axis=1)


def equalise(mel: Mel, rng: np.random.Generator, other: Mel | None) -> Mel:
    """Colour the sound: a smooth curve, at times the mean spectrum of another clip or a narrow band."""
    curve = np.interp(np.linspace(0, 5, 80), np.arange(6), rng.normal(0, 0.35, size=6))
    if other is not None:
        loud = mel[mel.mean(axis=1) > np.median(mel.mean(axis=1))]
        other_loud = other[other.mean(axis=1) > np.median(other.mean(axis=1))]
        if len(loud) and len(other_loud):
            shift = other_loud.mean(axis=0) - loud.mean(axis=0)
            curve = curve + rng.uniform(0.3, 1.0) * (shift - shift.mean())
    if rng.random() < 0.15:
        curve = curve - np.where(np.arange(80) > rng.integers(45, 75), rng.uniform(1.5, 4.0), 0.0)
    coloured: Mel = np.maximum(mel + curve.astype(np.float32), FLOOR)
    return coloured


def reverberate(mel: Mel, rng: np.random.Generator) -> Mel:
    """Smear the power along time with an exponential tail."""
    decay = 10 ** (-6 / (rng.uniform(0.15, 0.8) * FRAMES_PER_SECOND))
    power = 10.0**mel
    tail = scipy.signal.lfilter([0.0, 0.0, (1 - decay) * rng.uniform(0.1, 0.9)], [1.0, -decay], power, axis=0)
    wet: Mel = np.log10(power + tail).astype(np.float32)
    return wet


def _hiss(frames: int, rng: np.random.Generator) -> Mel:
    """Coloured noise that does not change: its mel power fluctuates as a sum of squares does."""
    curve = np.interp(np.linspace(0, 4, 80), np.arange(5), rng.normal(0, 0.7, size=5)) - rng.uniform(0, 1.5) * (
        np.arange(80) / 80
    )
    hiss: Mel = (curve + np.log10(rng.gamma(3.0, 1 / 3.0, size=(frames, 80)) + 1e-6)).astype(np.float32)
    return hiss


def _level(mel: Mel) -> float:
    """log10 of the mean power of the louder half."""
    power = (10.0**mel).mean(axis=1)
    return float(np.log10(np.sort(power)[len(power) // 2 :].mean() + 1e-12))


def _fit(mel: Mel, frames: int, rng: np.random.Generator) -> Mel:
    """Repeat or cut `mel` to `frames`."""
    if len(mel) < frames:
        mel = np.tile(mel, (frames // len(mel) + 1, 1))
    start = int(rng.integers(len(mel) - frames + 1))
    return mel[start : start + frames]


def add_noise(mel: Mel, noise: Mel, snr_db: float) -> Mel:
    """Add the powers of two log-mels [T, 80] at a signal-to-noise ratio."""
    gain = _level(mel) - _level(noise) - snr_db / 10
    noisy: Mel = np.log10(10.0**mel + 10.0 ** (noise + gain)).astype(np.float32)
    return noisy


def mask(mel: Mel, rng: np.random.Generator) -> Mel:
    """Hide a few bands and moments (SpecAugment)."""
    mel, mean = mel.copy(), float(mel.mean())
    for _ in range(int(rng.integers(0, 3))):
        low = int(rng.integers(80))
        mel[:, low : low + int(rng.integers(1, 13))] = mean
    for _ in range(int(rng.integers(0, 1 + len(mel) // 80))):
        start = int(rng.integers(len(mel)))
        mel[start : start + int(rng.integers(1, 21))] = mean
    return mel


def normalise(mel: Mel) -> Mel:
    """Limit the range to 80 dB and scale, as Whisper's `log_mel_spectrogram` ends."""
    return (np.maximum(mel, mel.max() - 8.0) + 4.0) / 4.0


class Mixer:
    """Draws the batch of any step.

    Args:
        corpus: Where the clips come from.
        seed: Root of every choice.
        steps: Length of the training; the mix gets harder and the windows longer along it.
        frame_budget: Mel frames of a batch, padding included.
    """

    def __init__(self, corpus: Corpus, seed: int, steps: int, frame_budget: int) -> None:
        self.corpus, self.seed, self.steps, self.frame_budget = corpus, seed, steps, frame_budget
        present = [language for language in LANGUAGES if corpus.made[language]]
        weights = np.array([WEIGHTS[language] for language in present])
        self._languages, self._weights = present, weights / weights.sum()
        self._tokenizers = {language: tokenizer_for(language) for language in LANGUAGES}

    def window_frames(self, step: int) -> int:
        """Window length of a step's batch: short at first, Whisper's 30 s more and more often at the end."""
        rng = generator(derive_seed(self.seed, "window", step))
        progress = step / self.steps
        if progress < 0.12:
            return int(rng.choice([250, 350]))
        whole = 0.0 if progress < 0.5 else 0.08 if progress < 0.85 else 0.4
        if rng.random() < whole:
            return WINDOW_FRAMES
        return int(rng.choice([300, 400, 500, 700, 1_000], p=[0.3, 0.25, 0.2, 0.15, 0.1]))

    def _utterance(self, language: str, room: int, rng: np.random.Generator, hard: bool) -> tuple[Mel, list[int]]:
        """Join clips of one language until `room` frames are nearly full; returns the clips used."""
        real = self.corpus.real[language]
        if real and rng.random() < (0.15 if language == "en" else 0.2):
            first = real[int(rng.integers(len(real)))]
            clip = self.corpus.clips[first]
            pool = self.corpus.by_speaker[clip.speaker + ("+" if clip.text else "")] if language == "zh" else [first]
        else:
            pool = self.corpus.made[language]
            first = pool[int(rng.integers(len(pool)))]
        wanted = 1 if rng.random() < 0.4 and language != "en" else int(rng.integers(1, 6 if room > 1_000 else 4))
        mels: list[Mel] = []
        used: list[int] = []
        total = 0
        while len(used) < wanted:
            index = first if not used else pool[int(rng.integers(len(pool)))]
            mel = self.corpus.mel(index)
            if self.corpus.clips[index].text and hard:
                mel = warp(mel, rng)
            elif hard:
                mel = warp(mel, rng, 0.6)
            gap = int(rng.integers(0, 30))
            if total + len(mel) + gap > room:
                if used:
                    break
                if not self.corpus.clips[index].text and len(mel) > room:
                    mel = _fit(mel, room, rng)
                elif len(mel) > room:
                    first = pool[int(rng.integers(len(pool)))]
                    room = max(room, 0)
                    if rng.random() < 0.2:  # clips that fit are common; do not search for ever
                        mel = mel[:room]
                        return mel, [-1]
                    continue
            if gap and used:
                mels.append(np.full((gap, 80), FLOOR, dtype=np.float32))
                total += gap
            mels.append(mel)
            used.append(index)
            total += len(mel)
        return np.concatenate(mels), used

    def _disturb(self, mel: Mel, rng: np.random.Generator) -> Mel:
        corpus = self.corpus
        other = None
        if rng.random() < 0.4:
            pools = [corpus.real["en"], corpus.real["zh"], corpus.made["en"], corpus.made["de"]]
            pool = pools[int(rng.integers(len(pools)))]
            if pool:
                other = corpus.mel(pool[int(rng.integers(len(pool)))])
        mel = equalise(mel, rng, other)
        if rng.random() < 0.3:
            mel = reverberate(mel, rng)
        if rng.random() < 0.85:
            kind = rng.random()
            if kind < 0.5 or not corpus.noise:
                noise = _hiss(len(mel), rng)
            elif kind < 0.85:
                noise = _fit(corpus.mel(corpus.noise[int(rng.integers(len(corpus.noise)))]), len(mel), rng)
            else:
                voices = rng.integers(len(corpus.clips), size=4)
                noise = np.log10(
                    sum(10.0 ** _fit(corpus.mel(int(v)), len(mel), rng) for v in voices)  # type: ignore[arg-type]
                ).astype(np.float32)
            noise = np.maximum(noise, FLOOR)
            mel = add_noise(mel, noise, float(rng.uniform(3, 45)))
        if rng.random() < 0.7:
            mel = mask(mel, rng)
        return mel

    def _no_speech(self, frames: int, rng: np.random.Generator) -> Mel:
        if self.corpus.noise and rng.random() < 0.7:
            return _fit(self.corpus.mel(self.corpus.noise[int(rng.integers(len(self.corpus.noise)))]), frames, rng)
        return _hiss(frames, rng)

    def batch(self, step: int) -> Batch:
        """Draw the batch of `step`."""
        rng = generator(derive_seed(self.seed, "batch", step))
        frames = self.window_frames(step)
        hard = step / self.steps > 0.08
        windows, inputs, targets, languages, phonemes, lengths, sounding = [], [], [], [], [], [], []
        vocabulary = self.corpus.vocabulary
        for _ in range(max(2, self.frame_budget // frames)):
            lead = int(rng.integers(0, 40))
            room = frames - lead - 5
            if rng.random() < 0.03:
                language, used = "", []
                mel = self._no_speech(int(rng.integers(100, room + 1)), rng)
                lead = 0
            else:
                language = self._languages[int(rng.choice(len(self._languages), p=self._weights))]
                mel, used = self._utterance(language, room, rng, hard)
            start, end = lead, lead + len(mel)
            tail = int(rng.integers(0, max(1, min(60, frames - end))))
            mel = np.pad(mel, ((lead, tail), (0, 0)), constant_values=FLOOR)
            if hard:
                mel = self._disturb(mel, rng)
            sounding.append(min(frames, len(mel)) // 2)
            mel = np.pad(mel, ((0, max(0, frames - len(mel))), (0, 0)), constant_values=FLOOR)[:frames]
            windows.append(normalise(mel))
            known = bool(used) and used[0] >= 0 and all(self.corpus.clips[i].text for i in used)
            sequence, asked = self._sequence(language, used if known else [], (start, end), rng)
            rows = vocabulary.rows(sequence)
            noised = [
                int(rng.integers(vocabulary.size)) if 4 <= i and rng.random() < 0.08 else row
                for i, row in enumerate(rows[:-1])
            ]
            inputs.append(noised)
            targets.append([row if wanted else IGNORE for row, wanted in zip(rows[1:], asked, strict=True)])
            languages.append(LANGUAGES.index(language) if language else len(LANGUAGES))
            said = [p for i in used for p in (*self.corpus.phonemes[i], self._space())][:-1] if known else []
            phonemes.extend(said)
            lengths.append(len(said))
        length = max(len(row) for row in inputs)
        return Batch(
            mel=torch.from_numpy(np.stack(windows)).transpose(1, 2).contiguous(),
            tokens=torch.tensor([row + [0] * (length - len(row)) for row in inputs]),
            targets=torch.tensor([row + [IGNORE] * (length - len(row)) for row in targets]),
            languages=torch.tensor(languages),
            phonemes=torch.tensor(phonemes, dtype=torch.long),
            phoneme_lengths=torch.tensor(lengths),
            frames=torch.tensor(sounding),
        )

    def _space(self) -> int:
        return self.corpus.symbols.index(" ") + 1

    def _sequence(
        self, language: str, used: list[int], span: tuple[int, int], rng: np.random.Generator
    ) -> tuple[list[int], list[bool]]:
        """Whisper's token sequence, and for each of its tokens but the first whether the loss asks for it."""
        tokenizer = self._tokenizers[language or "en"]
        sot, code, transcribe = tokenizer.sot_sequence
        if not language:
            return [sot, tokenizer.no_speech, tokenizer.eot], [True, True]
        if not used:
            return [sot, code], [True]
        text = [token for i in used for token in self.corpus.tokens[i]]
        if rng.random() < 0.08:
            begin, end = (tokenizer.timestamp_begin + min(1500, frame // 2) for frame in span)
            sequence = [sot, code, transcribe, begin, *text, end, tokenizer.eot]
        else:
            sequence = [sot, code, transcribe, tokenizer.no_timestamps, *text, tokenizer.eot]
        return sequence, [True] * (len(sequence) - 1)

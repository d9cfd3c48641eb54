"""Batches of the tiny Whisper: clips joined, disturbed and cut to windows, a pure function of the step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from flowse.seeding import derive_seed, generator
from pipelines.pretrain.whisper import disturbance
from pipelines.pretrain.whisper.alignment import NOWHERE
from pipelines.pretrain.whisper.clips import CLIPS
from pipelines.pretrain.whisper.corpus import Corpus
from pipelines.pretrain.whisper.disturbance import FLOOR, Mel
from pipelines.pretrain.whisper.vocabulary import tokenizer_for

LANGUAGES = tuple(sorted(CLIPS))

WEIGHTS = dict.fromkeys(LANGUAGES, 1.0) | {"en": 5.0, "zh": 2.5, "fr": 2.0, "de": 1.3, "es": 1.2, "ru": 1.3, "pt": 1.3}
"""How often a language is drawn, relative to the others."""

REAL_SHARE = 0.1
"""Share of a language's windows that come from real recordings with a text, where there are any.

They teach how words sound, never which language is spoken: there are real recordings in two languages only,
and a model that is asked learns "real, hence English".
"""

WINDOW_FRAMES = 3_000
"""Whisper's window: 30 s of 10 ms frames."""


@dataclass(frozen=True)
class Phase:
    """What a part of the training hears.

    Attributes:
        until: Share of the schedule at which it ends.
        disturbed: Share of its windows that are disturbed.
        wordless: Share of a language's made windows that say what is not to be written; the encoder learns from them.
        windows: Lengths of its windows in mel frames, each with its share of the steps.
    """

    until: float
    disturbed: float
    wordless: float
    windows: Mapping[int, float]


CURRICULUM = (
    Phase(until=0.4, disturbed=0.0, wordless=0.25, windows={250: 0.5, 350: 0.5}),
    Phase(
        until=0.5,
        disturbed=0.4,
        wordless=0.25,
        windows={300: 0.2, 400: 0.2, 500: 0.2, 700: 0.2, 1_000: 0.12, WINDOW_FRAMES: 0.08},
    ),
    Phase(
        until=0.8,
        disturbed=0.2,
        wordless=0.05,
        windows={300: 0.25, 400: 0.2, 500: 0.2, 700: 0.2, 1_000: 0.07, WINDOW_FRAMES: 0.08},
    ),
    Phase(
        until=1.0,
        disturbed=0.35,
        wordless=0.1,
        windows={300: 0.15, 500: 0.25, 700: 0.3, 1_000: 0.15, WINDOW_FRAMES: 0.15},
    ),
)
"""Single undisturbed sentences first; then all that the encoder must stand; then, for a decoder that begins to
spell, short windows again; Whisper's half minute more and more often."""

IGNORE = -100
"""Target that cross-entropy leaves out."""

PROMPT = 3
"""Decoder positions before the first text token is asked for: start, language, task."""


@dataclass(frozen=True)
class Batch:
    """One training step's data.

    Attributes:
        mel: Windows [B, 80, T], scaled as Whisper's `log_mel_spectrogram` does.
        tokens: Decoder input [B, L], compact rows.
        targets: Decoder target [B, L], compact rows; `IGNORE` where nothing is asked.
        languages: Index into `LANGUAGES` [B]; `len(LANGUAGES)` for no speech, `IGNORE` for real speech.
        phonemes: CTC targets, end to end [sum of phoneme_lengths].
        phoneme_lengths: Phonemes of each window [B]; 0 where the text is unknown.
        frames: Encoder frames (20 ms) that hold sound [B].
        places: First and last of the window's phonemes that each target stands for [B, L, 2]; -1 for none.
    """

    mel: Tensor
    tokens: Tensor
    targets: Tensor
    languages: Tensor
    phonemes: Tensor
    phoneme_lengths: Tensor
    frames: Tensor
    places: Tensor


class Mixer:
    """Draws the batch of any step.

    Args:
        corpus: Where the clips come from.
        seed: Root of every choice.
        steps: Length of the training; along it the windows grow and the disturbances begin.
        frame_budget: Mel frames of a batch, padding included.
    """

    def __init__(self, corpus: Corpus, seed: int, steps: int, frame_budget: int) -> None:
        self.corpus, self.seed, self.steps, self.frame_budget = corpus, seed, steps, frame_budget
        self._languages = sorted(corpus.made)
        weights = np.array([WEIGHTS[language] for language in self._languages])
        self._weights = weights / weights.sum()
        self._tokenizers = {language: tokenizer_for(language) for language in LANGUAGES}

    def phase(self, step: int) -> Phase:
        """The part of the training that a step belongs to."""
        return next((phase for phase in CURRICULUM if step < phase.until * self.steps), CURRICULUM[-1])

    def window_frames(self, step: int) -> int:
        """Length of a step's windows."""
        rng = generator(derive_seed(self.seed, "whisper", "window", step))
        windows = self.phase(step).windows
        return int(rng.choice(list(windows), p=list(windows.values())))

    def batch(self, step: int) -> Batch:
        """Draw the batch of `step`."""
        rng = generator(derive_seed(self.seed, "whisper", "batch", step))
        frames = self.window_frames(step)
        phase = self.phase(step)
        rows = [self._window(frames, phase, rng) for _ in range(max(2, self.frame_budget // frames))]
        length = max(len(row.tokens) for row in rows)
        return Batch(
            mel=torch.from_numpy(np.stack([row.mel for row in rows])).transpose(1, 2).contiguous(),
            tokens=torch.tensor([row.tokens + [0] * (length - len(row.tokens)) for row in rows]),
            targets=torch.tensor([row.targets + [IGNORE] * (length - len(row.targets)) for row in rows]),
            languages=torch.tensor([row.language for row in rows]),
            phonemes=torch.tensor([symbol for row in rows for symbol in row.phonemes], dtype=torch.long),
            phoneme_lengths=torch.tensor([len(row.phonemes) for row in rows]),
            frames=torch.tensor([row.sounding for row in rows]),
            places=torch.tensor([row.places + [NOWHERE] * (length - len(row.places)) for row in rows]),
        )

    def _window(self, frames: int, phase: Phase, rng: np.random.Generator) -> _Window:
        """Draw one window: a little silence, an utterance or only noise, a little silence, padding."""
        disturbed = rng.random() < phase.disturbed
        lead = int(rng.integers(0, 40))
        language, used = "", list[int]()
        if rng.random() < 0.03:
            mel = self._noise(int(rng.integers(100, frames - lead)), rng)
        else:
            language = self._languages[int(rng.choice(len(self._languages), p=self._weights))]
            mel, used = self._utterance(language, frames - lead, disturbed, rng.random() < phase.wordless, rng)
        end = lead + len(mel)
        tail = min(int(rng.integers(0, 60)), frames - end)
        mel = np.pad(mel, ((lead, tail), (0, 0)), constant_values=FLOOR)
        if disturbed:
            mel = self._disturb(mel, rng)
        padded = np.pad(mel, ((0, frames - len(mel)), (0, 0)), constant_values=FLOOR)

        known = [i for i in used if self.corpus.clips[i].text]
        sequence = self.corpus.vocabulary.rows(self._sequence(language, known, (lead, end), rng))
        # A wrong letter now and then makes the decoder listen instead of guessing from what it wrote.
        slips = rng.choice([0.0, 0.05, 0.15])
        slipped = [
            sequence[int(rng.integers(4, len(sequence)))] if i >= 4 and rng.random() < slips else row
            for i, row in enumerate(sequence[:-1])
        ]
        said, places = list[int](), [NOWHERE] * PROMPT
        for i in used:
            places += [(len(said) + a, len(said) + b) if a >= 0 else NOWHERE for a, b in self.corpus.places[i]]
            said += [*self.corpus.phonemes[i], self.corpus.space]
        real = any(self.corpus.clips[i].source == "real" for i in used)
        label = LANGUAGES.index(language) if language else len(LANGUAGES)
        return _Window(
            mel=disturbance.normalise(padded),
            tokens=slipped,
            targets=[IGNORE, *sequence[2:]] if real else sequence[1:],
            language=IGNORE if real else label,
            phonemes=said[:-1],
            sounding=max(1, len(mel) // 2),
            places=places[: len(slipped)],
        )

    def _utterance(
        self, language: str, room: int, disturbed: bool, wordless: bool, rng: np.random.Generator
    ) -> tuple[Mel, list[int]]:
        """Join clips of one language up to `room` frames; returns the sound and the clips in it."""
        pools = self.corpus.told.get(language)
        pool = self.corpus.made[language]
        if wordless and language in self.corpus.wide:
            pool = self.corpus.wide[language]
        if pools and rng.random() < REAL_SHARE:
            pool = pools[int(rng.integers(len(pools)))]
        pieces: list[Mel] = []
        used: list[int] = []
        for _ in range(int(rng.integers(1, 2 + max(1, room // 250)))):
            gap = int(rng.integers(5, 30)) if pieces else 0
            index = pool.draw(room - gap, rng)
            mel = self.corpus.mel(index)
            if pieces and len(mel) + gap > room:
                break
            mel = disturbance.warp(mel, rng, room - gap) if disturbed else mel[:room]
            pieces += [np.full((gap, disturbance.BANDS), FLOOR, dtype=np.float32), mel]
            used.append(index)
            room -= gap + len(mel)
        return np.concatenate(pieces), used

    def _noise(self, frames: int, rng: np.random.Generator) -> Mel:
        """Sound without speech."""
        if self.corpus.noise and rng.random() < 0.5:
            return disturbance.fit(self.corpus.mel(self.corpus.noise.draw(frames, rng)), frames, rng)
        return disturbance.hiss(frames, rng)

    def _babble(self, frames: int, rng: np.random.Generator) -> Mel:
        """One to four voices at once, real ones half of the time."""
        drawn = [int(i) for i in rng.integers(len(self.corpus.clips), size=int(rng.integers(1, 5)))]
        voices = [self._recording(rng) if rng.random() < 0.5 else self.corpus.mel(i) for i in drawn]
        power = np.sum([10.0 ** disturbance.fit(voice, frames, rng) for voice in voices], axis=0)
        babble: Mel = np.log10(power).astype(np.float32)
        return babble

    def _recording(self, rng: np.random.Generator) -> Mel:
        """A real recording, English more often than not; a made one where there are none."""
        language = "en" if rng.random() < 0.8 else "zh"
        pools = self.corpus.real.get(language) or [next(iter(self.corpus.made.values()))]
        return self.corpus.mel(pools[int(rng.integers(len(pools)))].draw(WINDOW_FRAMES, rng))

    def _disturb(self, mel: Mel, rng: np.random.Generator) -> Mel:
        mel = disturbance.texture(mel, rng)
        # Lend the fine structure and the colour of real recordings to every language.
        if rng.random() < 0.3:
            mel = disturbance.graft(mel, disturbance.fit(self._recording(rng), len(mel), rng), rng)
        mel = disturbance.colour(mel, rng, self._recording(rng) if rng.random() < 0.4 else None)
        if rng.random() < 0.3:
            mel = disturbance.reverberate(mel, rng)
        if rng.random() < 0.85:
            noise = self._babble(len(mel), rng) if rng.random() < 0.2 else self._noise(len(mel), rng)
            mel = disturbance.add(mel, noise, float(rng.uniform(5, 45)))
        return disturbance.mask(mel, rng) if rng.random() < 0.5 else mel

    def _sequence(self, language: str, known: list[int], span: tuple[int, int], rng: np.random.Generator) -> list[int]:
        """Whisper's token sequence of a window; it ends with the language where the text is unknown."""
        tokenizer = self._tokenizers[language or "en"]
        sot, code, transcribe = tokenizer.sot_sequence
        if not language:
            return [sot, tokenizer.no_speech, tokenizer.eot]
        if not known:
            return [sot, code]
        text = [token for i in known for token in self.corpus.tokens[i]]
        if rng.random() < 0.08:
            begin, end = (tokenizer.timestamp_begin + frame // 2 for frame in span)
            return [sot, code, transcribe, begin, *text, end, tokenizer.eot]
        return [sot, code, transcribe, tokenizer.no_timestamps, *text, tokenizer.eot]


@dataclass(frozen=True)
class _Window:
    """One row of a batch before padding; see `Batch`."""

    mel: Mel
    tokens: list[int]
    targets: list[int]
    language: int
    phonemes: list[int]
    sounding: int
    places: list[tuple[int, int]]

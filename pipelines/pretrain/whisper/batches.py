"""Batches of the tiny Whisper: clips are joined, augmented and cut to windows, as a pure function of the step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from flowse.seeding import derive_seed, generator
from pipelines.pretrain.whisper import augmentation
from pipelines.pretrain.whisper.alignment import NO_PHONEME
from pipelines.pretrain.whisper.augmentation import FLOOR, Mel
from pipelines.pretrain.whisper.clips import CLIPS
from pipelines.pretrain.whisper.corpus import Corpus
from pipelines.pretrain.whisper.vocabulary import tokenizer_for

LANGUAGES = tuple(sorted(CLIPS))

WEIGHTS = dict.fromkeys(LANGUAGES, 1.0) | {"en": 5.0, "zh": 2.5, "fr": 2.0, "de": 1.3, "es": 1.2, "ru": 1.3, "pt": 1.3}
"""Relative frequency with which each language is drawn."""

REAL_SHARE = 0.1
"""Share of a language's windows that come from real recordings with a text, if there are any.

Such windows have no language target: real recordings exist in two languages only, and with the target a model learns
"real, hence English".
"""

WINDOW_FRAMES = 3_000
"""Whisper's window: 30 s of 10 ms frames."""


@dataclass(frozen=True)
class Phase:
    """The kind of windows in a part of the training.

    Attributes:
        until: Share of the schedule at which the phase ends.
        augmented: Share of windows that are augmented.
        without_text: Share of a language's synthetic windows that have random words and no text target; only the
            encoder learns from them.
        windows: Lengths of the windows in mel frames, each with its share of the steps.
    """

    until: float
    augmented: float
    without_text: float
    windows: Mapping[int, float]


CURRICULUM = (
    Phase(until=0.4, augmented=0.0, without_text=0.25, windows={250: 0.5, 350: 0.5}),
    Phase(
        until=0.5,
        augmented=0.4,
        without_text=0.25,
        windows={300: 0.2, 400: 0.2, 500: 0.2, 700: 0.2, 1_000: 0.12, WINDOW_FRAMES: 0.08},
    ),
    Phase(
        until=0.8,
        augmented=0.2,
        without_text=0.05,
        windows={300: 0.25, 400: 0.2, 500: 0.2, 700: 0.2, 1_000: 0.07, WINDOW_FRAMES: 0.08},
    ),
    Phase(
        until=1.0,
        augmented=0.35,
        without_text=0.1,
        windows={300: 0.15, 500: 0.25, 700: 0.3, 1_000: 0.15, WINDOW_FRAMES: 0.15},
    ),
)
"""Phases of the training.

Single sentences without augmentation come first, then all augmentations, then short windows again while the decoder
learns to spell. Windows of Whisper's full 30 s become more frequent from phase to phase.
"""

IGNORE = -100
"""Target that the cross entropy ignores."""

PROMPT = 3
"""Decoder positions before the first text token: start, language, task."""


@dataclass(frozen=True)
class Batch:
    """The data of a training step.

    Attributes:
        mel: Windows [B, 80, T], scaled like the output of Whisper's `log_mel_spectrogram`.
        tokens: Decoder input [B, L], rows of the compact vocabulary.
        targets: Decoder target [B, L], rows of the compact vocabulary; `IGNORE` where there is no target.
        languages: Index into `LANGUAGES` [B]; `len(LANGUAGES)` for no speech, `IGNORE` for real speech.
        phonemes: CTC targets of all windows, concatenated [sum of phoneme_lengths].
        phoneme_lengths: Number of phonemes of each window [B]; 0 if the text is unknown.
        frames: Number of encoder frames (20 ms) with sound [B].
        places: First and last of the window's phonemes that each target stands for [B, L, 2]; -1 for none.
    """

    mel: Tensor
    tokens: Tensor
    targets: Tensor
    languages: Tensor
    phonemes: Tensor
    phoneme_lengths: Tensor
    frames: Tensor
    phoneme_spans: Tensor


class Mixer:
    """Draws the batch of any step.

    Args:
        corpus: The clips.
        seed: Root seed of all draws.
        steps: Length of the training; the phases of `CURRICULUM` are shares of it.
        frame_budget: Number of mel frames in a batch, padding included.
    """

    def __init__(self, corpus: Corpus, seed: int, steps: int, frame_budget: int) -> None:
        self.corpus, self.seed, self.steps, self.frame_budget = corpus, seed, steps, frame_budget
        self._languages = sorted(corpus.synthetic)
        weights = np.array([WEIGHTS[language] for language in self._languages])
        self._weights = weights / weights.sum()
        self._tokenizers = {language: tokenizer_for(language) for language in LANGUAGES}

    def phase(self, step: int) -> Phase:
        """Return the phase that a step belongs to."""
        return next((phase for phase in CURRICULUM if step < phase.until * self.steps), CURRICULUM[-1])

    def window_frames(self, step: int) -> int:
        """Return the length of a step's windows, in mel frames."""
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
            frames=torch.tensor([row.sound_frames for row in rows]),
            phoneme_spans=torch.tensor(
                [row.phoneme_spans + [NO_PHONEME] * (length - len(row.phoneme_spans)) for row in rows]
            ),
        )

    def _window(self, frames: int, phase: Phase, rng: np.random.Generator) -> _Window:
        """Draw a window: a little silence, an utterance or only noise, a little silence, padding."""
        augmented = rng.random() < phase.augmented
        lead = int(rng.integers(0, 40))
        language, used = "", list[int]()
        if rng.random() < 0.03:
            mel = self._noise(int(rng.integers(100, frames - lead)), rng)
        else:
            language = self._languages[int(rng.choice(len(self._languages), p=self._weights))]
            mel, used = self._utterance(language, frames - lead, augmented, rng.random() < phase.without_text, rng)
        end = lead + len(mel)
        tail = min(int(rng.integers(0, 60)), frames - end)
        mel = np.pad(mel, ((lead, tail), (0, 0)), constant_values=FLOOR)
        if augmented:
            mel = self._augment(mel, rng)
        padded = np.pad(mel, ((0, frames - len(mel)), (0, 0)), constant_values=FLOOR)

        known = [i for i in used if self.corpus.clips[i].text]
        sequence = self.corpus.vocabulary.rows(self._sequence(language, known, (lead, end), rng))
        # Wrong letters in the decoder's input make it attend to the sound instead of guessing from earlier letters.
        wrong_share = rng.choice([0.0, 0.05, 0.15])
        tokens = [
            sequence[int(rng.integers(4, len(sequence)))] if i >= 4 and rng.random() < wrong_share else row
            for i, row in enumerate(sequence[:-1])
        ]
        phonemes, phoneme_spans = list[int](), [NO_PHONEME] * PROMPT
        for i in used:
            offset = len(phonemes)
            phoneme_spans += [
                (offset + first, offset + last) if first >= 0 else NO_PHONEME
                for first, last in self.corpus.phoneme_spans[i]
            ]
            phonemes += [*self.corpus.phonemes[i], self.corpus.space]
        real = any(self.corpus.clips[i].source == "real" for i in used)
        label = LANGUAGES.index(language) if language else len(LANGUAGES)
        return _Window(
            mel=augmentation.normalise(padded),
            tokens=tokens,
            targets=[IGNORE, *sequence[2:]] if real else sequence[1:],
            language=IGNORE if real else label,
            phonemes=phonemes[:-1],
            sound_frames=max(1, len(mel) // 2),
            phoneme_spans=phoneme_spans[: len(tokens)],
        )

    def _utterance(
        self, language: str, room: int, augmented: bool, without_text: bool, rng: np.random.Generator
    ) -> tuple[Mel, list[int]]:
        """Join clips of one language up to `room` frames; return their log-mel and the indices of the clips."""
        pools = self.corpus.real_with_text.get(language)
        pool = self.corpus.synthetic[language]
        if without_text and language in self.corpus.random_words:
            pool = self.corpus.random_words[language]
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
            mel = augmentation.warp(mel, rng, room - gap) if augmented else mel[:room]
            pieces += [np.full((gap, augmentation.BANDS), FLOOR, dtype=np.float32), mel]
            used.append(index)
            room -= gap + len(mel)
        return np.concatenate(pieces), used

    def _noise(self, frames: int, rng: np.random.Generator) -> Mel:
        """Return the log-mel of sound without speech."""
        if self.corpus.noise and rng.random() < 0.5:
            return augmentation.loop_to_length(self.corpus.mel(self.corpus.noise.draw(frames, rng)), frames, rng)
        return augmentation.coloured_noise(frames, rng)

    def _babble(self, frames: int, rng: np.random.Generator) -> Mel:
        """Return the log-mel of one to four voices at once; half of them are real."""
        drawn = [int(i) for i in rng.integers(len(self.corpus.clips), size=int(rng.integers(1, 5)))]
        voices = [self._recording(rng) if rng.random() < 0.5 else self.corpus.mel(i) for i in drawn]
        power = np.sum([10.0 ** augmentation.loop_to_length(voice, frames, rng) for voice in voices], axis=0)
        babble: Mel = np.log10(power).astype(np.float32)
        return babble

    def _recording(self, rng: np.random.Generator) -> Mel:
        """Return the log-mel of a real recording, mostly English; of a synthetic clip if there are no recordings."""
        language = "en" if rng.random() < 0.8 else "zh"
        pools = self.corpus.real.get(language) or [next(iter(self.corpus.synthetic.values()))]
        return self.corpus.mel(pools[int(rng.integers(len(pools)))].draw(WINDOW_FRAMES, rng))

    def _augment(self, mel: Mel, rng: np.random.Generator) -> Mel:
        mel = augmentation.roughen(mel, rng)
        # Clips of every language get the fine structure and the spectral colour of real recordings.
        if rng.random() < 0.3:
            mel = augmentation.graft_fine_structure(
                mel, augmentation.loop_to_length(self._recording(rng), len(mel), rng), rng
            )
        mel = augmentation.equalise(mel, rng, self._recording(rng) if rng.random() < 0.4 else None)
        if rng.random() < 0.3:
            mel = augmentation.reverberate(mel, rng)
        if rng.random() < 0.85:
            noise = self._babble(len(mel), rng) if rng.random() < 0.2 else self._noise(len(mel), rng)
            mel = augmentation.add_noise(mel, noise, float(rng.uniform(5, 45)))
        return augmentation.mask_bands_and_frames(mel, rng) if rng.random() < 0.5 else mel

    def _sequence(self, language: str, known: list[int], span: tuple[int, int], rng: np.random.Generator) -> list[int]:
        """Return Whisper's token sequence of a window; it ends with the language if the text is unknown."""
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
    """A row of a batch before padding; see `Batch`."""

    mel: Mel
    tokens: list[int]
    targets: list[int]
    language: int
    phonemes: list[int]
    sound_frames: int
    phoneme_spans: list[tuple[int, int]]

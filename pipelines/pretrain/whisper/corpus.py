"""The corpus of cached clips for training: memory-mapped, with tokens and phonemes, grouped by what may be joined."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipelines.pretrain.whisper.alignment import NO_PHONEME, phonemes_of_tokens
from pipelines.pretrain.whisper.augmentation import Mel
from pipelines.pretrain.whisper.clips import Clip
from pipelines.pretrain.whisper.vocabulary import Vocabulary, encode, spell


class Pool:
    """Clips that may be joined into an utterance, ordered by length."""

    def __init__(self, clips: Sequence[tuple[int, int]]) -> None:
        ordered = sorted(clips, key=lambda pair: (pair[1], pair[0]))
        self._indices = [index for index, _ in ordered]
        self._frames = [frames for _, frames in ordered]

    def draw(self, room: int, rng: np.random.Generator) -> int:
        """Draw a clip of at most `room` frames; if none is that short, draw from all clips."""
        fitting = bisect_right(self._frames, room) or len(self._indices)
        return self._indices[int(rng.integers(fitting))]


class Corpus:
    """The cached clips of a folder, with the tokens and phonemes of each.

    Attributes:
        clips: All clips.
        tokens: Whisper's tokens of each clip's text.
        phonemes: CTC symbols of each clip; 0 is the blank.
        phoneme_spans: First and last phoneme of each token, for each clip.
        vocabulary: The tokens that occur.
        symbols: The phonemes that occur.
        synthetic: Synthetic clips of each language, with a text.
        random_words: Synthetic clips of random words of each language, without a text target.
        real: Real clips of each language, one pool for each speaker (for English: each recording).
        real_with_text: Pools of `real` whose text is known.
        noise: Clips without speech; None if there are none.
    """

    def __init__(self, folder: Path) -> None:
        self.clips: list[Clip] = []
        self._mels: list[tuple[npt.NDArray[np.float16], int]] = []
        for listing in sorted(folder.glob("*.json")):
            mels, start = np.load(listing.with_suffix(".npy"), mmap_mode="r"), 0
            for row in json.loads(listing.read_text(encoding="utf-8")):
                clip = Clip(**row)
                self.clips.append(clip)
                self._mels.append((mels, start))
                start += clip.frames
        self.tokens = [encode(clip.text, clip.language) for clip in self.clips]
        self.vocabulary = Vocabulary(token for tokens in self.tokens for token in tokens)
        self.symbols = sorted({" "}.union(*(clip.phonemes for clip in self.clips)))
        number = {symbol: i for i, symbol in enumerate(self.symbols, start=1)}
        self.phonemes = [[number[symbol] for symbol in clip.phonemes] for clip in self.clips]
        self.space = number[" "]
        self.phoneme_spans = [
            phonemes_of_tokens(spell(tokens), clip.phonemes) if tokens and clip.phonemes else [NO_PHONEME] * len(tokens)
            for tokens, clip in zip(self.tokens, self.clips, strict=True)
        ]

        groups: dict[tuple[str, str, str], list[tuple[int, int]]] = defaultdict(list)
        for i, clip in enumerate(self.clips):
            # Clips with and without a text are not joined: the text of the result would be incomplete.
            source = "wide" if clip.source == "made" and not clip.text else clip.source
            speaker = f"{clip.speaker} {bool(clip.text)}" if source == "real" else ""
            groups[source, clip.language, speaker].append((i, clip.frames))
        self.synthetic = {language: Pool(g) for (source, language, _), g in groups.items() if source == "made"}
        self.random_words = {language: Pool(g) for (source, language, _), g in groups.items() if source == "wide"}
        self.real: dict[str, list[Pool]] = {}
        self.real_with_text: dict[str, list[Pool]] = {}
        for (source, language, _), group in sorted(groups.items()):
            if source == "real":
                self.real.setdefault(language, []).append(Pool(group))
                if self.clips[group[0][0]].text:
                    self.real_with_text.setdefault(language, []).append(self.real[language][-1])
        self.noise = next((Pool(g) for (source, _, _), g in groups.items() if source == "noise"), None)

    def mel(self, index: int) -> Mel:
        """Return the log10 mel power [T, 80] of a clip."""
        mels, start = self._mels[index]
        return np.asarray(mels[start : start + self.clips[index].frames], dtype=np.float32)

"""The cached clips as the training sees them: in memory maps, with tokens and phonemes, grouped for joining."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipelines.pretrain.whisper.alignment import NOWHERE, phonemes_of_tokens
from pipelines.pretrain.whisper.clips import Clip
from pipelines.pretrain.whisper.disturbance import Mel
from pipelines.pretrain.whisper.vocabulary import Vocabulary, encode, spell


class Pool:
    """Clips that may be joined into one utterance, ordered by length."""

    def __init__(self, clips: Sequence[tuple[int, int]]) -> None:
        ordered = sorted(clips, key=lambda pair: (pair[1], pair[0]))
        self._indices = [index for index, _ in ordered]
        self._frames = [frames for _, frames in ordered]

    def draw(self, room: int, rng: np.random.Generator) -> int:
        """Draw a clip of at most `room` frames; any clip if none is so short."""
        fitting = bisect_right(self._frames, room) or len(self._indices)
        return self._indices[int(rng.integers(fitting))]


class Corpus:
    """The cached clips of a folder, with the tokens and phonemes of each.

    Attributes:
        clips: All clips.
        tokens: Whisper's tokens of each clip's text.
        phonemes: CTC symbols of each clip; 0 is the blank.
        places: First and last phoneme of each of a clip's tokens.
        vocabulary: The tokens that occur.
        symbols: The phonemes that occur.
        made: Synthetic clips of each language, with a text.
        wide: Synthetic clips of each language whose text is not to be written: random words.
        real: Real clips of each language, one pool a speaker (for English: a recording).
        told: Those of them whose text is known.
        noise: Clips without speech; None if there are none.
    """

    def __init__(self, folder: Path) -> None:
        self.clips: list[Clip] = []
        self._mels: list[tuple[npt.NDArray[np.float16], int]] = []
        for listing in sorted(folder.glob("*.json")):
            mels, start = np.load(listing.with_suffix(".npy"), mmap_mode="r"), 0
            for row in json.loads(listing.read_text(encoding="utf-8")):
                self.clips.append(Clip(**row))
                self._mels.append((mels, start))
                start += row["frames"]
        self.tokens = [encode(clip.text, clip.language) for clip in self.clips]
        self.vocabulary = Vocabulary(token for tokens in self.tokens for token in tokens)
        self.symbols = sorted({" "}.union(*(clip.phonemes for clip in self.clips)))
        number = {symbol: i for i, symbol in enumerate(self.symbols, start=1)}
        self.phonemes = [[number[symbol] for symbol in clip.phonemes] for clip in self.clips]
        self.space = number[" "]
        self.places = [
            phonemes_of_tokens(spell(tokens), clip.phonemes) if tokens and clip.phonemes else [NOWHERE] * len(tokens)
            for tokens, clip in zip(self.tokens, self.clips, strict=True)
        ]

        groups: dict[tuple[str, str, str], list[tuple[int, int]]] = defaultdict(list)
        for i, clip in enumerate(self.clips):
            # Clips with and without a text are not joined: the text of the whole would be unknown.
            source = "wide" if clip.source == "made" and not clip.text else clip.source
            speaker = f"{clip.speaker} {bool(clip.text)}" if source == "real" else ""
            groups[source, clip.language, speaker].append((i, clip.frames))
        self.made = {language: Pool(g) for (source, language, _), g in groups.items() if source == "made"}
        self.wide = {language: Pool(g) for (source, language, _), g in groups.items() if source == "wide"}
        self.real: dict[str, list[Pool]] = {}
        self.told: dict[str, list[Pool]] = {}
        for (source, language, _), group in sorted(groups.items()):
            if source == "real":
                self.real.setdefault(language, []).append(Pool(group))
                if self.clips[group[0][0]].text:
                    self.told.setdefault(language, []).append(self.real[language][-1])
        self.noise = next((Pool(g) for (source, _, _), g in groups.items() if source == "noise"), None)

    def mel(self, index: int) -> Mel:
        """log10 mel power [T, 80] of a clip."""
        mels, start = self._mels[index]
        return np.asarray(mels[start : start + self.clips[index].frames], dtype=np.float32)

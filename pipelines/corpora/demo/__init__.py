"""The `demo` corpus: synthetic speech in 13 languages with known texts, and synthetic noise of many kinds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np

from flowse.data.manifest import Kind, Split, Utterance, make_utt_id
from flowse.files import write_bytes
from flowse.seeding import derive_seed, generator
from pipelines.corpora.demo.noise import KINDS, make_noise
from pipelines.corpora.demo.sentences import LANGUAGES, sentence
from pipelines.corpora.demo.speech import FEMALE, MALE, SAMPLE_RATE, Voice, synthesise

LICENCE = "CC0-1.0"
"""Licence of every clip: no clip contains a recording."""

REVISION = 1
"""Raised by hand when the same options and seed make other audio, so that ingest runs again."""

OTHER_LANGUAGES = tuple(language for language in LANGUAGES if language not in ("en", "zh"))

_SPEECH_PEAK = 0.5
_NOISE_RATE = 24_000
_BABBLE_VOICES = 6


@dataclass(frozen=True, kw_only=True)
class Options:
    """How much speech and noise is made.

    Attributes:
        speech_minutes: Length of the speech of all languages, to within a clip or two.
        noise_minutes: Length of the noise of all kinds.
        noise_clip_s: Length of a noise clip, in seconds.
        mandarin_share: Share of Mandarin in the length of the speech.
        other_share: Share of all languages but English and Mandarin, which the language filter drops.
        english_voices: Number of English speakers.
        mandarin_voices: Number of Mandarin speakers.
        voices_per_other_language: Number of speakers of each other language. No two speakers have the same timbre.
    """

    speech_minutes: float = 15.0
    noise_minutes: float = 6.0
    noise_clip_s: float = 8.0
    mandarin_share: float = 0.35
    other_share: float = 0.25
    english_voices: int = 20
    mandarin_voices: int = 18
    voices_per_other_language: int = 2

    def __post_init__(self) -> None:
        if min(self.speech_minutes, self.noise_minutes) < 0 or self.noise_clip_s <= 0:
            raise ValueError("speech_minutes and noise_minutes must be ≥ 0 and noise_clip_s positive")
        if min(self.mandarin_share, self.other_share) < 0 or self.mandarin_share + self.other_share > 1:
            raise ValueError(
                f"mandarin_share and other_share are {self.mandarin_share} and {self.other_share}; "
                "they must be ≥ 0 and together ≤ 1"
            )
        if min(self.english_voices, self.mandarin_voices, self.voices_per_other_language) < 1:
            raise ValueError("every language needs a voice: english_voices, mandarin_voices, voices_per_other_language")
        voices = self.voices()
        if sum(voices.values()) > len(FEMALE) + len(MALE):
            raise ValueError(f"{sum(voices.values())} voices are asked for; there are {len(FEMALE) + len(MALE)}")

    def voices(self) -> dict[str, int]:
        """Return the number of speakers of each language."""
        others = dict.fromkeys(OTHER_LANGUAGES, self.voices_per_other_language)
        return {"en": self.english_voices, "zh": self.mandarin_voices, **others}

    def minutes(self) -> dict[str, float]:
        """Return the minutes of speech of each language."""
        shares = {"en": 1 - self.mandarin_share - self.other_share, "zh": self.mandarin_share}
        shares |= dict.fromkeys(OTHER_LANGUAGES, self.other_share / len(OTHER_LANGUAGES))
        return {language: share * self.speech_minutes for language, share in shares.items()}


@dataclass(frozen=True, kw_only=True)
class Clip:
    """All that decides the content of one file.

    Attributes:
        path: Relative to the corpus root. It ends in a hash of all other attributes, so that one path never names two
            different sounds.
        kind: "speech" or "noise".
        seed: Seed of a noise; 0 for speech.
        language: ISO 639-1 code; empty for noise.
        voice: Voice of the speech; None for noise.
        text: Sentences of the speech; empty for noise.
        noise: Kind of noise; empty for speech.
        seconds: Length of a noise; 0 for speech, whose length follows from the text.
        split: Always None: ingest chooses the split.
        licence: Always `LICENCE`.
    """

    path: str
    kind: Literal["speech", "noise"]
    seed: int = 0
    language: str = ""
    voice: Voice | None = None
    text: str = ""
    noise: str = ""
    seconds: float = 0.0
    split: Split | None = None
    licence: str = LICENCE

    @property
    def speaker(self) -> str:
        """Return what splits must not share: the voice of speech, the clip of a noise."""
        return self.voice.speaker if self.voice else Path(self.path).stem

    @property
    def utt_id(self) -> str:
        """Return the utterance id in a corpus named "demo"."""
        return make_utt_id("demo", self.path)


def _speakers(options: Options, seed: int) -> dict[str, list[Voice]]:
    """Draw the voices of every language, women and men, without using a timbre twice."""
    rng = generator(derive_seed(seed, "demo", "voices"))
    female, male = ([pool[int(i)] for i in rng.permutation(len(pool))] for pool in (FEMALE, MALE))
    voices: dict[str, list[Voice]] = {}
    for language, count in options.voices().items():
        voices[language] = []
        for i in range(count):
            # espeak-ng has fewer voices of women: every third speaker is a woman while there are any left.
            pool = female if female and (i % 3 == 0 or not male) else male
            voices[language].append(
                Voice(
                    language,
                    pool.pop(),
                    pitch=int(rng.integers(35, 66)),
                    rate=int(rng.integers(135, 191)),
                    pitch_range=int(rng.integers(35, 76)),
                )
            )
    return voices


def estimated_s(text: str, voice: Voice) -> float:
    """Estimate the length of a spoken text in seconds, so that clips can be planned without rendering them."""
    # The rates were measured at 165 words a minute.
    letters_per_s = {"zh": 4.2, "ja": 8.7, "ko": 6.5, "fr": 21.0}.get(voice.language, 16.0)
    return len(text) / letters_per_s * 165 / voice.rate


def _with_hash(clip: Clip) -> Clip:
    """Append the hash of a clip's attributes to its path."""
    content = json.dumps(asdict(clip) | {"revision": REVISION}, sort_keys=True, ensure_ascii=False)
    return Clip(**(vars(clip) | {"path": f"{clip.path}-{hashlib.sha256(content.encode()).hexdigest()[:8]}.flac"}))


def _speech_clips(options: Options, seed: int) -> Iterator[Clip]:
    voices = _speakers(options, seed)
    for language, minutes in options.minutes().items():
        remaining_s, number = 60 * minutes, 0
        while remaining_s > 0:
            rng = generator(derive_seed(seed, "demo", "speech", language, number))
            voice = voices[language][number % len(voices[language])]
            gap = "" if language in ("zh", "ja") else " "
            text = gap.join(sentence(language, rng) for _ in range(int(rng.integers(1, 4))))
            yield _with_hash(
                Clip(path=f"speech/{language}/{number:05d}", kind="speech", language=language, voice=voice, text=text)
            )
            remaining_s -= estimated_s(text, voice)
            number += 1


def _noise_clips(options: Options, seed: int) -> Iterator[Clip]:
    for number in range(round(60 * options.noise_minutes / options.noise_clip_s)):
        kind = KINDS[number % len(KINDS)]
        own = derive_seed(seed, "demo", "noise", kind, number)
        yield _with_hash(
            Clip(path=f"noise/{kind}/{number:05d}", kind="noise", seed=own, noise=kind, seconds=options.noise_clip_s)
        )


@lru_cache(maxsize=8)
def _plan(options: Options, seed: int) -> tuple[Clip, ...]:
    return (*_speech_clips(options, seed), *_noise_clips(options, seed))


def plan(options: Options, seed: int) -> list[Clip]:
    """Return the clips of the corpus without rendering them; the same arguments give the same clips."""
    return list(_plan(options, seed))


def make_clip(clip: Clip, path: Path) -> None:
    """Render one clip to a 16-bit FLAC file; its bytes depend on the clip alone, so any process may do it at any time.

    The file is whole or absent: it is written beside `path` and renamed.
    """
    import soxr

    from flowse.audio.flac import flac_bytes

    if clip.voice:
        audio, rate = synthesise(clip.text, clip.voice), SAMPLE_RATE
        audio = audio * np.float32(_SPEECH_PEAK / np.abs(audio).max())
    else:
        rng = generator(clip.seed)
        voices = []
        if clip.noise == "babble":
            for i in range(_BABBLE_VOICES):
                talker = generator(derive_seed(clip.seed, "talker", i))
                language = ("en", "zh", *OTHER_LANGUAGES)[int(talker.integers(len(LANGUAGES)))]
                timbre = (*FEMALE, *MALE)[int(talker.integers(len(FEMALE) + len(MALE)))]
                spoken = synthesise(" ".join(sentence(language, talker) for _ in range(3)), Voice(language, timbre))
                voices.append(soxr.resample(spoken, SAMPLE_RATE, _NOISE_RATE))
        audio, rate = make_noise(clip.noise, clip.seconds, _NOISE_RATE, rng, voices), _NOISE_RATE
    # The clip is encoded in memory, because libsndfile does not report that a disk is full.
    write_bytes(path, flac_bytes(audio.astype(np.float32), rate))


def read(root: Path, name: str, kind: Kind, options: Options, seed: int) -> Iterator[Utterance]:
    """Yield the planned clips of one kind; ingest makes the file of each when it reads it."""
    for clip in _plan(options, seed):
        if clip.kind == kind:
            yield Utterance(
                utt_id=make_utt_id(name, clip.path),
                corpus=name,
                kind=kind,
                path=clip.path,
                speaker=clip.speaker,
                split=clip.split,
                licence=clip.licence,
                language=clip.language,
                text=clip.text,
                text_source="corpus" if clip.text else "",
            )


def listing_digest(root: Path, options: Options) -> str:
    """Hash the options and the revision; with the seed, they decide the content of all files."""
    return hashlib.sha256(json.dumps(asdict(options) | {"revision": REVISION}, sort_keys=True).encode()).hexdigest()


def make(root: Path, name: str, options: Options, seed: int, utterance: Utterance) -> None:
    """Render the file of an utterance that `read` has yielded."""
    clips = {clip.path: clip for clip in _plan(options, seed)}
    make_clip(clips[utterance.path], root / utterance.path)

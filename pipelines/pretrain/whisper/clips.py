"""The training clips of the tiny Whisper: synthetic sentences and real recordings, as log-mels with their texts."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import scipy.signal
import soundfile
import soxr
import torch
from pypinyin.phrases_dict import phrases_dict
from whisper.audio import HOP_LENGTH, N_FFT, mel_filters

from flowse.seeding import derive_seed, generator
from pipelines.corpora.demo import sentences, speech
from pipelines.pretrain.whisper.vocabulary import tokenizer_for

RATE = 16_000
"""Sample rate of Whisper's input, in Hz."""

Audio = npt.NDArray[np.float32]
Mel = npt.NDArray[np.float16]

CLIPS = dict.fromkeys(("ar", "it", "ja", "ko", "nl", "pl", "pt"), 3_000) | {
    "en": 6_000,
    "zh": 6_000,
    "fr": 4_000,
    "de": 4_000,
    "es": 4_000,
    "ru": 4_000,
}
"""Number of sentences to synthesise, by language."""

WIDE_SHARE = 0.25
"""Share of the clips that say random words, which have more sounds than the sentences of the grammars.

Every language needs them: when only English had random words, the model took every unusual sound for English.
"""

HELD_OUT_VARIANTS = ("f4", "Annie", "steph2", "grandma", "m4", "m7", "adam", "iven2", "pablo", "klatt3", "Hugo", "ed")
"""Timbres that no training clip has; the scores are measured with them."""

ACCENTS = {
    "en": ("", "", "", "en", "en", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-029"),
    "es": ("", "", "es-419"),
    "fr": ("", "", "fr-be", "fr-ch"),
    "pt": ("", "pt"),
}


@dataclass(frozen=True)
class Clip:
    """A cached clip.

    Attributes:
        language: Whisper's code of the language; empty for noise.
        text: Text in the spelling that the model is to write; empty if unknown.
        phonemes: Phonemes in IPA, with tones as digits; empty if unknown.
        source: "made" (synthetic), "real" or "noise".
        speaker: Name of the speaker; only clips of one speaker are joined into an utterance.
        frames: Length in mel frames of 10 ms.
    """

    language: str
    text: str
    phonemes: str
    source: str
    speaker: str
    frames: int


def plain_spelling(text: str, language: str) -> str:
    """Return `text` in the spelling of the tiny model: lower case, no punctuation, Arabic without vowel marks."""
    if language == "ar":
        text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    else:
        text = unicodedata.normalize("NFKC", text)
    text = re.sub(r"[^\w\s']", " ", text.lower())
    return re.sub(r"\s+", "" if language in ("zh", "ja") else " ", text).strip()


def log_mel(audio: Audio) -> npt.NDArray[np.float32]:
    """Return log10 of Whisper's mel power [T, 80], without Whisper's limit of the dynamic range."""
    spectrum = torch.stft(
        torch.from_numpy(audio), N_FFT, HOP_LENGTH, window=torch.hann_window(N_FFT), return_complex=True
    )
    power = spectrum[:, :-1].abs() ** 2
    mel: npt.NDArray[np.float32] = (mel_filters("cpu", 80) @ power).clamp(min=1e-10).log10().T.numpy()
    return mel


@cache
def word_list(language: str) -> tuple[str, ...]:
    """Return many words that a voice of `language` can read, from Whisper's tokens and pypinyin's phrases.

    English has common English words, Mandarin common phrases. The other languages have all tokens in their script,
    which are often words of another language: only their sounds matter.
    """
    if language == "zh":
        hanzi = {token for token in _tokens() if re.fullmatch(r"[\u4e00-\u9fff]", token)}
        return tuple(phrase for phrase in phrases_dict if len(phrase) <= 4 and set(phrase) <= hanzi)
    scripts = {"ar": r"[\u0620-\u064a]{3,}", "ja": r"[\u3041-\u309f]+", "ko": r"[\uac00-\ud7a3]+", "ru": r"[а-яё]{3,}"}
    pattern = re.compile(" ?" + scripts.get(language, "[a-zß-öø-ÿœ]{4,}"))
    if language == "en":
        return tuple(token[1:] for token in _tokens() if re.fullmatch(r" [a-z]{3,}", token))[:3_500]
    return tuple(token.strip() for token in _tokens() if pattern.fullmatch(token))


@cache
def _tokens() -> tuple[str, ...]:
    tokenizer = tokenizer_for("en")
    return tuple(tokenizer.decode([i]) for i in range(tokenizer.eot))


def random_words(language: str, rng: np.random.Generator) -> str:
    """Return a few random words that are all read by the rules of `language`."""
    # espeak-ng marks a change to the rules of another language, e.g. with "(en)".
    while "(" in speech.phonemes(text := _draw_words(language, rng), language):
        pass
    return text


def _draw_words(language: str, rng: np.random.Generator) -> str:
    words = word_list(language)
    if language in ("ja", "ko"):  # the tokens are syllables
        syllables = [[words[int(i)] for i in rng.integers(len(words), size=3)] for _ in range(int(rng.integers(2, 5)))]
        return " ".join("".join(word) for word in syllables)
    chosen = [words[int(i)] for i in rng.integers(len(words), size=int(rng.integers(2, 5)))]
    return ("，" if language == "zh" else " ").join(chosen)


def training_sentence(language: str, rng: np.random.Generator) -> str:
    """Return a sentence of the grammar that is not held out for scoring."""
    while sentences.is_held_out(text := sentences.sentence(language, rng)):
        pass
    return text


def _voice(language: str, variants: Sequence[str], rng: np.random.Generator) -> speech.Voice:
    accents = ACCENTS.get(language, ("",))
    return speech.Voice(
        language,
        variants[int(rng.integers(len(variants)))],
        pitch=int(rng.integers(20, 81)),
        rate=int(rng.integers(120, 216)),
        pitch_range=int(rng.integers(20, 76)),
        accent=accents[int(rng.integers(len(accents)))],
    )


def _reverberate(audio: Audio, rng: np.random.Generator) -> Audio:
    """Add reverberation: convolve with a direct sound and a decaying tail of noise."""
    decay_s = rng.uniform(0.1, 0.7)
    t = np.arange(int(decay_s * RATE)) / RATE
    tail = rng.standard_normal(len(t)) * np.exp(-6.9 * t / decay_s)
    tail *= rng.uniform(0.1, 0.8) / (np.sqrt(np.sum(tail**2)) + 1e-9)
    tail[0] += 1.0
    wet: Audio = scipy.signal.fftconvolve(audio, tail).astype(np.float32)
    return wet


def _encode_lossily(audio: Audio, rng: np.random.Generator) -> Audio:
    """Encode with a lossy codec and decode again, sometimes with the bandwidth of a telephone."""
    rate = int(rng.choice([8_000, 16_000, 16_000]))
    kind, subtype = [("MP3", "MPEG_LAYER_III"), ("OGG", "VORBIS")][int(rng.integers(2))]
    peak = float(np.abs(audio).max()) + 1e-9
    buffer = io.BytesIO()
    narrow = soxr.resample(audio * (0.7 / peak), RATE, rate)
    soundfile.write(buffer, narrow, rate, format=kind, subtype=subtype, compression_level=float(rng.uniform(0.4, 0.95)))
    decoded, _ = soundfile.read(io.BytesIO(buffer.getvalue()), dtype="float32")
    coded: Audio = soxr.resample(decoded, rate, RATE)[: len(audio)]
    return coded


def _degrade(audio: Audio, rng: np.random.Generator) -> Audio:
    """Add reverberation and codec artefacts to synthetic speech, so that the model does not take them for English."""
    if rng.random() < 0.4:
        audio = _reverberate(audio, rng)
    if rng.random() < 0.35:
        audio = _encode_lossily(audio, rng)
    return audio


def _trim(audio: Audio) -> Audio:
    """Remove digital silence at both ends."""
    loud = np.flatnonzero(np.abs(audio) > 1e-3 * np.abs(audio).max())
    return audio[loud[0] : loud[-1] + 1] if len(loud) else audio


def _phonemes(text: str, language: str) -> str:
    """Return the phonemes of a text without stress marks; tones stay."""
    return speech.phonemes(text, language).replace("ˈ", "").replace("ˌ", "")


def synthetic_clip(language: str, index: int, seed: int) -> tuple[Clip, Mel]:
    """Synthesise a clip, as a pure function of the arguments."""
    rng = generator(derive_seed(seed, "whisper", language, index))
    variants = [v for v in speech.VARIANTS if v not in HELD_OUT_VARIANTS]
    wide = rng.random() < WIDE_SHARE
    text = random_words(language, rng) if wide else training_sentence(language, rng)
    voice = _voice(language, variants, rng)
    audio = soxr.resample(speech.synthesise(text, voice), speech.SAMPLE_RATE, RATE, quality="HQ")
    mel = log_mel(_degrade(_trim(audio), rng)).astype(np.float16)
    spelled = "" if wide and language not in ("en", "zh") else plain_spelling(text, language)
    return Clip(language, spelled, _phonemes(text, language), "made", voice.speaker, len(mel)), mel


@dataclass(frozen=True)
class Recording:
    """A real recording; its language and text may be empty."""

    path: Path
    language: str
    text: str
    speaker: str


def list_recordings(audio: Path) -> list[Recording]:
    """List the speech and noise below the folder `audio` that `manifest.csv` beside it names.

    The manifest has the columns path, kind, language, text and speaker; only texts in Hanzi are used.
    """
    with (audio.parent / "manifest.csv").open(newline="", encoding="utf-8") as lines:
        rows = [row for row in csv.DictReader(lines) if row["path"].startswith(f"{audio.name}/")]
    return [
        Recording(
            audio.parent / row["path"],
            row["language"] if row["kind"] == "speech" else "",
            row["text"] if re.search(r"[\u4e00-\u9fff]", row["text"]) else "",
            row["speaker"] or row["path"],
        )
        for row in rows
        if row["kind"] in ("speech", "noise")
    ]


def recorded_clip(recording: Recording) -> tuple[Clip, Mel]:
    """Read a recording as a clip."""
    audio, rate = soundfile.read(recording.path, dtype="float32", always_2d=True)
    mono = _trim(np.ascontiguousarray(soxr.resample(audio.mean(axis=1), rate, RATE)))
    mel = log_mel(mono).astype(np.float16)
    language, text = recording.language, recording.text
    clip = Clip(
        language,
        plain_spelling(text, language),
        _phonemes(text, language) if text else "",
        "real" if language else "noise",
        recording.speaker,
        len(mel),
    )
    return clip, mel

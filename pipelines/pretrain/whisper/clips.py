"""Training data of the tiny Whisper: clips rendered once to log-mel, then mixed into batches at random."""

from __future__ import annotations

import csv
import io
import json
import multiprocessing
import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import scipy.signal
import soundfile
import soxr
import torch
from pypinyin.phrases_dict import phrases_dict
from whisper.audio import HOP_LENGTH, N_FFT, mel_filters
from whisper.audio import SAMPLE_RATE as RATE
from whisper.tokenizer import get_tokenizer

from flowse.seeding import derive_seed, generator
from pipelines.corpora.demo import sentences, speech

Audio = npt.NDArray[np.float32]
Mel = npt.NDArray[np.float16]

CLIPS = dict.fromkeys(("ar", "it", "ko", "nl", "pl", "pt"), 1_200) | {
    "en": 6_000,
    "zh": 6_000,
    "fr": 2_200,
    "de": 2_200,
    "es": 2_200,
    "ru": 2_200,
    "ja": 2_000,
}
"""Sentences to synthesise, by language."""

WIDE_SHARE = 0.3
"""Share of the English and Mandarin clips that say random words: more sounds than the grammars know."""

HELD_OUT_VARIANTS = ("f4", "Annie", "steph2", "grandma", "m4", "m7", "adam", "iven2", "pablo", "klatt3", "Hugo", "ed")
"""Timbres that no training clip has: the score is taken on them."""

ACCENTS = {
    "en": ("", "", "", "en", "en", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-029"),
    "es": ("", "", "es-419"),
    "fr": ("", "", "fr-be", "fr-ch"),
    "pt": ("", "pt"),
}

CLIPS_PER_PART = 250


@dataclass(frozen=True)
class Clip:
    """One cached clip.

    Attributes:
        language: Whisper's code; empty for noise.
        text: What is said, as the model shall write it; empty where unknown.
        phonemes: The same in IPA, tones as digits; empty where unknown.
        source: "made", "real" or "noise".
        speaker: Only clips of one speaker are joined into one utterance.
        frames: Length in mel frames of 10 ms.
    """

    language: str
    text: str
    phonemes: str
    source: str
    speaker: str
    frames: int


def written(text: str, language: str) -> str:
    """Return `text` as the tiny model writes it: lower case, no punctuation, Arabic without vowel marks."""
    if language == "ar":
        text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    else:
        text = unicodedata.normalize("NFKC", text)
    text = re.sub(r"[^\w\s']", " ", text.lower())
    return re.sub(r"\s+", "" if language in ("zh", "ja") else " ", text).strip()


def log_mel(audio: Audio) -> npt.NDArray[np.float32]:
    """Return log10 of Whisper's mel power [T, 80], before Whisper limits its dynamic range."""
    spectrum = torch.stft(
        torch.from_numpy(audio), N_FFT, HOP_LENGTH, window=torch.hann_window(N_FFT), return_complex=True
    )
    power = spectrum[:, :-1].abs() ** 2
    mel: npt.NDArray[np.float32] = (mel_filters("cpu", 80) @ power).clamp(min=1e-10).log10().T.numpy()
    return mel


@cache
def _wide_words() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Common English words (Whisper's early tokens) and Mandarin phrases of common Hanzi."""
    tokenizer = get_tokenizer(multilingual=True, num_languages=99)
    tokens = [tokenizer.decode([i]) for i in range(50_257)]
    english = [t[1:] for t in tokens if re.fullmatch(r" [a-z]{3,}", t)][:3_500]
    hanzi = {t for t in tokens if re.fullmatch(r"[\u4e00-\u9fff]", t)}
    mandarin = [phrase for phrase in phrases_dict if len(phrase) <= 4 and set(phrase) <= hanzi]
    return tuple(english), tuple(mandarin)


def _say_something(language: str, rng: np.random.Generator) -> str:
    """A sentence of the grammar that is not held out, or a string of random words."""
    if language in ("en", "zh") and rng.random() < WIDE_SHARE:
        words = _wide_words()[language == "zh"]
        chosen = [words[int(i)] for i in rng.integers(len(words), size=int(rng.integers(2, 6)))]
        return (" " if language == "en" else "，").join(chosen)
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
        pitch_range=int(rng.integers(20, 91)),
        accent=accents[int(rng.integers(len(accents)))],
    )


def _room(audio: Audio, rng: np.random.Generator) -> Audio:
    """Reverberate: a direct sound and a decaying noise tail."""
    decay_s = rng.uniform(0.1, 0.7)
    t = np.arange(int(decay_s * RATE)) / RATE
    tail = rng.standard_normal(len(t)) * np.exp(-6.9 * t / decay_s)
    tail *= rng.uniform(0.1, 0.8) / (np.sqrt(np.sum(tail**2)) + 1e-9)
    tail[0] += 1.0
    wet: Audio = scipy.signal.fftconvolve(audio, tail).astype(np.float32)
    return wet


def _codec(audio: Audio, rng: np.random.Generator) -> Audio:
    """Send through a lossy codec, sometimes at a telephone's bandwidth."""
    rate = int(rng.choice([8_000, 16_000, 16_000]))
    kind, subtype = [("MP3", "MPEG_LAYER_III"), ("OGG", "VORBIS")][int(rng.integers(2))]
    peak = float(np.abs(audio).max()) + 1e-9
    buffer = io.BytesIO()
    narrow = soxr.resample(audio * (0.7 / peak), RATE, rate)
    soundfile.write(buffer, narrow, rate, format=kind, subtype=subtype, compression_level=float(rng.uniform(0.4, 0.95)))
    decoded, _ = soundfile.read(io.BytesIO(buffer.getvalue()), dtype="float32")
    coded: Audio = soxr.resample(decoded, rate, RATE)[: len(audio)]
    return coded


def _channel(audio: Audio, rng: np.random.Generator) -> Audio:
    """Put made speech into a room and through a codec, so that "recorded" does not mean "English"."""
    if rng.random() < 0.4:
        audio = _room(audio, rng)
    if rng.random() < 0.35:
        audio = _codec(audio, rng)
    return audio


def _trim(audio: Audio) -> Audio:
    """Cut the digital silence at both ends."""
    loud = np.flatnonzero(np.abs(audio) > 1e-3 * np.abs(audio).max())
    return audio[loud[0] : loud[-1] + 1] if len(loud) else audio


def made_clip(language: str, index: int, seed: int) -> tuple[Clip, Mel]:
    """Render one synthetic clip; a pure function of its arguments."""
    rng = generator(derive_seed(seed, "whisper", language, index))
    variants = [v for v in speech.VARIANTS if v not in HELD_OUT_VARIANTS]
    text = _say_something(language, rng)
    voice = _voice(language, variants, rng)
    audio = soxr.resample(speech.synthesise(text, voice), speech.SAMPLE_RATE, RATE, quality="HQ")
    mel = log_mel(_channel(_trim(audio), rng)).astype(np.float16)
    sounds = speech.phonemes(text, language).replace("ˈ", "").replace("ˌ", "")
    return Clip(language, written(text, language), sounds, "made", voice.speaker, len(mel)), mel


def real_clips(root: Path) -> list[tuple[Clip, Path]]:
    """List the real training recordings under `root`: (clip without its length, file)."""
    with (root.parent / "manifest.csv").open(newline="", encoding="utf-8") as lines:
        rows = [row for row in csv.DictReader(lines) if row["path"].startswith(f"{root.name}/")]
    listed = []
    for row in rows:
        if row["kind"] not in ("speech", "noise"):
            continue
        text = row["text"] if re.search(r"[\u4e00-\u9fff]", row["text"]) else ""
        clip = Clip(
            row["language"] if row["kind"] == "speech" else "",
            written(text, "zh"),
            "",
            "real" if row["kind"] == "speech" else "noise",
            row["speaker"] or row["path"],
            0,
        )
        listed.append((clip, root.parent / row["path"]))
    return listed


def _real(item: tuple[Clip, Path]) -> tuple[Clip, Mel]:
    clip, path = item
    audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
    mono = _trim(np.ascontiguousarray(soxr.resample(audio.mean(axis=1), rate, RATE)))
    mel = log_mel(mono).astype(np.float16)
    sounds = speech.phonemes(clip.text, "zh").replace("ˈ", "").replace("ˌ", "") if clip.text else ""
    return Clip(**(asdict(clip) | {"frames": len(mel), "phonemes": sounds})), mel


def _render_part(part: tuple[str, list[object]], folder: Path, seed: int) -> None:
    """Render one part of the cache: `<name>.npy` (all mels end to end) and `<name>.json` (its clips)."""
    name, items = part
    torch.set_num_threads(1)
    if (folder / f"{name}.json").exists():
        return
    pairs = [
        made_clip(*item, seed) if isinstance(item[0], str) else _real(item)  # type: ignore[index, misc, arg-type]
        for item in items
    ]
    temporary = folder / f"{name}.npy.{os.getpid()}"
    with temporary.open("wb") as out:
        np.save(out, np.concatenate([mel for _, mel in pairs]))
    temporary.replace(folder / f"{name}.npy")
    temporary = folder / f"{name}.json.{os.getpid()}"
    temporary.write_text(json.dumps([asdict(clip) for clip, _ in pairs], ensure_ascii=False), encoding="utf-8")
    temporary.replace(folder / f"{name}.json")


def render_cache(folder: Path, audio: Path | None, seed: int, processes: int, clips: Mapping[str, int] = CLIPS) -> None:
    """Render every training clip under `folder`; parts that are there already are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    made: list[object] = [(language, i) for language, count in clips.items() for i in range(count)]
    order = generator(derive_seed(seed, "whisper", "parts")).permutation(len(made))
    made = [made[int(i)] for i in order]
    parts = [
        (f"made-{i // CLIPS_PER_PART:04d}", made[i : i + CLIPS_PER_PART]) for i in range(0, len(made), CLIPS_PER_PART)
    ]
    if audio is not None:
        parts.append(("real", list(real_clips(audio))))
    # "spawn": espeak-ng and torch both start threads that a fork would not survive.
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for done, _ in enumerate(pool.imap_unordered(partial(_render_part, folder=folder, seed=seed), parts), start=1):
            print(f"rendered {done}/{len(parts)} parts", flush=True)

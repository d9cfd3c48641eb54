"""The pack: chosen speech, noise and rooms of many corpora, coded small, in one folder that travels to the device."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from jaxtyping import Float32

from flowse.audio.level import active_level_dbfs
from flowse.audio.waveform import read, resample, to_mono
from flowse.data.manifest import Split
from flowse.errors import UserError
from flowse.refusal import Refusal
from flowse.seeding import derive_seed, generator
from flowse.simulation.rirs import Rir, measured_rir, simulate_room
from flowse.simulation.rooms import RoomDraw, draw_room
from pipelines.corpora.demo.noise import KINDS, make_noise
from pipelines.corpora.demo.sentences import sentence
from pipelines.corpora.demo.speech import ESPEAK_NAMES, SAMPLE_RATE, VARIANTS, Voice, synthesise
from pipelines.pretrain.mask.pools import RESPONSES, TABLE

RATES = (16_000, 24_000)
"""Rates that recordings are kept at: 16 kHz where the source has no more, 24 kHz otherwise."""
LEVEL_DBFS = -25.0
_FRAME_S = 0.02
_PAUSE_S = 0.2
_DEV_VARIANTS = VARIANTS[::10]
"""Timbres of the synthesiser that split "dev" speaks with; "train" speaks with the others."""


@dataclass(frozen=True, kw_only=True)
class PackConfig:
    """What is chosen.

    Attributes:
        split: "train" or "dev"; the two share no speaker, noise or room.
        corpus_s: The most speech of one corpus, in seconds, taken from its speakers in turn.
        dynamic_db: Speech whose loud frames stand less than this above its quiet ones is left out: it is noisy itself.
        chunk_s: The most that one file of the pack holds, in seconds.
        made_noise_s: Noise made of every kind that the demo knows, in seconds.
        made_speech_s: Speech of the demo's formant synthesiser in all its languages, in seconds. A mask that never
            hears synthetic voices takes some of them for noise.
        rooms: Simulated rooms.
        response_s: Impulse responses are cut after this long.
        compression: Of the codec, 0…1: 0.95 is about 19 kbit/s at 16 kHz.
        seed: Of every choice.
    """

    split: Split = "train"
    corpus_s: float = 2700.0
    dynamic_db: float = 30.0
    chunk_s: float = 60.0
    made_noise_s: float = 180.0
    made_speech_s: float = 2700.0
    rooms: int = 150
    response_s: float = 1.0
    compression: float = 0.95
    seed: int = 7


@dataclass(frozen=True, kw_only=True)
class Recording:
    """One file that may be packed.

    Attributes:
        path: The file.
        kind: "speech", "noise" or "rir".
        corpus: Where it comes from.
        speaker: Who speaks; empty if unknown.
        language: ISO 639-1 code; empty for noise.
        licence: In the corpus' words.
        split: "train" or "dev".
        text: What is said; empty if unknown.
    """

    path: Path
    kind: str
    corpus: str
    speaker: str
    language: str
    licence: str
    split: str
    text: str = ""


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """One file of the pack: its row in the table.

    Attributes:
        file: Path within the pack.
        kind: "speech" or "noise".
        corpus: Where it comes from.
        speaker: Who speaks.
        language: ISO 639-1 code.
        licence: In the corpus' words.
        samples: Length.
        rate: In Hz.
    """

    file: str
    kind: str
    corpus: str
    speaker: str
    language: str
    licence: str
    samples: int
    rate: int


def recordings(audio: Path, more: Path | None) -> list[Recording]:
    """List what there is.

    Args:
        audio: Folder with manifest.csv: path, kind, split, corpus, speaker, language, licence.
        more: Folder with speech.csv and noise.csv, paths relative to speech/ and noise/: the whole corpora of which
            AUDIO/more/speech and AUDIO/more/noise hold a part, which is then left out. None: that part is taken.

    Raises:
        UserError: A table is missing.
    """
    found = []
    for row in _table(audio / "manifest.csv"):
        kind = row["kind"]
        if kind not in ("speech", "noise", "rir") or re.search(r"\bNC\b", row["licence"]):
            continue
        if row["path"].startswith("dev/languages/") or (more and row["path"].startswith(("more/speech", "more/noise"))):
            continue
        found.append(
            Recording(
                path=audio / row["path"], kind=kind, corpus=row["corpus"], speaker=row["speaker"],
                language=row["language"], licence=row["licence"], split=row["split"],
                text=row.get("text", ""),
            )
        )  # fmt: skip
    for kind in ("speech", "noise") if more else ():
        assert more is not None
        for row in _table(more / f"{kind}.csv"):
            found.append(
                Recording(
                    path=more / kind / row["path"], kind=kind, corpus=row["path"].split("/")[0], speaker=row["speaker"],
                    language=row["language"], licence=row["licence"], split=row["split"],
                    text=row.get("text", ""),
                )
            )  # fmt: skip
    return found


def _table(path: Path) -> Iterator[dict[str, str]]:
    if not path.is_file():
        raise UserError(f"{path}: no such table of recordings")
    with path.open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def in_turn(speech: Sequence[Recording], seed: int) -> list[Recording]:
    """Order the recordings of one corpus so that its speakers take turns; who is first is drawn."""
    rng = generator(derive_seed(seed, "pretrain/mask/turns", speech[0].corpus))
    by_speaker: dict[str, list[Recording]] = defaultdict(list)
    for index in rng.permutation(len(speech)):
        by_speaker[speech[int(index)].speaker].append(speech[int(index)])
    turns = itertools.zip_longest(*by_speaker.values())
    return [recording for turn in turns for recording in turn if recording is not None]


def prepared(samples: Float32[np.ndarray, " N"], rate: int, least_dynamic_db: float) -> np.ndarray | None:
    """Bring an utterance to one level, without the silence around it; None if it is too noisy or too short."""
    length = round(_FRAME_S * rate)
    count = len(samples) // length
    if count < 20:
        return None
    power = np.square(samples[: count * length].reshape(count, length), dtype=np.float64).mean(axis=1)
    level = 10 * np.log10(power + 1e-10)
    quiet, loud = np.percentile(level, [5, 95])
    if loud < -70 or loud - quiet < least_dynamic_db:
        return None
    heard = np.flatnonzero(level > loud - 35)
    margin = round(_PAUSE_S / _FRAME_S)
    begin, end = max(0, heard[0] - margin) * length, (heard[-1] + 1 + margin) * length
    kept = samples[begin:end].copy()
    fade = min(length, len(kept) // 2)
    kept[:fade] *= np.linspace(0, 1, fade, dtype=np.float32)
    kept[-fade:] *= np.linspace(1, 0, fade, dtype=np.float32)
    kept *= 10 ** ((LEVEL_DBFS - active_level_dbfs(kept, rate)) / 20)
    return np.asarray(kept / max(1.0, float(np.abs(kept).max()) / 0.99), np.float32)


def _mono(path: Path) -> tuple[np.ndarray, int]:
    samples, rate = read(path)
    kept = RATES[0] if rate <= RATES[0] else RATES[1]
    return resample(to_mono(samples), rate, kept), kept


def _encoded(samples: np.ndarray, rate: int, compression: float) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format="OGG", subtype="OPUS", compression_level=compression)
    return buffer.getvalue()


def speech_chunks(speech: Sequence[Recording], config: PackConfig) -> Iterator[tuple[Recording, int, np.ndarray]]:
    """Yield the chosen speech of one corpus, a speaker's utterances joined to chunks."""
    held: dict[tuple[str, int], list[np.ndarray]] = defaultdict(list)
    who: dict[tuple[str, int], Recording] = {}
    left = config.corpus_s
    for recording in in_turn(speech, config.seed):
        if left <= 0:
            break
        try:
            samples, rate = _mono(recording.path)
        except Refusal:
            continue
        utterance = prepared(samples, rate, config.dynamic_db)
        if utterance is None:
            continue
        left -= len(utterance) / rate
        key = (recording.speaker, rate)
        who[key] = recording
        held[key].append(utterance)
        if sum(map(len, held[key])) > config.chunk_s * rate:
            yield recording, rate, np.concatenate(held.pop(key))
    for key, utterances in held.items():
        yield who[key], key[1], np.concatenate(utterances)


def noise_chunks(noise: Sequence[Recording], config: PackConfig) -> Iterator[tuple[Recording, int, np.ndarray]]:
    """Yield noises, cut where they are longer than a chunk, each with its peak at half of full scale."""
    for recording in noise:
        try:
            samples, rate = _mono(recording.path)
        except Refusal:
            continue
        size = round(config.chunk_s * rate)
        for begin in range(0, len(samples), size):
            piece = samples[begin : begin + size]
            if len(piece) > 0.25 * rate and (peak := float(np.abs(piece).max())) > 1e-3:
                yield recording, rate, piece * (0.5 / peak)


def made_noise(config: PackConfig) -> Iterator[tuple[Recording, int, np.ndarray]]:
    """Yield noise that is made of random numbers, half a minute at a time."""
    piece_s = min(30.0, config.made_noise_s)
    count = round(config.made_noise_s / piece_s) if piece_s else 0
    for kind, number in itertools.product((kind for kind in KINDS if kind != "babble"), range(count)):
        rng = generator(derive_seed(config.seed, "pretrain/mask/noise", config.split, kind, number))
        made = Recording(
            path=Path(), kind="noise", corpus="made-noise", speaker="", language="", licence="CC0-1.0",
            split=config.split,
        )  # fmt: skip
        yield made, RATES[1], make_noise(kind, piece_s, RATES[1], rng)


def made_speech(config: PackConfig) -> Iterator[tuple[Recording, int, np.ndarray]]:
    """Yield sentences of the demo's synthesiser, each chunk in one language by one voice drawn at random."""
    left, languages = config.made_speech_s, sorted(ESPEAK_NAMES)
    variants = [name for name in VARIANTS if (name in _DEV_VARIANTS) == (config.split == "dev")]
    for number in itertools.count():
        if left <= 0:
            return
        rng = generator(derive_seed(config.seed, "pretrain/mask/speech", config.split, number))
        # Every second chunk is English or Mandarin, the languages of the pipeline's default filter.
        language = ("en", "zh")[number // 2 % 2] if number % 2 else languages[number // 2 % len(languages)]
        voice = Voice(
            language, str(rng.choice(variants)), pitch=int(rng.integers(20, 81)), rate=int(rng.integers(120, 211)),
            pitch_range=int(rng.integers(20, 76)),
        )  # fmt: skip
        utterances: list[np.ndarray] = []
        while sum(map(len, utterances)) < min(15.0, config.made_speech_s) * RATES[1]:
            spoken = resample(synthesise(sentence(language, rng), voice), SAMPLE_RATE, RATES[1])
            # Some of these voices breathe: their quiet frames are no sign of noise.
            if (utterance := prepared(spoken, RATES[1], 0.0)) is not None:
                utterances.append(utterance)
        samples = np.concatenate(utterances)
        left -= len(samples) / RATES[1]
        made = Recording(
            path=Path(), kind="speech", corpus="made-speech", speaker=voice.speaker, language=language,
            licence="CC0-1.0", split=config.split,
        )  # fmt: skip
        yield made, RATES[1], samples


def responses(measured: Sequence[Recording], config: PackConfig) -> Iterator[tuple[Rir, Rir]]:
    """Yield pairs of impulse responses of one room or corpus: where the voice is, and where a noise is."""
    rate = RATES[1]
    for number in range(config.rooms):
        seed = derive_seed(config.seed, "pretrain/mask/room", config.split, number)
        rirs = simulate_room(draw_room(RoomDraw(), seed), seed, rate, max_s=config.response_s)
        yield from itertools.pairwise(rirs[: len(rirs) // 2 * 2])
    by_corpus: dict[str, list[Rir]] = defaultdict(list)
    for recording in measured:
        samples, own = read(recording.path)
        for channel in samples[:2]:
            by_corpus[recording.corpus].append(measured_rir(resample(channel, own, rate), rate, config.response_s))
    for rirs in by_corpus.values():
        yield from zip(rirs, [*rirs[2:], *rirs[:2]], strict=True)


def write_pack(folder: Path, found: Sequence[Recording], config: PackConfig, workers: int = 2) -> list[Chunk]:
    """Choose, code and write; returns the rows of the table."""
    chosen = [row for row in found if row.split == config.split]
    by_corpus: dict[str, list[Recording]] = defaultdict(list)
    for row in chosen:
        if row.kind == "speech":
            by_corpus[row.corpus].append(row)
    for kind in ("speech", "noise"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    jobs = [(folder, "speech", name, of, config) for name, of in sorted(by_corpus.items())]
    noises = [row for row in chosen if row.kind == "noise"]
    jobs += [(folder, "noise", f"recorded{part}", noises[part::4], config) for part in range(4) if noises[part::4]]
    jobs += [(folder, kind, "made", [], config) for kind in ("noise", "speech")]
    with ProcessPoolExecutor(workers) as pool:
        rows = [row for of in pool.map(_write_chunks, *zip(*jobs, strict=True)) for row in of]
    pairs = list(responses([row for row in chosen if row.kind == "rir"], config))
    if pairs:
        _write_responses(folder / RESPONSES, pairs)
    with (folder / TABLE).open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(Chunk.__dataclass_fields__))
        table.writeheader()
        table.writerows(vars(row) for row in rows)
    return rows


def _write_chunks(folder: Path, kind: str, name: str, of: Sequence[Recording], config: PackConfig) -> list[Chunk]:
    """Write the chunks of one corpus; runs in a worker."""
    if of:
        chunks = (speech_chunks if kind == "speech" else noise_chunks)(of, config)
    else:
        chunks = (made_speech if kind == "speech" else made_noise)(config)
    rows = []
    for number, (recording, rate, samples) in enumerate(chunks):
        file = f"{kind}/{_safe(name)}-{number:04d}.ogg"
        (folder / file).write_bytes(_encoded(samples, rate, config.compression))
        rows.append(
            Chunk(
                file=file, kind=kind, corpus=recording.corpus, speaker=recording.speaker, language=recording.language,
                licence=recording.licence, samples=len(samples), rate=rate,
            )
        )  # fmt: skip
    return rows


def _safe(name: str) -> str:
    return "".join(symbol if symbol.isalnum() or symbol in "._" else "-" for symbol in name)


def _write_responses(path: Path, pairs: Sequence[tuple[Rir, Rir]]) -> None:
    """Store pairs of responses as 16-bit integers of one length."""
    size = max(len(rir.samples) for pair in pairs for rir in pair)
    stored = np.zeros((len(pairs), 2, size), np.int16)
    scale, delay = np.zeros((len(pairs), 2), np.float32), np.zeros((len(pairs), 2), np.int64)
    for index, pair in enumerate(pairs):
        for place, rir in enumerate(pair):
            scale[index, place] = np.abs(rir.samples).max() / 32767
            stored[index, place, : len(rir.samples)] = np.rint(rir.samples / scale[index, place])
            delay[index, place] = rir.delay
    np.savez_compressed(path, samples=stored, scale=scale, delay=delay)

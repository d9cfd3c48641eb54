"""Mixtures of voices, noises and rooms that training never heard, written as pairs for ``make score MODEL=flowse``."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from flowse.audio.level import active_level_dbfs
from flowse.audio.waveform import read, resample, to_mono
from flowse.errors import UserError
from flowse.seeding import derive_seed, generator
from flowse.simulation.convolution import convolve
from flowse.simulation.rirs import Rir, early_part, simulate_room
from flowse.simulation.rooms import RoomDraw, draw_room
from pipelines.pretrain.mask.pack import PackConfig, Recording, in_turn, prepared
from pipelines.pretrain.mask.pools import EARLY_S

LONGEST_S, SHORTEST_S = 10.0, 2.0


def write_testset(folder: Path, found: Sequence[Recording], count: int, seed: int, rooms: int = 20) -> None:
    """Write noisy/ and clean/ with manifest.csv beside them: path, language, text.

    Half of the mixtures are in one of a few simulated rooms, where the clean version keeps 50 ms of reflections; SNRs
    are drawn evenly from −5 to 20 dB.

    Args:
        folder: Where to.
        found: Recordings; those of split "dev" are used, of them only voices whose speaker is known and not heard in
            another split.
        count: How many mixtures.
        seed: Of every choice.
        rooms: How many rooms.

    Raises:
        UserError: There is no speech or no noise in split "dev".
    """
    speech: dict[str, list[Recording]] = defaultdict(list)
    noises = [row for row in found if row.split == "dev" and row.kind == "noise"]
    heard_of = {(row.corpus, row.speaker) for row in found if row.split != "dev"}
    for row in found:
        if row.split == "dev" and row.kind == "speech" and row.speaker and (row.corpus, row.speaker) not in heard_of:
            speech[row.corpus].append(row)
    if not speech or not noises:
        raise UserError("a test set needs speech and noise of split dev")
    turns = [in_turn(of, seed) for _, of in sorted(speech.items())]
    responses: list[list[Rir]] = []
    for number in range(rooms):
        room = derive_seed(seed, "pretrain/mask/test-room", number)
        responses.append(simulate_room(draw_room(RoomDraw(), room), room, 24_000, max_s=1.0))
    rows: list[dict[str, object]] = []
    position = 0
    while len(rows) < count and any(turns):
        turn = turns[position % len(turns)]
        position += 1
        if not turn:
            continue
        voice = turn.pop(0)
        samples, rate = _mono(voice.path)
        clean = prepared(samples, rate, PackConfig.dynamic_db)
        if clean is None or not SHORTEST_S <= len(clean) / rate <= LONGEST_S:
            continue
        number = len(rows)
        rng = generator(derive_seed(seed, "pretrain/mask/test", number))
        noise = _noise(noises, len(clean), rate, rng)
        heard = clean
        if number % 2:
            rirs = responses[int(rng.integers(len(responses)))]
            here, there = (_at(rirs[int(place)], rate) for place in rng.permutation(len(rirs))[:2])
            heard, clean = (_through(clean, rir) for rir in (here, early_part(here, EARLY_S, rate)))
            noise = _through(noise, there)
        snr = float(rng.uniform(-5, 20))
        noise = noise * 10 ** ((active_level_dbfs(heard, rate) - snr - active_level_dbfs(noise, rate)) / 20)
        noisy = heard + noise
        gain = 10 ** ((rng.uniform(-32, -20) - active_level_dbfs(noisy, rate)) / 20)
        gain = min(gain, 0.95 / max(float(np.abs(noisy).max()), float(np.abs(clean).max())))
        name = f"{number:03d}.flac"
        for kind, wave in (("noisy", noisy * gain), ("clean", clean * gain)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            soundfile.write(folder / kind / name, wave, rate, subtype="PCM_16")
        rows.append(
            {
                "path": f"noisy/{name}", "language": voice.language, "text": voice.text,
                "corpus": voice.corpus, "speaker": voice.speaker, "snr_db": round(snr, 2), "room": number % 2,
            }
        )  # fmt: skip
    with (folder / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)


def _mono(path: Path) -> tuple[np.ndarray, int]:
    samples, rate = read(path)
    kept = 16_000 if rate <= 16_000 else 24_000
    return resample(to_mono(samples), rate, kept), kept


def _noise(noises: Sequence[Recording], length: int, rate: int, rng: np.random.Generator) -> np.ndarray:
    """One noise, or two at once, each begun anywhere and repeated where it is short."""
    total = np.zeros(length, np.float32)
    for index in rng.choice(len(noises), size=1 + int(rng.random() < 0.35), replace=False):
        samples, own = _mono(noises[int(index)].path)
        samples = resample(samples, own, rate)
        piece = np.resize(np.roll(samples, -int(rng.integers(len(samples)))), length)
        total += piece / (float(np.sqrt(np.mean(piece**2))) + 1e-6)
    return total


def _at(rir: Rir, rate: int) -> Rir:
    return (
        rir
        if rate == 24_000
        else Rir(resample(rir.samples, 24_000, rate) * (24_000 / rate), rir.delay * rate // 24_000)
    )


def _through(samples: np.ndarray, rir: Rir) -> np.ndarray:
    """Sound in a room, from its direct path on."""
    return np.asarray(convolve(samples, rir.samples)[rir.delay : rir.delay + len(samples)], np.float32)

"""Short recordings, rooms and lists in a folder, for tests of mixing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile as sf

from flowse.data.manifest import Split, Utterance
from flowse.data.parquet import write_rows
from flowse.seeding import generator
from flowse.simulation.rir_bank import RirRow, measured_row, write_bank
from flowse.simulation.rirs import Rir
from flowse.simulation.sources import Sources, write_competitors, write_noises

RATE = 16_000
BANK_RATE = 24_000


@dataclass(frozen=True)
class Recordings:
    """Speech, noises and rooms of two splits, and the lists that mixtures are drawn from.

    Attributes:
        root: Folder of the recordings; of both corpora, "speech" and "noise".
        speech: Utterances of six speakers; the last one of every third is in split test.
        noises: Noise recordings; every third is in split test, and the first is long.
        parts: Manifest parts with all of them.
        sources: The lists.
    """

    root: Path
    speech: list[Utterance]
    noises: list[Utterance]
    parts: list[Path]
    sources: Sources

    @property
    def roots(self) -> dict[str, Path]:
        """Return the folder of each corpus."""
        return {"speech": self.root, "noise": self.root}


def _split(number: int) -> Split:
    return "test" if number % 3 == 2 else "train"


def _utterance(root: Path, number: int) -> Utterance:
    samples = 0.1 * generator(100 + number).standard_normal(round((1.0 + 0.1 * number) * RATE))
    samples *= np.sin(9 * np.arange(len(samples)) / RATE) > -0.2
    sf.write(root / f"s{number}.flac", samples, RATE)
    return Utterance(
        utt_id=f"speech/{number}",
        corpus="speech",
        kind="speech",
        path=f"s{number}.flac",
        duration_s=len(samples) / RATE,
        speaker=f"speaker {number % 6}",
        split=_split(number),
        licence="CC0-1.0",
        language="en",
        text="hello",
        text_source="corpus",
    )


def _noise(root: Path, number: int) -> Utterance:
    duration_s = 40.0 if number == 0 else 0.5 + 0.25 * number
    sf.write(root / f"n{number}.flac", 0.2 * generator(200 + number).standard_normal(round(duration_s * RATE)), RATE)
    return Utterance(
        utt_id=f"noise/{number}",
        corpus="noise",
        kind="noise",
        path=f"n{number}.flac",
        duration_s=duration_s,
        split=_split(number),
        licence="CC-BY-4.0",
    )


def _rir(number: int) -> tuple[RirRow, Rir]:
    time_s = np.arange(6000) / BANK_RATE
    samples = 0.1 * generator(300 + number).standard_normal(6000) * 10 ** (-3 * time_s / 0.2)
    samples[:40], samples[40] = 0.0, 1.0
    rir = Rir(samples.astype(np.float32), 40)
    room, source = divmod(number, 2)
    return measured_row(f"room {room}", source, _split(room), rir, BANK_RATE, corpus="", licence=""), rir


def write_recordings(root: Path) -> Recordings:
    """Write the recordings, a manifest of two parts, the bank and the lists below `root`."""
    root.mkdir(parents=True, exist_ok=True)
    speech = [_utterance(root, number) for number in range(9)]
    noises = [_noise(root, number) for number in range(6)]
    parts = [root / "part-0.parquet", root / "part-1.parquet"]
    write_rows(parts[0], Utterance, [*speech[:5], *noises[:3]])
    write_rows(parts[1], Utterance, [*speech[5:], *noises[3:]])
    write_bank(root / "bank.npy", root / "rooms.parquet", "bank", [_rir(number) for number in range(6)])
    sources = Sources(root / "noises.parquet", root / "competitors.parquet", root / "rooms.parquet")
    write_noises(parts, sources.noises)
    write_competitors(parts, sources.competitors)
    return Recordings(root, speech, noises, parts, sources)

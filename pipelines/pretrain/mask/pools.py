"""The pack in the memory of the device that trains: speech and noise as one long row of samples each, and rooms."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
import torchaudio
from jaxtyping import Float, Int, Int16
from torch import Tensor

from flowse.errors import UserError
from flowse.simulation.rirs import LEAD, Rir, early_part

RATE = 24_000
TABLE = "pack.csv"
RESPONSES = "responses.npz"
EARLY_S = 0.05
"""Reflections up to this long after the direct path belong to the target, as in the pipeline's simulation."""


@dataclass(frozen=True)
class Pool:
    """Recordings end to end.

    Attributes:
        samples: All of them, 16-bit, at `RATE`.
        start: First sample of each recording.
        length: Its samples.
        full_band: Whether it reaches above 8 kHz.
    """

    samples: Int16[Tensor, " N"]
    start: Int[Tensor, " R"]
    length: Int[Tensor, " R"]
    full_band: Int[Tensor, " R"]


@dataclass(frozen=True)
class Rooms:
    """Pairs of impulse responses, from a voice and from a noise in one room; direct paths arrive at sample `LEAD`.

    Attributes:
        voice: To the voice.
        early: Its first `EARLY_S` seconds: what the target keeps.
        noise: To the noise.
    """

    voice: Float[Tensor, "P L"]
    early: Float[Tensor, "P L"]
    noise: Float[Tensor, "P L"]


@dataclass(frozen=True)
class Pools:
    """All that mixtures are made of, on one device."""

    speech: Pool
    noise: Pool
    rooms: Rooms

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.speech.samples.device

    @classmethod
    def load(cls, folders: Sequence[Path], device: torch.device | str, workers: int = 1) -> Pools:
        """Decode packs into a device's memory.

        Args:
            folders: One pack, or the parts of one; parts that are not there are passed over.
            device: Where to.
            workers: Processes that decode.

        Raises:
            UserError: No speech or no noise is found.
        """
        rows: dict[str, list[tuple[Path, int]]] = {"speech": [], "noise": []}
        for folder in folders:
            if (folder / TABLE).is_file():
                with (folder / TABLE).open(encoding="utf-8", newline="") as file:
                    for row in csv.DictReader(file):
                        if (folder / row["file"]).is_file():
                            rows[row["kind"]].append((folder / row["file"], int(row["rate"])))
        for kind, files in rows.items():
            if not files:
                raise UserError(f"{', '.join(map(str, folders))}: no {kind} there; `pack` writes it")
        with ProcessPoolExecutor(workers) as processes:
            run = map if workers == 1 else processes.map
            speech, noise = (_pool(files, torch.device(device), run) for files in rows.values())
        found = [folder / RESPONSES for folder in folders if (folder / RESPONSES).is_file()]
        return cls(speech, noise, _rooms(found, torch.device(device)))


def _decoded(path: Path) -> np.ndarray:
    samples, _ = soundfile.read(path, dtype="int16")
    return np.asarray(samples)


def _pool(files: Sequence[tuple[Path, int]], device: torch.device, run: Callable[..., object]) -> Pool:
    """Decode, bring to `RATE` on the device, and lay end to end."""
    pieces: list[Tensor] = []
    decoded = run(_decoded, [path for path, _ in files])
    for samples, (_, rate) in zip(decoded, files, strict=True):  # type: ignore[call-overload]
        piece = torch.from_numpy(samples).to(device)
        if rate != RATE:
            wave = torchaudio.functional.resample(piece.float(), rate, RATE, lowpass_filter_width=24)
            piece = wave.round().clamp(-32768, 32767).to(torch.int16)
        pieces.append(piece)
    length = torch.tensor([len(piece) for piece in pieces], device=device)
    return Pool(
        samples=torch.cat(pieces),
        start=length.cumsum(0) - length,
        length=length,
        full_band=torch.tensor([int(rate > 16_000) for _, rate in files], device=device),
    )


def _rooms(paths: Sequence[Path], device: torch.device) -> Rooms:
    """Read the responses; without any, a room without echo."""
    here = np.zeros((1, LEAD + 1), np.float32)
    here[0, LEAD] = 1.0
    voices, earlies, noises = [here], [here], [here]
    for path in paths:
        with np.load(path) as stored:
            samples, scale, delay = stored["samples"], stored["scale"], stored["delay"]
        for pair in range(len(samples)):
            voice, noise = (
                Rir(samples[pair, place].astype(np.float32) * scale[pair, place], int(delay[pair, place]))
                for place in (0, 1)
            )
            voices.append(_led(voice))
            earlies.append(_led(early_part(voice, EARLY_S, RATE)))
            noises.append(_led(noise))
    size = max(row.shape[1] for row in (*voices, *noises))
    stacked = (
        torch.from_numpy(np.concatenate([np.pad(row, ((0, 0), (0, size - row.shape[1]))) for row in rows])).to(device)
        for rows in (voices, earlies, noises)
    )
    return Rooms(*stacked)


def _led(rir: Rir) -> np.ndarray:
    """Put the direct path at `LEAD`."""
    return np.pad(rir.samples, (LEAD - rir.delay, 0))[None]

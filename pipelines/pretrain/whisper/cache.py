"""The clips on disk: each is rendered once, in parallel, in parts that are whole or absent."""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch

from flowse.files import atomic_path, write_json
from flowse.seeding import derive_seed, generator
from pipelines.pretrain.whisper.clips import CLIPS, Recording, list_recordings, recorded_clip, synthetic_clip

CLIPS_PER_PART = 250

Request = tuple[str, int] | Recording
"""A synthetic clip by language and number, or a recording."""


def render(folder: Path, audio: Path | None, seed: int, processes: int, clips: Mapping[str, int] = CLIPS) -> None:
    """Render all training clips into `folder`; existing parts are kept.

    Args:
        folder: Folder for a `<part>.npy` with the concatenated mels and a `<part>.json` with the clips of each part;
            the latter is written last.
        audio: Folder of real recordings, or None.
        seed: Root seed of all draws.
        processes: Number of processes.
        clips: Number of sentences of each language.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made = [(language, number) for language, count in clips.items() for number in range(count)]
    # The order is shuffled, so that an incomplete cache still has every language.
    order = generator(derive_seed(seed, "whisper", "parts")).permutation(len(made))
    parts: list[tuple[str, Sequence[Request]]] = [
        (f"made-{start // CLIPS_PER_PART:04d}", [made[int(i)] for i in order[start : start + CLIPS_PER_PART]])
        for start in range(0, len(made), CLIPS_PER_PART)
    ]
    if audio is not None:
        parts.append(("real", list_recordings(audio)))
    missing = [part for part in parts if not (folder / f"{part[0]}.json").exists()]
    # The processes are spawned: espeak-ng and torch start threads, which a fork would not copy.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=spawn) as pool:
        for done, name in enumerate(pool.map(partial(_render_part, folder=folder, seed=seed), missing), start=1):
            print(f"rendered {name}, {done}/{len(missing)}", flush=True)


def _render_part(part: tuple[str, Sequence[Request]], folder: Path, seed: int) -> str:
    name, requests = part
    torch.set_num_threads(1)
    pairs = [
        synthetic_clip(*request, seed) if isinstance(request, tuple) else recorded_clip(request) for request in requests
    ]
    with atomic_path(folder / f"{name}.npy") as temporary:
        np.save(temporary, np.concatenate([mel for _, mel in pairs]))
    # The listing comes last: a part without it is rendered again.
    write_json(folder / f"{name}.json", [asdict(clip) for clip, _ in pairs])
    return name

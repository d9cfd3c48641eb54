"""The clips on disk: each rendered once, in parallel, in parts that are whole or absent."""

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
from pipelines.pretrain.whisper.clips import CLIPS, Recording, made_clip, real_clip, recordings

CLIPS_PER_PART = 250

Request = tuple[str, int] | Recording
"""A made clip by language and number, or a recording."""


def render(folder: Path, audio: Path | None, seed: int, processes: int, clips: Mapping[str, int] = CLIPS) -> None:
    """Render every training clip under `folder`; parts that are there already are kept.

    Args:
        folder: Gets a `<part>.npy` with all its mels end to end and a `<part>.json` with its clips, written last.
        audio: Folder of real recordings, or None.
        seed: Root of every random choice.
        processes: How many render at a time.
        clips: Number of sentences of each language.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made = [(language, number) for language, count in clips.items() for number in range(count)]
    # Shuffled, so that a cache cut short still has every language.
    order = generator(derive_seed(seed, "whisper", "parts")).permutation(len(made))
    parts: list[tuple[str, Sequence[Request]]] = [
        (f"made-{start // CLIPS_PER_PART:04d}", [made[int(i)] for i in order[start : start + CLIPS_PER_PART]])
        for start in range(0, len(made), CLIPS_PER_PART)
    ]
    if audio is not None:
        parts.append(("real", recordings(audio)))
    missing = [part for part in parts if not (folder / f"{part[0]}.json").exists()]
    # "spawn": espeak-ng and torch both start threads that a fork would not survive.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=spawn) as pool:
        for done, name in enumerate(pool.map(partial(_render_part, folder=folder, seed=seed), missing), start=1):
            print(f"rendered {name}, {done}/{len(missing)}", flush=True)


def _render_part(part: tuple[str, Sequence[Request]], folder: Path, seed: int) -> str:
    name, requests = part
    torch.set_num_threads(1)
    pairs = [made_clip(*request, seed) if isinstance(request, tuple) else real_clip(request) for request in requests]
    with atomic_path(folder / f"{name}.npy") as temporary:
        np.save(temporary, np.concatenate([mel for _, mel in pairs]))
    # The listing comes last: a part without it is rendered again.
    write_json(folder / f"{name}.json", [asdict(clip) for clip, _ in pairs])
    return name

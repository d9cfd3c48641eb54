"""Log-mels of a dataset's shards, computed once and mapped into memory: what feeds many GPUs from few cores."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt16

from flowse.audio.mel import LogMel
from flowse.data.batching import CachedMels, Example, collate
from flowse.data.shards import IndexRow
from flowse.files import atomic_path

STEPS_PER_UNIT = 2048
"""Log-mels are stored as 16-bit whole numbers of this fineness: off by 1/4096 (0.002 dB) at most, over 32 units."""


class MelCache:
    """Noisy and clean log-mels of every mixture, a file a shard; a file is whole or absent.

    Files are named after the shard's content and the mel's definition, so a stale one is never read. Decoding FLAC
    alone takes longer than a fast GPU has: read from here, a second of audio costs 75 kB of memory bandwidth.
    """

    def __init__(
        self, folder: Path, rows: Sequence[IndexRow], read: Callable[[IndexRow], Example], log_mel: LogMel
    ) -> None:
        """Look at nothing yet.

        Args:
            folder: Of the cache; shared by all ranks, or one a node.
            rows: The mixtures that will be read, of whole shards or parts of them.
            read: Reads a mixture's waveforms.
            log_mel: The mel.
        """
        self._folder, self._read, self._log_mel = folder, read, log_mel
        self._floor = log_mel.config.log_floor
        definition = json.dumps([dataclasses.asdict(log_mel.config), STEPS_PER_UNIT], sort_keys=True)
        self._rows: dict[str, list[IndexRow]] = defaultdict(list)
        for row in rows:
            self._rows[row.shard].append(row)
        self._paths: dict[str, Path] = {}
        self._places: dict[str, tuple[str, int, int]] = {}
        for shard, of_shard in self._rows.items():
            of_shard.sort(key=lambda row: row.clean_offset)
            keys = "\n".join(row.key for row in of_shard)
            identity = hashlib.sha256(f"{of_shard[0].sha256}\n{definition}\n{keys}".encode()).hexdigest()[:16]
            self._paths[shard] = folder / f"{Path(shard).stem}-{identity}.npy"
            at = 0
            for row in of_shard:
                frames = log_mel.config.frames(row.samples)
                self._places[row.key] = (shard, at, at + frames)
                at += frames
        self._open: dict[str, np.ndarray] = {}

    @property
    def shards(self) -> list[str]:
        """The shards in order of name."""
        return sorted(self._rows)

    def missing(self) -> list[str]:
        """Name the shards that are not in the cache."""
        return [shard for shard in self.shards if not self._paths[shard].exists()]

    def build(self, shard: str) -> None:
        """Compute one shard's log-mels; several processes may build the same one, the last to end wins."""
        rows = self._rows[shard]
        total = self._places[rows[-1].key][2]
        with atomic_path(self._paths[shard]) as temporary:
            stored = np.lib.format.open_memmap(
                temporary, mode="w+", dtype=np.uint16, shape=(total, 2, self._log_mel.config.n_mels)
            )
            for row in rows:
                _, start, stop = self._places[row.key]
                batch = collate([row.key], [0], [self._read(row)], self._log_mel)
                pair = torch.stack((batch.noisy[0], batch.clean[0]), dim=1)
                stored[start:stop] = self._encode(pair.numpy())
            stored.flush()
            del stored

    def read(self, row: IndexRow, text_ids: Sequence[int] = ()) -> CachedMels:
        """Return a mixture's log-mels, read from the disk only where they are looked at.

        Raises:
            FileNotFoundError: The shard was not built.
        """
        shard, start, stop = self._places[row.key]
        if shard not in self._open:
            self._open[shard] = np.load(self._paths[shard], mmap_mode="r")
        return CachedMels(self._open[shard][start:stop], self._decode, text_ids)

    def _encode(self, log_mels: Float[np.ndarray, "T 2 F"]) -> UInt16[np.ndarray, "T 2 F"]:
        levels = np.rint((log_mels - self._floor) * STEPS_PER_UNIT)
        stored: UInt16[np.ndarray, "T 2 F"] = np.clip(levels, 0, np.iinfo(np.uint16).max).astype(np.uint16)
        return stored

    def _decode(self, stored: UInt16[np.ndarray, "T 2 F"]) -> Float[np.ndarray, "T 2 F"]:
        log_mels: Float[np.ndarray, "T 2 F"] = stored.astype(np.float32)
        log_mels *= np.float32(1 / STEPS_PER_UNIT)
        log_mels += np.float32(self._floor)
        return log_mels

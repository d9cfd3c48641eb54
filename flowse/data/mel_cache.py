"""A cache of the log-mels of a dataset's shards, mapped into memory, so that few cores can feed many GPUs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt16

from flowse.audio.mel import LogMel
from flowse.data.arrays import map_array
from flowse.data.batching import CachedMels, Example, collate
from flowse.data.shards import IndexRow
from flowse.errors import DamagedFile
from flowse.files import atomic_path, write_json

STEPS_PER_UNIT = 2048
"""Log-mels are stored as 16-bit integers with this many steps a neper.

The error is at most 1/4096 neper (0.002 dB), and the range is 32 nepers.
"""

_MEND = "delete the file, and it is computed again"
_MEND_SHARD = "`verify --mend` forgets the shard, and the next run makes it anew"
_UNREADABLE = -1
"""Stands for the sum of a mixture that could not be read."""


class MelCache:
    """Noisy and clean log-mels of every mixture, one file for each shard; a file is whole or absent.

    The name of a file depends on the shard's content and the mel's definition, so a stale file is never read. Beside it
    stand CRC-32 sums, and each mixture is compared with its sum when a process reads it for the first time. Decoding
    FLAC is slower than training on a fast GPU; a second of audio from the cache takes 75 kB of memory bandwidth.

    Example:
        >>> cache = MelCache(folder, rows, read, LogMel())
        >>> for shard in cache.missing():
        ...     cache.build(shard)
        >>> mels = cache.read(rows[0])
    """

    def __init__(
        self, folder: Path, rows: Sequence[IndexRow], read: Callable[[IndexRow], Example], log_mel: LogMel
    ) -> None:
        """Compute the names of the cache files; no file is opened yet.

        Args:
            folder: Folder of the cache; all ranks share it, or the ranks of each node.
            rows: The mixtures that will be read, from whole shards or parts of shards.
            read: Reads the waveforms of a mixture.
            log_mel: The mel transform.
        """
        self._folder, self._read, self._log_mel = folder, read, log_mel
        self._floor = log_mel.config.log_floor
        definition = json.dumps([dataclasses.asdict(log_mel.config), STEPS_PER_UNIT], sort_keys=True)
        self._rows: dict[str, list[IndexRow]] = defaultdict(list)
        for row in rows:
            self._rows[row.shard].append(row)
        self._paths: dict[str, Path] = {}
        self._places: dict[str, tuple[str, int, int, int]] = {}
        for shard, of_shard in self._rows.items():
            of_shard.sort(key=lambda row: row.clean_offset)
            keys = "\n".join(row.key for row in of_shard)
            identity = hashlib.sha256(f"{of_shard[0].sha256}\n{definition}\n{keys}".encode()).hexdigest()[:16]
            self._paths[shard] = folder / f"{Path(shard).stem}-{identity}.npy"
            at = 0
            for number, row in enumerate(of_shard):
                frames = log_mel.config.frames(row.samples)
                self._places[row.key] = (shard, number, at, at + frames)
                at += frames
        self._open: dict[str, tuple[np.ndarray, list[int]]] = {}
        self._whole: set[str] = set()

    @property
    def shards(self) -> list[str]:
        """Names of the shards, sorted."""
        return sorted(self._rows)

    def missing(self) -> list[str]:
        """Return the names of the shards that are not in the cache."""
        return [
            shard
            for shard in self.shards
            if not (self._paths[shard].exists() and _sums_path(self._paths[shard]).exists())
        ]

    def build(self, shard: str) -> None:
        """Compute one shard's log-mels; several processes may build the same one, the last to end wins."""
        rows = self._rows[shard]
        total = self._places[rows[-1].key][3]
        sums = []
        with atomic_path(self._paths[shard]) as temporary:
            stored = np.lib.format.open_memmap(
                temporary, mode="w+", dtype=np.uint16, shape=(total, 2, self._log_mel.config.n_mels)
            )
            for row in rows:
                *_, start, stop = self._places[row.key]
                try:
                    example = self._read(row)
                except DamagedFile:
                    sums.append(_UNREADABLE)
                    continue
                batch = collate([row.key], [0], [example], self._log_mel)
                pair = torch.stack((batch.noisy[0], batch.clean[0]), dim=1)
                encoded = self._encode(pair.numpy())
                sums.append(zlib.crc32(encoded.tobytes()))
                stored[start:stop] = encoded
            stored.flush()
            del stored
            write_json(_sums_path(self._paths[shard]), sums)  # first: the shard counts as cached once both are there

    def read(self, row: IndexRow, text_ids: Sequence[int] = ()) -> CachedMels:
        """Return a mixture's log-mels, mapped into memory: from the second time on the disk is read when they are used.

        Raises:
            FileNotFoundError: The shard is not in the cache.
            DamagedFile: The file of the shard is not what was written.
        """
        shard, number, start, stop = self._places[row.key]
        if shard not in self._open:
            self._open[shard] = self._map(shard)
        mels, sums = self._open[shard]
        stored = mels[start:stop]
        if sums[number] == _UNREADABLE:
            raise DamagedFile(f"{row.shard}: {row.key} was damaged when the cache was made; {_MEND_SHARD}")
        if row.key not in self._whole:
            if zlib.crc32(stored.data) != sums[number]:
                raise DamagedFile(f"{self._paths[shard]} is damaged: {row.key} differs from its sum; {_MEND}")
            self._whole.add(row.key)
        return CachedMels(stored, self._decode, text_ids)

    def _map(self, shard: str) -> tuple[np.ndarray, list[int]]:
        """Map the file of a shard, and read the sums of its mixtures."""
        path, rows = self._paths[shard], self._rows[shard]
        shape = (self._places[rows[-1].key][3], 2, self._log_mel.config.n_mels)
        mels = map_array(path, np.uint16, shape, _MEND)
        try:
            sums = json.loads(_sums_path(path).read_bytes())
        except ValueError:
            sums = None
        if not isinstance(sums, list) or len(sums) != len(rows):
            raise DamagedFile(f"{_sums_path(path)} is damaged: it does not hold {len(rows)} sums; {_MEND}")
        return mels, sums

    def _encode(self, log_mels: Float[np.ndarray, "T 2 F"]) -> UInt16[np.ndarray, "T 2 F"]:
        levels = np.rint((log_mels - self._floor) * STEPS_PER_UNIT)
        stored: UInt16[np.ndarray, "T 2 F"] = np.clip(levels, 0, np.iinfo(np.uint16).max).astype(np.uint16)
        return stored

    def _decode(self, stored: UInt16[np.ndarray, "T 2 F"]) -> Float[np.ndarray, "T 2 F"]:
        log_mels: Float[np.ndarray, "T 2 F"] = stored.astype(np.float32)
        log_mels *= np.float32(1 / STEPS_PER_UNIT)
        log_mels += np.float32(self._floor)
        return log_mels


def _sums_path(path: Path) -> Path:
    return path.with_suffix(".sums.json")

"""A cache of the log-mels of a dataset's shards, mapped into memory, so that few cores can feed many GPUs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt16

from flowse.audio.mel import LogMel
from flowse.data.arrays import map_array
from flowse.data.batching import CachedMels, Example, collate, frames_of_rows
from flowse.data.row_table import codes_of, column_of, texts_of
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


@dataclass(frozen=True)
class _Shard:
    """An open file of the cache.

    Attributes:
        mels: Log-mels of all its mixtures, mapped into memory.
        bounds: First frame of each mixture, and the number of all frames.
        sums: CRC-32 of each mixture's bytes; `_UNREADABLE` for one that could not be read.
        checked: Which mixtures this process has compared with their sums.
    """

    mels: np.ndarray
    bounds: np.ndarray
    sums: np.ndarray
    checked: np.ndarray


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
        self._rows = rows
        self._definition = definition
        self._names, codes = codes_of(rows, "shard")
        offsets = column_of(rows, "clean_offset")
        # By shard, and in it by place: a few numbers a row, as there may be millions.
        self._order = np.lexsort((offsets, codes)).astype(np.uint32)
        self._ends = np.searchsorted(codes[self._order], np.arange(len(self._names)), side="right")
        self._offsets = offsets[self._order]
        self._frames = frames_of_rows(rows, log_mel.config.hop_length, 0)[self._order].astype(np.int32)
        self._number = {name: number for number, name in enumerate(self._names)}
        self._paths: dict[str, Path] = {}
        self._open: dict[str, _Shard] = {}

    @property
    def shards(self) -> list[str]:
        """Names of the shards, sorted."""
        return list(self._names)

    def _span(self, shard: str) -> slice:
        """Return where a shard's rows stand in the order by shard."""
        number = self._number[shard]
        return slice(int(self._ends[number - 1]) if number else 0, int(self._ends[number]))

    def _path(self, shard: str) -> Path:
        if shard not in self._paths:
            rows = self._order[self._span(shard)]
            keys, (sha256, *_) = texts_of(self._rows, "key", rows), texts_of(self._rows, "sha256", rows[:1])
            identity = hashlib.sha256("\n".join((sha256, self._definition, *keys)).encode()).hexdigest()[:16]
            self._paths[shard] = self._folder / f"{Path(shard).stem}-{identity}.npy"
        return self._paths[shard]

    def _bounds(self, shard: str) -> np.ndarray:
        """Return the first frame of each of a shard's rows, and the number of all frames."""
        return np.concatenate(([0], np.cumsum(self._frames[self._span(shard)])))

    def missing(self) -> list[str]:
        """Return the names of the shards that are not in the cache."""
        paths = {shard: self._path(shard) for shard in self._names}
        return [shard for shard, path in paths.items() if not (path.exists() and _sums_path(path).exists())]

    def build(self, shard: str) -> None:
        """Compute one shard's log-mels; several processes may build the same one, the last to end wins.

        A mixture that cannot be read is noted: the others can be used.
        """
        bounds, path = self._bounds(shard), self._path(shard)
        sums = []
        with atomic_path(path) as temporary:
            stored = np.lib.format.open_memmap(
                temporary, mode="w+", dtype=np.uint16, shape=(int(bounds[-1]), 2, self._log_mel.config.n_mels)
            )
            for number, index in enumerate(self._order[self._span(shard)].tolist()):
                row = self._rows[index]
                try:
                    example = self._read(row)
                except DamagedFile:
                    sums.append(_UNREADABLE)
                    continue
                batch = collate([row.key], [0], [example], self._log_mel)
                pair = torch.stack((batch.noisy[0], batch.clean[0]), dim=1)
                encoded = self._encode(pair.numpy())
                sums.append(zlib.crc32(encoded.tobytes()))
                stored[bounds[number] : bounds[number + 1]] = encoded
            stored.flush()
            del stored
            write_json(_sums_path(path), sums)  # first: the shard counts as cached once both are there

    def read(self, row: IndexRow, text_ids: Sequence[int] = ()) -> CachedMels:
        """Return a mixture's log-mels, mapped into memory: from the second time on the disk is read when they are used.

        Raises:
            FileNotFoundError: The shard is not in the cache.
            DamagedFile: The file of the shard is not what was written, or the mixture could not be read when it was.
        """
        if row.shard not in self._open:
            self._open[row.shard] = self._map(row.shard)
        shard = self._open[row.shard]
        number = int(np.searchsorted(self._offsets[self._span(row.shard)], row.clean_offset))
        stored = shard.mels[shard.bounds[number] : shard.bounds[number + 1]]
        if shard.sums[number] == _UNREADABLE:
            raise DamagedFile(f"{row.shard}: {row.key} was damaged when the cache was made; {_MEND_SHARD}")
        if not shard.checked[number]:
            if zlib.crc32(stored.data) != shard.sums[number]:
                raise DamagedFile(f"{self._path(row.shard)} is damaged: {row.key} differs from its sum; {_MEND}")
            shard.checked[number] = True
        return CachedMels(stored, self._decode, text_ids)

    def _map(self, shard: str) -> _Shard:
        """Map the file of a shard, and read the sums of its mixtures."""
        path, bounds = self._path(shard), self._bounds(shard)
        mels = map_array(path, np.uint16, (int(bounds[-1]), 2, self._log_mel.config.n_mels), _MEND)
        try:
            sums = json.loads(_sums_path(path).read_bytes())
        except ValueError:
            sums = None
        if not isinstance(sums, list) or len(sums) != len(bounds) - 1:
            raise DamagedFile(f"{_sums_path(path)} is damaged: it does not hold {len(bounds) - 1} sums; {_MEND}")
        return _Shard(mels, bounds, np.array(sums, np.int64), np.zeros(len(sums), bool))

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

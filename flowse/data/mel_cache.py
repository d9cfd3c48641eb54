"""A machine's cache of the log-mels of shards, mapped into memory, so that few cores can feed many GPUs."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import hashlib
import json
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
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
from flowse.errors import DamagedFile, UserError
from flowse.files import atomic_path, write_json

STEPS_PER_UNIT = 2048
"""Log-mels are stored as 16-bit integers with this many steps a neper.

The error is at most 1/4096 neper (0.002 dB), and the range is 32 nepers.
"""

_MEND = "delete the file, and it is computed again"
_MEND_SHARD = "`verify --mend` forgets the shard, and the next run makes it anew"
_FULL = (errno.ENOSPC, errno.EDQUOT)
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


def machine_folder() -> Path:
    """Return the folder of this user's cache on this machine: in the folder for temporary files.

    Raises:
        UserError: Another user made it.
    """
    folder = Path(tempfile.gettempdir()) / f"flowse-mels-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise UserError(f"train: {folder} belongs to another user; give train.mel_cache_folder")
    return folder


class MelCache:
    """Noisy and clean log-mels of mixtures, one file for each shard; a file is whole or absent.

    The name of a file depends on the shard's content and the mel's definition, so a stale file is never read, and all
    processes of a machine may share a folder: each file is made by one of them. Beside it stand CRC-32 sums, and each
    mixture is compared with its sum when a process reads it for the first time. Decoding FLAC is slower than training
    on a fast GPU; a second of audio from the cache takes 75 kB of memory bandwidth.

    Where the cache may not hold all, it holds some shards, which all processes choose alike; mixtures of the others are
    computed when they are read, to the same values.

    Example:
        >>> cache = MelCache(folder, rows, read, LogMel())
        >>> cache.fill()
        >>> mels = cache.read(rows[0])
    """

    def __init__(
        self,
        folder: Path,
        rows: Sequence[IndexRow],
        read: Callable[[IndexRow], Example],
        log_mel: LogMel,
        limit_bytes: int | None = None,
    ) -> None:
        """Compute the names of the cache files; no file is opened yet.

        Args:
            folder: Folder of the cache, on a disk of this machine; all its processes may share it.
            rows: The mixtures that will be read, from whole shards or parts of shards.
            read: Reads the waveforms of a mixture.
            log_mel: The mel transform.
            limit_bytes: Bytes that the folder may hold; None: any number.
        """
        self._folder, self._read, self._log_mel = folder, read, log_mel
        self._limit = limit_bytes
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
        self._chosen = self._choose()

    def _choose(self) -> list[str]:
        """Return the shards that the cache is to hold, sorted: those first in the order of a hash that fit in."""
        room, chosen = self._limit, []
        for shard in sorted(self._names, key=lambda name: hashlib.blake2b(name.encode()).digest()):
            size = self._bytes(shard)
            if room is None or size <= room:
                chosen.append(shard)
                room = None if room is None else room - size
        return sorted(chosen)

    def _bytes(self, shard: str) -> int:
        return int(self._frames[self._span(shard)].sum()) * 2 * self._log_mel.config.n_mels * 2

    @property
    def shards(self) -> list[str]:
        """Names of the shards that the cache is to hold, sorted."""
        return list(self._chosen)

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
        """Return the names of the shards that the cache is to hold and does not."""
        return [shard for shard in self._chosen if not self._has(shard)]

    def _has(self, shard: str) -> bool:
        path = self._path(shard)
        return path.exists() and _sums_path(path).exists()

    def fill(
        self,
        threads: int = 1,
        begin: float = 0.0,
        report: Callable[[int, int], None] = lambda done, of: None,
    ) -> None:
        """Build all missing shards together with the other processes that do so; return when none is missing.

        Files of other datasets that were not used for the longest time are deleted where the limit asks for it. A disk
        that is full ends the work early: what is not cached is computed when it is read.

        Args:
            threads: Shards that this process builds at once.
            begin: Where in the list to begin, 0..1; processes that begin elsewhere seldom wait for each other.
            report: Called after each shard with the number done and the number that were missing.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        self._make_room()
        missing = self.missing()
        first = int(begin * len(missing))
        with ThreadPoolExecutor(threads) as pool, suppress(_DiskFull):
            # First what nobody is at, then what others had begun: they may have died.
            for wait in (False, True):
                missing = missing[first:] + missing[:first]
                builds = pool.map(lambda shard, wait=wait: self._build_once(shard, wait), missing)
                for done, _ in enumerate(builds, start=1):
                    report(done, len(missing))
                missing, first = self.missing(), 0

    def _build_once(self, shard: str, wait: bool) -> None:
        with _locked(self._folder / "locks" / self._path(shard).stem, wait) as is_mine:
            if is_mine and not self._has(shard):
                try:
                    self.build(shard)
                except OSError as error:
                    if error.errno in _FULL:
                        raise _DiskFull from error
                    raise

    def _make_room(self) -> None:
        """Delete files of other datasets, those first that were not used for the longest time, until this one fits."""
        if self._limit is None:
            return
        mine = {self._path(shard).name for shard in self._chosen}
        with _locked(self._folder / "locks" / "room", wait=True):
            found = {path: path.stat() for path in self._folder.glob("*.npy")}
            others = sorted((stat.st_mtime, path) for path, stat in found.items() if path.name not in mine)
            room = self._limit - sum(map(self._bytes, self._chosen)) - sum(found[path].st_size for _, path in others)
            for _, path in others:
                if room >= 0:
                    break
                _sums_path(path).unlink(missing_ok=True)
                path.unlink(missing_ok=True)
                room += found[path].st_size

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
                encoded = self._computed(row, example)
                sums.append(zlib.crc32(encoded.tobytes()))
                stored[bounds[number] : bounds[number + 1]] = encoded
            stored.flush()
            del stored
            write_json(_sums_path(path), sums)  # first: the shard counts as cached once both are there

    def _computed(self, row: IndexRow, example: Example) -> UInt16[np.ndarray, "T 2 F"]:
        batch = collate([row.key], [0], [example], self._log_mel)
        return self._encode(torch.stack((batch.noisy[0], batch.clean[0]), dim=1).numpy())

    def read(self, row: IndexRow, text_ids: Sequence[int] = ()) -> CachedMels:
        """Return a mixture's log-mels: mapped into memory if the cache has them, or else computed to the same values.

        Raises:
            DamagedFile: The file of the shard is not what was written, or the mixture cannot be read.
        """
        try:
            if row.shard not in self._open:
                self._open[row.shard] = self._map(row.shard)
        except FileNotFoundError:
            return CachedMels(self._computed(row, self._read(row)), self._decode, text_ids)
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
        with suppress(OSError):
            os.utime(path)  # the cache forgets what was not used for the longest time
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


class _DiskFull(Exception):
    """Nothing more can be cached."""


@contextmanager
def _locked(path: Path, wait: bool) -> Iterator[bool]:
    """Hold a file's lock in the block, and say whether it is held; it ends with the process that holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True

"""Recordings inside of tar files: where each member lies, and its copy on this machine when it is read.

A path below a tar, `<root>/a.tar/b.flac`, stands for its member `b.flac`, wherever a recording is asked for
(`flowse.fetching`). A tar has no list of what is in it: its headers are read once a machine, one after the other, and
what they say is kept. A member is then one stretch of the tar: of a file, or of an object in a store. The copies are
bounded, by `cluster.scratch_gb` or else to 4 GB; those that were not read for the longest time go first.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from flowse.files import atomic_path, write_bytes
from pipelines.engine.remote_tree import RemoteTree, tree_of
from pipelines.engine.scratch import Scratch, node_folder, scratch, touch

SUFFIX = ".tar"
_TEXTS = (".json", ".txt")
_LONGEST_TEXT = 1 << 20
_BLOCK = 512
_AT_ONCE_BYTES = 1 << 20
_MOST_BYTES = 4_000_000_000
_PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip"}

_own_copies = Scratch(most_bytes=_MOST_BYTES)


@dataclass(frozen=True)
class Member:
    """A member of a tar.

    Attributes:
        name: Its name in the tar, without a leading "./".
        begin: Offset of its first byte in the tar.
        size: Its size in bytes.
        fault: Why it cannot be read, one line; empty: it can.
        text: Its content, if it is a short JSON or text file.
    """

    name: str
    begin: int
    size: int
    fault: str = ""
    text: str | None = None


@dataclass(frozen=True)
class Contents:
    """What the headers of a tar say.

    Attributes:
        members: Its members but for folders, in their order.
        faults: Offset of each damaged stretch, and one line about it: members in it are lost.
    """

    members: tuple[Member, ...]
    faults: tuple[tuple[int, str], ...] = ()


def tar_above(folder: Path) -> Path | None:
    """Return the tar in which a folder of recordings lies, or which it is; None: it lies in none.

    In a store a folder may be named like a tar; `Archive` then finds that there is no such object.
    """
    for path in (folder, *folder.parents):
        if path.suffix.lower() == SUFFIX and (path.is_file() or (not path.exists() and tree_of(path) is not None)):
            return path
    return None


def forget_copies() -> None:
    """Delete all that this machine keeps of what is in tars; it comes again when it is read."""
    shutil.rmtree(_folder(), ignore_errors=True)


class Archive:
    """A tar as a folder of recordings.

    Attributes:
        path: The tar, in a folder or in a corpus' tree.
    """

    def __init__(self, path: Path) -> None:
        """Remember which tar it is; nothing is read yet."""
        self.path = path
        self._tree: RemoteTree | None = tree_of(path)

    @property
    def is_far(self) -> bool:
        """Whether it lies in a store."""
        return self._tree is not None

    def _place(self) -> tuple[str, str, int]:
        """Return where it lies, what changes when its content does, and its size.

        Raises:
            FileNotFoundError: It is gone.
        """
        if self._tree is not None:
            name = self.path.relative_to(self._tree.root).as_posix()
            entry = self._tree.entry(name)
            return f"{self._tree.store.url}/{name}", entry.etag, entry.size
        status = self.path.stat()
        return os.path.realpath(self.path), f"{status.st_mtime_ns} {status.st_ctime_ns}", status.st_size

    def contents(self) -> Contents:
        """Return what is in it, with the texts of its short JSON and text files.

        Raises:
            OSError: It cannot be read.
            UserError: The store does not answer.
        """
        return _contents(self, *self._place())

    def fetched(self, path: Path) -> Path:
        """Return the copy of a member; `path` if there is none: its reader says so.

        Raises:
            OSError: The tar cannot be read.
            UserError: The store does not answer.
        """
        try:
            place = self._place()
        except FileNotFoundError:
            return path if self._tree is None else self._tree.fetched(path)
        name = path.relative_to(self.path).as_posix()
        copy = _folder() / "members" / _spread(*place, name) / path.name
        if touch(copy):
            return copy
        member = _members(self, *place).get(name)
        if member is None or member.fault:
            return path
        content = self._read(member.begin, member.begin + member.size)
        with atomic_path(copy) as temporary:
            temporary.write_bytes(content)
        copies = scratch() if scratch().most_bytes else _own_copies
        copies.grew(_folder() / "members", len(content))
        return copy

    def opened(self, size: int) -> BinaryIO:
        """Return its bytes as a file; those of an object come in pieces."""
        if self._tree is None:
            return self.path.open("rb")
        return io.BufferedReader(Ranges(self._read, size), _AT_ONCE_BYTES)

    def _read(self, begin: int, end: int) -> bytes:
        if self._tree is not None:
            return self._tree.store.get(self.path.relative_to(self._tree.root).as_posix(), begin, end)
        with self.path.open("rb") as file:
            file.seek(begin)
            return file.read(end - begin)


class Ranges(io.RawIOBase):
    """An object of a store as a file, by requests for ranges."""

    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        """Begin at the first byte.

        Args:
            read: Returns the bytes from one offset up to, not including, another.
            size: Of the object, in bytes.
        """
        super().__init__()
        self._range, self._size, self._at = read, size, 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to an offset; see `io.IOBase.seek`."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        """Return the offset."""
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer; return how many bytes were there."""
        end = min(self._at + len(buffer), self._size)
        content = self._range(self._at, end) if end > self._at else b""
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)


def _folder() -> Path:
    return node_folder(scratch().folder) / "archives"


def _spread(*parts: object) -> str:
    digest = hashlib.sha256("\n".join(map(str, parts)).encode("utf-8", "surrogateescape")).hexdigest()
    return f"{digest[:2]}/{digest[2:32]}"


@lru_cache(maxsize=64)
def _known(place: str, state: str, size: int, folder: Path) -> dict[str, Member]:
    """Return the members of a tar by name, from what is kept of it; of two with one name, the first."""
    known: dict[str, Member] = {}
    for member in _from_json(json.loads((folder / f"{_spread(place, state, size)}.json").read_bytes())).members:
        known.setdefault(member.name, member)
    return known


def _members(archive: Archive, place: str, state: str, size: int) -> dict[str, Member]:
    folder = _folder() / "headers"
    try:
        return _known(place, state, size, folder)
    except (FileNotFoundError, ValueError):
        _contents(archive, place, state, size)
        return _known(place, state, size, folder)


def _contents(archive: Archive, place: str, state: str, size: int) -> Contents:
    path = _folder() / "headers" / f"{_spread(place, state, size)}.json"
    try:
        return _from_json(json.loads(path.read_bytes()))
    except (FileNotFoundError, ValueError):
        pass
    with archive.opened(size) as file:
        found = scan(file, size)
    write_bytes(path, json.dumps(_to_json(found)).encode())
    return found


def _to_json(contents: Contents) -> list[Any]:
    return [[[*vars(member).values()] for member in contents.members], contents.faults]


def _from_json(values: Any) -> Contents:
    members, faults = values
    return Contents(tuple(Member(*member) for member in members), tuple((begin, why) for begin, why in faults))


def scan(file: BinaryIO, size: int) -> Contents:
    """Read the headers of a tar, and its short texts; what is damaged is passed over and said.

    `tarfile` by itself ends at the first damaged header without an error, and so it does where a tar was cut between
    two members. Here every stretch that is neither a member nor zeros is a fault, and so is a missing end.

    Args:
        file: The tar.
        size: Its size in bytes.

    Raises:
        OSError: It cannot be read.
    """
    head = file.read(8)
    for mark, packing in _PACKED.items():
        if head.startswith(mark):
            return Contents((), ((0, f"it is packed by {packing}; unpack it to a plain tar"),))
    members: list[Member] = []
    faults: list[tuple[int, str]] = []
    end = 0  # of the last member
    for info, following in _headers(file, size):
        if info.offset > end and (fault := _gap(file, end, info.offset)):
            faults.append((end, fault))
        end = max(end, following)
        if not info.isdir():
            members.append(_member(file, info, size))
    if size - end < _BLOCK:
        faults.append((end, "it has no mark of its end: it may have been cut, and what came after this is lost"))
    elif end < size and (fault := _gap(file, end, size)):
        faults.append((end, fault))
    return Contents(tuple(members), tuple(faults))


def _headers(file: BinaryIO, size: int) -> Iterator[tuple[tarfile.TarInfo, int]]:
    """Yield every header that can be read, and the offset of the one after it."""
    begin = 0
    while begin < size:
        file.seek(begin)
        try:
            # Zeros and damaged headers are passed over, block by block.
            tar = tarfile.TarFile(fileobj=file, errors="surrogateescape", encoding="utf-8", ignore_zeros=True)
            while (info := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # it would keep all of them
                begin = max(begin, tar.offset)
                yield info, tar.offset
            return
        except tarfile.TarError:  # a damaged header after one that holds its name, or a member beyond the end
            begin += _BLOCK


def _gap(file: BinaryIO, begin: int, end: int) -> str:
    """Say what is wrong with a stretch that is no member; empty: it holds zeros, as between tars that were joined."""
    file.seek(begin)
    left = end - begin
    while left > 0:
        piece = file.read(min(left, _AT_ONCE_BYTES))
        if not piece:
            break
        if piece.count(0) != len(piece):
            return f"bytes {begin} to {end} are damaged: members that began there are lost"
        left -= len(piece)
    return ""


def _member(file: BinaryIO, info: tarfile.TarInfo, size: int) -> Member:
    name = info.name
    while name.startswith("./"):
        name = name[2:]
    fault, text = "", None
    if not info.isreg() or info.issparse():
        fault = "it is a link or a device, and no file; pack the file itself"
    elif info.offset_data + info.size > size:
        fault = f"the tar ends {info.offset_data + info.size - size} bytes before it does; fetch the tar again"
    elif name.lower().endswith(_TEXTS) and info.size <= _LONGEST_TEXT:
        file.seek(info.offset_data)
        text = file.read(info.size).decode("utf-8", "surrogateescape")
    return Member(name, info.offset_data, info.size, fault, text)

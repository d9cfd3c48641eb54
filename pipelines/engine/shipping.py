"""Values for workers on other machines: paths in them become those of the same files there.

With a workspace in a store, machines need no disk in common. A value is packed on the driver's machine and opened where
it is used. What a path in it names decides what comes of it:

    a file of a unit or of an output   is fetched from the store into the folder of that machine, unless it is there
    a file that only the driver has    (in a hidden folder: listings, plans) travels inside the value
    a folder of an output              gets what is small in it: models, and what describes them
    another folder                     is the same folder below that machine's
    a corpus or test set in a store    is the same one, whose recordings that machine fetches
    a recording of the driver's disk   travels inside the value, unless it is large: test sets name such files
    anything else outside of it        stays as it is

Outputs go the other way by the store alone: a worker sends the files of its unit and then the unit's record
(`Mirror.commit`).
"""

from __future__ import annotations

import hashlib
import io
import pickle
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle

from flowse.audio.recordings import AUDIO_SUFFIXES
from flowse.files import write_bytes
from pipelines.engine.mirror import MADE, Mirror, mirror_of, open_node_mirror
from pipelines.engine.nearby import bring_files_here
from pipelines.engine.remote_tree import corpora_folder, tree_at, tree_of
from pipelines.engine.scratch import node_folder, scratch, use_scratch

_UNITS = "units"
_MOST_CARRIED = 1 << 26  # bytes of a recording that travels inside a value
_OUTPUT = re.compile(r"^[^./]+/(?!units$|pages$)[^./]+(/|$)")


@dataclass(frozen=True)
class Origin:
    """The machine from which values come.

    Attributes:
        node: Ray's id of it.
        folder: Where the copies of the workspace lie on it; None: the workspace is a folder that all machines see.
        url: Where the workspace is; empty: in that folder.
        scratch: What `cluster.scratch` names.
        most_bytes: What copies may take on a machine.
        corpora: Folder of what is on the machine of corpora in stores.
    """

    node: str
    folder: Path | None
    corpora: Path
    url: str = ""
    scratch: str = ""
    most_bytes: int = 0

    @classmethod
    def of(cls, path: Path) -> Origin:
        """Describe this machine, on which the driver runs.

        Args:
            path: The workspace, or a file or folder in it.
        """
        mirror, copies = mirror_of(path), scratch()
        folder, url = (mirror.folder, mirror.store.url) if mirror else (None, "")
        return cls(_node(), folder, corpora_folder(), url, copies.folder, copies.most_bytes)


def _node() -> str:
    """Return Ray's id of the machine of this process; empty where Ray is not used."""
    ray = sys.modules.get("ray")
    return str(ray.get_runtime_context().get_node_id()) if ray is not None and ray.is_initialized() else ""


@dataclass(frozen=True)
class _Named:
    """What stands for a path in a packed value.

    Attributes:
        name: The path below the workspace.
        sha256: Hash of the file, if it is known.
        content: The file, if only the driver has it.
    """

    name: str
    sha256: str = ""
    content: bytes | None = None


@dataclass(frozen=True)
class _OfCorpus:
    """What stands for a path in a corpus that lies in a store.

    Attributes:
        url: Of the corpus.
        name: The path below its root.
    """

    url: str
    name: str


@dataclass(frozen=True)
class _Recording:
    """What stands for a recording that lies neither in the workspace nor in a store.

    Attributes:
        path: On the driver's machine.
        content: Of the file.
    """

    path: str
    content: bytes


@dataclass(frozen=True)
class Parcel:
    """A value on its way to a worker.

    Attributes:
        origin: Where it comes from.
        content: The value, pickled, with names in the place of paths.
    """

    origin: Origin
    content: bytes

    @classmethod
    def of(cls, value: Any, origin: Origin) -> Parcel:
        """Pack a value."""
        buffer = io.BytesIO()
        _Packer(buffer, origin).dump(value)
        return cls(origin, buffer.getvalue())

    def open(self) -> Any:
        """Return the value for the machine of this process, where it is ready to be used.

        Raises:
            UserError: The store does not answer, or has another file than a record says.
        """
        return self._opener().load()

    @contextmanager
    def opened(self) -> Iterator[Any]:
        """Yield what `open` returns; files that came inside the value are deleted at the end."""
        opener = self._opener()
        try:
            yield opener.load()
        finally:
            for path in opener.written:
                path.unlink(missing_ok=True)

    def _opener(self) -> _Opener:
        origin = self.origin
        here = _node() == origin.node
        use_scratch(origin.scratch, origin.most_bytes / 1e9, tables_stay=here)
        if here or not origin.url:
            mirror = mirror_of(origin.folder) if origin.folder else None
        else:
            name = hashlib.sha256(origin.url.encode()).hexdigest()[:16]
            mirror = open_node_mirror(origin.url, node_folder(origin.scratch) / name)
        bring_files_here()
        return _Opener(io.BytesIO(self.content), mirror, origin, here=here)


class _Packer(cloudpickle.Pickler):  # type: ignore[misc]
    """Puts names in the place of paths below the workspace."""

    def __init__(self, file: io.BytesIO, origin: Origin) -> None:
        super().__init__(file)
        self._folder = origin.folder
        self._mirror = mirror_of(origin.folder) if origin.folder else None

    def persistent_id(self, value: Any) -> _Named | _OfCorpus | _Recording | None:
        """Return what stands for a value; None: it stands for itself."""
        if isinstance(value, Path) and (tree := tree_of(value)):
            return _OfCorpus(tree.store.url, value.relative_to(tree.root).as_posix())
        if not isinstance(value, Path) or self._folder is None:
            return None
        if not value.is_relative_to(self._folder):
            return _carried(value)
        name = value.relative_to(self._folder).as_posix()
        private = any(part.startswith(".") and part != ".runs" for part in name.split("/"))
        content = value.read_bytes() if private and value.is_file() else None
        sha256 = self._mirror.hash_of(value) if self._mirror else ""
        return _Named(name, sha256, content)


def _carried(path: Path) -> _Recording | None:
    """Return what stands for a recording outside of the workspace; None: it is none, or too large to travel."""
    if path.suffix.lower() not in AUDIO_SUFFIXES or not path.is_file() or path.stat().st_size > _MOST_CARRIED:
        return None
    return _Recording(str(path), path.read_bytes())


class _Opener(pickle.Unpickler):
    """Puts paths of this machine in the place of names, and brings what they name.

    Attributes:
        written: Files that came inside the value.
    """

    def __init__(self, file: io.BytesIO, mirror: Mirror | None, origin: Origin, *, here: bool) -> None:
        super().__init__(file)
        self._mirror, self._here = mirror, here
        self.written: list[Path] = []
        self._corpora = origin.corpora if here else node_folder(origin.scratch) / "corpora"

    def persistent_load(self, named: _Named | _OfCorpus | _Recording) -> Path:
        """Return the path of a file or folder that can be used now."""
        if isinstance(named, _OfCorpus):
            return tree_at(named.url, self._corpora).root / named.name
        if isinstance(named, _Recording):
            return Path(named.path) if self._here else self._write(named)
        assert self._mirror is not None, "names stand for paths of a mirror alone"
        mirror, path = self._mirror, self._mirror.folder / named.name
        if named.content is not None:
            if mirror.is_node:
                if not (path.exists() and path.read_bytes() == named.content):
                    write_bytes(path, named.content)
                self.written.append(path)
        elif named.sha256:
            mirror.fetched(path, named.sha256)
        elif named.name.endswith(f"/{_UNITS}"):
            path.mkdir(parents=True, exist_ok=True)
        elif mirror.is_node and _is_of_output(named.name) and not mirror.fetched(path).exists():
            mirror.bring_small(path)
        return path

    def _write(self, recording: _Recording) -> Path:
        """Write a recording that came inside the value; its name stays, which messages and decoders look at."""
        assert self._mirror is not None, "recordings travel to machines that have a mirror"
        digest = hashlib.sha256(recording.path.encode("utf-8", "surrogateescape") + recording.content).hexdigest()
        path = self._mirror.folder / ".recordings" / digest[:16] / Path(recording.path).name
        write_bytes(path, recording.content)
        self.written.append(path)
        return path


def _is_of_output(name: str) -> bool:
    """Whether a path below the workspace is an output's folder, or lies in it."""
    return _OUTPUT.match(name) is not None and not name.startswith(f"{MADE}/")


def bring_named(value: Any, folder: Path) -> None:
    """Fetch the files of units that a value names, for a worker in the process of the driver.

    Args:
        value: Payload of a unit, or arguments of a worker.
        folder: The workspace, or a folder in it; nothing happens if it is no mirror of a store.
    """
    if mirror_of(folder) is not None:
        Parcel.of(value, Origin.of(folder)).open()

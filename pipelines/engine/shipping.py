"""Values for workers on other machines: paths in them become those of the same files there.

With a workspace in a store, machines need no disk in common. A value is packed on the driver's machine and opened where
it is used. What a path in it names decides what comes of it:

    a file of a unit or of an output   is fetched from the store into the folder of that machine, unless it is there
    a file that only the driver has    (in a hidden folder: listings, plans) travels inside the value
    a folder of an output              gets what is small in it: models, and what describes them
    another folder                     is the same folder below that machine's
    anything outside of the workspace  stays as it is

Outputs go the other way by the store alone: a worker sends the files of its unit and then the unit's record
(`Mirror.commit`).
"""

from __future__ import annotations

import hashlib
import io
import pickle
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle

from flowse.files import write_bytes
from pipelines.engine.mirror import MADE, Mirror, mirror_of, open_node_mirror
from pipelines.engine.nearby import bring_files_here
from pipelines.engine.scratch import node_folder, scratch, use_scratch

_UNITS = "units"
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
    """

    node: str
    folder: Path | None
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
        return cls(_node(), folder, url, copies.folder, copies.most_bytes)


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
        origin = self.origin
        here = not origin.url or _node() == origin.node
        if here:
            use_scratch(origin.scratch, origin.most_bytes / 1e9)
            mirror = mirror_of(origin.folder) if origin.folder else None
        else:
            use_scratch(origin.scratch, origin.most_bytes / 1e9, tables_stay=False)
            name = hashlib.sha256(origin.url.encode()).hexdigest()[:16]
            mirror = open_node_mirror(origin.url, node_folder(origin.scratch) / name)
        bring_files_here()
        return _Opener(io.BytesIO(self.content), mirror).load()


class _Packer(cloudpickle.Pickler):  # type: ignore[misc]
    """Puts names in the place of paths below the workspace."""

    def __init__(self, file: io.BytesIO, origin: Origin) -> None:
        super().__init__(file)
        self._folder = origin.folder
        self._mirror = mirror_of(origin.folder) if origin.folder else None

    def persistent_id(self, value: Any) -> _Named | None:
        """Return what stands for a value; None: it stands for itself."""
        if not isinstance(value, Path) or self._folder is None or not value.is_relative_to(self._folder):
            return None
        name = value.relative_to(self._folder).as_posix()
        private = any(part.startswith(".") and part != ".runs" for part in name.split("/"))
        content = value.read_bytes() if private and value.is_file() else None
        sha256 = self._mirror.hash_of(value) if self._mirror else ""
        return _Named(name, sha256, content)


class _Opener(pickle.Unpickler):
    """Puts paths of this machine in the place of names, and brings what they name."""

    def __init__(self, file: io.BytesIO, mirror: Mirror | None) -> None:
        super().__init__(file)
        self._mirror = mirror

    def persistent_load(self, named: _Named) -> Path:
        """Return the path of a file or folder that can be used now."""
        assert self._mirror is not None, "names stand for paths of a mirror alone"
        mirror, path = self._mirror, self._mirror.folder / named.name
        if named.content is not None:
            if mirror.is_node and not (path.exists() and path.read_bytes() == named.content):
                write_bytes(path, named.content)
        elif named.sha256:
            mirror.fetched(path, named.sha256)
        elif named.name.endswith(f"/{_UNITS}"):
            path.mkdir(parents=True, exist_ok=True)
        elif mirror.is_node and _is_of_output(named.name) and not mirror.fetched(path).exists():
            mirror.bring_small(path)
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

"""A workspace in a store, and the folder on this machine through which programs read and write it.

The store holds the truth; the folder holds copies under the same paths, so that everything else goes on reading and
writing paths. What the store holds:

    LOCK                                         who runs in it (`pipelines.engine.store_lock`)
    LISTED.json, forgotten.json                  what the last look at the corpora saw; what must be forgotten
    <stage>/units/<unit><suffix>@<hash>          the files of units; the name ends with 16 digits of the SHA-256
    <stage>/units/<unit>.json                    a unit's record, put only if it is absent: from now on the unit is done
    <stage>/pages/…, <stage>/<fingerprint>/…     as in a folder; of large files the name ends with their hash, too
    made/…                                       recordings that the pipeline makes itself

Because the names of data hold their content, nobody overwrites what a record names: not a worker that was taken for
dead, nor a driver that has lost the lock. Small files are replaced by compare-and-swap. No half of a file is ever seen.

`pull` brings the records (not the data) up to date when a command starts, `publish` sends what the driver has written,
`commit` is a worker's. Data are fetched when they are read. What a program keeps for itself stays on the machine:
hidden folders (but for the runs of training), MLflow's database, pages to listen by.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from flowse.errors import DamagedFile, UserError
from flowse.files import sha256_file, write_json
from pipelines.engine.scratch import in_use, scratch, touch
from pipelines.engine.store import LOCK, Conflict, Entry, Store

MARKER = ".store.json"
_STATE, _BUSY = ".pulled.json", ".busy"
_UNITS = "units"
RUNS = ".runs"
"""Folder of the runs of training, below that of their stage's outputs."""
WRITER = ".writer"
"""File of a run of training that says which machine writes the run's folder; `pipelines.engine.run_folder` keeps it."""
MADE = "made"
"""Folder of the recordings that the pipeline makes itself."""
_LAST = "STAGE.json"  # says that all other files of an output are there
_VANISH = (_LAST, "planned.json", ".quarantine.txt")  # what a run deletes, besides old checkpoints
_TABLES_OF_UNITS = ("units.json", "planned.json")
_ROOT_FILES = ("LISTED.json", "forgotten.json")
_PUBLISH_S = 60.0
_LARGE = 4 << 20  # bytes: larger files are no records; they go up in parts, and come when they are read
_HASHED = re.compile(r"@([0-9a-f]{16})$")
_TEMPORARY = re.compile(r"^\..*\.tmp")
_UNIT_FILE = re.compile(r"^(?P<unit>.+-[0-9a-f]{20})\.[^/]+$")
_KEYED = re.compile(r"^(?P<label>.+)-[0-9a-f]{20}[.@]")
_WHOLE_AFTER = 4  # of a shard of which this part has been read in pieces, the whole is fetched

_open: dict[Path, Mirror] = {}


class Facts(Protocol):
    """What a record says of a file; see `pipelines.engine.records.FileFacts`."""

    @property
    def bytes(self) -> int: ...
    @property
    def sha256(self) -> str: ...


def mirror_of(path: Path) -> Mirror | None:
    """Return the mirror in whose folder a path lies; None: it is a plain folder."""
    for folder in (path, *path.parents):
        if folder in _open:
            return _open[folder]
        try:
            text = (folder / MARKER).read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            continue
        marker = json.loads(text)
        return _open.setdefault(folder, Mirror(folder, Store(marker["url"]), is_node=marker.get("node", False)))
    return None


def above(store: Store, stages: Collection[str]) -> str:
    """Return the URL of the workspace in one of whose own folders a store lies; empty: it lies in none."""
    head, _, prefix = store.url.partition("://")
    parts = prefix.split("/")
    for depth in range(1, len(parts)):
        if parts[depth] in (*stages, MADE):
            outer = Store(f"{head}://{'/'.join(parts[:depth])}")
            if {LOCK, *_ROOT_FILES} & outer.list_folder()[0].keys():
                return outer.url
    return ""


def open_mirror(store: Store, folder: Path, stages: Sequence[str]) -> Mirror:
    """Make a folder the mirror of a store.

    Args:
        store: Where the workspace is.
        folder: On a disk of this machine; it may be deleted whenever nothing runs.
        stages: Names of the stages.

    Raises:
        UserError: The folder is that of another store, or holds a plain workspace.
    """
    folder.mkdir(parents=True, exist_ok=True)
    marker = folder / MARKER
    if marker.exists():
        known = json.loads(marker.read_text(encoding="utf-8"))["url"]
        if known != store.url:
            raise UserError(
                f"{folder}: holds copies of {known}, not of {store.url}; give cluster.scratch another folder"
            )
    elif any((folder / stage).exists() for stage in stages):
        raise UserError(f"{folder}: holds a workspace of its own; give cluster.scratch another folder")
    else:
        write_json(marker, {"url": store.url})
    mirror = _open[folder] = Mirror(folder, store, stages)
    return mirror


def open_node_mirror(url: str, folder: Path) -> Mirror:
    """Make a folder the mirror of a store on a machine where only workers are: what they read comes when they ask.

    Args:
        url: Where the workspace is.
        folder: On a disk of this machine; several workers may share it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if folder not in _open:
        if not (folder / MARKER).exists():
            write_json(folder / MARKER, {"url": url, "node": True})
        _open[folder] = Mirror(folder, Store(url), is_node=True)
    return _open[folder]


def no_fence() -> None:
    """Let everything be published: nobody else can be at work."""


def local_name(name: str) -> str:
    """Return the path of an object below the folder: its name without the hash."""
    return _HASHED.sub("", name)


def _cuts(name: str) -> Iterator[str]:
    """Yield names before which the units that follow a unit's file may begin, one for each first digit of a key."""
    if matched := _KEYED.match(name):
        yield from (f"{matched['label']}-{digit}" for digit in "123456789abcdefg")


class Mirror:
    """Copies of a workspace on this machine.

    Attributes:
        folder: Where they are.
        store: Where the workspace is.
        is_node: Whether it is that of a machine where only workers are.
        fence: Called before the driver publishes; it raises where another driver holds the workspace.
        is_anothers: Whether another machine writes a file of a run of training, by the file's path: then the driver's
            is a copy, which is not published.
    """

    def __init__(self, folder: Path, store: Store, stages: Sequence[str] = (), *, is_node: bool = False) -> None:
        """Remember where both are; nothing is asked yet."""
        self.is_node = is_node
        self.folder, self.store, self._stages = folder, store, tuple(stages)
        self.fence: Callable[[], None] = no_fence
        self.is_anothers: Callable[[str], bool] = lambda path: False
        self._guard = threading.RLock()
        # By path below the folder: the object that this process has seen last, and the local file that equals it.
        self._objects: dict[str, tuple[str, str]] = {}
        self._copies: dict[str, tuple[int, int]] = {}
        self._listed: dict[str, list[str]] = {}
        # What workers and readers ask for: hashes by name, and the pieces that were read of files that are not here.
        self._known: dict[str, str] = {}
        self._pieces: dict[str, int] = {}
        self._had: set[str] = set()
        self._fetching = [threading.Lock() for _ in range(64)]

    def _name(self, path: Path) -> str:
        return os.path.relpath(os.path.normpath(path), self.folder).replace(os.sep, "/")

    # Records of stages, as a command sees them.

    @contextmanager
    def busy(self) -> Iterator[bool]:
        """Claim the folder among the processes of this machine; yields whether it was free."""
        with (self.folder / _BUSY).open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                yield False
                return
            yield True

    def refresh(self) -> None:
        """Bring the records up to date, unless a run on this machine is at work: nothing is younger than its folder."""
        with self.busy() as free:
            if free:
                self.pull()

    def pull(self) -> None:
        """Make the records here those of the store; only who has claimed the folder may."""
        with self._guard:
            before = self._read_state()
            found = self._list_records()
            self._objects = {path: (name, entry.etag) for path, (name, entry) in found.items()}
            wanted = [
                path
                for path, (name, entry) in found.items()
                if self._is_wanted(path, entry, before.get(path, ("", 0, 0)))
            ]
            for path in self._local_files(self._stages):
                if path not in found and not _is_run(path):
                    (self.folder / path).unlink()
            self._drop_outputs({path.rpartition("/")[0].split("/", 2)[1] for path in found if path.count("/") > 1})
            # `STAGE.json` comes first: what it names is as old as itself, or younger.
            firsts = [path for path in wanted if path.endswith(f"/{_LAST}")]
            for batch in (firsts, [path for path in wanted if path not in set(firsts)]):
                self._fetch_all((found[path][0], self.folder / path) for path in batch)
            for path in wanted:
                modified_ns = found[path][1].modified_ns
                os.utime(self.folder / path, ns=(modified_ns, modified_ns))
            self._copies = {path: facts for path in found if (facts := self._facts(path)) is not None}
            for path in [path for path in self._copies if _is_run(path) and path not in wanted]:
                if self._copies[path] != before.get(path, ("", 0, 0))[1:]:
                    del self._copies[path]  # a run of training went on here and was not published
            self._write_state()

    def _drop_outputs(self, known: Collection[str]) -> None:
        """Delete the folders of outputs that are in the store no more, with what was private to this machine."""
        for stage in self._stages:
            for folder in (self.folder / stage).glob("[!.]*/"):
                if folder.name != _UNITS and folder.name not in known:
                    shutil.rmtree(folder)

    def _is_wanted(self, path: str, entry: Entry, before: tuple[str, int, int]) -> bool:
        """Whether the copy of a record has to be fetched."""
        facts = self._facts(path)
        if facts is None:
            return entry.size <= _LARGE and not path.startswith(f"{MADE}/")
        if before[0] == entry.etag:
            return not _is_run(path) and facts != before[1:]
        return True

    def _facts(self, path: str) -> tuple[int, int] | None:
        try:
            status = (self.folder / path).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return status.st_size, status.st_mtime_ns

    def _read_state(self) -> dict[str, tuple[str, int, int]]:
        try:
            content = json.loads((self.folder / _STATE).read_bytes())
            return {path: (str(etag), int(size), int(at)) for path, (etag, size, at) in content.items()}
        except (FileNotFoundError, ValueError, TypeError, AttributeError):
            return {}

    def _write_state(self) -> None:
        state = {
            path: (self._objects[path][1], *facts) for path, facts in self._copies.items() if path in self._objects
        }
        write_json(self.folder / _STATE, state)

    def _list_records(self) -> dict[str, tuple[str, Entry]]:
        """List all that is no unit's: name and entry of each object, by path; of two with one path, the younger."""
        files, folders = self.store.list_folder()
        listed = {name: entry for name, entry in files.items() if name in _ROOT_FILES}
        if MADE in folders:
            listed |= self.store.list(MADE)
        for stage in self._stages:
            if stage in folders:
                inside, below = self.store.list_folder(stage)
                listed |= inside
                for folder in below:
                    if folder.rpartition("/")[2] != _UNITS:
                        listed |= self.store.list(folder)
        found: dict[str, tuple[str, Entry]] = {}
        for name, entry in listed.items():
            path = local_name(name)
            if path not in found or found[path][1].modified_ns < entry.modified_ns:
                found[path] = (name, entry)
        return found

    def _local_files(self, tops: Iterable[str]) -> Iterator[str]:
        """Yield the paths of all files that are published, below some folders; and those of the root."""
        yield from (name for name in _ROOT_FILES if (self.folder / name).exists())
        for top in tops:
            for folder, below, names in os.walk(self.folder / top):
                depth = len(Path(folder).relative_to(self.folder).parts)
                below[:] = [
                    name
                    for name in below
                    if not (depth == 1 and name == _UNITS)
                    and (not name.startswith(".") or (depth == 1 and name == RUNS))
                    and not (name == "ray" and RUNS in folder)
                ]
                for name in names:
                    if not _TEMPORARY.match(name) and name != WRITER:
                        yield self._name(Path(folder, name))

    def publish(self, *stages: str) -> None:
        """Send what is new or other than in the store, the records of finished stages last; delete what is gone here.

        Args:
            stages: Whose files; none: those of all stages.

        Raises:
            UserError: Another driver holds the workspace.
        """
        with self._guard:
            self.fence()
            tops = stages or (*self._stages, MADE)
            here = sorted(self._local_files(tops), key=lambda path: (path.endswith(f"/{_LAST}"), path))
            for path in here:
                facts = self._facts(path)
                if facts is not None and self._copies.get(path) != facts and not self._is_copy(path):
                    self._send(path, facts)
            if not (self.folder / MARKER).exists():
                raise UserError(f"{self.folder}: was deleted while a run was using it; run again")
            still = set(here)
            gone = [
                path
                for path in self._copies
                if path.partition("/")[0] in tops
                and path not in still
                and (_is_run(path) or path.endswith(_VANISH))
                and not self._is_copy(path)
            ]
            if gone:
                self.store.delete(self._objects.pop(path)[0] for path in gone if path in self._objects)
                for path in gone:
                    del self._copies[path]
            self._write_state()

    def _is_copy(self, path: str) -> bool:
        return _is_run(path) and self.is_anothers(path)

    def _send(self, path: str, facts: tuple[int, int]) -> None:
        """Write one file to the store."""
        name, etag = self._objects.get(path, ("", ""))
        if path.startswith(f"{MADE}/"):
            self._objects[path] = (path, self.store.put(path, self.folder / path))
        elif facts[0] > _LARGE:
            hashed = f"{path}@{sha256_file(self.folder / path)[:16]}"
            self._objects[path] = (hashed, self.store.put(hashed, self.folder / path))
        else:
            content = (self.folder / path).read_bytes()
            seen = etag if name == path else None
            while True:
                try:
                    self._objects[path] = (path, self.store.put_if(path, content, seen))
                    break
                except Conflict:
                    self.fence()  # another's driver wrote it: either it lost the lock, or this one did
                    try:
                        seen = self.store.read(path)[1]
                    except FileNotFoundError:
                        seen = None
        if name and name != self._objects[path][0]:
            self.store.delete([name])
        self._copies[path] = facts

    # Units, as workers and readers see them.

    @contextmanager
    def listed_at_once(self) -> Iterator[None]:
        """List the units of all stages at the same time; `unit_names` returns what was there, while the block runs."""
        folders = [f"{stage}/{_UNITS}" for stage in self._stages]
        with ThreadPoolExecutor(len(folders) or 1) as pool:
            self._listed = dict(zip(folders, pool.map(self._unit_names, folders), strict=True))
        try:
            yield
        finally:
            self._listed = {}

    def unit_names(self, units: Path) -> list[str]:
        """List the files of a stage's units, by the names that they have here."""
        name = self._name(units)
        return self._listed[name] if name in self._listed else self._unit_names(name)

    def _unit_names(self, units: str) -> list[str]:
        return [local_name(name[len(units) + 1 :]) for name in self.store.names_in_parts(units, _cuts)]

    def unit_sizes(self, units: Path) -> dict[str, int]:
        """Return the size, in bytes, of each file of a stage's units in the store, all versions together."""
        below, sizes = len(self._name(units)) + 1, dict[str, int]()
        for name, entry in self.store.list(self._name(units)).items():
            sizes[local_name(name[below:])] = sizes.get(local_name(name[below:]), 0) + entry.size
        return sizes

    def commit(self, units: Path, files: Mapping[str, Facts], record: str) -> bytes | None:
        """Send the files of a unit, then its record; return the record that is there if somebody was faster.

        Args:
            units: Folder of the stage's units.
            files: The unit's files by name; they are there.
            record: Name of the unit's record, which is there, too.
        """
        prefix = self._name(units)
        for name, facts in files.items():
            with in_use(units / name):
                self.store.put(f"{prefix}/{name}@{facts.sha256[:16]}", units / name)
            scratch().grew(self.folder, facts.bytes)
        try:
            self.store.put_if(f"{prefix}/{record}", (units / record).read_bytes())
        except Conflict:
            return self.store.get(f"{prefix}/{record}")
        return None

    def read_records(self, units: Path, records: Iterable[str]) -> None:
        """Copy records of units here; those that are gone are left out."""
        prefix = self._name(units)
        self._fetch_all(((f"{prefix}/{record}", units / record) for record in records), may_lack=True)

    def delete_units(self, units: Path, names: Collection[str]) -> None:
        """Delete files and records of units, every version."""
        wanted, below = set(names), len(self._name(units)) + 1
        if wanted:
            self.store.delete(name for name in self.store.list(self._name(units)) if local_name(name[below:]) in wanted)

    def delete_records(self, units: Path, records: Iterable[str]) -> None:
        """Delete records of units."""
        self.store.delete(f"{self._name(units)}/{record}" for record in records)

    def delete_file(self, path: Path) -> None:
        """Delete a file that belongs to no unit and no output, whatever hash its name in the store ends with."""
        name = self._name(path)
        self.store.delete(
            [known for known in self.store.list(self._name(path.parent)) if _HASHED.sub("", known) == name]
        )
        self._objects.pop(name, None)
        self._copies.pop(name, None)

    def delete_folder(self, folder: Path) -> None:
        """Delete an output, its record first."""
        prefix = self._name(folder)
        self.store.delete([f"{prefix}/{_LAST}"])
        self.store.delete(self.store.list(prefix))
        for path in [path for path in self._objects if path.startswith(f"{prefix}/")]:
            del self._objects[path]
            self._copies.pop(path, None)

    def fetch(self, path: Path, facts: Facts) -> bool:
        """Copy the file that a record describes to its path; return whether the store has it."""
        name = self._name(path)
        try:
            try:
                self.store.fetch(f"{name}@{facts.sha256[:16]}", path)
            except FileNotFoundError:
                self.store.fetch(name, path)
        except FileNotFoundError:
            return False
        if name in self._objects:
            self._copies[name] = (path.stat().st_size, path.stat().st_mtime_ns)
        return True

    def holds(self, path: Path, facts: Facts) -> bool:
        """Whether the store held a file, which is no unit's, when the records were pulled."""
        return self._objects.get(name := self._name(path), ("", ""))[0] in (name, f"{name}@{facts.sha256[:16]}")

    def bring(self, folder: Path, files: Iterable[tuple[str, Facts]]) -> None:
        """Copy files of units that are not here, or have another size, several at a time."""
        prefix, wanted = self._name(folder), []
        for name, facts in files:
            self.know(folder / name, facts.sha256)
            here = self._facts(f"{prefix}/{name}")
            if here is None or here[0] != facts.bytes:
                wanted.append((f"{prefix}/{name}@{facts.sha256[:16]}", folder / name))
        self._fetch_all(wanted, may_lack=True)

    # Files that are asked for one by one, by workers on any machine.

    def know(self, path: Path, sha256: str) -> None:
        """Remember the hash of a file of a unit: whoever fetches it needs no record then."""
        self._known[self._name(path)] = sha256

    def hash_of(self, path: Path) -> str:
        """Return the hash of a file of a unit, if it is known; empty: it is not."""
        return self._known.get(self._name(path), "")

    def fetched(self, path: Path, sha256: str = "") -> Path:
        """Copy a file here if it is not; one that the store does not have either is left to its reader.

        Raises:
            DamagedFile: The store's object holds other bytes than its name says.
            UserError: The store does not answer.
        """
        name = self._name(path)
        path = self.folder / name
        if touch(path):
            return path
        with self._fetching[hash(name) % len(self._fetching)]:
            if touch(path):
                return path
            try:
                size = self._fetch_one(name, path, sha256)
            except FileNotFoundError:
                return path
            self._had.add(name)
        scratch().grew(self.folder, size)
        return path

    def _fetch_one(self, name: str, path: Path, sha256: str) -> int:
        """Copy one object; return its size.

        Raises:
            FileNotFoundError: The store does not have it.
        """
        if sha256 or f"/{_UNITS}/" in name:
            sha256 = sha256 or self._unit_hash(name)
            size = self.store.fetch(f"{name}@{sha256[:16]}", path).size
            if sha256_file(path) != sha256:
                path.unlink()
                raise DamagedFile(
                    f"{self.store.url}/{name}: the store's object differs from its record; `python -m pipelines verify "
                    "--mend` forgets it, and a run makes it again"
                )
            return size
        if name in self._objects:
            return self.store.fetch(self._objects[name][0], path).size
        try:
            return self.store.fetch(name, path).size
        except FileNotFoundError:
            if name.startswith(f"{MADE}/"):
                raise
            objects, _ = self.store.list_folder(name.rpartition("/")[0])
            hashed = max((found for found in objects if _HASHED.sub("", found) == name), default="")
            if not hashed:
                raise
            return self.store.fetch(hashed, path).size

    def _unit_hash(self, name: str) -> str:
        """Return the hash of a unit's file by the unit's record.

        Raises:
            FileNotFoundError: There is no such unit, or it has no such file.
        """
        if name not in self._known:
            folder, _, file = name.rpartition("/")
            matched = _UNIT_FILE.match(file)
            if matched is None:
                raise FileNotFoundError(name)
            content = json.loads(self.store.get(f"{folder}/{matched['unit']}.json"))
            for known, facts in content["files"].items():
                self._known[f"{folder}/{known}"] = facts["sha256"]
        if name not in self._known:
            raise FileNotFoundError(name)
        return self._known[name]

    def stretch(self, path: Path, begin: int, end: int, sha256: str, size: int) -> bytes | None:
        """Return bytes of a unit's file without copying all of it; None: it is here, or is better copied as a whole.

        A file of which much is read is copied, unless its copy was deleted before: there is no room for all of them.
        """
        name = self._name(path)
        if not sha256 or touch(self.folder / name):
            return None
        self._pieces[name] = self._pieces.get(name, 0) + end - begin
        if self._pieces[name] * _WHOLE_AFTER > size and name not in self._had:
            return None
        try:
            return self.store.get(f"{name}@{sha256[:16]}", begin, end)
        except FileNotFoundError:
            return None

    def made(self, path: Path) -> None:
        """Send a recording that a worker on another machine than the driver's has made; others make equal ones."""
        if not self.is_node:
            return  # the driver publishes what is made on its machine
        self.store.put(self._name(path), path)

    def bring_small(self, folder: Path) -> None:
        """Copy what an output keeps besides its units and tables: models and what describes them."""
        prefix = f"{self._name(folder)}/"
        for name in self.store.names(prefix.rstrip("/")):
            path = local_name(name)
            if not path.endswith(".parquet") and path.rpartition("/")[2] not in _TABLES_OF_UNITS:
                self.fetched(self.folder / path)

    # The folder of a run of training, which rank 0 writes on one machine and the driver reads on another.

    def name_of(self, path: Path) -> str:
        """Return the name that a small file has in the store."""
        return self._name(path)

    def bring_run(self, folder: Path, *, deep: bool = True) -> None:
        """Copy what others have written to the folder of a run; copies of what they have deleted are deleted.

        Args:
            folder: The folder.
            deep: Whether its subfolders are looked at, too: those of the checkpoints.
        """
        prefix = self._name(folder)
        with self._guard:
            listed = self.store.list(prefix) if deep else self.store.list_folder(prefix)[0]
            found: dict[str, tuple[str, Entry]] = {}
            for name, entry in listed.items():
                if name.rpartition("/")[2].startswith("."):
                    continue
                if (path := local_name(name)) not in found or found[path][1].modified_ns < entry.modified_ns:
                    found[path] = (name, entry)
            for path, (name, entry) in found.items():
                here = self._facts(path)
                # A rank on this machine may have brought an older copy meanwhile.
                if (
                    self._objects.get(path) == (name, entry.etag)
                    and here is not None
                    and here == self._copies.get(path)
                ):
                    continue
                with suppress(FileNotFoundError):
                    self.store.fetch(name, self.folder / path)
                    self._objects[path] = (name, entry.etag)
                    if (facts := self._facts(path)) is not None:
                        self._copies[path] = facts
            for path in [path for path in self._copies if path.startswith(f"{prefix}/") and path not in found]:
                if deep or "/" not in path[len(prefix) + 1 :]:
                    if self._facts(path) == self._copies.pop(path):
                        (self.folder / path).unlink()
                    self._objects.pop(path, None)

    def send_run(self, folder: Path, private: Collection[str], but: Collection[str] = ()) -> None:
        """Send what is new or other in the folder of a run, and delete in the store what was deleted here.

        Args:
            folder: The folder.
            private: Names of subfolders that stay on this machine.
            but: Names of files that stay.
        """
        prefix, here = self._name(folder), set[str]()
        for below, folders, names in os.walk(folder):
            folders[:] = [name for name in folders if name not in private and not name.startswith(".")]
            for name in names:
                if name.startswith(".") or (below == str(folder) and name in but):
                    continue
                path = self._name(Path(below, name))
                here.add(path)
                facts = self._facts(path)
                if facts is None or self._copies.get(path) == facts:
                    continue
                before = self._objects.get(path, ("", ""))[0]
                try:
                    sent = f"{path}@{sha256_file(self.folder / path)[:16]}" if facts[0] > _LARGE else path
                    self._objects[path] = (sent, self.store.put(sent, self.folder / path))
                except FileNotFoundError:  # an old checkpoint was deleted, or is being replaced
                    continue
                self._copies[path] = facts
                if before not in ("", sent):
                    self.store.delete([before])
        gone = [path for path in self._copies if path.startswith(f"{prefix}/") and path not in here]
        if gone:
            self.store.delete(self._objects.pop(path)[0] for path in gone if path in self._objects)
            for path in gone:
                del self._copies[path]

    def bring_tree(self, folder: Path) -> None:
        """Copy all records and data below a folder that are not here, e.g. the checkpoints of training."""
        prefix = f"{self._name(folder)}/"
        wanted = [
            (name, self.folder / path)
            for path, (name, _) in self._objects.items()
            if path.startswith(prefix) and self._facts(path) is None
        ]
        self._fetch_all(wanted, may_lack=True)
        for _, path in wanted:
            if (facts := self._facts(self._name(path))) is not None:
                self._copies[self._name(path)] = facts

    def _fetch_all(self, wanted: Iterable[tuple[str, Path]], *, may_lack: bool = False) -> None:
        pairs = list(wanted)
        if pairs:
            self.store.fetch_all(pairs, may_lack=may_lack)

    def trim(self, most_bytes: int, keep: Collection[Path]) -> int:
        """Delete copies of units' files, those that were not read for the longest time first; return the bytes freed.

        Args:
            most_bytes: What copies of units may take together.
            keep: Folders of units that stay.
        """
        files: list[tuple[int, int, Path]] = []
        for stage in self._stages:
            units = self.folder / stage / _UNITS
            for entry in os.scandir(units) if units.is_dir() else ():
                status = entry.stat()
                at = 2**63 if units in keep else max(status.st_atime_ns, status.st_mtime_ns)
                files.append((at, status.st_size, Path(entry.path)))
        left, freed = sum(size for _, size, _ in files), 0
        for at, size, path in sorted(files, key=lambda file: file[0]):
            if left - freed <= most_bytes or at == 2**63:
                break
            path.unlink(missing_ok=True)
            freed += size
        return freed


@contextmanager
def published(mirror: Mirror, stage: str) -> Iterator[None]:
    """Publish what a stage keeps besides its units while the block runs, every minute: checkpoints of training."""
    stop = threading.Event()

    def publish() -> None:
        while not stop.wait(_PUBLISH_S):
            # What cannot be sent now is sent at the end, or the run says then why not; a checkpoint may also have been
            # deleted as it was read.
            with suppress(UserError, OSError):
                mirror.publish(stage)

    thread = threading.Thread(target=publish, daemon=True, name="publish")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    mirror.publish(MADE)


def _is_run(path: str) -> bool:
    """Whether a file belongs to a run of training: the machine that trains has the youngest."""
    return f"/{RUNS}/" in path

"""The ledger: what a stage's output is the output of, what is whole on disk, and how files come to be there.

Layout: `<workspace>/<stage>/<fingerprint>/` holds every unit's files, a done record `<unit>.json` written after
them, and `STAGE.json` written last. A file without a matching done record does not exist for readers.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowse.data.manifest import Reject
from flowse.data.parquet import write_rows
from flowse.errors import UserError
from flowse.files import atomic_path, move_into_place, sha256_file, temporary_beside, write_json
from flowse.pretrained import resolve
from pipelines.engine.accounts import StageReport, Tally, UnitReport, account_unit

STAGE_RECORD = "STAGE.json"
IDENTITY_RECORD = "identity.json"
REJECTS_SUFFIX = ".rejects.parquet"
QUARANTINE_SUFFIX = ".quarantine.txt"
# Files that say how a stage went but that no later stage reads: they do not enter its digest.
_NOT_READ = ("rejects.parquet", ".html", ".png", ".txt")

Json = dict[str, Any]
FileFacts = dict[str, Any]


@functools.lru_cache(maxsize=256)
def _sha256_cached(path: Path, size: int, mtime_ns: int) -> str:
    return sha256_file(path)


def model_digest(name_or_path: str) -> str:
    """Hash the files of a model given by embedded name, file or folder; other names (a hub's) stand for themselves."""
    try:
        root = resolve(name_or_path)
    except FileNotFoundError:
        return f"name:{name_or_path}"
    files = [root] if root.is_file() else sorted(path for path in root.rglob("*") if path.is_file())
    digest = hashlib.sha256()
    for path in files:
        if path.suffix == ".md":  # a model card changes no output
            continue
        stat = path.stat()
        digest.update(f"{path.relative_to(root)}:{_sha256_cached(path, stat.st_size, stat.st_mtime_ns)}\n".encode())
    return digest.hexdigest()


def flatten(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, plain value) of all that can change a stage's output.

    Fields with metadata `fingerprint=False` are left out; those with `fingerprint="unless default"` are left out at
    their default: such a key was added to a config later, and its default does what was done before, so that finished
    work stays fresh. Fields with metadata `model=True` give the sha256 of the model's files; a config with a method
    `content_digests()` adds what the folders that it points at hold.
    """
    for field in dataclasses.fields(config):
        enters, value = field.metadata.get("fingerprint", True), getattr(config, field.name)
        if not enters or (enters == "unless default" and value == field.default):
            continue
        yield from _flatten_value(prefix + field.name, value, field.metadata.get("model", False))
    if hasattr(config, "content_digests"):
        for key, digest in config.content_digests().items():
            yield f"{prefix}content of {key}", digest


def _flatten_value(key: str, value: Any, is_model: bool) -> Iterator[tuple[str, Any]]:
    if dataclasses.is_dataclass(value):
        yield from flatten(value, key + ".")
    elif isinstance(value, list | tuple) and any(dataclasses.is_dataclass(item) for item in value):
        for index, item in enumerate(value):
            yield from flatten(item, f"{key}[{index}].")
    elif isinstance(value, Mapping):
        for name, item in sorted(value.items()):
            yield from _flatten_value(f"{key}.{name}", item, is_model)
    elif is_model and value:
        yield f"{key} (sha256)", model_digest(str(value))
    else:
        yield key, list(value) if isinstance(value, tuple) else value


def identity(name: str, revision: int, config: Any, seed: int, inputs: Mapping[str, str]) -> Json:
    """Collect everything that a stage's output is a function of, under names that people can read.

    Not in it: source code, worker counts, batch sizes of data stages, paths, log level.
    """
    return {
        "stage": name,
        "revision": revision,
        "seed": seed,
        **{f"config.{key}": value for key, value in flatten(config)},
        **{f"input {stage}": digest for stage, digest in sorted(inputs.items())},
    }


def fingerprint(what: Json) -> str:
    """Hash an identity to the name of the stage's folder."""
    encoded = json.dumps(what, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
    return hashlib.sha256(encoded).hexdigest()[:16]


def read_json(path: Path) -> Json | None:
    """Read a record; None if it is absent or not whole."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError, UnicodeDecodeError):
        return None
    return content if isinstance(content, dict) else None


def _settle(temporary: Path, final: Path) -> FileFacts:
    """Bring a written file to disk and under its own name; return its facts for the record."""
    facts = {"bytes": temporary.stat().st_size, "sha256": sha256_file(temporary)}
    move_into_place(temporary, final)
    return facts


@contextmanager
def atomic_file(path: Path) -> Iterator[tuple[Path, FileFacts]]:
    """Give a temporary path that becomes `path` when the block ends well; the facts are filled in then."""
    facts: FileFacts = {}
    with atomic_path(path) as temporary:
        yield temporary, facts
    facts.update({"bytes": path.stat().st_size, "sha256": sha256_file(path)})


class UnitFolder:
    """Where a worker writes one unit's files; see `pipelines.engine.stage.UnitOutput`."""

    def __init__(self, folder: Path, unit: str) -> None:
        self._folder = folder
        self._unit = unit
        self._written: dict[str, Path] = {}

    def path(self, suffix: str) -> Path:
        """Return a temporary path for the unit's file with this suffix."""
        if suffix == ".json":
            raise ValueError("the suffix .json belongs to the done record")
        return self._written.setdefault(suffix, temporary_beside(self._folder / f"{self._unit}{suffix}"))

    def commit(self, taken: Tally, report: UnitReport) -> StageReport:
        """Make the files final, then write the done record; return the unit's account.

        Raises:
            ValueError: The report does not account for every utterance; nothing is committed.
        """
        account = account_unit(taken, report)
        if report.rejects:
            write_rows(self.path(REJECTS_SUFFIX), Reject, report.rejects)
        files = {
            f"{self._unit}{suffix}": _settle(temporary, self._folder / f"{self._unit}{suffix}")
            for suffix, temporary in sorted(self._written.items())
        }
        write_json(self._folder / f"{self._unit}.json", {"unit": self._unit, "files": files, "books": to_json(account)})
        (self._folder / f"{self._unit}{QUARANTINE_SUFFIX}").unlink(missing_ok=True)
        return account

    def discard(self) -> None:
        """Remove what was written."""
        for temporary in self._written.values():
            temporary.unlink(missing_ok=True)


def to_json(report: StageReport) -> Json:
    """Write an account as plain values."""
    return dataclasses.asdict(report)


def from_json(content: Json) -> StageReport:
    """Read an account back; it must still balance."""
    values = dict(content)
    for key in ("taken", "kept"):
        values[key] = Tally(**values[key])
    for key in ("dropped", "failed"):
        values[key] = {reason: Tally(**tally) for reason, tally in values[key].items()}
    for key in ("quarantined", "notes"):
        values[key] = tuple(values[key])
    return StageReport(**values)


def _whole(folder: Path, files: Mapping[str, FileFacts]) -> bool:
    """Whether all files are there with the recorded number of bytes (`verify` also hashes them)."""
    for name, facts in files.items():
        try:
            if (folder / name).stat().st_size != facts["bytes"]:
                return False
        except FileNotFoundError:
            return False
    return True


def done_unit(folder: Path, unit: str) -> Json | None:
    """Return a unit's done record if the record and all its files are whole."""
    record = read_json(folder / f"{unit}.json")
    if record is None or record.get("unit") != unit or not _whole(folder, record["files"]):
        return None
    return record


def done_units(folder: Path) -> dict[str, Json]:
    """Return the done records found in a folder, by unit, in order of name."""
    names = sorted(path.stem for path in folder.glob("*.json") if path.name not in (STAGE_RECORD, IDENTITY_RECORD))
    records = {name: done_unit(folder, name) for name in names}
    return {name: record for name, record in records.items() if record is not None}


def commit_stage(
    folder: Path, report: StageReport, units: Sequence[str], files: Mapping[str, FileFacts], **facts: Any
) -> Json:
    """Write `STAGE.json`: from now on the stage exists for its readers.

    Args:
        folder: The stage's folder.
        report: Its account.
        units: Names of its units, all done.
        files: Stage-level files and their facts.
        facts: More for the record: parents, commit, versions, seconds.
    """
    unit_files: dict[str, FileFacts] = {}
    for unit in sorted(units):
        record = done_unit(folder, unit)
        if record is None:
            raise UserError(f"{folder / unit}: vanished while the stage was being committed; run the stage again")
        unit_files |= record["files"]
    everything = unit_files | dict(files)
    digest = hashlib.sha256()
    for name in sorted(everything):
        if not name.endswith(_NOT_READ):
            digest.update(f"{name}:{everything[name]['sha256']}\n".encode())
    record = {
        **facts,
        "fingerprint": folder.name,
        "digest": digest.hexdigest(),
        "identity": read_json(folder / IDENTITY_RECORD),
        "books": to_json(report),
        "units": sorted(units),
        "files": everything,
    }
    write_json(folder / STAGE_RECORD, record)
    return record


@dataclass(frozen=True)
class StageFolder:
    """A finished stage as its readers see it; see `pipelines.engine.stage.StageOutput`."""

    folder: Path
    record: Json

    @property
    def digest(self) -> str:
        """Digest of everything later stages may read."""
        return str(self.record["digest"])

    @property
    def report(self) -> StageReport:
        """The stage's account."""
        return from_json(self.record["books"])

    def parts(self, suffix: str) -> list[Path]:
        """Return every unit's file with this suffix, ordered by unit name."""
        names = (f"{unit}{suffix}" for unit in self.record["units"])
        return [self.folder / name for name in names if name in self.record["files"]]

    def file(self, name: str) -> Path:
        """Return a stage-level file.

        Raises:
            UserError: The stage has no such file.
        """
        if name not in self.record["files"]:
            raise UserError(
                f"{self.folder}: the stage's record names no file {name!r}; run the stage again with --force"
            )
        return self.folder / name

    def damaged(self) -> list[str]:
        """Name the files that are missing or have another size than recorded."""
        return [name for name, facts in self.record["files"].items() if not _whole(self.folder, {name: facts})]

    def _fault(self, name: str) -> str | None:
        """Hash a file against its record and say what is wrong with it; None: nothing."""
        path, facts = self.folder / name, self.record["files"][name]
        if not path.is_file():
            return "missing"
        if path.stat().st_size != facts["bytes"]:
            return f"{path.stat().st_size} bytes, recorded {facts['bytes']} (truncated?)"
        return None if sha256_file(path) == facts["sha256"] else "content differs from its record (sha256)"

    def forget_damaged(self) -> list[str]:
        """Delete the done records of units with a wrong file, and of the stage; return the units' names.

        A wrong file that belongs to no unit only undoes the stage's record: it is then written again from the units.
        """
        wrong = [name for name in self.record["files"] if self._fault(name)]
        if not wrong:
            return []
        (self.folder / STAGE_RECORD).unlink()
        units = [unit for unit in self.record["units"] if any(name.startswith(f"{unit}.") for name in wrong)]
        for unit in units:
            (self.folder / f"{unit}.json").unlink(missing_ok=True)
        return units or ["stage files"]

    def verify(self) -> list[str]:
        """Hash every file against its record; return one line for each that is wrong, missing or surplus."""
        wrong = [
            f"{self.folder / name}: {fault}" for name in sorted(self.record["files"]) if (fault := self._fault(name))
        ]
        expected = {
            *self.record["files"],
            STAGE_RECORD,
            IDENTITY_RECORD,
            *(f"{unit}.json" for unit in self.record["units"]),
        }
        for path in sorted(self.folder.rglob("*")):
            name = path.relative_to(self.folder).as_posix()
            if (
                path.is_file()
                and name not in expected
                and not name.startswith(".")
                and not name.endswith(QUARANTINE_SUFFIX)
            ):
                wrong.append(f"{path}: not in the stage's record (surplus)")
        return wrong


def open_stage(folder: Path) -> StageFolder | None:
    """Return the finished stage in a folder; None if it was never committed."""
    record = read_json(folder / STAGE_RECORD)
    return None if record is None else StageFolder(folder, record)

"""List, and with --yes delete, the outputs and the units that the current configuration does not need."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from flowse.errors import UserError
from flowse.training.ledger import RETIRED
from pipelines.commands.session import Session
from pipelines.corpora import MadeReader
from pipelines.corpora.forgotten import ForgetList, read_list
from pipelines.corpora.readers import READERS
from pipelines.engine.archives import forget_copies
from pipelines.engine.fingerprint import LAYOUT, Identity
from pipelines.engine.lock import workspace_lock
from pipelines.engine.mirror import mirror_of
from pipelines.engine.plan import StagePlan
from pipelines.engine.records import IDENTITY_RECORD, REJECTS_SUFFIX, STAGE_RECORD, read_record
from pipelines.engine.remote_tree import forget_recordings
from pipelines.engine.shown import shown_of_others
from pipelines.engine.units import PAGES, UNITS, DoneUnits, forget_units
from pipelines.engine.workspace import begun_units, open_stage, output_folders
from pipelines.stages import ingest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the confirmation."""
    parser.add_argument("--yes", action="store_true", help="really delete them")


def run(arguments: argparse.Namespace) -> int:
    """Print every output that is not needed, and each stage's units that are not, with their sizes, and their sum.

    Raises:
        UserError: What a corpus holds is not known, so neither is which outputs are needed.
    """
    session = Session.of(arguments)
    words = " ".join(["python -m pipelines", *sys.argv[1:]])
    # What a run has made is known only once it is over: the plans are made under the lock.
    with workspace_lock(session.workspace, words) if arguments.yes else nullcontext():
        if session.plans and session.listing.unknown:
            raise UserError(
                "which outputs are needed is not known, because corpora have not been listed in this workspace: "
                "`run ..ingest` lists them"
            )
        _report(session, delete=arguments.yes)
    return 0


def _report(session: Session, *, delete: bool) -> None:
    """Print, and if asked delete, what is not needed."""
    total, folders, units = 0, 0, 0
    copies: list[Path] = []
    for waste in unneeded(session.plans, session.workspace):
        for folder in waste.folders:
            size = size_bytes(folder)
            total, folders = total + size, folders + 1
            print(f"{size / 2**20:10,.1f} MiB  {folder}")
        size = waste.size_bytes()
        if waste.files:
            total, units = total + size, units + waste.count
            print(f"{size / 2**20:10,.1f} MiB  {waste.units}: {waste.count:,} units")
        if waste.units.parent.name == ingest.NAME:
            copies = _copies(session, waste)
        if delete:
            waste.delete()
    verb = "deleted" if delete else "not needed by this configuration; delete with --yes"
    print(f"{total / 2**20:10,.1f} MiB  {folders} folders and {units:,} units {verb}")
    if entries := read_list(session.workspace):
        _forget(session, len(entries), copies, delete=delete)


def _copies(session: Session, waste: Waste) -> list[Path]:
    """Return the files that a corpus which is made has written for recordings that are forgotten since."""
    config = session.config.ingest
    made = {corpus.name for _, corpus in config.corpora() if isinstance(READERS[corpus.reader], MadeReader)}
    if not made or not config.forgotten:
        return []
    from pipelines.corpora.made_copies import forgotten_copies

    old = [waste.units / name for name in waste.files if _is_manifest(name)]
    finished = session.plans[ingest.NAME].finished
    kept = [] if finished is None else finished.parts(".parquet")
    roots = ingest.corpus_roots(config, session.workspace / "made")
    return forgotten_copies(old, kept, ForgetList(config.forgotten), {name: roots[name] for name in made})


def _is_manifest(name: str) -> bool:
    return name.endswith(".parquet") and not name.endswith(REJECTS_SUFFIX)


def _forget(session: Session, entries: int, copies: Sequence[Path], *, delete: bool) -> None:
    """Say, and if asked see to it, that nothing is left of what was forgotten.

    Pages and artifacts that show other outputs than those that are needed go, too: they hold names and audio. So do the
    files that a killed process left half written, the recordings that a corpus of another form was unpacked to, and
    this machine's copies of recordings in tars and stores.
    """
    needed = [plan.finished for plan in session.plans.values() if plan.finished is not None]
    shown = shown_of_others(
        session.workspace,
        session.workspace / "listen",
        {output.folder.name for output in needed},
        {output.record.mlflow_run for output in needed if output.record.mlflow_run},
    )
    shown += copies
    size = sum(path.stat().st_size for path in shown)
    verb = "deleted" if delete else "may hold what was forgotten"
    print(f"{size / 2**20:10,.1f} MiB  {len(shown)} pages, artifacts and unpacked recordings of other outputs {verb}")
    if delete:
        for path in shown:
            path.unlink()
        if mirror := mirror_of(session.workspace):
            for path in copies:
                mirror.delete_file(path)
        for name in session.plans:
            DoneUnits(session.workspace / name / UNITS).remove_temporaries()
        forget_copies()
        forget_recordings()
    waiting = [name for name, plan in session.plans.items() if plan.finished is None and _has_outputs(session, name)]
    if waiting:
        print(
            f"NOTE  {entries} thing(s) are to be forgotten, but {', '.join(waiting)} keep outputs of before, which may "
            "hold them: run these stages, then gc --yes"
        )
    elif delete:
        print(f"the files that held the audio of what was forgotten ({entries} on the list) are deleted")
    elsewhere = session.cluster.mlflow_artifacts or session.mlflow_uri
    if not elsewhere.startswith("sqlite:"):
        print(f"NOTE  artifacts at {elsewhere} are not this workspace's: delete there what shows it")


def _has_outputs(session: Session, stage: str) -> bool:
    return bool(output_folders(session.workspace, stage))


@dataclass(frozen=True)
class Waste:
    """What one stage holds and the current configuration does not need.

    Attributes:
        folders: Outputs.
        units: Folder of the stage's units.
        files: Names of the files of units that no output within reach names.
    """

    folders: Sequence[Path]
    units: Path
    files: Sequence[str]

    @property
    def count(self) -> int:
        """Number of units that are not needed."""
        return sum(name.endswith(".json") for name in self.files)

    def size_bytes(self) -> int:
        """Add up the sizes of the files of units."""
        if self.files and (mirror := mirror_of(self.units)):
            sizes = mirror.unit_sizes(self.units)
            return sum(sizes.get(name, 0) for name in self.files)
        return sum((self.units / name).stat().st_size for name in self.files)

    def delete(self) -> None:
        """Delete it; records go first, so that what is half deleted is never taken for finished."""
        mirror = mirror_of(self.units)
        for folder in self.folders:
            if mirror:
                mirror.delete_folder(folder)
            (folder / STAGE_RECORD).unlink(missing_ok=True)
            shutil.rmtree(folder)
        forget_units(self.units, [name.removesuffix(".json") for name in self.files if name.endswith(".json")])
        if mirror:
            mirror.delete_units(self.units, self.files)
        for name in self.files:
            (self.units / name).unlink(missing_ok=True)


def unneeded(plans: Mapping[str, StagePlan], workspace: Path) -> Iterator[Waste]:
    """Yield what the current configuration does not need, stage by stage.

    A stage whose inputs are not known yet keeps all its outputs: one of them may be the right one. One that is not
    finished keeps its youngest finished output: the next run does only the units that are new.
    """
    for name, stage in plans.items():
        if not (workspace / name).is_dir():
            continue
        # Hidden folders are no outputs: train keeps its runs in one, and outputs go on from them.
        there = [path for path in (workspace / name).iterdir() if path.is_dir() and not path.name.startswith(".")]
        begun = [path for path in there if path.name not in (UNITS, PAGES)]
        outputs = sorted((path for path in begun if _is_readable(path)), key=_begun_at)
        if stage.finished is not None:
            kept = {stage.finished.folder}
        elif stage.folder is None:
            kept = set(outputs)
        else:
            finished = [path for path in outputs if (path / STAGE_RECORD).exists()]
            kept = {stage.folder, *finished[-1:]}
        retired = [path.parent for path in (workspace / name).glob(f".*/*/{RETIRED}")]
        folders = sorted(path for path in (*begun, *retired) if path not in kept)
        units = DoneUnits(workspace / name / UNITS)
        needed = {file for folder in kept for file in _files_of(folder)}
        files = sorted(file for file in units.names if not file.startswith(".") and file not in needed)
        if folders or files:
            yield Waste(folders, units.folder, files)


def _is_readable(folder: Path) -> bool:
    """Whether a folder is an output of this version."""
    identity = read_record(Identity, folder / IDENTITY_RECORD)
    return identity is not None and identity.layout == LAYOUT


def _begun_at(folder: Path) -> tuple[int, Path]:
    return (folder / IDENTITY_RECORD).stat().st_mtime_ns, folder


def _files_of(folder: Path) -> Iterator[str]:
    """Yield the names of all files of an output's units, finished or begun."""
    finished = open_stage(folder)
    if finished is not None:
        yield from finished.table.file_names()
        yield from (f"{unit}.json" for unit in finished.table.names)
        return
    for unit, record in begun_units(folder, hidden=True).items():
        yield from record.files
        yield f"{unit}.json"


def size_bytes(folder: Path) -> int:
    """Add up the sizes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

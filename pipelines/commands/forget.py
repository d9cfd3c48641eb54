"""Put a recording, a speaker or a corpus on the list of what a workspace must forget, and say what holds it."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from flowse import console
from flowse.data.manifest import Utterance
from flowse.data.parquet import read_columns
from flowse.errors import UserError
from pipelines.commands.lineage import Holders, Workspace, find_id, holders_of, known_rows, of_utterance
from pipelines.commands.session import Session
from pipelines.corpora import forgotten
from pipelines.corpora.forgotten import Entry, What
from pipelines.engine.lock import workspace_lock
from pipelines.engine.mirror import mirror_of
from pipelines.experiment import STAGE_NAMES
from pipelines.stages import train

_SHOWN = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what is to be forgotten, or what is to be done with the list."""
    parser.add_argument("--utterance", metavar="ID", help="a recording (speech, noise or impulse response) by its id")
    parser.add_argument("--speaker", metavar="S", help="all recordings of a speaker; --corpus says whose, if several")
    parser.add_argument("--corpus", metavar="C", help="all recordings of a corpus, or the corpus of --speaker")
    parser.add_argument("--undo", action="store_true", help="take it off the list; the next run brings it back")
    parser.add_argument("--list", action="store_true", help="show the list, and what still holds what is on it")


def run(arguments: argparse.Namespace) -> int:
    """Change or show the list; it is in the workspace, and every run there honours it.

    Raises:
        UserError: The arguments do not name one thing, or the workspace does not know it.
    """
    folder = Session.of(arguments).workspace
    named = [name for name in ("utterance", "speaker", "corpus") if getattr(arguments, name)]
    if arguments.list and not named and not arguments.undo:
        return _show(folder)
    if arguments.list or (len(named) != 1 and named != ["speaker", "corpus"]):
        raise UserError(
            "forget takes one of: --utterance ID; --speaker S [--corpus C]; --corpus C; each with --undo to take it "
            "off the list; or --list alone"
        )
    what: What = named[0]  # type: ignore[assignment]
    # In a store nobody else may change the list at the same time; in a folder `changing` sees to that.
    words = "python -m pipelines forget"  # others see it in the lock, which must name nobody
    with workspace_lock(folder, words) if mirror_of(folder) else nullcontext():
        return _undo(folder, what, arguments) if arguments.undo else _forget(folder, what, arguments)


def _forget(folder: Path, what: What, arguments: argparse.Namespace) -> int:
    """Find what is meant and what holds it, put it on the list, and say so."""
    workspace = Workspace(folder, STAGE_NAMES)
    try:
        rows = _rows(workspace, what, arguments)
    except UserError:
        listed = _entries(forgotten.read_list(folder), what, arguments)
        if not listed:
            raise
        print(f"forgotten since {listed[0].since}; the workspace holds nothing of it")
        return 0
    first = rows[0]
    key = {
        "utterance": forgotten.utterance_key(first.utt_id),
        "speaker": forgotten.speaker_key(first.corpus, first.speaker),
        "corpus": forgotten.corpus_key(first.corpus),
    }[what]
    holders = holders_of(workspace, rows)
    with forgotten.changing(folder) as entries:
        earlier = [entry for entry in entries if entry.key == key]  # once more: after a run that brought new recordings
        # A corpus whose licence ends may hold what another holds rightly; a person is forgotten under every name.
        known = rows if what != "corpus" else []
        audio = {code for row in known if (code := forgotten.audio_key(row))}.union(*(entry.audio for entry in earlier))
        models = {f"{user.stage}/{user.fingerprint}" for user in holders.readers}
        models = models.union(*(entry.models for entry in earlier))
        entry = Entry(
            what=what,
            key=key,
            corpus=first.corpus,
            since=earlier[0].since if earlier else time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            audio=tuple(sorted(audio)),
            recordings=len(rows),
            models=tuple(sorted(models)),
        )
        entries[:] = [*(entry for entry in entries if entry.key != key), entry]
    # Of a dataset that is no longer in the workspace nobody can say any more that they are not heard in it.
    retired = train.begin_anew(folder / train.NAME, lambda dataset: dataset not in holders.free)
    _say(what, rows, holders, retired)
    return 0


def _rows(workspace: Workspace, what: What, arguments: argparse.Namespace) -> list[Utterance]:
    """Return the rows of what is meant, as the workspace knows them; at least one.

    Raises:
        UserError: The workspace knows none, or a speaker of this name in several corpora.
    """
    if what == "utterance":
        utt_id = find_id(workspace, arguments.utterance)
        known = list(known_rows(workspace, "utt_id", utt_id).values())
        # A recording that ingest has turned away is known by its reject row only.
        if not known:
            lineage = of_utterance(workspace, utt_id)
            known = [Utterance(utt_id=utt_id, corpus=lineage.facts.corpus, kind="speech", path="")]
            for step in lineage.steps:
                if step.detail.startswith(("duplicate_content", "same_file")):
                    print(f"NOTE  {step.detail}: its audio is kept under that name, forget that one, too")
        return known
    value = getattr(arguments, what)
    rows = list(known_rows(workspace, what, value).values())
    if what == "speaker" and arguments.corpus:
        rows = [row for row in rows if row.corpus == arguments.corpus]
    corpora = sorted({row.corpus for row in rows})
    if not rows:
        raise UserError(f"no recording of {what} {value!r} in {workspace.folder}; there are {_named(workspace, what)}")
    if len(corpora) > 1:
        raise UserError(
            f"speaker {value!r} is in the corpora {', '.join(corpora)}; say which is meant, e.g. --corpus {corpora[0]}"
        )
    return rows


def _named(workspace: Workspace, column: str) -> str:
    """Name some values of a column of the manifest."""
    parts = [path for output in workspace.of("ingest") for path in output.parts(".parquet")]
    values = {value for path in parts for value in read_columns(path, Utterance, [column])[column].to_pylist()}
    named = sorted(values - {""})
    return (", ".join(named[:8]) + (" …" if len(named) > 8 else "")) or "none"


def _say(what: What, rows: Sequence[Utterance], holders: Holders, retired: int) -> None:
    """Print what was put on the list, what holds it, and what has to be done now."""
    length = console.audio(sum(row.duration_s for row in rows))
    print(f"forgotten: {len(rows):,} recording(s) of corpus {rows[0].corpus!r}, {length}; ingest turns them away now")
    if what == "utterance" and len(rows) == 1 and rows[0].offset_s:
        print("(a stretch of a longer recording; the rest of it stays)")
    print()
    if holders.shards:
        cells = [(dataset, shard, f"{count:,}") for (dataset, shard), count in list(holders.shards.items())[:_SHOWN]]
        print(console.table(("dataset", "shard", "mixtures"), cells, right=(2,)))
        if len(holders.shards) > _SHOWN:
            print(f"… and {len(holders.shards) - _SHOWN:,} more shards")
        print(f"\n{len(holders.shards):,} shard(s) hold them; the next run makes these anew, and no other\n")
    else:
        print("they are heard in no mixture\n")
    if holders.readers:
        users = [(user.stage, user.fingerprint, user.used, user.folder) for user in holders.readers]
        print(console.table(("used by", "fingerprint", "how", "where"), users))
        print("\nthese, and all copies of them, keep what they learned: withdraw them, train anew\n")
    if retired:
        print(f"{retired} run(s) of training may have learned from them: no training goes on with these weights\n")
    print("the audio is deleted by:  python -m pipelines run  and then  python -m pipelines gc --yes")
    print("the recordings themselves lie in the folder of their corpus: delete them there")


def _entries(entries: Sequence[Entry], what: What, arguments: argparse.Namespace) -> list[Entry]:
    """Return the entries of a list that stand for what the arguments name."""
    keys = {
        "utterance": [forgotten.utterance_key(arguments.utterance or "")],
        "speaker": [
            forgotten.speaker_key(entry.corpus, arguments.speaker or "")
            for entry in entries
            if arguments.corpus in (None, entry.corpus)
        ],
        "corpus": [forgotten.corpus_key(arguments.corpus or "")],
    }[what]
    return [entry for entry in entries if entry.key in keys]


def _undo(folder: Path, what: What, arguments: argparse.Namespace) -> int:
    """Take something off the list.

    Raises:
        UserError: It is not on it.
    """
    with forgotten.changing(folder) as entries:
        found = _entries(entries, what, arguments)
        if not found:
            raise UserError(f"{what} {getattr(arguments, what)!r} is not on the list; `forget --list` shows it")
        entries[:] = [entry for entry in entries if entry not in found]
    print(f"off the list: {what} {getattr(arguments, what)!r}; the next run takes in what its corpus still holds")
    return 0


def _show(folder: Path) -> int:
    """Print the list, and for each entry what the workspace still holds of it."""
    entries = forgotten.read_list(folder)
    if not entries:
        print("nothing is forgotten in this workspace")
        return 0
    try:
        workspace: Workspace | None = Workspace(folder, STAGE_NAMES)
    except UserError:  # no stage has run, or everything was deleted
        workspace = None
    cells = [
        (
            entry.key[: len(entry.what) + 13],
            entry.corpus,
            f"{entry.recordings:,}",
            entry.since[:16],
            _left(workspace, entry),
        )
        for entry in entries
    ]
    print(console.table(("what", "corpus", "recordings", "since", "in this workspace"), cells, right=(2,)))
    for entry in entries:
        if entry.models:
            print(f"\n{_short(entry)} was learned from or heard by {', '.join(entry.models)}")
    return 0


def _short(entry: Entry) -> str:
    """Return what stands for an entry, short enough for a table; of a corpus the whole name."""
    return entry.key if entry.what == "corpus" else entry.key[: len(entry.what) + 13]


def _left(workspace: Workspace | None, entry: Entry) -> str:
    """Say what the workspace still holds of an entry."""
    rows = [] if workspace is None else list(_remaining(workspace, entry))
    if workspace is None or not rows:
        return "gone"
    shards = len(holders_of(workspace, rows).shards)
    return f"{len(rows):,} in manifests, in {shards:,} shard(s): run, then gc --yes"


def _remaining(workspace: Workspace, entry: Entry) -> list[Utterance]:
    from flowse.data.parquet import read_rows

    wanted = forgotten.ForgetList(forgotten.keys_of([entry]))
    parts = {path for output in workspace.of("ingest") for path in output.parts(".parquet")}
    return [row for path in sorted(parts) for row in read_rows(path, Utterance) if row in wanted]

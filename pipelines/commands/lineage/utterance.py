"""What became of a recording: each stage's row of it, the mixtures in which it is heard, and the models that used them.

A recording is an utterance of speech, a noise or a room impulse response.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from flowse import console
from flowse.data.manifest import Reject, Utterance
from flowse.data.parquet import read_columns
from flowse.data.shards import IndexRow
from flowse.errors import UserError
from flowse.simulation.recipe import Recipe
from pipelines.commands.lineage.workspace import Workspace
from pipelines.engine.workspace import Output

Row = TypeVar("Row", Utterance, Reject)

_MANIFEST_STAGES = ("ingest", "quality", "filter_language", "transcribe")  # they write rows of what they keep
_REJECTING_STAGES = (*_MANIFEST_STAGES, "rooms", "simulate")
_SPEECH_STAGES = ("quality", "filter_language", "transcribe")  # they take speech alone
_SHOWN = 20
_NEAR_AMONG = 20_000  # ids compared letter by letter when nothing contains what was asked for
_IN_RECIPES = [
    "key", "split", "noise_ids", "noise_snrs_db", "noise_sources", "competitor_id", "competitor_snr_db",
    "competitor_source", "room_id", "speech_source",
]  # fmt: skip
_CARRIED = ("language", "language_prob", "text", "text_source", "text_logprob")


@dataclass(frozen=True)
class Step:
    """What one output did with a recording.

    Attributes:
        stage: Name of the stage.
        fingerprint: Which output of the stage.
        outcome: "kept", "used", "dropped", "failed" or "not done yet".
        detail: What the stage found out, or why it turned the recording away.
    """

    stage: str
    fingerprint: str
    outcome: str
    detail: str


@dataclass(frozen=True)
class Appearance:
    """A mixture in which a recording is heard.

    Attributes:
        simulate: Fingerprint of the dataset.
        key: Key of the mixture.
        split: Part of the data.
        shard: Tar that holds the mixture.
        heard_as: "speech", "noise", "competing speech" or "room".
        snr_db: Of the mixture; of a noise or of competing speech, its own; None if unknown.
    """

    simulate: str
    key: str
    split: str
    shard: str
    heard_as: str
    snr_db: float | None


@dataclass(frozen=True)
class Reader:
    """A trained model, a test or an export that used some of the mixtures.

    Attributes:
        stage: "train", "evaluate" or "export".
        fingerprint: Which output of the stage.
        state: "finished" or "begun".
        used: How it used how many of the mixtures.
        folder: Where it is.
    """

    stage: str
    fingerprint: str
    state: str
    used: str
    folder: str


@dataclass(frozen=True)
class Rejected:
    """What is known of a recording that no manifest holds.

    Attributes:
        utt_id: Id of the recording.
        corpus: Name of its corpus.
        duration_s: Length in seconds, 0 if unknown.
    """

    utt_id: str
    corpus: str
    duration_s: float


@dataclass(frozen=True)
class UtteranceLineage:
    """All that the workspace knows of a recording.

    Attributes:
        utt_id: Id of the recording.
        facts: Its first row in a manifest, or what its reject row says.
        steps: What each output of each stage did with it.
        appearances: Mixtures in which it is heard.
        readers: What used these mixtures.
    """

    utt_id: str
    facts: Utterance | Rejected
    steps: list[Step] = field(default_factory=list)
    appearances: list[Appearance] = field(default_factory=list)
    readers: list[Reader] = field(default_factory=list)


def of_utterance(workspace: Workspace, asked: str) -> UtteranceLineage:
    """Follow a recording through all outputs.

    Args:
        workspace: Where to look.
        asked: Id of speech, of a noise or of an impulse response; or the key of a mixture.

    Raises:
        UserError: There is no such id; the message names near ones.
    """
    utt_id = find_id(workspace, asked)
    facts, steps = _through_stages(workspace, utt_id)
    lineage = UtteranceLineage(utt_id, facts, steps)
    for output in workspace.of("simulate"):
        appearances = list(_appearances(workspace, output, lineage.facts, utt_id))
        if appearances:
            uses = Counter(appearance.heard_as for appearance in appearances)
            counts = ", ".join(f"{count:,} as {use}" for use, count in uses.items())
            outcome = "kept" if uses["speech"] else "used"
            # This step may stand beside rejects: other mixtures of the same recording failed.
            detail = f"{len(appearances):,} mixtures: {counts}"
            lineage.steps.append(Step("simulate", output.fingerprint, outcome, detail))
            lineage.appearances.extend(appearances)
            lineage.readers.extend(readers_of(workspace, output, appearances))
    return lineage


def _through_stages(workspace: Workspace, utt_id: str) -> tuple[Utterance | Rejected, list[Step]]:
    """Return the recording's first row, and what each output said of the recording."""
    facts: Utterance | Rejected | None = None
    rows: dict[str, Utterance] = {}  # by output
    steps: list[Step] = []
    for output in workspace.outputs:
        if output.stage not in _REJECTING_STAGES:
            continue
        row = _row(output, utt_id) if output.stage in _MANIFEST_STAGES else None
        if row is not None:
            facts = facts or row
            rows[output.name] = row
            parents = (parent.name for parent in workspace.parents(output).values() if parent is not None)
            before = next((rows[name] for name in parents if name in rows), None)
            steps.append(Step(output.stage, output.fingerprint, "kept", _new_facts(row, before)))
        for reject in _rows(output.rejects(), utt_id, Reject):
            facts = facts or Rejected(reject.utt_id, reject.corpus, reject.duration_s)
            steps.append(Step(output.stage, output.fingerprint, reject.kind, f"{reject.reason}: {reject.detail}"))
        missing = row is None and output.finished is None and steps and steps[-1].stage != output.stage
        if missing and output.stage in _SPEECH_STAGES and isinstance(facts, Utterance) and facts.kind == "speech":
            steps.append(Step(output.stage, output.fingerprint, "not done yet", "the stage was begun, not finished"))
    return facts or Rejected(utt_id, "", 0.0), steps


def find_id(workspace: Workspace, asked: str) -> str:
    """Return the id that is meant.

    Raises:
        UserError: There is none.
    """
    tries = [asked, *([found[1]] if (found := re.fullmatch(r"(.+)-\d\d", asked)) else [])]
    places = [path for output in workspace.of("ingest") for path in (*output.parts(".parquet"), *output.rejects())]
    for utt_id in tries:
        if any(_has(path, utt_id) for path in places):
            return utt_id
    ids = {name for path in places for name in read_columns(path, Reject, ["utt_id"])["utt_id"].to_pylist()}
    plain = asked.lower().replace(".", "-")
    near = sorted((name for name in ids if plain in name), key=_by_length)[:5]
    near = near or difflib.get_close_matches(plain, sorted(ids)[:_NEAR_AMONG], n=3)
    near = near or sorted((name for name in ids if plain.rpartition("/")[2] in name), key=_by_length)[:5]
    hint = f"did you mean {' or '.join(near)}?" if near else "ids look like " + ", ".join(sorted(ids)[:2])
    raise UserError(f"no utterance {asked!r} among {len(ids):,} in {workspace.folder}; {hint}")


def _by_length(name: str) -> tuple[int, str]:
    return len(name), name


def _has(path: Path, utt_id: str) -> bool:
    return bool(read_columns(path, Reject, ["utt_id"], filters=[("utt_id", "==", utt_id)]).num_rows)


def _rows(paths: Sequence[Path], utt_id: str, row_type: type[Row]) -> Iterator[Row]:
    """Yield the rows of one recording from parquet files of flat rows."""
    for path in paths:
        table = read_columns(path, row_type, filters=[("utt_id", "==", utt_id)])
        for values in table.to_pylist():
            yield row_type(**values)


def _row(output: Output, utt_id: str) -> Utterance | None:
    return next(_rows(output.parts(".parquet"), utt_id, Utterance), None)


def _new_facts(row: Utterance, before: Utterance | None) -> str:
    """Say what a stage found out: all that matters of a first row, the differences of a later one."""
    if before is None:
        rate = f"{row.sample_rate:,} Hz, {row.channels} channel(s)"
        return f"{row.kind}, {row.duration_s:.3f} s, {rate}, split {row.split}"
    now, was = dataclasses.asdict(row), dataclasses.asdict(before)
    changed = {key: now[key] for key in _CARRIED if now[key] != was[key] and now[key] not in (None, "")}
    words = [f"{key.replace('_', ' ')} {_plain(value)}" for key, value in changed.items()]
    return ", ".join(words) or "as before"


def _plain(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else f'"{value}"' if " " in str(value) else str(value)


def _appearances(
    workspace: Workspace, output: Output, facts: Utterance | Rejected, utt_id: str
) -> Iterator[Appearance]:
    """Yield the mixtures of one dataset in which a recording is heard."""
    for path in output.parts(".index.parquet"):
        table = read_columns(path, IndexRow, ["key", "split", "shard", "snr_db"], filters=[("utt_id", "==", utt_id)])
        for mixture in table.to_pylist():
            yield Appearance(output.fingerprint, heard_as="speech", **mixture)
    room, source = _room_of(workspace, output, facts)
    for path in output.parts(".recipes.parquet"):
        shard = path.name.replace(".recipes.parquet", ".tar")
        table = read_columns(path, Recipe, _IN_RECIPES)
        noises, snrs = table["noise_ids"], table["noise_snrs_db"]
        hits = pc.equal(pc.list_flatten(noises), utt_id)
        if pc.any(hits).as_py():
            mixtures = pc.filter(pc.list_parent_indices(noises), hits).to_pylist()
            for mixture, snr_db in zip(mixtures, pc.filter(pc.list_flatten(snrs), hits).to_pylist(), strict=True):
                key, split = table["key"][mixture].as_py(), table["split"][mixture].as_py()
                yield Appearance(output.fingerprint, key, split, shard, "noise", snr_db)
        others = table.filter(pc.equal(table["competitor_id"], utt_id)).select(["key", "split", "competitor_snr_db"])
        for key, split, snr_db in zip(*(column.to_pylist() for column in others.columns), strict=True):
            yield Appearance(output.fingerprint, key, split, shard, "competing speech", snr_db)
        if room:
            yield from _in_room(output, table.filter(pc.equal(table["room_id"], room)), source, shard)


def _in_room(output: Output, table: pa.Table, source: int, shard: str) -> Iterator[Appearance]:
    """Yield the mixtures in which something is placed at one source position of a room."""
    for recipe in table.to_pylist():
        if source in (recipe["speech_source"], recipe["competitor_source"], *recipe["noise_sources"]):
            yield Appearance(output.fingerprint, recipe["key"], recipe["split"], shard, "room", None)


def _room_of(workspace: Workspace, output: Output, facts: Utterance | Rejected) -> tuple[str, int]:
    """Return the room and the source position of a measured impulse response; ("", −1) for other recordings.

    The responses of one room have its name as speaker, and are its source positions in order of their ids.
    """
    ingested = workspace.parents(output).get("ingest")
    if not isinstance(facts, Utterance) or facts.kind != "rir" or ingested is None:
        return "", -1
    room = facts.speaker or facts.path
    filters = [("kind", "==", "rir"), ("corpus", "==", facts.corpus)]
    ids = []
    for path in ingested.parts(".parquet"):
        responses = read_columns(path, Utterance, ["utt_id", "speaker", "path"], filters=filters).to_pylist()
        ids += [row["utt_id"] for row in responses if (row["speaker"] or row["path"]) == room]
    return f"{facts.corpus}/{room}", sorted(ids).index(facts.utt_id) if facts.utt_id in ids else -1


def readers_of(workspace: Workspace, dataset: Output, appearances: Sequence[Appearance]) -> Iterator[Reader]:
    """Yield the models that learnt from the mixtures, the exports of these models, and the tests that scored them."""
    splits = Counter({appearance.key: appearance.split for appearance in appearances}.values())
    for reader in workspace.readers(dataset):
        if reader.stage == "train":
            if used := _used_by_training(splits):
                yield _reader(reader, used, reader.folder)
                for export in workspace.readers(reader):
                    if export.stage == "export":
                        yield _reader(export, f"hands on {reader.name}", export.folder / "model")
        elif reader.stage == "evaluate" and (reader.folder / "scores.parquet").exists():
            keys = set(read_columns(reader.folder / "scores.parquet", None, ["key"])["key"].to_pylist())
            scored = len({appearance.key for appearance in appearances} & keys)
            if scored:
                yield _reader(reader, f"scores {scored:,}", reader.folder)


def _reader(output: Output, used: str, folder: Path) -> Reader:
    return Reader(output.stage, output.fingerprint, "finished" if output.finished else "begun", used, str(folder))


def _used_by_training(splits: Mapping[str, int]) -> str:
    """Say how a training uses mixtures, by their split; empty if it does not."""
    words = [f"learns from {splits['train']:,}"] if splits["train"] else []
    words += [f"may validate on {splits['dev']:,}"] if splits["dev"] else []
    return " and ".join(words)


def utterance_table(lineage: UtteranceLineage) -> str:
    """Write an utterance's lineage for people."""
    row = dataclasses.asdict(lineage.facts)
    facts = {key: value for key, value in row.items() if value not in (None, "", 0) and key != "utt_id"}
    lines = [lineage.utt_id, "  " + ", ".join(f"{key} {_plain(value)}" for key, value in facts.items()), ""]
    steps = [(step.stage, step.fingerprint, step.outcome, step.detail) for step in lineage.steps]
    lines += [console.table(("stage", "fingerprint", "outcome", "what"), steps), ""]
    if not lineage.appearances:
        return "\n".join([*lines, "heard in no mixture"])
    rows = [
        (
            appearance.simulate,
            appearance.key,
            appearance.split,
            appearance.shard,
            appearance.heard_as,
            "" if appearance.snr_db is None else f"{appearance.snr_db:.1f}",
        )
        for appearance in lineage.appearances[:_SHOWN]
    ]
    lines.append(console.table(("simulate", "mixture", "split", "shard", "heard as", "SNR, dB"), rows, right=(5,)))
    if len(lineage.appearances) > _SHOWN:
        lines.append(f"… and {len(lineage.appearances) - _SHOWN:,} more mixtures; --json names them all")
    lines.append("")
    if not lineage.readers:
        return "\n".join([*lines, "no model, test or export used these mixtures"])
    used = [(reader.stage, reader.fingerprint, reader.state, reader.used, reader.folder) for reader in lineage.readers]
    lines.append(console.table(("used by", "fingerprint", "state", "how", "where"), used))
    return "\n".join(lines)

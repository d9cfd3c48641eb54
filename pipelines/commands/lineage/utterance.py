"""What became of an utterance, a noise or a room: every stage's row of it, every mixture, every model that heard it."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from flowse.data.manifest import Reject, Utterance
from flowse.data.parquet import schema_of
from flowse.errors import UserError
from pipelines.commands.lineage.workspace import Workspace
from pipelines.engine import console
from pipelines.engine.workspace import Output

Json = dict[str, Any]

_SHOWN = 20
_NEAR_AMONG = 20_000  # ids compared letter by letter when nothing contains what was asked for
_IN_RECIPES = [
    "key", "split", "noise_ids", "noise_snrs_db", "noise_sources", "competitor_id", "competitor_snr_db",
    "competitor_source", "room_id", "speech_source",
]  # fmt: skip
_CARRIED = ("language", "language_prob", "text", "text_source", "text_logprob")


@dataclass(frozen=True)
class Step:
    """What one output did with an utterance.

    Attributes:
        stage: Name of the stage.
        fingerprint: Which output of it.
        outcome: "kept", "dropped", "failed" or "not done yet".
        detail: What was learnt of it, or why it was turned away.
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
        shard: Tar that holds it.
        heard_as: "speech", "noise", "competing speech" or "room".
        snr_db: Of the mixture (of that noise alone, where it is noise); None if unknown.
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
        fingerprint: Which output of it.
        state: "finished" or "begun".
        used: What it did with how many of the mixtures.
        folder: Where it is.
    """

    stage: str
    fingerprint: str
    state: str
    used: str
    folder: str


@dataclass(frozen=True)
class UtteranceLineage:
    """All that the workspace knows of an utterance.

    Attributes:
        utt_id: The utterance.
        facts: Its row in the manifest, or what its reject row says.
        steps: What each output of each stage did with it.
        appearances: Mixtures in which it is heard.
        readers: What used them.
    """

    utt_id: str
    facts: Json
    steps: list[Step] = field(default_factory=list)
    appearances: list[Appearance] = field(default_factory=list)
    readers: list[Reader] = field(default_factory=list)


def of_utterance(workspace: Workspace, asked: str) -> UtteranceLineage:
    """Follow an utterance through all outputs.

    Args:
        workspace: Where to look.
        asked: Id of speech, of a noise or of an impulse response; or the key of a mixture.

    Raises:
        UserError: There is no such id; the message names near ones.
    """
    utt_id = _find(workspace, asked)
    row: Json = {}
    known: dict[str, Json] = {}
    steps: list[Step] = []
    for output in workspace.outputs:
        if output.stage not in ("ingest", "rooms", "filter_language", "transcribe", "simulate"):
            continue
        found = _row(output.parts(".parquet"), utt_id) if output.stage not in ("rooms", "simulate") else {}
        if found:
            row = row or found
            before = next(
                (
                    known[parent.name]
                    for parent in workspace.parents(output).values()
                    if parent and parent.name in known
                ),
                {},
            )
            steps.append(Step(output.stage, output.fingerprint, "kept", _learnt(found, before)))
            known[output.name] = found
        for reject in _rows(output.rejects(), utt_id, Reject):
            row = row or {key: reject[key] for key in ("utt_id", "corpus", "duration_s")}
            why = f"{reject['reason']}: {reject['detail']}"
            steps.append(Step(output.stage, output.fingerprint, reject["kind"], why))
        speech_only = row.get("kind") == "speech" and output.stage in ("filter_language", "transcribe")
        if not found and output.finished is None and speech_only and steps[-1].stage != output.stage:
            steps.append(Step(output.stage, output.fingerprint, "not done yet", "the stage was begun, not finished"))
    lineage = UtteranceLineage(utt_id, row, steps)
    for output in workspace.of("simulate"):
        heard = list(_appearances(workspace, output, utt_id, row))
        if heard:
            speech = sum(appearance.heard_as == "speech" for appearance in heard)
            ways = Counter(appearance.heard_as for appearance in heard)
            said = ", ".join(f"{count:,} as {way}" for way, count in ways.items())
            kept = Step("simulate", output.fingerprint, "kept", f"{len(heard):,} mixtures: {said}")
            # Beside its rejects of this output, if it has some.
            lineage.steps.append(kept if speech else dataclasses.replace(kept, outcome="used"))
            lineage.appearances.extend(heard)
            lineage.readers.extend(_readers(workspace, output, heard))
    return lineage


def _find(workspace: Workspace, asked: str) -> str:
    """Return the id that is meant.

    Raises:
        UserError: There is none.
    """
    tries = [asked, *([found[1]] if (found := re.fullmatch(r"(.+)-\d\d", asked)) else [])]
    places = [path for output in workspace.of("ingest") for path in (*output.parts(".parquet"), *output.rejects())]
    for utt_id in tries:
        if any(_has(path, utt_id) for path in places):
            return utt_id
    ids = {name for path in places for name in pq.read_table(path, columns=["utt_id"])["utt_id"].to_pylist()}
    plain = asked.lower().replace(".", "-")
    near = sorted((name for name in ids if plain in name), key=_by_length)[:5]
    near = near or difflib.get_close_matches(plain, sorted(ids)[:_NEAR_AMONG], n=3)
    near = near or sorted((name for name in ids if plain.rpartition("/")[2] in name), key=_by_length)[:5]
    hint = f"did you mean {' or '.join(near)}?" if near else "ids look like " + ", ".join(sorted(ids)[:2])
    raise UserError(f"no utterance {asked!r} among {len(ids):,} in {workspace.folder}; {hint}")


def _by_length(name: str) -> tuple[int, str]:
    return len(name), name


def _has(path: Path, utt_id: str) -> bool:
    return bool(pq.read_table(path, columns=["utt_id"], filters=[("utt_id", "==", utt_id)]).num_rows)


def _rows(paths: Sequence[Path], utt_id: str, row_type: type[Any]) -> Iterator[Json]:
    for path in paths:
        names = schema_of(row_type).names
        yield from pq.read_table(path, columns=names, filters=[("utt_id", "==", utt_id)]).to_pylist()


def _row(paths: Sequence[Path], utt_id: str) -> Json:
    return next(_rows(paths, utt_id, Utterance), {})


def _learnt(row: Json, before: Json) -> str:
    """Say what a stage found out: all that matters of a first row, the differences of a later one."""
    if not before:
        rate = f"{row['sample_rate']:,} Hz, {row['channels']} channel(s)"
        return f"{row['kind']}, {row['duration_s']:.3f} s, {rate}, split {row['split']}"
    changed = {key: row[key] for key in _CARRIED if row[key] != before.get(key) and row[key] not in (None, "")}
    words = [f"{key.replace('_', ' ')} {_plain(value)}" for key, value in changed.items()]
    return ", ".join(words) or "as before"


def _plain(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else f'"{value}"' if " " in str(value) else str(value)


def _appearances(workspace: Workspace, output: Output, utt_id: str, row: Json) -> Iterator[Appearance]:
    """Yield the mixtures of one dataset in which a recording is heard."""
    for path in output.parts(".index.parquet"):
        table = pq.read_table(path, columns=["key", "split", "shard", "snr_db"], filters=[("utt_id", "==", utt_id)])
        for mixture in table.to_pylist():
            yield Appearance(output.fingerprint, heard_as="speech", **mixture)
    room, source = _room_of(workspace, output, row)
    for path in output.parts(".recipes.parquet"):
        shard = path.name.replace(".recipes.parquet", ".tar")
        table = pq.read_table(path, columns=_IN_RECIPES)
        noises, snrs = table["noise_ids"], table["noise_snrs_db"]
        hits = pc.equal(pc.list_flatten(noises), utt_id)
        if pc.any(hits).as_py():
            parents = pc.filter(pc.list_parent_indices(noises), hits).to_pylist()
            for parent, snr_db in zip(parents, pc.filter(pc.list_flatten(snrs), hits).to_pylist(), strict=True):
                key, split = table["key"][parent].as_py(), table["split"][parent].as_py()
                yield Appearance(output.fingerprint, key, split, shard, "noise", snr_db)
        others = table.filter(pc.equal(table["competitor_id"], utt_id)).select(["key", "split", "competitor_snr_db"])
        for key, split, snr_db in zip(*(column.to_pylist() for column in others.columns), strict=True):
            yield Appearance(output.fingerprint, key, split, shard, "competing speech", snr_db)
        if room:
            yield from _in_room(output, table.filter(pc.equal(table["room_id"], room)), source, shard)


def _in_room(output: Output, table: pa.Table, source: int, shard: str) -> Iterator[Appearance]:
    for recipe in table.to_pylist():
        if source in (recipe["speech_source"], recipe["competitor_source"], *recipe["noise_sources"]):
            yield Appearance(output.fingerprint, recipe["key"], recipe["split"], shard, "room", None)


def _room_of(workspace: Workspace, output: Output, row: Json) -> tuple[str, int]:
    """Return the room and the source that a measured impulse response became; ("", −1) for other recordings."""
    ingested = workspace.parents(output).get("ingest")
    if row.get("kind") != "rir" or ingested is None:
        return "", -1
    place = row["speaker"] or row["path"]
    columns = ["utt_id", "speaker", "path"]
    filters = [("kind", "==", "rir"), ("corpus", "==", row["corpus"])]
    rows = [row for part in ingested.parts(".parquet") for row in _read(part, columns, filters).to_pylist()]
    mates = sorted(row["utt_id"] for row in rows if (row["speaker"] or row["path"]) == place)
    return f"{row['corpus']}/{place}", mates.index(row["utt_id"]) if row["utt_id"] in mates else -1


def _read(path: Path, columns: list[str], filters: list[tuple[str, str, str]]) -> pa.Table:
    return pq.read_table(path, columns=columns, filters=filters)


def _readers(workspace: Workspace, dataset: Output, heard: Sequence[Appearance]) -> Iterator[Reader]:
    """Yield the models that learnt from the mixtures, the tests that scored them, and the exports of those models."""
    splits = Counter({appearance.key: appearance.split for appearance in heard}.values())
    for reader in workspace.readers(dataset):
        state = "begun" if reader.finished is None else "finished"
        if reader.stage == "train":
            words = [f"learns from {splits['train']:,}"] if splits["train"] else []
            words += [f"may validate on {splits['dev']:,}"] if splits["dev"] else []
            if not words:
                continue
            used = " and ".join(words)
            yield Reader("train", reader.fingerprint, state, used, str(reader.folder))
            for export in workspace.readers(reader):
                if export.stage == "export":
                    ready = "begun" if export.finished is None else "finished"
                    yield Reader("export", export.fingerprint, ready, f"hands on train/{reader.fingerprint}",
                                 str(export.folder / "model"))  # fmt: skip
        elif reader.stage == "evaluate" and (reader.folder / "scores.parquet").exists():
            keys = set(pq.read_table(reader.folder / "scores.parquet", columns=["key"])["key"].to_pylist())
            scored = len({found.key for found in heard} & keys)
            if scored:
                yield Reader("evaluate", reader.fingerprint, state, f"scores {scored:,}", str(reader.folder))


def utterance_table(lineage: UtteranceLineage) -> str:
    """Write an utterance's lineage for people."""
    facts = {key: value for key, value in lineage.facts.items() if value not in (None, "", 0) and key != "utt_id"}
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

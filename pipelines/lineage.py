"""Lineage both ways: what became of an utterance, and what a model was made of.

It reads records and parquet columns only, over every fingerprint that the workspace holds, finished or begun.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from flowse.data.manifest import Reject, Utterance, schema_of
from pipelines import console, ledger, licences
from pipelines.ledger import IDENTITY_RECORD, REJECTS_SUFFIX, Json, StageFolder
from pipelines.licences import LicenceUse
from pipelines.stage import UserError

_WEIGHTS = "model.safetensors"
_SHOWN = 20
_NEAR_AMONG = 20_000  # ids compared letter by letter when nothing contains what was asked for
_IN_RECIPES = [
    "key", "split", "noise_ids", "noise_snrs_db", "noise_sources", "competitor_id", "competitor_snr_db",
    "competitor_source", "room_id", "speech_source",
]  # fmt: skip
_CARRIED = ("language", "language_prob", "text", "text_source", "text_logprob")


@dataclass(frozen=True)
class Output:
    """One output of a stage: a folder `<workspace>/<stage>/<fingerprint>`.

    Attributes:
        stage: Name of the stage.
        folder: The folder.
        identity: What the fingerprint is the hash of.
        finished: Its record; None if it was only begun.
    """

    stage: str
    folder: Path
    identity: Json
    finished: StageFolder | None

    @property
    def fingerprint(self) -> str:
        """Name of the folder."""
        return self.folder.name

    @property
    def name(self) -> str:
        """Stage and fingerprint, e.g. "simulate/6e2f5d28da546903"."""
        return f"{self.stage}/{self.fingerprint}"

    def parts(self, suffix: str) -> list[Path]:
        """Return the files with this suffix of all units that are done."""
        if self.finished is not None:
            return self.finished.parts(suffix)
        return [self.folder / f"{unit}{suffix}" for unit, record in ledger.done_units(self.folder).items()
                if f"{unit}{suffix}" in record["files"]]  # fmt: skip

    def rejects(self) -> list[Path]:
        """Return the files of its reject rows."""
        whole = self.folder / "rejects.parquet"
        return [whole] if whole.exists() else sorted(self.folder.glob(f"*{REJECTS_SUFFIX}"))


class Workspace:
    """All outputs in a workspace, and who read whom."""

    def __init__(self, folder: Path, stages: Sequence[str]) -> None:
        """Look at every record.

        Args:
            folder: The workspace.
            stages: Names of the stages in their order.

        Raises:
            UserError: There is no output in it.
        """
        self.folder = folder
        self.outputs: list[Output] = []
        for stage in stages:
            found = []
            for path in (folder / stage).glob(f"*/{IDENTITY_RECORD}"):
                identity = ledger.read_json(path)
                if identity is not None:
                    found.append((path.stat().st_mtime_ns, path.parent, identity))
            for _, where, identity in sorted(found, key=lambda one: one[:2]):
                self.outputs.append(Output(stage, where, identity, ledger.open_stage(where)))
        if not self.outputs:
            raise UserError(f"{folder}: no stage has run in this workspace; give another --workspace")

    def of(self, stage: str) -> list[Output]:
        """Return a stage's outputs, the youngest last."""
        return [one for one in self.outputs if one.stage == stage]

    def parents(self, output: Output) -> dict[str, Output | None]:
        """Return what an output was made from, by stage; None where it is gone."""
        found: dict[str, Output | None] = {}
        named = output.finished.record.get("parents", {}) if output.finished else {}
        for key, digest in output.identity.items():
            if not key.startswith("input "):
                continue
            stage = key.removeprefix("input ")
            options = self.of(stage)
            found[stage] = next((one for one in options if one.fingerprint == named.get(stage)), None) or next(
                (one for one in options if one.finished is not None and one.finished.digest == digest), None
            )
        return found

    def ancestors(self, output: Output) -> list[Output]:
        """Return an output and all that it was made from, in the order of the stages."""
        seen = {output.name: output}
        waiting = [output]
        while waiting:
            for parent in self.parents(waiting.pop()).values():
                if parent is not None and parent.name not in seen:
                    seen[parent.name] = parent
                    waiting.append(parent)
        return [one for one in self.outputs if one.name in seen]

    def readers(self, output: Output) -> Iterator[Output]:
        """Yield the outputs that were made from an output directly."""
        for one in self.outputs:
            if any(parent is not None and parent.name == output.name for parent in self.parents(one).values()):
                yield one


# --- an utterance -----------------------------------------------------------------------------------------------------


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
                (known[one.name] for one in workspace.parents(output).values() if one and one.name in known), {}
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
            speech = sum(one.heard_as == "speech" for one in heard)
            ways = Counter(one.heard_as for one in heard)
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
    near = sorted((name for name in ids if plain in name), key=len)[:5]
    near = near or difflib.get_close_matches(plain, sorted(ids)[:_NEAR_AMONG], n=3)
    near = near or sorted((name for name in ids if plain.rpartition("/")[2] in name), key=len)[:5]
    hint = f"did you mean {' or '.join(near)}?" if near else "ids look like " + ", ".join(sorted(ids)[:2])
    raise UserError(f"no utterance {asked!r} among {len(ids):,} in {workspace.folder}; {hint}")


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
        for one in table.to_pylist():
            yield Appearance(output.fingerprint, heard_as="speech", **one)
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
    for one in table.to_pylist():
        if source in (one["speech_source"], one["competitor_source"], *one["noise_sources"]):
            yield Appearance(output.fingerprint, one["key"], one["split"], shard, "room", None)


def _room_of(workspace: Workspace, output: Output, row: Json) -> tuple[str, int]:
    """Return the room and the source that a measured impulse response became; ("", −1) for other recordings."""
    ingested = workspace.parents(output).get("ingest")
    if row.get("kind") != "rir" or ingested is None:
        return "", -1
    place = row["speaker"] or row["path"]
    columns = ["utt_id", "speaker", "path"]
    filters = [("kind", "==", "rir"), ("corpus", "==", row["corpus"])]
    rows = [one for part in ingested.parts(".parquet") for one in _read(part, columns, filters).to_pylist()]
    mates = sorted(one["utt_id"] for one in rows if (one["speaker"] or one["path"]) == place)
    return f"{row['corpus']}/{place}", mates.index(row["utt_id"]) if row["utt_id"] in mates else -1


def _read(path: Path, columns: list[str], filters: list[tuple[str, str, str]]) -> pa.Table:
    return pq.read_table(path, columns=columns, filters=filters)


def _readers(workspace: Workspace, dataset: Output, heard: Sequence[Appearance]) -> Iterator[Reader]:
    """Yield the models that learnt from the mixtures, the tests that scored them, and the exports of those models."""
    splits = Counter({one.key: one.split for one in heard}.values())
    for one in workspace.readers(dataset):
        state = "begun" if one.finished is None else "finished"
        if one.stage == "train":
            words = [f"learns from {splits['train']:,}"] if splits["train"] else []
            words += [f"may validate on {splits['dev']:,}"] if splits["dev"] else []
            if not words:
                continue
            used = " and ".join(words)
            yield Reader("train", one.fingerprint, state, used, str(one.folder))
            for export in workspace.readers(one):
                if export.stage == "export":
                    ready = "begun" if export.finished is None else "finished"
                    yield Reader("export", export.fingerprint, ready, f"hands on train/{one.fingerprint}",
                                 str(export.folder / "model"))  # fmt: skip
        elif one.stage == "evaluate" and (one.folder / "scores.parquet").exists():
            keys = set(pq.read_table(one.folder / "scores.parquet", columns=["key"])["key"].to_pylist())
            scored = len({found.key for found in heard} & keys)
            if scored:
                yield Reader("evaluate", one.fingerprint, state, f"scores {scored:,}", str(one.folder))


def utterance_table(lineage: UtteranceLineage) -> str:
    """Write an utterance's lineage for people."""
    facts = {key: value for key, value in lineage.facts.items() if value not in (None, "", 0) and key != "utt_id"}
    lines = [lineage.utt_id, "  " + ", ".join(f"{key} {_plain(value)}" for key, value in facts.items()), ""]
    steps = [(one.stage, one.fingerprint, one.outcome, one.detail) for one in lineage.steps]
    lines += [console.table(("stage", "fingerprint", "outcome", "what"), steps), ""]
    if not lineage.appearances:
        return "\n".join([*lines, "heard in no mixture"])
    rows = [
        (one.simulate, one.key, one.split, one.shard, one.heard_as, "" if one.snr_db is None else f"{one.snr_db:.1f}")
        for one in lineage.appearances[:_SHOWN]
    ]
    lines.append(console.table(("simulate", "mixture", "split", "shard", "heard as", "SNR, dB"), rows, right=(5,)))
    if len(lineage.appearances) > _SHOWN:
        lines.append(f"… and {len(lineage.appearances) - _SHOWN:,} more mixtures; --json names them all")
    lines.append("")
    if not lineage.readers:
        return "\n".join([*lines, "no model, test or export used these mixtures"])
    used = [(one.stage, one.fingerprint, one.state, one.used, one.folder) for one in lineage.readers]
    lines.append(console.table(("used by", "fingerprint", "state", "how", "where"), used))
    return "\n".join(lines)


# --- a model ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ModelLineage:
    """What an output was made of.

    Attributes:
        output: The output, as stage/fingerprint.
        folder: Where it is.
        weights_sha256: Of its weights; empty if it has none.
        stages: The output and all that it was made from, in the order of the stages, with all that was recorded.
        dataset: Digest, splits and hours of the mixtures; empty if no dataset is among them.
        shards: Name, split, mixtures, seconds and sha256 of every shard.
        licences: What was heard in them.
        notes: What does not fit together any more.
    """

    output: str
    folder: str
    weights_sha256: str
    stages: list[Json]
    dataset: Json
    shards: list[Json]
    licences: list[LicenceUse]
    notes: list[str]


def locate(model: Path, workspace: Path, stages: Sequence[str]) -> tuple[Workspace, Output]:
    """Find the output that a folder is, belongs to, or is a copy of.

    Args:
        model: A stage's folder, the model folder inside of one, or a copy of a model folder.
        workspace: Where to look for the original of a copy.
        stages: Names of the stages in their order.

    Raises:
        UserError: It is none of them.
    """
    path = model.expanduser().resolve()
    for folder in (path, *list(path.parents)[:2]):
        if (folder / IDENTITY_RECORD).exists():
            home = Workspace(folder.parent.parent, stages)
            return home, next(one for one in home.outputs if one.folder == folder)
    weights = path / _WEIGHTS if path.is_dir() else path
    if not weights.is_file():
        raise UserError(f"{model}: no stage's folder and no model folder (it has no {_WEIGHTS}); give one of them")
    digest = ledger.sha256_file(weights)
    home = Workspace(workspace, stages)
    for one in reversed(home.outputs):
        files = one.finished.record["files"] if one.finished else {}
        if any(Path(name).name == _WEIGHTS and facts["sha256"] == digest for name, facts in files.items()):
            return home, one
    raise UserError(f"{model}: its weights (sha256 {digest[:12]}…) are no output in {workspace}; give that --workspace")


def of_model(workspace: Workspace, output: Output) -> ModelLineage:
    """Collect what an output was made of, back to ingest."""
    chain = workspace.ancestors(output)
    notes = [note for one in chain for note in _doubts(workspace, one)]
    dataset = next((one for one in chain if one.stage == "simulate"), None)
    about: Json = {}
    shards: list[Json] = []
    uses: list[LicenceUse] = []
    if dataset is not None:
        about = ledger.read_json(dataset.folder / "dataset.json") or {}
        shards = _shards(dataset)
        uses = licences.from_json(about["licences"]) if "licences" in about else _uses(workspace, dataset)
    files = output.finished.record["files"] if output.finished else {}
    digest = next((facts["sha256"] for name, facts in files.items() if Path(name).name == _WEIGHTS), "")
    return ModelLineage(
        output=output.name,
        folder=str(output.folder),
        weights_sha256=digest,
        stages=[_recorded(workspace, one) for one in chain],
        dataset=about,
        shards=shards,
        licences=uses,
        notes=notes,
    )


def _doubts(workspace: Workspace, output: Output) -> Iterator[str]:
    for stage, parent in workspace.parents(output).items():
        digest = str(output.identity[f"input {stage}"])
        if parent is None:
            yield f"{output.name} read an output of {stage} that is gone (digest {digest[:12]}…)"
        elif parent.finished is not None and parent.finished.digest != digest:
            yield f"{output.name} read {parent.name} before that was run again: its digest was {digest[:12]}…"
    if output.finished is None:
        yield f"{output.name} was begun and is not finished"


def _recorded(workspace: Workspace, output: Output) -> Json:
    record = output.finished.record if output.finished else {}
    names = ("digest", "code_commit", "finished_at", "seconds", "mlflow_run", "versions", "books")
    parents = {stage: parent.fingerprint if parent else None for stage, parent in workspace.parents(output).items()}
    return {
        "stage": output.stage,
        "fingerprint": output.fingerprint,
        "folder": str(output.folder),
        "state": "finished" if output.finished else "begun",
        "parents": parents,
        **{name: record.get(name) for name in names},
        "identity": output.identity,
    }


def _shards(dataset: Output) -> list[Json]:
    found = []
    for path in dataset.parts(".index.parquet"):
        table = pq.read_table(path, columns=["shard", "split", "sha256", "seconds"])
        if table.num_rows:
            first = table.slice(0, 1).to_pylist()[0]
            found.append({**first, "mixtures": table.num_rows, "seconds": pc.sum(table["seconds"]).as_py()})
    return found


def _uses(workspace: Workspace, dataset: Output) -> list[LicenceUse]:
    """Roll up the licences of a dataset whose record was written before it held them."""
    parents = workspace.parents(dataset)
    ingested, rooms = parents.get("ingest"), parents.get("rooms")
    return licences.roll_up(
        dataset.parts(".index.parquet"),
        dataset.parts(".recipes.parquet"),
        ingested.parts(".parquet") if ingested else [],
        rooms.folder / "index.parquet" if rooms else None,
    )


def model_table(lineage: ModelLineage) -> str:
    """Write a model's lineage for people."""
    lines = [lineage.output, f"  {lineage.folder}"]
    if lineage.weights_sha256:
        lines.append(f"  weights sha256 {lineage.weights_sha256}")
    rows = []
    for one in lineage.stages:
        kept = (one["books"] or {}).get("kept", {"utterances": 0, "seconds": 0.0})
        count = f"{kept['utterances']:,}" if one["books"] else ""
        hours = f"{kept['seconds'] / 3600:,.3f}" if one["books"] else ""
        parents = ", ".join(f"{stage}/{name or 'gone'}" for stage, name in one["parents"].items())
        commit = str(one["code_commit"] or "")
        commit = commit[:10] + ("-dirty" if commit.endswith("-dirty") else "")
        when = str(one["finished_at"] or one["state"])[:16]
        rows.append((one["stage"], one["fingerprint"], count, hours, when, commit, parents))
    heads = ("stage", "fingerprint", "kept", "hours", "finished", "code", "made from")
    lines += ["", console.table(heads, rows, right=(2, 3)), ""]
    about = lineage.dataset
    if about:
        splits = ", ".join(
            f"{name} {split['mixtures']:,} mixtures ({split['hours']:,.3f} h)"
            for name, split in about["splits"].items()
        )
        lines += [f"dataset  {about['digest']}", f"         {len(lineage.shards)} shards: {splits}", ""]
        lines += [console.table(licences.HEADS, licences.cells(lineage.licences), right=(3, 4)), ""]
        lines += [f"NOTE  part of the data {line}" for line in licences.warnings(lineage.licences)]
    lines += [f"NOTE  {note}" for note in lineage.notes]
    last = lineage.stages[-1]["identity"]
    for one in lineage.stages:
        if one["stage"] == "train":
            last = one["identity"]
    lines += ["", f"config of {last['stage']} (revision {last['revision']}, seed {last['seed']}):"]
    lines += [f"  {key.removeprefix('config.')} = {value}" for key, value in last.items() if key.startswith("config.")]
    return "\n".join(lines)


def to_json(lineage: UtteranceLineage | ModelLineage) -> str:
    """Write a lineage for programs: all of it."""
    return json.dumps(dataclasses.asdict(lineage), indent=1, ensure_ascii=False)

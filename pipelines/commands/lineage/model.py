"""What a model was made of: the chain back to ingest, its dataset, shards and licences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from flowse.data import licences
from flowse.data.licences import LicenceUse
from flowse.errors import UserError
from flowse.files import sha256_file
from pipelines.commands.lineage.workspace import Output, Workspace
from pipelines.engine import console, ledger
from pipelines.engine.ledger import IDENTITY_RECORD, Json

_WEIGHTS = "model.safetensors"


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
    digest = sha256_file(weights)
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
        lines += [console.table(licences.HEADER, licences.cells(lineage.licences), right=(3, 4)), ""]
        lines += [f"NOTE  part of the data {line}" for line in licences.warnings(lineage.licences)]
    lines += [f"NOTE  {note}" for note in lineage.notes]
    last = lineage.stages[-1]["identity"]
    for one in lineage.stages:
        if one["stage"] == "train":
            last = one["identity"]
    lines += ["", f"config of {last['stage']} (revision {last['revision']}, seed {last['seed']}):"]
    lines += [f"  {key.removeprefix('config.')} = {value}" for key, value in last.items() if key.startswith("config.")]
    return "\n".join(lines)

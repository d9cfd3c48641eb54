"""What a model was made of: the chain back to ingest, its dataset, shards and licences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from flowse import console
from flowse.data import licences
from flowse.data.licences import LicenceUse
from flowse.data.parquet import read_columns
from flowse.data.shards import IndexRow
from flowse.errors import UserError
from flowse.files import sha256_file
from flowse.json_records import to_json
from flowse.simulation.dataset import DatasetSummary
from pipelines.commands.lineage.workspace import Workspace, events_of, segments_of
from pipelines.corpora.forgotten import used_by
from pipelines.engine.records import IDENTITY_RECORD
from pipelines.engine.workspace import Output

_WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class StageLineage:
    """One of the outputs that a model was made from, or the model itself.

    Attributes:
        output: The output.
        parents: Fingerprint of each output that it was made from, by stage; None: that output is gone.
    """

    output: Output
    parents: Mapping[str, str | None]

    def to_json(self) -> dict[str, Any]:
        """Return all that was recorded, for programs; what only a finished stage has is null for one that is begun."""
        record = self.output.finished.record if self.output.finished else None
        return {
            "stage": self.output.stage,
            "fingerprint": self.output.fingerprint,
            "folder": str(self.output.folder),
            "state": "finished" if record else "begun",
            "parents": dict(self.parents),
            "digest": record and record.digest,
            "code_commit": record and record.code_commit,
            "finished_at": record and record.finished_at,
            "seconds": record and record.seconds,
            "mlflow_run": record and record.mlflow_run,
            "versions": record and dict(record.versions),
            "books": record and to_json(record.report),
            "identity": to_json(self.output.identity),
        }


@dataclass(frozen=True)
class ShardLineage:
    """One shard of the mixtures.

    Attributes:
        shard: Name of the tar.
        split: Part of the data.
        sha256: Hash of the tar.
        seconds: Length of all its mixtures.
        mixtures: Number of mixtures.
    """

    shard: str
    split: str
    sha256: str
    seconds: float
    mixtures: int


@dataclass(frozen=True)
class ModelLineage:
    """What an output was made of.

    Attributes:
        output: The output, as stage/fingerprint.
        folder: Where it is.
        weights_sha256: Of its weights; empty if it has none.
        stages: The output and all that it was made from, in the order of the stages.
        dataset: Summary of the mixtures; None if there are none.
        shards: Every shard of the mixtures.
        licences: Licences of the recordings that are heard in them.
        notes: What does not fit together any more.
        segments: The stretches of the training with the same settings and data, a line each, in their order.
        events: What befell the training, a line each: mixtures that it left out, checkpoints that were damaged.
    """

    output: str
    folder: str
    weights_sha256: str
    stages: list[StageLineage]
    dataset: DatasetSummary | None
    shards: list[ShardLineage]
    licences: list[LicenceUse]
    notes: list[str]
    segments: list[str]
    events: list[str]


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
            for output in home.outputs:
                if output.folder == folder:
                    return home, output
            raise UserError(
                f"{folder / IDENTITY_RECORD}: damaged, or of no stage of this version; delete the folder, and its "
                "output is made again when it is needed"
            )
    weights = path / _WEIGHTS if path.is_dir() else path
    if not weights.is_file():
        raise UserError(f"{model}: no stage's folder and no model folder (it has no {_WEIGHTS}); give one of them")
    digest = sha256_file(weights)
    home = Workspace(workspace, stages)
    for output in reversed(home.outputs):
        if _weights_digest(output) == digest:
            return home, output
    raise UserError(f"{model}: its weights (sha256 {digest[:12]}…) are no output in {workspace}; give that --workspace")


def of_model(workspace: Workspace, output: Output) -> ModelLineage:
    """Collect what an output was made of, back to ingest."""
    chain = workspace.ancestors(output)
    notes = [note for member in chain for note in _inconsistencies(workspace, member)]
    notes += [
        f"{member.name} used {entry.recordings:,} recording(s) of corpus {entry.corpus} that were forgotten later, on "
        f"{entry.since[:10]}"
        for member in chain
        for entry in used_by(workspace.folder, member.name)
    ]
    trained = next((member for member in reversed(chain) if member.stage == "train"), None)
    datasets = [member for member in chain if member.stage == "simulate"]
    if trained is not None and (newest := workspace.parents(trained).get("simulate")) in datasets:
        # The others are data of earlier segments.
        datasets.sort(key=lambda member: member != newest)
    summary = None
    shards: list[ShardLineage] = []
    uses: list[LicenceUse] = []
    for number, dataset in enumerate(datasets):
        path = dataset.folder / "dataset.json"
        about = DatasetSummary.read(path) if path.exists() else None
        summary = summary if number else about
        known = {shard.sha256 for shard in shards}
        shards += [shard for shard in _shards(dataset) if shard.sha256 not in known]
        more = about.licences if about and about.licences is not None else _licence_uses(workspace, dataset)
        named = {(use.use, use.corpus, use.licence) for use in uses}
        uses += [use for use in more if (use.use, use.corpus, use.licence) not in named]
    return ModelLineage(
        output=output.name,
        folder=str(output.folder),
        weights_sha256=_weights_digest(output),
        stages=[_stage(workspace, member) for member in chain],
        dataset=summary,
        shards=shards,
        licences=uses,
        notes=notes,
        segments=[segment.describe() for segment in segments_of(trained)] if trained else [],
        events=events_of(trained.folder) if trained else [],
    )


def _inconsistencies(workspace: Workspace, output: Output) -> Iterator[str]:
    for stage, parent in workspace.parents(output).items():
        digest = output.identity.inputs[stage]
        if parent is None:
            yield f"{output.name} read an output of {stage} that is gone (digest {digest[:12]}…)"
        elif parent.finished is not None and parent.finished.digest != digest:
            yield f"{output.name} read {parent.name} before that was run again: its digest was {digest[:12]}…"
    for digest, data in workspace.earlier_data(output).items():
        if data is None:
            yield f"{output.name} read a dataset in an earlier segment that is gone (digest {digest[:12]}…)"
    if output.finished is None:
        yield f"{output.name} was begun and is not finished"
        return
    if own := [unit for unit in output.finished.lacks if unit.startswith(f"{output.stage}/")]:
        yield f"{output.name} does without {len(own)} quarantined units: {', '.join(own)}"


def _weights_digest(output: Output) -> str:
    """Return the hash of an output's weights; empty if it has none, or is not finished."""
    files = output.finished.record.files if output.finished else {}
    return next((facts.sha256 for name, facts in files.items() if Path(name).name == _WEIGHTS), "")


def _stage(workspace: Workspace, output: Output) -> StageLineage:
    parents = workspace.parents(output)
    return StageLineage(output, {stage: parent.fingerprint if parent else None for stage, parent in parents.items()})


def _shards(dataset: Output) -> list[ShardLineage]:
    found = []
    for path in dataset.parts(".index.parquet"):
        table = read_columns(path, IndexRow, ["shard", "split", "sha256", "seconds"])
        if table.num_rows:
            shard, split, sha256 = (table[name][0].as_py() for name in ("shard", "split", "sha256"))
            found.append(ShardLineage(shard, split, sha256, pc.sum(table["seconds"]).as_py(), table.num_rows))
    return found


def _licence_uses(workspace: Workspace, dataset: Output) -> list[LicenceUse]:
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
    rows = [_row(stage) for stage in lineage.stages]
    heads = ("stage", "fingerprint", "kept", "hours", "finished", "code", "made from")
    lines += ["", console.table(heads, rows, right=(2, 3)), ""]
    if lineage.segments:
        lines += [*(f"segment  {line}" for line in lineage.segments), ""]
    if lineage.events:
        lines += [*(f"befell   {line}" for line in lineage.events), ""]
    if lineage.dataset is not None:
        splits = ", ".join(
            f"{name} {split.mixtures:,} mixtures ({split.hours:,.3f} h)"
            for name, split in lineage.dataset.splits.items()
        )
        lines += [f"dataset  {lineage.dataset.digest}", f"         {len(lineage.shards)} shards: {splits}", ""]
        lines += [console.table(licences.HEADER, licences.cells(lineage.licences), right=(3, 4)), ""]
        lines += [f"NOTE  part of the data {line}" for line in licences.warnings(lineage.licences)]
    lines += [f"NOTE  {note}" for note in lineage.notes]
    trained = [stage.output.identity for stage in lineage.stages if stage.output.stage == "train"]
    shown = trained[-1] if trained else lineage.stages[-1].output.identity
    lines += ["", f"config of {shown.stage} (revision {shown.revision}, seed {shown.seed}):"]
    lines += [f"  {key} = {value}" for key, value in shown.settings.items()]
    return "\n".join(lines)


def _row(stage: StageLineage) -> tuple[str, ...]:
    parents = ", ".join(f"{name}/{fingerprint or 'gone'}" for name, fingerprint in stage.parents.items())
    where = (stage.output.stage, stage.output.fingerprint)
    if stage.output.finished is None:
        return (*where, "", "", "begun", "", parents)
    record = stage.output.finished.record
    commit = record.code_commit[:10] + ("-dirty" if record.code_commit.endswith("-dirty") else "")
    kept = record.report.kept
    return (*where, f"{kept.utterances:,}", f"{kept.hours:,.3f}", record.finished_at[:16], commit, parents)

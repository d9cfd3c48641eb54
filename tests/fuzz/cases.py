"""The fuzzer's cases: each is one damaged file and the cheapest command that reads it."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipelines.engine.unit_table import UnitTable
from tests.fuzz import mutation
from tests.fuzz.seeds import AUDIO, CLUSTER, EXPERIMENT, MODEL, WORKSPACE

PIPELINES, FLOWSE = "pipelines", "flowse"
COMMITTED = ("ingest", "rooms", "quality", "filter_language", "transcribe", "simulate", "train")


@dataclass(frozen=True)
class Case:
    """A command on a damaged input.

    Attributes:
        program: "pipelines" or "flowse".
        arguments: Its command line.
        damaged: The damaged file.
    """

    program: str
    arguments: list[str]
    damaged: Path


Maker = Callable[[Path, Path, random.Random], Case]
"""Writes a damaged input into the second folder, from the seeds in the first, and says which command reads it."""


def make(kind: str, seeds: Path, folder: Path, chance: random.Random) -> Case:
    """Write the input of one case into the empty folder `folder`."""
    return KINDS[kind](seeds, folder, chance)


def _where(seeds: Path, folder: Path) -> list[str]:
    return [
        f"--experiment={seeds / EXPERIMENT}",
        f"--cluster={seeds / CLUSTER}",
        f"--workspace={folder / WORKSPACE}",
    ]


def _ingest(seeds: Path, folder: Path, options: dict[str, Any], reader: str = "folder") -> list[str]:
    """Return the command line that ingests the corpus `folder/corpus`, beside the noise of the seeds."""
    experiment = yaml.safe_load((seeds / EXPERIMENT).read_text(encoding="utf-8"))
    speech = [{"name": "odd", "root": str(folder / "corpus"), "reader": reader, "options": options}]
    experiment["ingest"] |= {"speech": speech, "rirs": []}
    (folder / EXPERIMENT).write_text(yaml.safe_dump(experiment), encoding="utf-8")
    return ["run", "ingest", *_where(folder, folder)[:1], *_where(seeds, folder)[1:]]


def _audio(suffix: str) -> Maker:
    """Return the maker of damaged recordings: ingest reads three of four, `flowse enhance` one."""

    def maker(seeds: Path, folder: Path, chance: random.Random) -> Case:
        content = mutation.of_bytes((seeds / "recordings" / f"a.{suffix}").read_bytes(), chance)
        corpus = folder / "corpus"
        corpus.mkdir()
        damaged = corpus / f"damaged.{suffix}"
        damaged.write_bytes(content)
        if chance.random() < 0.25:
            target = str(folder / "out.wav")
            return Case(FLOWSE, ["enhance", str(damaged), target, "--quiet", f"--model={seeds / MODEL}"], damaged)
        shutil.copy2(seeds / "recordings" / "a.flac", corpus / "good.flac")
        return Case(PIPELINES, _ingest(seeds, folder, {}), damaged)

    return maker


def _csv(seeds: Path, folder: Path, chance: random.Random) -> Case:
    corpus = seeds / "corpora" / "speech"
    content = mutation.of_text((corpus / "table.csv").read_bytes(), chance)
    if chance.random() < 0.2:
        damaged, recordings = folder / "texts.csv", folder / "in"
        recordings.mkdir()
        shutil.copy2(seeds / "recordings" / "a.flac", recordings / "u1.flac")
        damaged.write_bytes(mutation.of_text(b"path,text\nu1.flac,hello there\n", chance))
        options = [f"--transcripts={damaged}", f"--model={seeds / MODEL}", "--quiet"]
        return Case(FLOWSE, ["enhance", str(recordings), str(folder / "out"), *options], damaged)
    return _corpus_with_table(seeds, folder, "table.csv", content)


def _parquet_table(seeds: Path, folder: Path, chance: random.Random) -> Case:
    content = mutation.of_table((seeds / "table.parquet").read_bytes(), chance)
    return _corpus_with_table(seeds, folder, "table.parquet", content)


def _corpus_with_table(seeds: Path, folder: Path, name: str, content: bytes) -> Case:
    corpus = folder / "corpus"
    corpus.mkdir()
    for number in range(3):
        shutil.copy2(seeds / "corpora" / "speech" / f"u{number}.flac", corpus)
    damaged = corpus / name
    damaged.write_bytes(content)
    return Case(PIPELINES, _ingest(seeds, folder, {"table": name, "language": "en"}), damaged)


def _workspace(seeds: Path, folder: Path) -> Path:
    return Path(shutil.copytree(seeds / WORKSPACE, folder / WORKSPACE))


def _stage(workspace: Path, name: str) -> Path:
    (record,) = (workspace / name).glob("*/identity.json")
    return record.parent


def _units(workspace: Path, name: str, suffix: str) -> list[Path]:
    """Return the files with this suffix of a stage's units."""
    return sorted((workspace / name / "units").glob(f"*{suffix}"))


def _record_again(damaged: Path) -> None:
    """Write size and hash of a damaged file into the records, as a stranger's workspace may have them."""
    content = damaged.read_bytes()
    facts = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    places = [damaged.parent, *(damaged.parent.parent.iterdir() if damaged.parent.name == "units" else ())]
    for path in sorted(record for place in {*places} for record in place.glob("*.json")):
        try:
            record = json.loads(path.read_bytes())
        except ValueError:
            continue  # it is the damaged file
        if not isinstance(record, dict):
            continue
        if isinstance(record.get("files"), dict) and damaged.name in record["files"]:
            record["files"][damaged.name] = facts
        elif path.name == "units.json" or path.parent.name == "pages":
            record = _table_again(record, damaged.name, facts)
        path.write_text(json.dumps(record), encoding="utf-8")
    for stage in sorted(damaged.parent.parent.glob("*/STAGE.json")):  # the list of units has another hash now
        listed = (stage.parent / "units.json").read_bytes()
        record = json.loads(stage.read_bytes())
        record["files"]["units.json"] = {"bytes": len(listed), "sha256": hashlib.sha256(listed).hexdigest()}
        stage.write_text(json.dumps(record), encoding="utf-8")


def _table_again(columns: dict[str, Any], name: str, facts: dict[str, Any]) -> dict[str, Any]:
    """Write size and hash of a file into a table of units."""
    names = UnitTable(columns).file_names()
    if name in names:
        at = names.index(name)
        columns["bytes"][at] = facts["bytes"]
        columns["sha256"] = columns["sha256"][: 64 * at] + facts["sha256"] + columns["sha256"][64 * (at + 1) :]
    return columns


def _any_reader(seeds: Path, folder: Path, stage: str, chance: random.Random) -> list[str]:
    """Choose a command that reads the output of a stage."""
    commands = [["status"], ["explain", "train"], ["verify"], ["verify", "--mend"], ["rejects"], ["gc"]]
    commands += [
        ["lineage", "--utterance", "speech/u1-flac"],
        ["run", "..simulate"],
        ["run", "rooms..simulate", "--force"],
    ]
    if stage in ("ingest", "quality", "filter_language", "transcribe"):
        commands += [["export-cuts", stage, str(folder / "cuts.jsonl")]]
    if stage == "simulate":
        commands += [["listen", "--count=1", f"--output={folder / 'page.html'}"]]
    if stage == "train":
        commands = [*commands[:4], ["lineage", "--model", str(_stage(folder / WORKSPACE, "train"))]]
    return [*chance.choice(commands), *_where(seeds, folder)]


def _done_record(seeds: Path, folder: Path, chance: random.Random) -> Case:
    stage = chance.choice(COMMITTED[:-1])
    workspace = _workspace(seeds, folder)
    records = [*_units(workspace, stage, ".json"), *sorted((workspace / stage / "pages").glob("*.json"))]
    damaged = chance.choice(records)
    if damaged.parent.name == "units":  # read only where no page has a copy
        shutil.rmtree(workspace / stage / "pages", ignore_errors=True)
    (_stage(workspace, stage) / "STAGE.json").unlink()
    return _damage_record(seeds, folder, stage, damaged, chance)


def _stage_record(seeds: Path, folder: Path, chance: random.Random) -> Case:
    stage = chance.choice(COMMITTED)
    name = chance.choice(("STAGE.json", "STAGE.json", "identity.json", "units.json"))
    return _damage_record(seeds, folder, stage, _stage(_workspace(seeds, folder), stage) / name, chance)


def _damage_record(seeds: Path, folder: Path, stage: str, damaged: Path, chance: random.Random) -> Case:
    content = damaged.read_bytes()
    if chance.random() < 0.4:
        damaged.write_bytes(mutation.of_bytes(content, chance))
    else:
        damaged.write_text(json.dumps(mutation.of_value(json.loads(content), chance)), encoding="utf-8")
    return Case(PIPELINES, _any_reader(seeds, folder, stage, chance), damaged)


def _part(seeds: Path, folder: Path, chance: random.Random) -> Case:
    """Damage a parquet part, or the index of a stage; half of them get a record that agrees with the damage."""
    stage = chance.choice(COMMITTED[:-1])
    workspace = _workspace(seeds, folder)
    damaged = chance.choice(
        [*_units(workspace, stage, ".parquet"), *sorted(_stage(workspace, stage).glob("*.parquet"))]
    )
    damaged.write_bytes(mutation.of_table(damaged.read_bytes(), chance))
    if chance.random() < 0.5:
        _record_again(damaged)
    return Case(PIPELINES, _any_reader(seeds, folder, stage, chance), damaged)


def _shard(seeds: Path, folder: Path, chance: random.Random) -> Case:
    """Damage a shard, or the description of the dataset; half of them get a record that agrees with the damage."""
    workspace = _workspace(seeds, folder)
    damaged = chance.choice([*_units(workspace, "simulate", ".tar"), _stage(workspace, "simulate") / "dataset.json"])
    content = damaged.read_bytes()
    if damaged.suffix == ".json" and chance.random() < 0.7:
        damaged.write_text(json.dumps(mutation.of_value(json.loads(content), chance)), encoding="utf-8")
    else:
        damaged.write_bytes(mutation.of_bytes(content, chance))
    if chance.random() < 0.5:
        _record_again(damaged)
    split = damaged.name.partition("-")[0] if damaged.suffix == ".tar" else "train"
    commands = (
        ["verify"],
        ["listen", f"--split={split}", "--count=5", f"--output={folder / 'page.html'}"],
        ["run", "train", "--force", "--set=train.max_steps=1", "--set=train.examples=0"],
    )
    return Case(PIPELINES, [*chance.choice(commands), *_where(seeds, folder)], damaged)


def _config(name: str) -> Maker:
    """Return the maker of damaged configurations."""

    def maker(seeds: Path, folder: Path, chance: random.Random) -> Case:
        content = (seeds / name).read_bytes()
        damaged = folder / name
        if chance.random() < 0.4:
            damaged.write_bytes(mutation.of_text(content, chance))
        else:
            text = yaml.safe_dump(mutation.of_value(yaml.safe_load(content), chance), allow_unicode=True)
            damaged.write_text(text, encoding="utf-8", errors="replace")
        flag = f"--{Path(name).stem}={damaged}"
        command = chance.choice((["status"], ["explain", "simulate"], ["run", "--dry-run", "--no-probe"], ["doctor"]))
        if command == ["doctor"] and chance.random() < 0.8:
            command = ["rejects"]
        return Case(PIPELINES, [*command, *_where(seeds, seeds), flag], damaged)

    return maker


def _export(name: str) -> Maker:
    """Return the maker of models with a damaged file."""

    def maker(seeds: Path, folder: Path, chance: random.Random) -> Case:
        model = Path(shutil.copytree(seeds / MODEL, folder / MODEL))
        damaged = model / name
        content = damaged.read_bytes()
        if damaged.suffix == ".json" and chance.random() < 0.7:
            damaged.write_text(json.dumps(mutation.of_value(json.loads(content), chance)), encoding="utf-8")
        else:
            damaged.write_bytes(mutation.of_bytes(content, chance))
        source = seeds / "recordings" / "a.wav"
        return Case(FLOWSE, ["enhance", str(source), str(folder / "out.wav"), "--quiet", f"--model={model}"], damaged)

    return maker


KINDS: dict[str, Maker] = {
    **{suffix: _audio(suffix) for suffix in AUDIO},
    "csv": _csv,
    "parquet table": _parquet_table,
    "parquet part": _part,
    "shard": _shard,
    "done record": _done_record,
    "stage record": _stage_record,
    "experiment": _config(EXPERIMENT),
    "cluster": _config(CLUSTER),
    "model config": _export("config.json"),
    "model weights": _export("model.safetensors"),
}
"""Maker of the cases of every kind."""

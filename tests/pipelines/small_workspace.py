"""A small workspace whose stages really ran, in this process instead of on Ray, for the tests that read workspaces."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from safetensors.torch import save_file

from flowse.data.manifest import Reject
from flowse.data.parquet import read_rows, write_rows
from flowse.model.spec import DiTConfig
from flowse.model.system import build
from flowse.seeding import generator
from flowse.simulation.recipe import MixtureConfig
from flowse.simulation.rooms import RoomDraw
from pipelines.engine.accounts import StageReport, merge
from pipelines.engine.context import Context
from pipelines.engine.fingerprint import UnitKeys, unit_settings
from pipelines.engine.plan import StagePlan, plan_stage
from pipelines.engine.records import IDENTITY_RECORD, REJECTS_SUFFIX, RunFacts, write_record
from pipelines.engine.stage import reads_of
from pipelines.engine.workspace import commit_stage, units_of
from pipelines.experiment import ExperimentConfig
from pipelines.stages import filter_language, ingest, quality, rooms, simulate, train, transcribe
from pipelines.stages.ingest import CorpusConfig, SplitShares, corpus_roots

STAGES = ("ingest", "rooms", "quality", "filter_language", "transcribe", "simulate", "train", "evaluate", "export")
DATA_STAGES = (ingest, rooms, quality, filter_language, transcribe, simulate)
RATE = 24_000


def speak(path: Path, number: int, seconds: float = 1.2) -> None:
    """Write noise in bursts: active and quiet in turns, as speech is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count = round(seconds * RATE)
    bursts = np.sin(9 * np.arange(count) / RATE) > -0.2
    soundfile.write(path, 0.1 * generator(number).standard_normal(count) * bursts, RATE)


def write_corpora(root: Path) -> None:
    """Speech under three licences (one unknown), a broken file, noise, and two responses of one room."""
    rows = ["path,text,speaker,licence"]
    for number in range(12):
        speak(root / "speech" / f"u{number}.flac", number)
        licence = "CC-BY-NC-4.0" if number % 3 == 0 else "CC0-1.0"
        rows.append(f"u{number}.flac,hello there,s{number},{licence}")
    (root / "speech" / "broken.wav").write_bytes(b"RIFF")
    rows.append("broken.wav,hello,s0,CC0-1.0")
    (root / "speech" / "table.csv").write_text("\n".join(rows))
    rows = ["path,text,speaker"]
    for number in range(6):
        speak(root / "more" / f"v{number}.flac", 50 + number)
        rows.append(f"v{number}.flac,hello,t{number}")
    (root / "more" / "table.csv").write_text("\n".join(rows))
    for number in range(9):
        path = root / "noise" / f"n{number}.flac"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, 0.2 * generator(90 + number).standard_normal(RATE), RATE)
    for number in range(2):
        path = root / "rirs" / f"r{number}.wav"
        path.parent.mkdir(exist_ok=True)
        decay = 10 ** (-3 * np.arange(6000) / RATE / 0.2)
        samples = 0.1 * generator(70 + number).standard_normal(6000) * decay
        samples[:40], samples[40] = 0.0, 0.9
        soundfile.write(path, samples, RATE)


def small_config(root: Path) -> ExperimentConfig:
    """Configure an experiment on `write_corpora`'s tree that needs no Whisper."""

    def corpus(name: str, **values: Any) -> CorpusConfig:
        options = {"table": "table.csv", "language": "en"} if name in ("speech", "more") else {}
        return CorpusConfig(name=name, root=str(root / name), options=options, **values)

    effects: dict[str, Any] = dict.fromkeys(("equaliser", "clipping", "codec", "packet_loss", "band_limit"), 0.0)
    return ExperimentConfig(
        name="small",
        seed=11,
        ingest=ingest.Config(
            speech=(corpus("speech"), corpus("more")),
            noise=(corpus("noise", licence="CC-BY-4.0"),),
            rirs=(CorpusConfig(name="rirs", root=str(root / "rirs"), licence="Apache-2.0", split="train",
                               options={"speaker_regex": "r"}),),
            splits=SplitShares(dev=0.25, test=0.25),
            utterances_per_unit=7,
        ),
        rooms=rooms.Config(
            train_rooms=1, dev_rooms=1, test_rooms=1, max_s=0.3, image_order=1,
            draw=RoomDraw(sources=2, rt60_s=(0.15, 0.2), length_m=(3.0, 4.0), width_m=(2.5, 3.0)),
        ),
        filter_language=filter_language.Config(labels="trust"),
        transcribe=transcribe.Config(texts="trust"),
        simulate=simulate.Config(
            mixtures_per_shard=5, copies=2, mixture=MixtureConfig(reverberation=0.7, competitor=0.4, **effects)
        ),
        train=train.Config(
            model=DiTConfig(dim=32, depth=1, heads=2, conv_groups=4, text_dim=16, text_blocks=1),
            max_steps=50, frames_per_step=400, max_frames=120, validation_utterances=2, examples=1,
        ),
    )  # fmt: skip


def _begin(stage: Any, config: ExperimentConfig, workspace: Path, plans: dict[str, StagePlan]) -> Context:
    """Plan a stage and write its identity, as the runner does."""
    now = plan_stage(stage, config, workspace, plans)
    assert now.folder is not None
    reads = reads_of(stage, getattr(config, stage.NAME))
    inputs = {name: done for name in reads if (done := plans[name].finished) is not None}
    roots = corpus_roots(config.ingest, now.folder)
    section = getattr(config, stage.NAME)
    context = Context(
        now.folder,
        name=stage.NAME,
        seed=config.seed,
        units_folder=units_of(now.folder),
        keys=UnitKeys(stage.NAME, stage.REVISION, unit_settings(section), config.seed),
        inputs=inputs,
        roots=roots,
    )
    write_record(now.folder / IDENTITY_RECORD, now.identity)
    return context


def _finish(context: Context, report: StageReport, seconds: float) -> None:
    """Commit what a stage has written, as the runner does."""
    facts = RunFacts(
        parents={name: done.folder.name for name, done in context.inputs.items()},
        code_commit="abc",
        versions={},
        seconds=seconds,
        finished_at=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        worked_s=context.worked_s,
    )
    commit_stage(context.folder, report, context.records(), context.files, facts, hidden=context.hidden)


def run_stage(stage: Any, config: ExperimentConfig, workspace: Path, plans: dict[str, StagePlan]) -> StagePlan:
    """Do what the runner does for a data stage."""
    context = _begin(stage, config, workspace, plans)
    begun = time.time()
    report = stage.run(getattr(config, stage.NAME), context)
    with context.write("rejects.parquet") as path:
        write_rows(path, Reject, read_rows(context.parts(REJECTS_SUFFIX), Reject))
    _finish(context, report, time.time() - begun)
    plans[stage.NAME] = plan_stage(stage, config, workspace, plans)
    return plans[stage.NAME]


def run_data_stages(root: Path) -> tuple[Path, ExperimentConfig, dict[str, StagePlan]]:
    """Write the corpora and run ingest to simulate; return workspace, configuration and where each stage stands."""
    write_corpora(root / "corpora")
    config = small_config(root / "corpora")
    plans: dict[str, StagePlan] = {}
    for stage in DATA_STAGES:
        run_stage(stage, config, root / "w", plans)
    return root / "w", config, plans


def hand_on(
    stage: Any, config: ExperimentConfig, workspace: Path, plans: dict[str, StagePlan], files: Mapping[str, bytes]
) -> StagePlan:
    """Commit a stage that only wrote the given files, for what follows simulate."""
    context = _begin(stage, config, workspace, plans)
    for name, content in files.items():
        with context.write(name) as path:
            path.write_bytes(content)
    _finish(context, merge([]), 1.0)
    plans[stage.NAME] = plan_stage(stage, config, workspace, plans)
    return plans[stage.NAME]


def weights(config: ExperimentConfig, folder: Path) -> bytes:
    """Return the file of an untrained model's weights."""
    torch.manual_seed(0)
    save_file(build(config.train.spec()).state_dict(), folder / "weights.safetensors")
    return (folder / "weights.safetensors").read_bytes()

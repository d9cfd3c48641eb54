"""An experiment of two small corpora in real files."""

from __future__ import annotations

from pathlib import Path

import pytest
import soundfile

from flowse.seeding import generator
from pipelines.experiment import ExperimentConfig
from pipelines.stages.ingest import Config, CorpusConfig
from pipelines.stages.rooms import Config as RoomsConfig

RATE = 24_000


@pytest.fixture
def config(tmp_path: Path) -> ExperimentConfig:
    """Two clean corpora in real files."""
    for name in ("speech", "noise"):
        (tmp_path / name).mkdir()
        for number in range(6):
            samples = 0.1 * generator(number + 100 * len(name)).standard_normal(RATE)
            soundfile.write(tmp_path / name / f"{number}.flac", samples, RATE)
    corpora = Config(
        speech=(CorpusConfig(name="s", root=str(tmp_path / "speech")),),
        noise=(CorpusConfig(name="n", root=str(tmp_path / "noise")),),
    )
    return ExperimentConfig(ingest=corpora, rooms=RoomsConfig(train_rooms=2, dev_rooms=1, test_rooms=1))

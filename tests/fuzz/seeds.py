"""What the fuzzer damages: recordings, tables, a finished workspace, both configurations, and a model."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
import yaml

from flowse.seeding import generator
from tests.aac import write_aac
from tests.pipelines.small_workspace import hand_on, run_data_stages, weights
from tests.tiny import write_model

RATE = 24_000
AUDIO = ("wav", "flac", "ogg", "opus", "mp3", "m4a")
EXPERIMENT, CLUSTER, WORKSPACE, MODEL = "experiment.yaml", "cluster.yaml", "w", "model"


def build(folder: Path) -> None:
    """Write everything that cases start from; the same bytes each time, but for the times in the records."""
    from pipelines.stages import train

    _, config, plans = run_data_stages(folder)
    hand_on(train, config, folder / WORKSPACE, plans, {"model.safetensors": weights(config, folder)})
    (folder / EXPERIMENT).write_text(yaml.safe_dump(plain(config), sort_keys=False), encoding="utf-8")
    cluster: dict[str, Any] = {"backend": "local", "num_cpus": 1, "retries": 0, "max_failed_fraction": 1.0}
    (folder / CLUSTER).write_text(yaml.safe_dump(cluster), encoding="utf-8")
    write_model(folder / MODEL)
    _write_recordings(folder / "recordings")
    rows = [
        {"path": f"u{number}.flac", "text": "hello there", "speaker": f"s{number}", "offset_s": 0.0, "duration_s": 1.0}
        for number in range(3)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "table.parquet")


def plain(value: Any) -> Any:
    """Return a configuration as YAML can hold it."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def _write_recordings(folder: Path) -> None:
    """Write noise in bursts, as speech is, in every format."""
    folder.mkdir()
    count = round(0.8 * RATE)
    bursts = np.sin(9 * np.arange(count) / RATE) > -0.2
    samples = 0.1 * generator(1).standard_normal(count) * bursts
    soundfile.write(folder / "a.wav", samples, RATE)
    soundfile.write(folder / "a.flac", samples, RATE)
    soundfile.write(folder / "a.ogg", samples, RATE)
    soundfile.write(folder / "a.opus", samples, RATE, format="OGG", subtype="OPUS")
    soundfile.write(folder / "a.mp3", samples, RATE)
    write_aac(folder / "a.m4a", samples[None].astype(np.float32), RATE)

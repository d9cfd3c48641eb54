"""The paper's simulated test set, made of the corpora's own layouts and scored, from its configuration alone."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import soundfile

from pipelines.corpora.demo import speech
from tests.pipelines.program import CLUSTER, ROOT

RATE = 48_000
PLACES = ("DKITCHEN", "TBUS", "SPSQUARE")


def write(path: Path, samples: np.ndarray, rate: int = RATE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate)


def layouts(root: Path) -> None:
    """VCTK with a test speaker and another, WHAM! with three splits, DEMAND with test places and another."""
    rng = np.random.default_rng(0)
    # A pitch each: recordings of the same bytes are one recording.
    for speaker, pitch in (("p225", 40), ("p232", 50), ("p257", 60)):
        for number, text in enumerate(("Please call Stella.", "Ask her to bring these things with her.")):
            name = f"{speaker}_{number:03d}"
            said = speech.synthesise(text, speech.Voice("en", "m3", pitch, 160, 50))
            write(root / f"vctk/wav48_silence_trimmed/{speaker}/{name}_mic2.flac", said, speech.SAMPLE_RATE)
            transcript = root / f"vctk/txt/{speaker}/{name}.txt"
            transcript.parent.mkdir(parents=True, exist_ok=True)
            transcript.write_text(text)
    for part in ("tr", "cv", "tt"):
        write(root / f"wham/{part}/{part}1.wav", 0.05 * rng.standard_normal((8 * RATE, 2)))
    for place in PLACES:
        write(root / f"demand/{place}/ch01.wav", 0.05 * rng.standard_normal(8 * RATE))


def test_only_held_out_speakers_in_held_out_noise_are_scored_and_nothing_is_trained(tmp_path: Path) -> None:
    layouts(tmp_path)
    (tmp_path / "cluster.json").write_text(json.dumps(CLUSTER))
    settings = {
        "ingest.speech[0].root": tmp_path / "vctk",
        "ingest.noise[0].root": tmp_path / "wham",
        "ingest.noise[1].root": tmp_path / "demand",
        "evaluate.max_items": 1,
        "evaluate.speaker": "",
    }
    command = [sys.executable, "-m", "pipelines", "run", "..evaluate", f"--workspace={tmp_path / 'w'}"]
    where = ["--experiment=configs/experiment/paper-test.yaml", f"--cluster={tmp_path / 'cluster.json'}"]
    sets = [f"--set={key}={value}" for key, value in settings.items()]
    done = subprocess.run([*command, *where, *sets], cwd=ROOT, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (tmp_path / "w" / "train").exists()

    (index,) = (tmp_path / "w" / "simulate").glob("*/index.parquet")
    rows = pq.read_table(index).to_pylist()
    assert {(row["speaker"], row["split"]) for row in rows} == {("p232", "test"), ("p257", "test")}
    assert len(rows) == 4
    assert all(-5.5 <= row["snr_db"] <= 10.5 for row in rows)
    assert {row["room_id"] for row in rows} == {""}
    (summary,) = (tmp_path / "w" / "evaluate").glob("*/summary.json")
    assert json.loads(summary.read_text())["model"] == "flowse-small"
    heard = {noise for path in index.parents[1].glob("units/*.tar") for noise in noises(path)}
    assert heard
    allowed = ("wham/wham/tt/", "wham/tt/", "demand/tbus", "demand/spsquare")
    assert all(name.lower().startswith(allowed) for name in heard), heard


def noises(shard: Path) -> set[str]:
    """Every noise that a shard's mixtures name."""
    with tarfile.open(shard) as tar:
        metas = [json.load(tar.extractfile(member)) for member in tar if member.name.endswith(".json")]  # type: ignore[arg-type]
    return {noise for meta in metas for noise in meta["recipe"]["noise_ids"]}

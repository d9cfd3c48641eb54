"""What does an hour of speech cost in the data stages: processor time of one core, bytes, and units?

    python -m tests.benchmarks.rates [--files 300] [--seconds 5.2] [--copies 1]

Made-up speech in Opus, as long as the mean utterance of ten thousand hours in seven million utterances, goes through
the stages that need no GPU, in this process: ingest, rooms (by the room), quality without DNSMOS (`quality` measures
that), and simulate with its default effects. Printed is processor time, which other programs hardly move, and how many
times real time that is.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf

from pipelines.engine.plan import StagePlan
from pipelines.engine.units import UNITS
from pipelines.experiment import ExperimentConfig
from pipelines.stages import filter_language, ingest, quality, rooms, simulate, transcribe
from pipelines.stages.ingest import CorpusConfig
from tests.benchmarks.decode import make_files
from tests.benchmarks.machine import describe, table
from tests.pipelines.small_workspace import run_stage


def write_corpora(root: Path, files: int, seconds: float) -> None:
    """Write speech with a table of texts, and noise."""
    (root / "speech").mkdir(parents=True)
    (root / "noise").mkdir()
    rows = make_files(root / "speech", files, seconds)
    lines = [f"{row.path},some words that were said,speaker{number % 40}" for number, row in enumerate(rows)]
    (root / "speech" / "table.csv").write_text("\n".join(["path,text,speaker", *lines]))
    rng = np.random.default_rng(1)
    for number in range(20):
        sf.write(root / "noise" / f"{number}.flac", rng.normal(0, 0.1, 10 * 24_000), 24_000)


def configure(root: Path, copies: int) -> ExperimentConfig:
    """Configure the data stages; all but the sizes are defaults."""
    options = {"table": "table.csv", "language": "en"}
    speech = CorpusConfig(name="speech", root=str(root / "speech"), options=options, licence="CC0-1.0", split="train")
    noise = CorpusConfig(name="noise", root=str(root / "noise"), licence="CC0-1.0", split="train")
    return ExperimentConfig(
        name="rates",
        ingest=ingest.Config(speech=(speech,), noise=(noise,)),
        rooms=rooms.Config(train_rooms=16, dev_rooms=2, test_rooms=2),
        quality=quality.Config(dnsmos=False, min_bandwidth_hz=1.0),
        filter_language=filter_language.Config(labels="trust"),
        transcribe=transcribe.Config(texts="trust"),
        simulate=simulate.Config(copies=copies),
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=5.2)
    parser.add_argument("--copies", type=int, default=1)
    arguments = parser.parse_args()
    print(describe(), flush=True)
    audio_s = arguments.files * arguments.seconds
    lines = []
    with tempfile.TemporaryDirectory(prefix="flowse-rates-") as temporary:
        root, workspace = Path(temporary) / "corpora", Path(temporary) / "w"
        write_corpora(root, arguments.files, arguments.seconds)
        config = configure(root, arguments.copies)
        plans: dict[str, StagePlan] = {}

        def run(stage: Any) -> None:
            begun = time.process_time()
            with redirect_stdout(StringIO()):
                run_stage(stage, config, workspace, plans)
            used = time.process_time() - begun
            size = sum(path.stat().st_size for path in (workspace / stage.NAME / UNITS).iterdir())
            if stage is rooms:
                lines.append((stage.NAME, f"{used / 20:.2f} s a room", "", ""))
                return
            rate = f"{audio_s / used:,.0f} ×"
            written = f"{size / audio_s * 3600 / 1e6:.1f} MB"
            lines.append((stage.NAME, f"{used / audio_s * 3600:.1f} s an hour", rate, written))

        for stage in (ingest, rooms, quality, filter_language, transcribe, simulate):
            run(stage)
    print(f"{audio_s / 3600:.2f} h in {arguments.files} files, {arguments.copies} mixture(s) each")
    print(table(["stage", "processor time", "× real time", "written an hour"], lines))


if __name__ == "__main__":
    main()

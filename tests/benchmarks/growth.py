"""What does it cost to add, replace and remove recordings: units done again, by stage, and the time?

    python -m tests.benchmarks.growth [--recordings 10000] [--changed 5]

Short recordings of made-up speech (0.6 s at 8 kHz) go through the data stages, in this process, in units and shards of
about 500. Then some are added, some are replaced by others of equal size, some are taken away, and a corpus of noise is
added; the data stages run after each change. Intermediate units (plans of shards) are counted by themselves.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

from pipelines.engine.plan import StagePlan
from pipelines.stages.ingest import CorpusConfig
from tests.benchmarks.machine import describe, table
from tests.pipelines.small_workspace import DATA_STAGES, run_stage
from tests.pipelines.test_growth import Corpora, names_of

PER_UNIT = 500


def made(stages: Path, config: object) -> tuple[dict[str, tuple[int, int]], float]:
    """Run the data stages; return the units that each made (those that readers see, intermediate ones), and seconds."""
    plans: dict[str, StagePlan] = {}
    counts = {}
    begun = time.perf_counter()
    for stage in DATA_STAGES:
        before = names_of(stages / stage.NAME)
        with redirect_stdout(StringIO()):
            finished = run_stage(stage, config, stages, plans).finished  # type: ignore[arg-type]
        assert finished is not None
        new = names_of(stages / stage.NAME) - before
        seen = len(new & {*finished.units})
        counts[stage.NAME] = (seen, len(new) - seen)
    return counts, time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", type=int, default=10_000)
    parser.add_argument("--changed", type=int, default=5)
    arguments = parser.parse_args()
    print(f"{describe()}\n{arguments.recordings:,} recordings, {arguments.changed} changed at a time\n", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        corpora = Corpora(Path(folder) / "corpora")
        corpora.fill()
        speech = corpora.root / "first"
        for number in range(arguments.recordings - 9):
            corpora.write(
                speech / ("train", "train", "dev", "test")[number % 4] / f"speaker-{number % 97}-{number}.wav"
            )
        corpora.write_tables()
        config = corpora.config()
        config = dataclasses.replace(
            config,
            ingest=dataclasses.replace(config.ingest, utterances_per_unit=PER_UNIT),
            simulate=dataclasses.replace(config.simulate, mixtures_per_shard=PER_UNIT, copies=1),
        )
        lines = []

        def report(what: str) -> None:
            counts, seconds = made(Path(folder) / "w", config)
            cells = [f"{seen}" + (f" + {hidden}" if hidden else "") for seen, hidden in counts.values()]
            total = sum(seen for seen, _ in counts.values())
            lines.append((what, *cells, str(total), f"{seconds:.0f}"))
            print("  ".join(lines[-1]), flush=True)

        report("from scratch")
        report("nothing changed")
        files = corpora.files("first")
        chosen = files[len(files) // 9 :: len(files) // (arguments.changed + 1)][: arguments.changed]
        for number in range(arguments.changed):
            corpora.write(chosen[0].with_name(f"speaker-new-{number}.wav"))
        corpora.write_tables()
        report(f"{arguments.changed} added, of one speaker")
        for path in chosen:
            corpora.write(path)
        report(f"{arguments.changed} replaced, anywhere")
        for path in chosen:
            path.unlink()
        corpora.write_tables()
        report(f"{arguments.changed} removed, anywhere")
        for number in range(2):
            corpora.write(corpora.root / "more" / "noise" / f"{number}.wav")
        more = CorpusConfig(
            name="more-noise", root=str(corpora.root / "more" / "noise"), split="train", licence="CC0-1.0"
        )
        config = dataclasses.replace(
            config, ingest=dataclasses.replace(config.ingest, noise=(*config.ingest.noise, more))
        )
        report("2 noises added as a corpus")
    heads = ("change", *(stage.NAME for stage in DATA_STAGES), "units in all", "seconds")
    print(f"\n{table(heads, lines)}")


if __name__ == "__main__":
    main()

"""How fast are training examples made: read from shards, or mixed anew in every epoch (`train.mixing: dynamic`)?

    python -m tests.benchmarks.mixing [--utterances 200]

One process and one thread make the noisy and clean waveforms of made-up speech of 4 to 12 s at 16 kHz, half of it in
rooms, in turns, best of three epochs. Figures are seconds of audio a second of processor time; a loader also computes
log-mels, which takes the same on both sides.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from flowse.data.manifest import Utterance
from flowse.data.parquet import write_rows
from flowse.data.shards import IndexRow, ShardWriter, read_mixture
from flowse.simulation.mixer import Mixer
from flowse.simulation.recipe import MixtureConfig, draw_recipe
from flowse.simulation.redraw import Mixing, Redraw, Redrawer
from tests.benchmarks.machine import describe, table
from tests.benchmarks.simulate import PLAIN, RATE, World, make_world


def _shard(world: World, mixture: MixtureConfig, path: Path) -> list[IndexRow]:
    mixer = Mixer({"x": world.folder}, world.sources, sample_rate=RATE)
    candidates = mixer.sources_of("train").candidates
    with ShardWriter(path, path.name) as shard:
        for row in world.speech:
            recipe = draw_recipe(mixture, 0, row, 0, candidates)
            shard.add(mixer.to_store(row, recipe, mixer.render(recipe, row)))
    return shard.close()


def _redrawer(world: World, mixture: MixtureConfig) -> Redrawer:
    write_rows(world.folder / "all-noises.parquet", Utterance, world.noise)
    return Redrawer(
        Redraw(
            mixing=Mixing(mixture=mixture, seed=0, sample_rate=RATE),
            roots={"x": world.folder},
            recordings=(world.folder / "all-noises.parquet",),
            speech=(world.folder / "speech.parquet",),
            rooms=world.sources.rooms,
            responses=(),
            digest="benchmark",
            folder=world.folder / "lists",
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--utterances", type=int, default=200)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        world = make_world(Path(name), arguments.utterances)
        audio_s = sum(row.duration_s for row in world.speech)
        rows = _shard(world, PLAIN, world.folder / "train.tar")
        plain, effects = (_redrawer(world, mixture) for mixture in (PLAIN, MixtureConfig()))
        sides: dict[str, Callable[[IndexRow, int], object]] = {
            "stored: read from a shard": lambda row, epoch: read_mixture(world.folder, row),
            "dynamic, no effects": lambda row, epoch: plain(row.utt_id, 0, epoch),
            "dynamic, default effects": lambda row, epoch: effects(row.utt_id, 0, epoch),
        }
        seconds = dict.fromkeys(sides, float("inf"))
        for epoch in range(1, 4):
            for side, make in sides.items():
                begun = time.process_time()
                for row in rows:
                    make(row, epoch)
                seconds[side] = min(seconds[side], time.process_time() - begun)
    print(f"{describe()}\n{audio_s / 60:.0f} min of speech, one thread, best of 3 epochs\n")
    fastest = min(seconds.values())
    print(
        table(
            ("", "× real time, a core", "of stored"),
            [(side, f"{audio_s / taken:,.0f}", f"{fastest / taken:.0%}") for side, taken in seconds.items()],
        )
    )


if __name__ == "__main__":
    main()

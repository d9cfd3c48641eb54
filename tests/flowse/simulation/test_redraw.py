"""Laws of drawing anew: a mixture is a function of seed, epoch and utterance; epoch 0 has what the shards hold."""

import dataclasses
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from flowse.audio.flac import flac_bytes, from_flac_bytes
from flowse.data.manifest import Utterance
from flowse.data.parquet import write_rows
from flowse.errors import UserError
from flowse.refusal import Refusal
from flowse.simulation.mixer import Mixer
from flowse.simulation.plans import Planner
from flowse.simulation.recipe import MixtureConfig
from flowse.simulation.redraw import Mixing, Redraw, Redrawer
from tests.flowse.simulation.recordings import Recordings, write_recordings

CONFIG = MixtureConfig(competitor=0.3, equaliser=0.5, packet_loss=0.5, noise_only=0.2, codec=0.3)
RATE = 24_000


@pytest.fixture(name="recordings")
def _recordings(tmp_path: Path) -> Recordings:
    return write_recordings(tmp_path / "recordings")


def of(recordings: Recordings, folder: Path, seed: int = 3) -> Redraw:
    folder.mkdir(exist_ok=True)
    write_rows(folder / "speech.parquet", Utterance, recordings.speech)
    return Redraw(
        mixing=Mixing(mixture=CONFIG, seed=seed, sample_rate=RATE),
        roots=recordings.roots,
        recordings=(recordings.sources.noises,),
        speech=(folder / "speech.parquet",),
        rooms=recordings.sources.rooms,
        responses=(),
        digest=str(seed),
        folder=folder / "lists",
    )


def train(recordings: Recordings) -> list[Utterance]:
    return [row for row in recordings.speech if row.split == "train"]


def test_epoch_0_has_what_the_shards_hold_to_the_bit(recordings: Recordings, tmp_path: Path) -> None:
    redraw = of(recordings, tmp_path / "r")
    redrawer = Redrawer(redraw)
    sources, _ = redraw.lists()
    planner, mixer = Planner(CONFIG, 3, sources), Mixer(recordings.roots, sources, sample_rate=RATE)
    for row in train(recordings):
        for copy in range(2):
            recipe = planner.plan(row, copy).recipe
            assert recipe is not None
            stored = mixer.to_store(row, recipe, mixer.render(recipe, row))
            made = redrawer(row.utt_id, copy, 0)
            for mine, samples in ((made.noisy, stored.noisy), (made.clean, stored.clean)):
                np.testing.assert_array_equal(mine, from_flac_bytes(flac_bytes(samples, RATE))[0])
            assert made.text == stored.meta["text"]


def test_seed_epoch_and_utterance_decide_a_mixture_and_nothing_else_does(
    recordings: Recordings, tmp_path: Path
) -> None:
    first, again = (Redrawer(of(recordings, tmp_path / name)) for name in ("a", "b"))
    calls = [(row.utt_id, 0, epoch) for epoch in range(3) for row in train(recordings)]
    made = [first(*call) for call in calls]
    with ThreadPoolExecutor(3) as pool:
        others = list(pool.map(lambda call: again(*call), reversed(calls)))
    for mine, other in zip(made, reversed(others), strict=True):
        np.testing.assert_array_equal(mine.noisy, other.noisy)
        np.testing.assert_array_equal(mine.clean, other.clean)
    other_seed = Redrawer(of(recordings, tmp_path / "c", seed=4))
    assert not any(np.array_equal(other_seed(*call).noisy, mine.noisy) for call, mine in zip(calls, made, strict=True))


def test_epochs_differ_in_noise_and_not_in_length(recordings: Recordings, tmp_path: Path) -> None:
    redrawer = Redrawer(of(recordings, tmp_path / "r"))
    for row in train(recordings):
        epochs = [redrawer(row.utt_id, 0, epoch) for epoch in range(4)]
        assert len({len(made.noisy) for made in epochs}) == 1
        assert len({made.noisy.tobytes() for made in epochs}) == 4
        assert {made.text for made in epochs} <= {row.text, ""}
        assert all(made.clean.any() for made in epochs if made.text)


def test_a_recipe_that_cannot_be_rendered_is_replaced_and_a_recording_that_cannot_be_read_is_not(
    recordings: Recordings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    redrawer = Redrawer(of(recordings, tmp_path / "r"))
    render, seen = Mixer.render, []

    def fail_once(self: Mixer, recipe, row):  # type: ignore[no-untyped-def]
        seen.append(recipe)
        if len(seen) == 1:
            raise Refusal("silent_noise", "n is silent as heard")
        return render(self, recipe, row)

    monkeypatch.setattr(Mixer, "render", fail_once)
    row = train(recordings)[0]
    made = redrawer(row.utt_id, 0, 1)
    assert len(seen) == 2
    assert seen[0].noise_offsets_s != seen[1].noise_offsets_s
    monkeypatch.setattr(Mixer, "render", render)
    assert not np.array_equal(made.noisy, redrawer(row.utt_id, 0, 1).noisy)
    (recordings.roots[row.corpus] / row.path).unlink()
    fresh = Redrawer(of(recordings, tmp_path / "s"))
    # A mixture of noise alone does not read the speech; of four recipes in a row not all are.
    with pytest.raises(Refusal):
        [fresh(row.utt_id, 0, epoch) for epoch in range(8)]
    with pytest.raises(Refusal, match="nobody"):
        fresh("nobody", 0, 0)


def test_what_is_sent_to_other_processes_is_small(recordings: Recordings, tmp_path: Path) -> None:
    redraw = of(recordings, tmp_path / "r")
    assert len(pickle.dumps(redraw)) < 10_000
    with pytest.raises(TypeError, match="send its Redraw"):
        pickle.dumps(Redrawer(redraw))


def test_how_a_dataset_was_drawn_comes_back_as_it_was_written(tmp_path: Path) -> None:
    mixing = Mixing(mixture=dataclasses.replace(CONFIG, level_dbfs=(-30.0, -20.0)), seed=9, sample_rate=RATE)
    mixing.write(tmp_path / "mixing.json")
    assert Mixing.read(tmp_path / "mixing.json") == mixing
    (tmp_path / "mixing.json").write_text("{}")
    with pytest.raises(UserError, match=r"mixing\.json.*run simulate again"):
        Mixing.read(tmp_path / "mixing.json")

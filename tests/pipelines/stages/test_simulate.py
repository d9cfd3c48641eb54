"""Laws of the simulate stage: shards depend on seed and data alone, nothing leaks, every mixture is accounted for."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile as sf
from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

from flowse.audio.flac import flac_bytes
from flowse.data.content import content_of
from flowse.data.manifest import Split, Utterance
from flowse.data.parquet import read_rows, write_rows
from flowse.data.shards import check_shard, read_index, read_mixture
from flowse.errors import UserError
from flowse.seeding import generator
from flowse.simulation.facts import MixtureFacts
from flowse.simulation.mixer import Mixer
from flowse.simulation.plans import read_plan
from flowse.simulation.recipe import MixtureConfig, Recipe
from flowse.simulation.rir_bank import RirRow, measured_row, write_bank
from flowse.simulation.rirs import Rir
from flowse.simulation.rooms import RoomDraw
from flowse.simulation.sources import Sources
from pipelines.engine.accounts import StageReport
from pipelines.engine.backend import Backend
from pipelines.engine.context import Context, UnrecordedOutput
from pipelines.engine.fingerprint import UnitKeys, unit_settings
from pipelines.engine.local_units import map_units
from pipelines.engine.resources import Capacity, Node
from pipelines.engine.units import UnitFolder
from pipelines.stages import rooms, simulate
from tests.pipelines.doubles import RememberingTracker, backwards_by_many_workers, files_of

CONFIG = simulate.Config(mixtures_per_shard=4, copies=2)
PLAIN = MixtureConfig(band_limit=0.0, equaliser=0.0, clipping=0.0, codec=0.0, packet_loss=0.0)
DRY = dataclasses.replace(CONFIG, mixture=dataclasses.replace(PLAIN, reverberation=0.0))
RATE = 16_000


class _World:
    """What the stages before left: speech of six speakers, noises and rooms in three splits."""

    def __init__(self, folder: Path) -> None:
        self._place(folder)
        for stage in (*self.inputs.values(),):
            stage.folder.mkdir(parents=True)
        self.speech = [self._speech("demo", number) for number in range(12)]
        self.noises = [self._noise(number) for number in range(9)]
        self.rirs = [self._rir(number) for number in range(12)]
        self.write()

    def _place(self, folder: Path) -> None:
        self.folder = folder
        self.roots = {name: folder / name for name in ("demo", "more", "noise")}
        self.inputs = {name: UnrecordedOutput(folder / name) for name in ("ingest", "rooms", "transcribe")}

    @classmethod
    def again(cls, folder: Path) -> _World:
        """Return the world that another process has written."""
        world = cls.__new__(cls)
        world._place(folder)
        return world

    def _speech(self, corpus: str, number: int) -> Utterance:
        path = self.roots[corpus] / f"{number}.flac"
        path.parent.mkdir(exist_ok=True)
        rng = generator(100 + number)
        seconds = 1.0 + 0.13 * number
        bursts = np.sin(9 * np.arange(round(seconds * RATE)) / RATE) > -0.2
        sf.write(path, 0.1 * rng.standard_normal(len(bursts)) * bursts, RATE)
        split: Split = ("train", "train", "train", "dev", "test", "train")[number % 6]  # type: ignore[assignment]
        return Utterance(
            utt_id=f"{corpus}/{number}", corpus=corpus, kind="speech", path=path.name, split=split, text="hello",
            duration_s=len(bursts) / RATE, speaker=f"s{number % 6}", licence="CC0-1.0", language="en",
        )  # fmt: skip

    def _noise(self, number: int) -> Utterance:
        path = self.roots["noise"] / f"{number}.wav"
        path.parent.mkdir(exist_ok=True)
        seconds = 40.0 if number < 3 else 0.8 + number / 4
        sf.write(path, 0.2 * generator(200 + number).standard_normal((round(seconds * RATE), 2)), RATE)
        split: Split = ("train", "dev", "test")[number % 3]  # type: ignore[assignment]
        return Utterance(
            utt_id=f"noise/{number}", corpus="noise", kind="noise", path=path.name, split=split,
            duration_s=seconds, licence="CC-BY-4.0",
        )  # fmt: skip

    def _rir(self, number: int) -> tuple[RirRow, Rir]:
        time_s = np.arange(6000) / 24_000
        samples = 0.1 * generator(300 + number).standard_normal(6000) * 10 ** (-3 * time_s / 0.2)
        samples[:40], samples[40] = 0.0, 1.0
        rir = Rir(samples.astype(np.float32), 40)
        room, source = divmod(number, 2)
        split: Split = ("train", "dev", "test")[room % 3]  # type: ignore[assignment]
        return measured_row(f"room-{room}", source, split, rir, 24_000, corpus="slr28", licence="Apache-2.0"), rir

    def write(self) -> _World:
        """Write the stages' files as they now are."""
        write_rows(self.inputs["ingest"].folder / "part-0.parquet", Utterance, [*self.speech, *self.noises])
        half = len(self.speech) // 2
        write_rows(self.inputs["transcribe"].folder / "part-0.parquet", Utterance, self.speech[:half])
        write_rows(self.inputs["transcribe"].folder / "part-1.parquet", Utterance, self.speech[half:])
        bank = self.inputs["rooms"].folder
        write_bank(bank / "part-0.npy", bank / "index.parquet", "part-0", self.rirs)
        return self


@pytest.fixture(name="world")
def _world(tmp_path: Path) -> _World:
    return _World(tmp_path / "world")


def _run(
    world: _World, folder: str, config: simulate.Config = CONFIG, reverse: bool = False
) -> tuple[Path, StageReport]:
    tracker = RememberingTracker()
    context = Context(
        world.folder.parent / folder,
        name="simulate",
        seed=1,
        inputs=world.inputs,
        roots=world.roots,
        tracker=tracker,
        backend=Backend(Capacity((Node(1.0),)), backwards_by_many_workers if reverse else map_units, local=True),
    )
    report = simulate.run(config, context)
    assert tracker.set_tags["dataset_digest"] == json.loads((context.folder / "dataset.json").read_text())["digest"]
    return context.folder, report


def test_worker_and_order_change_no_byte(world: _World) -> None:
    forwards, report = _run(world, "forwards")
    backwards, again = _run(world, "backwards", reverse=True)
    assert report == again
    assert len([name for name in files_of(forwards) if name.endswith(".tar")]) >= 6
    assert len([name for name in files_of(forwards) if name.endswith(".tar")]) == report.metrics["shards"]
    assert files_of(forwards) == files_of(backwards)


def _everything(folder: Path, out: Path) -> None:
    """Make a bank of rooms, and mixtures with every effect; called in other processes, too."""
    world = _World.again(folder)
    draw = RoomDraw(rt60_s=(0.15, 0.3), length_m=(3.0, 4.0), width_m=(2.5, 3.5), height_m=(2.4, 2.6), sources=3)
    bank = Context(out / "rooms", name="rooms", seed=1, inputs=world.inputs, roots=world.roots)
    rooms.run(rooms.Config(train_rooms=4, dev_rooms=1, test_rooms=1, draw=draw), bank)
    often = dict.fromkeys(("band_limit", "equaliser", "clipping", "packet_loss", "competitor"), 0.6)
    config = dataclasses.replace(CONFIG, mixture=MixtureConfig(reverberation=0.8, codec=0.9, **often))
    context = Context(
        out / "simulate", name="simulate", seed=1, inputs={**world.inputs, "rooms": bank.output}, roots=world.roots
    )
    simulate.run(config, context)


def _other_processors() -> dict[str, dict[str, str]]:
    """Return environments in which NumPy, OpenBLAS and the C library do not use what this processor can do."""
    found = [name for name in __cpu_dispatch__ if __cpu_features__.get(name)]
    if platform.machine() != "x86_64":
        return {"plain": {"NPY_DISABLE_CPU_FEATURES": " ".join(found)}}
    return {
        "no AVX-512": {"NPY_DISABLE_CPU_FEATURES": " ".join(name for name in found if "512" in name or "V4" in name)},
        "of 2008": {
            "NPY_DISABLE_CPU_FEATURES": " ".join(found),
            "OPENBLAS_CORETYPE": "Nehalem",
            "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX512F,-AVX2,-AVX,-FMA,-FMA4",
        },
    }


def test_another_processor_writes_the_same_bytes(world: _World) -> None:
    """Rooms, filters and convolutions are rounded or exact before a lossy codec can make much of the last bit."""
    out = world.folder.parent
    _everything(world.folder, out / "here")
    here = {stage: files_of(out / "here" / stage) for stage in ("rooms", "simulate")}
    recipes = list(read_rows(sorted((out / "here" / "simulate" / "units").glob("*.recipes.parquet")), Recipe))
    assert {recipe.codec for recipe in recipes} == {"", "mp3", "opus"}
    for name, environment in _other_processors().items():
        call = (
            f"from {__name__} import _everything; _everything(Path({str(world.folder)!r}), Path({str(out / name)!r}))"
        )
        subprocess.run(
            [sys.executable, "-c", f"from pathlib import Path; {call}"],
            env={**os.environ, **environment, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONWARNINGS": "ignore"},
            check=True,
        )
        for stage, files in here.items():
            there = files_of(out / name / stage)
            assert list(there) == list(files)
            assert [path for path in files if there[path] != files[path]] == [], (name, stage)


def test_shards_are_whole_and_complete(world: _World) -> None:
    folder, report = _run(world, "out")
    rows = read_index(folder / "index.parquet")
    assert report.taken.utterances == report.kept.utterances == len(rows) == 8 * 2 + 2 + 2
    assert report.taken.seconds == pytest.approx(sum(row.seconds for row in rows), abs=1e-3)
    assert {(row.utt_id, row.copy) for row in rows} == {
        (row.utt_id, copy) for row in world.speech for copy in range(2 if row.split == "train" else 1)
    }
    for shard in {row.shard for row in rows}:
        mine = [row for row in rows if row.shard == shard]
        assert check_shard(folder / shard, mine) == []
        assert len({(row.split, row.corpus) for row in mine}) == 1
        assert len(mine) <= CONFIG.mixtures_per_shard
    about = json.loads((folder / "dataset.json").read_text())
    assert json.loads((folder / "croissant.json").read_text())["identifier"] == about["digest"]
    assert about["mixtures"] == len(rows)
    assert about["hours"] * 3600 == pytest.approx(sum(row.seconds for row in rows))
    assert about["splits"]["train"]["shards"] == len({row.shard for row in rows if row.split == "train"})
    assert about["speech"]["demo"]["licences"] == ["CC0-1.0"]
    assert about["noise"]["noise"] == {"recordings": 9, "licences": ["CC-BY-4.0"]}
    assert about["rooms"]["slr28"]["licences"] == ["Apache-2.0"]


def test_every_mixture_can_be_made_again_from_its_recipe(world: _World) -> None:
    """The stored recipe and the recordings that it names give the same FLAC bytes again."""
    folder, _ = _run(world, "out")
    known = {row.utt_id: row for row in (*world.speech, *world.noises)}
    splits = {row.room_id: row.split for row, _ in world.rirs} | {"": None}
    state, bank = folder / ".state", world.inputs["rooms"].folder
    sources = Sources(state / "noises.parquet", state / "competitors.parquet", bank / "index.parquet")
    mixer = Mixer(world.roots, sources, sample_rate=24_000)
    index = {row.key: row for row in read_index(folder / "index.parquet")}
    recipes = list(read_rows(sorted(folder.glob("units/*.recipes.parquet")), Recipe))
    assert {recipe.key for recipe in recipes} == set(index)
    for recipe in recipes:
        assert {known[name].split for name in (recipe.utt_id, *recipe.noise_ids)} == {recipe.split}
        assert splits[recipe.room_id] in (recipe.split, None)
        made = mixer.render(recipe, known[recipe.utt_id])
        stored = read_mixture(folder, index[recipe.key])
        assert flac_bytes(made.clean, 24_000) == flac_bytes(stored.clean, 24_000)
        assert flac_bytes(made.noisy, 24_000) == flac_bytes(stored.noisy, 24_000)


class _Workspace:
    """Runs simulate again and again over one folder of units, and tells which shards each run made."""

    def __init__(self, world: _World) -> None:
        self.world, self.runs = world, 0

    def run(self, config: simulate.Config = DRY) -> tuple[set[str], set[str]]:
        """Return all shards of the dataset, and those that were made for it."""
        self.runs += 1
        units = self.world.folder.parent / "units"
        before = {path.name for path in units.glob("*.tar")}
        context = Context(
            self.world.folder.parent / f"run-{self.runs}",
            seed=1,
            units_folder=units,
            keys=UnitKeys("simulate", simulate.REVISION, unit_settings(config), 1),
            inputs=self.world.write().inputs,
            roots=self.world.roots,
        )
        simulate.run(config, context)
        self.folder, shards = context.folder, {path.name for path in context.parts(".tar")}
        made = {path.name for path in units.glob("*.tar")} - before
        assert made <= shards
        return shards, made

    def naming(self, noise: str) -> set[str]:
        """Return the shards of the last run whose recipes name a noise."""
        units = self.world.folder.parent / "units"
        shards = {row.key: Path(row.shard).name for row in read_index(self.folder / "index.parquet")}
        named: set[str] = set()
        for path in {units / name.replace(".tar", ".recipes.parquet") for name in shards.values()}:
            named |= {shards[recipe.key] for recipe in read_rows(path, Recipe) if noise in recipe.noise_ids}
        return named


@pytest.fixture(name="workspace")
def _workspace(world: _World) -> _Workspace:
    world.speech += [
        dataclasses.replace(world.speech[number % 12], utt_id=f"demo/x{number}", offset_s=0.01 * number, duration_s=0.6)
        for number in range(60)
    ]
    return _Workspace(world)


def test_a_second_run_makes_nothing(workspace: _Workspace) -> None:
    shards, made = workspace.run()
    assert made == shards
    assert workspace.run() == (shards, set())


def test_a_new_noise_makes_again_only_the_shards_whose_mixtures_chose_it(workspace: _Workspace) -> None:
    workspace.run()
    noise = workspace.world._noise(9)
    assert noise.split == "train"
    workspace.world.noises.append(noise)
    shards, made = workspace.run()
    assert made == workspace.naming(noise.utt_id)
    assert 0 < len(made) < len(shards)


def test_a_noise_that_was_replaced_makes_again_only_the_shards_that_name_it(workspace: _Workspace) -> None:
    noises = workspace.world.noises
    path = workspace.world.roots["noise"] / noises[3].path
    noises[3] = dataclasses.replace(noises[3], content=content_of(path))
    workspace.run()
    audio, rate = sf.read(path)
    sf.write(path, audio[::-1], rate)
    noises[3] = dataclasses.replace(noises[3], content=content_of(path))
    shards, made = workspace.run()
    assert made == workspace.naming(noises[3].utt_id)
    assert 0 < len(made) < len(shards)


@pytest.mark.parametrize("competitor", [0.0, 1.0])
def test_a_new_corpus_of_speech_makes_its_own_shards_and_no_other(workspace: _Workspace, competitor: float) -> None:
    config = dataclasses.replace(DRY, mixture=dataclasses.replace(DRY.mixture, competitor=competitor))
    before, _ = workspace.run(config)
    workspace.world.speech += [workspace.world._speech("more", number) for number in range(12)]
    shards, made = workspace.run(config)
    assert made == shards - before
    assert before < shards
    assert all("-more-" in name for name in made)


@pytest.mark.parametrize("gone", [0, 20, 41])
def test_a_recording_less_makes_again_at_most_two_shards(workspace: _Workspace, gone: int) -> None:
    before, _ = workspace.run()
    workspace.world.speech.pop(gone)
    shards, made = workspace.run()
    assert len(made) <= 1
    assert len(before - shards) <= 2


def test_what_decides_no_mixture_makes_no_shard_again(workspace: _Workspace) -> None:
    """Another probability of the language, settings that change no recipe, another order of the rows."""
    shards, _ = workspace.run()
    workspace.world.speech = [dataclasses.replace(row, language_prob=0.5) for row in workspace.world.speech[::-1]]
    workspace.world.noises.reverse()
    assert workspace.run() == (shards, set())
    unused = dataclasses.replace(
        DRY, mixture=dataclasses.replace(DRY.mixture, codecs=("mp3",), clipping_share=(0.1, 0.2))
    )
    assert workspace.run(unused) == (shards, set())
    fewer = dataclasses.replace(DRY, copies=1)
    kept, made = workspace.run(fewer)
    assert {name for name in kept if not name.startswith("train")} == {
        name for name in shards if not name.startswith("train")
    }
    assert all(name.startswith("train") for name in made)


def test_the_digest_of_the_dataset_does_not_depend_on_its_shards(workspace: _Workspace) -> None:
    digests = []
    for per_shard in (3, 50):
        workspace.run(dataclasses.replace(DRY, mixtures_per_shard=per_shard))
        digests.append(json.loads((workspace.folder / "dataset.json").read_text())["digest"])
    assert digests[0] == digests[1]


def test_a_mixture_that_is_refused_beforehand_becomes_a_reject_row(world: _World) -> None:
    """As after a worker's death, when the shard is tried without the mixture that killed it."""
    folder, _ = _run(world, "out")
    plan = min((folder / "units").glob("*train*.plan.parquet"))
    rows = len(list(read_plan(plan)))
    state, bank = folder / ".state", world.inputs["rooms"].folder
    sources = Sources(state / "noises.parquet", state / "competitors.parquet", bank / "index.parquet")
    shard = simulate.PlannedShard(plan, rows).refuse({0: ("worker_died", "killed by signal 9")}).refuse({})
    report = simulate.Worker(24_000, 0.5, world.roots, sources)(shard, UnitFolder(world.folder, "again"))
    (reject,) = report.rejects
    assert (reject.reason, reject.kind, reject.detail) == ("worker_died", "failed", "copy 0: killed by signal 9")
    assert report.kept.utterances == rows - 1


def test_without_effects_the_stored_ratio_is_the_recipes(world: _World) -> None:
    mixture = dataclasses.replace(PLAIN, noise_count_weights=(1.0,), target="reverberant")
    folder, _ = _run(world, "out", dataclasses.replace(CONFIG, mixture=mixture))
    for row in read_index(folder / "index.parquet"):
        meta = read_mixture(folder, row).meta
        assert meta["snr_db"] == pytest.approx(meta["recipe"]["noise_snrs_db"][0], abs=0.1)
        assert meta["checks"]["lag"] == 0
        assert meta["checks"]["peak"] <= 0.99 + 1e-6
        if meta["checks"]["guard_db"] == 0:
            assert meta["checks"]["level_dbfs"] == pytest.approx(meta["recipe"]["level_dbfs"], abs=0.1)


def test_adding_a_corpus_changes_no_other_mixture(world: _World) -> None:
    competing = dataclasses.replace(CONFIG, mixture=dataclasses.replace(PLAIN, competitor=1.0))
    before, _ = _run(world, "before", competing)
    world.speech += [dataclasses.replace(world._speech("more", number), speaker="") for number in range(20)]
    after, _ = _run(world.write(), "after", competing)
    new = {row.key: row for row in read_index(after / "index.parquet")}
    old = read_index(before / "index.parquet")
    assert len(new) > len(old)
    for row in old:
        old_mixture, new_mixture = read_mixture(before, row), read_mixture(after, new[row.key])
        assert old_mixture.meta == new_mixture.meta
        assert old_mixture.noisy.tobytes() == new_mixture.noisy.tobytes()
        assert old_mixture.clean.tobytes() == new_mixture.clean.tobytes()


def test_bad_speech_becomes_reject_rows_and_the_rest_is_made(world: _World) -> None:
    """Too short or silent speech is dropped, missing speech fails, and each copy is counted."""
    short, silent, gone = world.speech[0], world.speech[1], world.speech[2]
    world.speech[0] = dataclasses.replace(short, duration_s=0.3)
    sf.write(world.roots["demo"] / silent.path, np.zeros(round(silent.duration_s * RATE)), RATE)
    (world.roots["demo"] / gone.path).unlink()
    _, report = _run(world.write(), "out")
    assert {reason: tally.utterances for reason, tally in report.dropped.items()} == {"too_short": 2, "silent": 2}
    assert {reason: tally.utterances for reason, tally in report.failed.items()} == {"not_found": 2}
    assert report.kept.utterances == report.taken.utterances - 6


def test_long_speech_is_cropped_and_loses_its_text(world: _World) -> None:
    mixture = dataclasses.replace(PLAIN, max_s=1.5)
    folder, report = _run(world, "out", dataclasses.replace(CONFIG, mixture=mixture))
    rows = read_index(folder / "index.parquet")
    durations = {row.utt_id: row.duration_s for row in world.speech}
    assert report.metrics["cropped"] > 0
    for row in rows:
        assert row.seconds == pytest.approx(min(1.5, durations[row.utt_id]), abs=1e-4)
        assert row.text == ("hello" if durations[row.utt_id] <= 1.5 else "")


@pytest.mark.parametrize("what", ["speaker", "recording", "noise recording", "room"])
def test_a_leak_between_splits_stops_the_run(world: _World, what: str) -> None:
    train = next(row for row in world.speech if row.split == "train")
    if what == "speaker":
        world.speech.append(dataclasses.replace(train, utt_id="demo/x", path="x.flac", split="test"))
    elif what == "recording":
        world.speech.append(dataclasses.replace(train, utt_id="demo/x", speaker="", split="test"))
    elif what == "noise recording":
        world.noises.append(dataclasses.replace(world.noises[0], utt_id="noise/x", split="test"))
    else:
        row, rir = world.rirs[0]
        world.rirs.append((dataclasses.replace(row, split="test", source=9), rir))
    with pytest.raises(UserError, match=f"{what} .* stands in train and test"):
        _run(world.write(), "out")


def test_a_split_without_noise_stops_the_run(world: _World) -> None:
    world.noises = [row for row in world.noises if row.split != "test"]
    with pytest.raises(UserError, match="'test' has 2 mixtures to make and no noise"):
        _run(world.write(), "no-noise")
    world.noises = [dataclasses.replace(row, split=None) for row in world.noises]
    with pytest.raises(UserError, match="no split"):
        _run(world.write(), "no-split")


def test_a_split_without_rooms_stops_the_run_unless_none_are_asked_for(world: _World) -> None:
    world.rirs = [(row, rir) for row, rir in world.rirs if row.split != "dev"]
    with pytest.raises(UserError, match=r"rooms\.dev_rooms"):
        _run(world.write(), "no-rooms")
    dry = dataclasses.replace(CONFIG, mixture=dataclasses.replace(PLAIN, reverberation=0.0))
    _run(world, "dry", dry)


@pytest.mark.parametrize(("rate", "codecs"), [(44_100, ("opus", "mp3")), (32_000, ("opus",)), (96_000, ("mp3",))])
def test_a_codec_that_does_not_know_the_rate_is_refused_with_both_keys(rate: int, codecs: tuple[str, ...]) -> None:
    mixture = MixtureConfig(codec=0.1, codecs=codecs)
    both = rf"simulate\.sample_rate is {rate}.*simulate\.mixture\.codecs names '{codecs[0]}'"
    with pytest.raises(ValueError, match=both):
        simulate.Config(mixture=mixture, sample_rate=rate)
    simulate.Config(mixture=dataclasses.replace(mixture, codec=0.0), sample_rate=rate)


def test_rates_that_differ_and_no_speech_stop_the_run(world: _World) -> None:
    with pytest.raises(UserError, match=r"rooms\.sample_rate"):
        _run(world, "rates", dataclasses.replace(CONFIG, sample_rate=16_000))
    world.speech = []
    with pytest.raises(UserError, match="no speech"):
        _run(world.write(), "no-speech")


def test_recipes_are_a_table_of_every_choice(world: _World) -> None:
    folder, _ = _run(world, "out")
    table = pq.read_table(next(iter(folder.glob("units/train-*.recipes.parquet"))))
    assert table.column_names == [field.name for field in dataclasses.fields(Recipe)]


@pytest.mark.parametrize(("key", "value"), [("copies", 0), ("mixtures_per_shard", 0), ("min_s", 30.0)])
def test_a_bad_value_names_its_key(key: str, value: float) -> None:
    with pytest.raises(ValueError, match=key):
        simulate.Config(**{key: value})  # type: ignore[arg-type]


def test_noise_only_mixtures_are_in_the_shards_without_text_and_with_a_silent_target(world: _World) -> None:
    config = dataclasses.replace(CONFIG, mixture=dataclasses.replace(CONFIG.mixture, noise_only=0.4))
    folder, report = _run(world, "some", config)
    rows = read_index(folder / "index.parquet")
    silent = [row for row in rows if not row.has_speech]
    assert 0 < len(silent) < len(rows)
    assert report.metrics["noise_only"] == len(silent)
    for row in silent:
        mixture = read_mixture(folder, row)
        assert not mixture.clean.any()
        assert mixture.noisy.any()
        assert (row.text, row.speaker, row.language, row.snr_db) == ("", "", "", -120.0)
        facts = MixtureFacts.of(mixture.meta)
        assert (facts.recipe.target, facts.recipe.competitor_id, facts.rt60_s) == ("silence", "", None)
    # The other mixtures are those of a dataset without them, to the bit.
    plain, _ = _run(world, "none")
    contents = {row.key: row.content for row in read_index(plain / "index.parquet")}
    assert all(contents[row.key] == row.content for row in rows if row.has_speech)

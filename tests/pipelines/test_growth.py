"""The law of growth: after any change of the corpora, a run ends with the bytes of one from scratch for little work.

Recordings are added, removed, replaced (also by others of equal size and time), renamed, copied under another name, and
touched; rows of a table change their order. After each change ingest, filter_language, transcribe, rooms and simulate
run in the same workspace, in this process. `make test` tries a few sequences, `make faults` many.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowse.seeding import generator
from flowse.simulation.recipe import MixtureConfig
from flowse.simulation.rooms import RoomDraw
from pipelines.engine.plan import StagePlan
from pipelines.engine.records import UNIT_LIST
from pipelines.engine.workspace import StageFolder
from pipelines.experiment import ExperimentConfig
from pipelines.stages import filter_language, ingest, quality, rooms, simulate, transcribe
from pipelines.stages.ingest import CorpusConfig
from tests.pipelines.small_workspace import DATA_STAGES, run_stage

RATE = 8000
TABLE = "table.csv"
CORPORA = ("first", "second", "noise", "rirs")
SPEECH = CORPORA[:2]
SPLITS = ("train", "dev", "test")


@dataclass
class Corpora:
    """Folders of recordings that change, and the experiment that is made of them.

    Attributes:
        root: Their folder.
        written: Number of recordings that were made; each holds other samples.
        changed: Recordings that the last change touched.
        order: Names in the order of the rows of the tables, by corpus.
    """

    root: Path
    written: int = 0
    changed: int = 0
    order: dict[str, list[str]] = field(default_factory=dict)

    def fill(self) -> None:
        """Write what is there before the first change: speech of every split, noises and responses."""
        for corpus, count in (("first", 9), ("second", 4), ("noise", 6), ("rirs", 3)):
            for number in range(count):
                self.write(self.root / corpus / SPLITS[number % 3] / f"{number}.wav")
        self.write_tables()

    def write(self, path: Path, seconds: float = 0.6) -> None:
        """Write a recording that no other equals."""
        self.written += 1
        path.parent.mkdir(parents=True, exist_ok=True)
        count = round(seconds * RATE)
        samples = 0.1 * generator(self.written).standard_normal(count)
        if "rirs" in path.parts:
            samples *= 10 ** (-3 * np.arange(count) / RATE / 0.2)
            samples[:40], samples[40] = 0.0, 0.9
        elif "noise" not in path.parts:
            samples *= np.sin(9 * np.arange(count) / RATE) > -0.2
        soundfile.write(path, samples, RATE)

    def files(self, *corpora: str) -> list[Path]:
        return [path for corpus in corpora for path in sorted((self.root / corpus).rglob("*.wav"))]

    def write_tables(self) -> None:
        """Give every recording a row with text, speaker and split; tables keep the order of their rows."""
        for corpus in CORPORA:
            names = [path.relative_to(self.root / corpus).as_posix() for path in self.files(corpus)]
            order = [name for name in self.order.get(corpus, []) if name in names]
            self.order[corpus] = [*order, *(name for name in names if name not in order)]
            rows = ["path,text,speaker,language,split"]
            for name in self.order[corpus]:
                split, _, file = name.partition("/")
                rows.append(f"{name},said in {file},{split} speaker {ord(file[0]) % 2},en,{split}")
            (self.root / corpus / TABLE).write_text("\n".join(rows) + "\n")

    def change(self, what: str, number: int) -> str:
        """Change something, and return what; `number` decides which recording."""
        corpus = CORPORA[number % 4]
        choice = random.Random(number)
        # The first recordings stay, so that no split is ever without speech or noise.
        loose = [path for path in self.files(corpus) if path.stem not in "012"]
        path = choice.choice(loose or [self.root / corpus / "train" / "new.wav"])
        self.changed = 1
        if what != "reorder" and not loose:
            what = "add"
        if what == "add":
            split = choice.choice(SPLITS)
            self.write(self.root / corpus / split / f"{choice.choice('abcxyz345')}{number}.wav")
        elif what == "remove":
            path.unlink()
        elif what == "replace":
            status = path.stat()
            self.write(path.with_name("new.wav"), soundfile.info(path).frames / RATE)
            path.with_name("new.wav").replace(path)
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
            assert path.stat().st_size == status.st_size
        elif what == "lengthen":
            self.write(path, 0.9)
        elif what == "copy":  # under a name before or after its own, in its corpus or in another one of speech
            other = choice.choice(SPEECH) if corpus in SPEECH else corpus
            shutil.copyfile(path, self.root / other / path.parent.name / f"{choice.choice('acz')}{number}.wav")
        elif what == "rename":
            path.rename(path.with_name(f"{choice.choice('abcxyz')}{number}.wav"))
            self.changed = 2
        elif what == "touch":
            path.touch()
        else:
            choice.shuffle(self.order[corpus])
            self.changed = 0
        self.write_tables()
        return what

    def config(self) -> ExperimentConfig:
        def corpus(name: str) -> CorpusConfig:
            options = {"table": TABLE, "use_split": True}
            return CorpusConfig(name=name, root=str(self.root / name), licence="CC0-1.0", options=options)

        return ExperimentConfig(
            name="growth",
            seed=5,
            ingest=ingest.Config(
                speech=(corpus("first"), corpus("second")),
                noise=(corpus("noise"),),
                rirs=(corpus("rirs"),),
                utterances_per_unit=3,
            ),
            rooms=rooms.Config(
                train_rooms=1, dev_rooms=1, test_rooms=1, max_s=0.3, image_order=1, sample_rate=RATE,
                draw=RoomDraw(sources=2, rt60_s=(0.15, 0.2), length_m=(3.0, 4.0), width_m=(2.5, 3.0)),
            ),
            quality=quality.Config(dnsmos=False, min_bandwidth_hz=100.0),
            filter_language=filter_language.Config(labels="trust"),
            transcribe=transcribe.Config(texts="trust"),
            simulate=simulate.Config(
                mixtures_per_shard=4, copies=2, sample_rate=RATE,
                mixture=MixtureConfig(
                    reverberation=0.5, competitor=0.3,
                    equaliser=0.0, clipping=0.0, codec=0.0, packet_loss=0.0, band_limit=0.0,
                ),
            ),
        )  # fmt: skip


@dataclass(frozen=True)
class Result:
    """What a stage has left, as its readers see it.

    Attributes:
        files: Content of every file that a later stage may read, by suffix and place, or by name.
        made: Units that this run has made, by name.
        contents: Hashes of what each unit holds (audio, or else rows), by its name; hidden units are left out.
    """

    files: dict[str, bytes]
    made: list[str]
    contents: dict[str, str]


def run(corpora: Corpora, workspace: Path) -> dict[str, Result]:
    """Run all data stages."""
    plans: dict[str, StagePlan] = {}
    results = {}
    for stage in DATA_STAGES:
        before = names_of(workspace / stage.NAME)
        finished = run_stage(stage, corpora.config(), workspace, plans).finished
        assert finished is not None
        assert finished.verify() == []
        results[stage.NAME] = result_of(finished, before)
    return results


def names_of(stage: Path) -> set[str]:
    """Names of the units that are done."""
    return {path.stem for path in (stage / "units").glob("*.json")}


def result_of(finished: StageFolder, before: set[str]) -> Result:
    files = {name: (finished.folder / name).read_bytes() for name in finished.record.files if name != UNIT_LIST}
    for suffix in (".parquet", ".rejects.parquet", ".npy", ".tar", ".index.parquet", ".recipes.parquet"):
        files |= {f"{number}{suffix}": path.read_bytes() for number, path in enumerate(finished.parts(suffix))}
    made = sorted(names_of(finished.folder.parent) - before)
    contents: dict[str, str] = {}
    for suffix in (".parquet", ".npy", ".tar"):  # an index names its unit: another name is another content
        contents |= {file.unit: file.sha256 for file in finished.unit_files(suffix)}
    return Result(files, made, contents)


def check_law(root: Path, changes: list[tuple[str, int]]) -> None:
    """Apply changes one by one and run after each; compare the last result with one from scratch."""
    corpora = Corpora(root / "corpora")
    corpora.fill()
    before = run(corpora, root / "w")
    for what, number in changes:
        done = corpora.change(what, number)
        after = run(corpora, root / "w")
        require_little_work(done, corpora.changed, before, after)
        before = after
    anew = run(corpora, root / "anew")
    for stage, result in anew.items():
        assert result.files.keys() == before[stage].files.keys(), stage
        for name, content in result.files.items():
            assert content == before[stage].files[name], f"{stage}: {name} differs from that of a run from scratch"


def require_little_work(what: str, changed: int, before: dict[str, Result], after: dict[str, Result]) -> None:
    """Only units that hold what changed are made: two of each recording, or one for every unit whose input is new."""
    made = {stage: result.made for stage, result in after.items()}
    # A recording's own unit, one that a boundary joins or cuts off, and as many copies without repeated recordings,
    # also where the first of them was or is.
    assert len(made["ingest"]) <= 2 * 2 * changed + 2 * (what in ("copy", "remove", "rename", "replace", "lengthen"))
    new_parts = {*after["ingest"].contents.values()} - {*before["ingest"].contents.values()}
    assert len(made["filter_language"]) <= len(new_parts)
    assert len(made["transcribe"]) <= len(made["filter_language"])
    if what in ("touch", "reorder"):
        assert not any(made[stage] for stage in made if stage != "ingest")
    for stage in ("quality", "filter_language", "transcribe", "rooms", "simulate"):
        old = {*before[stage].contents.values()}
        if stage == "rooms" and what == "rename":
            continue  # the same samples under another name: the rows that tell of them are others
        again = [unit for unit in made[stage] if after[stage].contents.get(unit) in old]
        assert not again, f"{stage} has made {again} again, though nothing in them changed"


changes = st.lists(
    st.tuples(
        st.sampled_from(["add", "remove", "replace", "lengthen", "copy", "rename", "touch", "reorder"]),
        st.integers(0, 10_000),
    ),
    min_size=1,
    max_size=6,
)


def check(examples: int) -> Callable[[pytest.TempPathFactory], None]:
    """Return the law as a test of so many sequences of changes."""

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    @given(steps=changes)
    def law(tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]) -> None:
        root = tmp_path_factory.mktemp("growth")
        try:
            with mock.patch("os.fsync"):  # no crash is tested here, and a sequence writes thousands of files
                check_law(root, steps)
        finally:
            shutil.rmtree(root)

    return law


test_changed_corpora_give_the_bytes_of_a_run_from_scratch_for_little_work = pytest.mark.timeout(900)(check(4))
test_many_sequences_of_changes = pytest.mark.faults(pytest.mark.timeout(7200)(check(60)))


@pytest.mark.parametrize("brought_back", [True, False])
def test_audio_that_changed_under_the_run_is_refused_and_tried_again(tmp_path: Path, brought_back: bool) -> None:
    """Between ingest and simulate; the run after it sees the new file, or the old one again, and is as from scratch."""
    corpora = Corpora(tmp_path / "corpora")
    corpora.fill()
    plans: dict[str, StagePlan] = {}
    for stage in DATA_STAGES[:-1]:
        run_stage(stage, corpora.config(), tmp_path / "w", plans)
    path = corpora.files("first")[0]
    before = path.read_bytes()
    path.write_bytes(before[:-2] + b"xx")
    finished = run_stage(DATA_STAGES[-1], corpora.config(), tmp_path / "w", plans).finished
    assert finished is not None
    assert {reason: tally.utterances for reason, tally in finished.report.failed.items()} == {"changed_since_ingest": 2}
    if brought_back:
        path.write_bytes(before)
    after = run(corpora, tmp_path / "w")
    for stage, result in run(corpora, tmp_path / "anew").items():
        assert result.files == after[stage].files
    assert len(after["ingest"].made) == 1

"""Laws of a workspace in a store: what one machine publishes another sees, and nobody undoes what another has done."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from obstore.store import LocalStore, MemoryStore

from flowse.errors import DamagedFile, UserError
from flowse.fetching import use_source
from pipelines.commands.listen import choose
from pipelines.engine import mirror as mirror_module
from pipelines.engine.accounts import Tally, UnitReport
from pipelines.engine.lock import workspace_lock
from pipelines.engine.mirror import Mirror, mirror_of, open_mirror
from pipelines.engine.nearby import bring_files_here
from pipelines.engine.plan import plan
from pipelines.engine.records import FileFacts, RunFacts, require_recorded
from pipelines.engine.runner import Runner
from pipelines.engine.store import Store
from pipelines.engine.units import DoneUnits, UnitFolder, forget_units, write_page
from pipelines.engine.workspace import begun_units, commit_stage
from pipelines.experiment import ClusterConfig, ExperimentConfig
from pipelines.stages.ingest import corpus_roots
from tests.pipelines.small_workspace import DATA_STAGES, small_config, write_corpora
from tests.pipelines.two_stages import STAGES, carry_out, config

Machine = Callable[[str], Mirror]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Opens the folder of a machine by its name; all have one store."""
    monkeypatch.setattr(mirror_module, "_open", {})
    store = Store("memory://ws", MemoryStore())

    def open_one(name: str, stages: tuple[str, ...] = ("first", "second", "train")) -> Mirror:
        mirror = open_mirror(store, tmp_path / name, stages)
        mirror.refresh()
        return mirror

    return open_one


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def commit(mirror: Mirror, unit: str, content: bytes) -> Any:
    units = mirror.folder / "first" / "units"
    units.mkdir(parents=True, exist_ok=True)
    output = UnitFolder(units, unit)
    output.path(".parquet").write_bytes(content)
    return output.commit(Tally(1, 2.0), UnitReport(kept=Tally(1, 2.0)))


def test_only_the_folder_of_a_store_is_a_mirror(machine: Machine, tmp_path: Path) -> None:
    mirror = machine("a")
    assert mirror_of(tmp_path) is None
    assert mirror_of(mirror.folder / "first" / "units") is mirror
    mirror_module._open.clear()  # another process, which finds it by its marker
    other = Store("s3://bucket/ws")
    write(tmp_path / "b" / mirror_module.MARKER, b'{"url": "s3://bucket/ws"}')
    found = mirror_of(tmp_path / "b" / "x" / "y")
    assert found is not None
    assert found.store.url == other.url
    with pytest.raises(UserError, match="holds copies of s3://bucket/ws, not of s3://bucket/other"):
        open_mirror(Store("s3://bucket/other"), tmp_path / "b", ())
    (tmp_path / "plain" / "first").mkdir(parents=True)
    with pytest.raises(UserError, match="holds a workspace of its own"):
        open_mirror(other, tmp_path / "plain", ("first",))


def test_what_one_machine_finished_is_fresh_on_another_which_reads_the_same_bytes(machine: Machine) -> None:
    here = machine("a")
    for name in ("first", "second"):
        carry_out(here.folder, config(), name, name.encode())
    there = machine("b")
    plans = plan(STAGES, config(), there.folder)
    assert [stage.state for stage in plans.values()] == ["fresh", "fresh"]
    assert not (there.folder / "first" / "units").exists()  # records alone were copied
    finished = plans["first"].finished
    assert finished is not None
    assert [path.read_bytes() for path in finished.parts(".parquet")] == [b"first"]
    assert finished.verify() == []
    shutil.rmtree(there.folder)  # copies may be deleted
    assert plan(STAGES, config(), machine("b").folder)["second"].state == "fresh"


def test_large_files_of_a_stage_are_fetched_to_be_verified(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror_module, "_LARGE", 100_000)
    here = machine("a")
    begun = carry_out(here.folder, config(), "first", b"first", commit=False)
    assert begun.folder is not None
    weights = write(begun.folder / "model" / "weights", bytes(200_000))
    (record,) = begun_units(begun.folder).values()
    run = RunFacts(seconds=1.0, code_commit="c", finished_at="now", versions={})
    commit_stage(begun.folder, record.report, [record], {"model/weights": FileFacts.of(weights)}, run)
    there = machine("b")
    finished = plan(STAGES, config(), there.folder)["first"].finished
    assert finished is not None
    assert not (finished.folder / "model" / "weights").exists(), "it comes when it is read"
    assert finished.verify() == []
    assert finished.forget_damaged() == [], "else the stage would be made again"


def test_stages_that_are_listed_at_once_are_listed_anew_afterwards(machine: Machine) -> None:
    here = machine("a")
    units = here.folder / "first" / "units"
    with here.listed_at_once():
        commit(here, "u", b"one")
        assert "u" not in DoneUnits(units)
    assert "u" in DoneUnits(units)


def test_a_copy_that_rots_is_fetched_again_and_an_object_that_rots_is_one_line(machine: Machine) -> None:
    here = machine("a")
    carry_out(here.folder, config(), "first", b"first")
    finished = plan(STAGES, config(), here.folder)["first"].finished
    assert finished is not None
    (path,) = finished.parts(".parquet")
    path.write_bytes(b"frist")
    (path,) = finished.parts(".parquet")
    assert path.read_bytes() == b"first"
    (name,) = [name for name in here.store.list("first/units") if "@" in name]
    here.store.put(name, write(here.folder / "x", b"frist"))
    path.unlink()
    with pytest.raises(DamagedFile, match="content differs"):
        finished.parts(".parquet")
    assert finished.forget_damaged() != []
    assert plan(STAGES, config(), machine("b").folder)["first"].state == "incomplete"


def test_of_two_workers_with_other_bytes_for_one_unit_the_first_record_counts_for_both(machine: Machine) -> None:
    """A transcript of a GPU may differ from run to run, and a worker that was taken for dead may live."""
    first, second = commit(machine("a"), "u", b"one"), commit(machine("b"), "u", b"two")
    assert first == second
    there = machine("b")
    units = there.folder / "first" / "units"
    (name,) = second.files
    there.bring(units, second.files.items())
    assert require_recorded(units / name, second.files[name]).read_bytes() == b"one"
    assert DoneUnits(units).records() == {"u": first}


def test_a_unit_whose_upload_was_cut_is_not_done(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror = machine("a")

    def cut(*_: Any) -> str:
        raise UserError("the network is gone")

    with monkeypatch.context() as patched:
        patched.setattr(Store, "put_if", cut)
        with pytest.raises(UserError, match="network"):
            commit(mirror, "u", b"one")
    units = mirror.folder / "first" / "units"
    assert "u" not in DoneUnits(units)
    record = commit(mirror, "u", b"one")
    assert DoneUnits(units).records() == {"u": record}


def test_forgotten_units_are_forgotten_everywhere_and_in_pages(machine: Machine) -> None:
    here = machine("a")
    units = here.folder / "first" / "units"
    records = [commit(here, f"u{number}", b"x") for number in range(3)]
    write_page(units, records)
    assert set(DoneUnits(machine("b").folder / "first" / "units").records()) == {"u0", "u1", "u2"}
    forget_units(units, ["u1"])
    assert set(DoneUnits(machine("c").folder / "first" / "units").records()) == {"u0", "u2"}


def test_a_driver_that_lost_the_lock_publishes_nothing(machine: Machine) -> None:
    here, there = machine("a"), machine("b")
    record = "first/f/STAGE.json"

    def lost() -> None:
        raise UserError("lost the workspace")

    write(here.folder / record, b"of the first")
    here.fence = lost
    with pytest.raises(UserError, match="lost"):
        here.publish()
    assert there.store.list() == {}
    write(there.folder / record, b"of the second")
    there.publish()
    assert machine("c").folder.joinpath(record).read_bytes() == b"of the second"


def test_who_holds_the_lock_overwrites_what_a_late_write_left(machine: Machine) -> None:
    """The check of the fence and the write are two requests: between them the lock may go to another."""
    here, there = machine("a"), machine("b")
    record = "first/f/STAGE.json"
    write(here.folder / record, b"late")
    here.publish()
    write(there.folder / record, b"of who holds the lock")
    there.publish()
    assert there.store.get(record) == b"of who holds the lock"
    checks = iter((None, UserError("lost the workspace")))

    def lost_in_between() -> None:
        if (error := next(checks)) is not None:
            raise error

    write(here.folder / record, b"later still")
    here.fence = lost_in_between
    with pytest.raises(UserError, match="lost"):
        here.publish()
    assert there.store.get(record) == b"of who holds the lock"


def test_large_files_come_when_they_are_read_and_old_ones_go(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror_module, "_LARGE", 10)
    here = machine("a")
    model = write(here.folder / "train" / "f" / "model.bin", b"x" * 11)
    here.publish()
    write(model, b"y" * 12)
    here.publish()
    assert len(here.store.list("train")) == 1
    there = machine("b")
    assert not (there.folder / "train" / "f" / "model.bin").exists()
    there.bring_tree(there.folder / "train")
    assert (there.folder / "train" / "f" / "model.bin").read_bytes() == b"y" * 12
    there.publish()
    assert there.store.list("train").keys() == here.store.list("train").keys()


def test_records_that_a_run_deletes_go_and_nothing_else_does(machine: Machine) -> None:
    here = machine("a")
    folder = here.folder / "first" / "f"
    for name in ("planned.json", "u.quarantine.txt", "index.parquet"):
        write(folder / name, b"x")
    here.publish()
    for name in ("planned.json", "u.quarantine.txt", "index.parquet"):
        (folder / name).unlink()
    here.publish("first")
    assert list(here.store.list("first")) == ["first/f/index.parquet"]
    shutil.rmtree(here.folder)
    with pytest.raises(UserError, match="was deleted while a run was using it"):
        here.publish()
    assert list(here.store.list("first")) == ["first/f/index.parquet"]


def test_what_is_private_to_a_machine_stays_there(machine: Machine) -> None:
    here = machine("a")
    for name in (
        "mlflow.db",
        "LOCK",
        "first/f/.state/x",
        "first/f/.1.tmp.x",
        "reports/page.html",
        "train/.runs/r/ray/x",
    ):
        write(here.folder / name, b"x")
    write(here.folder / "train/.runs/r/checkpoints/step-1/state.json", b"x")
    here.publish()
    assert list(here.store.list()) == ["train/.runs/r/checkpoints/step-1/state.json"]


def test_a_checkpoint_that_was_not_published_any_more_survives_a_pull(machine: Machine) -> None:
    here = machine("a")
    state = write(here.folder / "train/.runs/r/state.json", b"step 1")
    here.publish()
    write(state, b"step 2")  # the driver dies here
    write(here.folder / "train/.runs/r/new.json", b"new")
    os.utime(state, ns=(10**18, 10**18))
    here = machine("a")
    assert state.read_bytes() == b"step 2"
    here.publish()
    assert here.store.get("train/.runs/r/state.json") == b"step 2"
    assert here.store.get("train/.runs/r/new.json") == b"new"


def test_records_of_a_driver_that_died_before_it_published_are_not_taken_for_finished(machine: Machine) -> None:
    here = machine("a")
    record = write(here.folder / "first" / "f" / "STAGE.json", b"{}")
    machine("a")
    assert not record.exists()


def test_a_command_beside_a_run_sees_the_folder_as_the_run_left_it(machine: Machine) -> None:
    here = machine("a")
    with workspace_lock(here.folder, "a run"):
        record = write(here.folder / "first" / "f" / "planned.json", b"x")
        machine("a")  # status
        assert record.exists()
        with pytest.raises(UserError, match="in use"), workspace_lock(machine("b").folder, "another"):
            pass
    assert list(here.store.list("first")) == ["first/f/planned.json"]


def test_a_run_that_fails_as_the_store_is_away_does_not_wait_for_it_again(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = machine("a")
    published: list[tuple[str, ...]] = []
    monkeypatch.setattr(Mirror, "publish", lambda mirror, *stages: published.append(stages))
    with pytest.raises(ZeroDivisionError), workspace_lock(here.folder, "a run"):
        raise ZeroDivisionError
    assert published, "what is done is published, whatever ends a run"
    published.clear()

    def away(store: Store) -> None:
        raise UserError("the store does not answer")

    monkeypatch.setattr(Store, "require_answer", away)
    with pytest.raises(ZeroDivisionError), workspace_lock(here.folder, "a run"):
        raise ZeroDivisionError
    assert not published


def test_copies_are_deleted_the_longest_unread_first_but_not_those_that_are_needed(machine: Machine) -> None:
    here = machine("a")
    for number in range(4):
        commit(here, f"u{number}", b"x" * 1000)
        for path in (here.folder / "first" / "units").glob(f"u{number}*"):
            os.utime(path, ns=(number * 10**9, number * 10**9))
    units = here.folder / "first" / "units"
    assert here.trim(0, [units]) == 0
    freed = here.trim(2500, [])
    assert freed > 0
    left = sorted(path.name for path in units.glob("*.parquet"))
    assert left == ["u2.parquet", "u3.parquet"][-len(left) :]
    assert set(DoneUnits(units).records()) == {"u0", "u1", "u2", "u3"}


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> ExperimentConfig:
    root = tmp_path_factory.mktemp("corpora")
    write_corpora(root)
    return small_config(root)


def test_the_data_stages_write_the_same_bytes_in_a_store_and_other_machines_go_on(
    corpora: ExperimentConfig, machine: Any, tmp_path: Path
) -> None:
    names = [stage.NAME for stage in DATA_STAGES]

    def run(workspace: Path, *wanted: str) -> dict[str, list[str]]:
        cluster = ClusterConfig(backend="local", num_cpus=1)
        roots = corpus_roots(corpora.ingest, workspace / "made")
        with workspace_lock(workspace, "run"):
            plans = Runner(DATA_STAGES, corpora, cluster, workspace, roots).run(wanted, force=False)
        finished = {name: done for name in wanted if (done := plans[name].finished) is not None}
        return {
            name: sorted(
                (file, done.table.facts(at).sha256) for at, file in enumerate(done.table.file_names())
            ) + [(file, facts.sha256) for file, facts in sorted(done.record.files.items())]
            for name, done in finished.items()
        }  # fmt: skip

    (tmp_path / "plain").mkdir()
    expected = run(tmp_path / "plain", *names)
    half = len(names) // 2
    found = run(machine("a", tuple(names)).folder, *names[:half])
    shutil.rmtree(tmp_path / "a")
    found |= run(machine("b", tuple(names)).folder, *names[half:])
    assert found == expected

    laptop = machine("laptop", tuple(names)).folder  # which has no shard
    bring_files_here()
    try:
        simulated = plan(DATA_STAGES, corpora, laptop)["simulate"].finished
        assert simulated is not None
        assert choose(simulated, "train", 1, 0).facts, "the pages that show mixtures fetch what they show"
    finally:
        use_source(None)


def test_a_recording_that_was_unpacked_is_deleted_in_the_store_too(machine: Machine) -> None:
    laptop = machine("laptop")
    for name in ("a.flac", "b.flac"):
        write(laptop.folder / "made" / "hub" / name, name.encode())
    laptop.publish()
    laptop.delete_file(laptop.folder / "made" / "hub" / "a.flac")
    left = list(laptop.store.list("made"))
    assert len(left) == 1
    assert "b.flac" in left[0]


def test_a_workspace_in_a_folder_of_another_is_found_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:

    def store_at(url: str) -> Store:
        return Store(url, LocalStore(tmp_path / "bucket" / url.partition("bucket/")[2], mkdir=True))

    monkeypatch.setattr(mirror_module, "Store", store_at)
    (tmp_path / "x").write_bytes(b"{}")
    store_at("s3://bucket/a/ws").put("LISTED.json", tmp_path / "x")
    for url, found in (
        ("s3://bucket/a/ws/train", "s3://bucket/a/ws"),
        ("s3://bucket/a/ws/train/x/y", "s3://bucket/a/ws"),
        ("s3://bucket/a/ws", ""),
        ("s3://bucket/a/ws/other", ""),
        ("s3://bucket/train/ws", ""),
        ("s3://bucket/a", ""),
    ):
        assert mirror_module.above(store_at(url), ("train",)) == found, url

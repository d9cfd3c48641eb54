"""Laws of ranks that train together: the result of one alone, no hang at unequal work, one coordinator, one end.

Every test has its own time limit: what goes wrong here is that ranks wait for each other for ever.
"""

import dataclasses
import datetime
import itertools
import json
import os
import shutil
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from flowse.metrics.scores import Score
from flowse.metrics.scoring import RecordingVersions
from flowse.metrics.testsets import Item
from flowse.training import checkpoint_writer, loop
from flowse.training.checkpoint import latest, listed, load, path_of
from flowse.training.listen_config import ListenConfig
from flowse.training.listening import Listener, Listening, ListeningError
from flowse.training.lora_config import LoraConfig
from flowse.training.ranks import Ranks
from flowse.training.skipped import SkipList
from flowse.training.stopping import StopRequest
from tests.flowse.metrics.test_scores import score
from tests.flowse.training import test_loop
from tests.flowse.training.test_loop import SPEC, broken, read, rows, trainer

pytestmark = pytest.mark.timeout(240)

QUIET = dataclasses.replace(SPEC, model=dataclasses.replace(SPEC.model, dropout=0.0))
WORLDS = [
    ("ddp", 2),
    ("fsdp", 4),
    pytest.param("fsdp", 2, marks=pytest.mark.faults),
    pytest.param("ddp", 4, marks=pytest.mark.faults),
]
Run = tuple[Path, list[loop.Progress]]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The training that the others are compared with, by one rank; nobody writes there."""
    folder = tmp_path_factory.mktemp("alone")
    return folder, list(trainer(folder, QUIET, loop={"max_steps": 8}).run())


@pytest.fixture(scope="module")
def by_fours(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """Losses of that training where a step's utterances are a multiple of four."""
    run = trainer(tmp_path_factory.mktemp("fours"), QUIET, loop={"max_steps": 8, "divisible_by": 4})
    return [p.losses["loss"] for p in run.run()]


def _rank(rank: int, world_size: int, port: int, case: str, folder: Path, options: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    store = dist.TCPStore("127.0.0.1", port, world_size, rank == 0, timeout=datetime.timedelta(seconds=60))
    limit = datetime.timedelta(seconds=60)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size, timeout=limit)
    result = CASES[case](rank, folder, options)
    (folder / f"rank-{rank}.json").write_text(json.dumps(result))
    dist.destroy_process_group()


def together(case: str, world_size: int, folder: Path, **options: Any) -> list[Any]:
    """Run a case in as many processes; return what each rank says."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = int(found.getsockname()[1])
    # Not "fork": a thread of this process may hold a lock of MKL's, on which the child would wait for ever.
    mp.set_forkserver_preload(["flowse.training.loop"])
    arguments = (world_size, port, case, folder, options)
    mp.start_processes(_rank, arguments, nprocs=world_size, start_method="forkserver")
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(world_size)]


def _steps(run: loop.Trainer) -> list[Any]:
    return [[p.step, p.losses["loss"], p.validation and p.validation["loss"]] for p in run.run()]


def _train(rank: int, folder: Path, options: dict[str, Any]) -> Any:
    run = trainer(folder, QUIET, loop={"max_steps": 8}, **options)
    begun = run.state.step
    steps = _steps(run)
    weights = torch.cat([_whole(p).flatten() for p in run.system.parameters()])
    return {"begun": begun, "steps": steps, "norm": float(weights.norm())}


def _whole(weight: torch.Tensor) -> torch.Tensor:
    whole: torch.Tensor = getattr(weight.detach(), "full_tensor", weight.detach)()
    return whole


def _train_some_steps(rank: int, folder: Path, options: dict[str, Any]) -> Any:
    steps = options.pop("steps")
    run = trainer(folder, QUIET, loop={"max_steps": 8, "checkpoint_every": 1, "divisible_by": 4}, **options)
    running = run.run()
    found = [[p.step, p.losses["loss"]] for p in itertools.islice(running, steps)]
    running.close()
    return {"begun": run.state.step - len(found), "steps": found}


def _train_without_a_common_folder(rank: int, folder: Path, options: dict[str, Any]) -> Any:
    # As pipelines.engine.run_folder keeps them: rank 0's folder is the run's, the others have copies of before.
    mine = folder / str(rank)
    if rank and options.pop("copied"):
        shutil.copytree(folder / "0", mine, dirs_exist_ok=True)
    options.pop("copied", None)
    return _train_some_steps(rank, mine, options)


def _train_with_one_validation_mixture(rank: int, folder: Path, options: dict[str, Any]) -> Any:
    test_loop.rows = lambda count=24: rows(1 if count == 4 else count)
    return _train(rank, folder, options)


def _train_with_a_stale_listing(rank: int, folder: Path, options: dict[str, Any]) -> Any:
    if rank:
        loop.newest_whole = lambda folder: (listed(folder)[0], [])
    return _train(rank, folder, options)


def _train_with_a_nan(rank: int, folder: Path, options: dict[str, Any]) -> Any:
    run = trainer(folder, QUIET, read=broken, **options)
    steps = _steps(run)
    return {"steps": steps, "skipped": [[row.step, row.key, row.kind, row.rank] for row in run.skipped.rows]}


def _train_until_one_is_terminated(rank: int, folder: Path, options: dict[str, Any]) -> Any:
    with StopRequest(folder) as stop:
        run = trainer(folder, QUIET, loop={"max_steps": 5000, "validate_every": 0, "checkpoint_every": 0}, stop=stop)
        for progress in run.run():
            if progress.step == 3 and rank == 1:
                os.kill(os.getpid(), signal.SIGTERM)
    return {"stopped": run.stopped, "step": run.state.step}


def _train_with_a_full_disk(rank: int, folder: Path, options: dict[str, Any]) -> Any:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    if rank == 1:
        checkpoint_writer.file_facts = fail
    try:
        _steps(trainer(folder, QUIET, loop={"max_steps": 8}))
    except OSError as error:
        return str(error)
    return "no error"


def _decide(rank: int, folder: Path, options: dict[str, Any]) -> Any:
    ranks = Ranks()

    def fail() -> int:
        raise ValueError(f"decided by rank {rank}")

    try:
        ranks.first(fail)
    except ValueError as error:
        message = str(error)
    return [ranks.first(lambda: rank + 7), ranks.totals([rank, 1]), ranks.gather(f"r{rank}"), message]


def _listener(rank: int, folder: Path, judge: Callable[..., Any]) -> Listener:
    """Three recordings, of which `judge` says what they are worth."""
    items = []
    for number in range(3):
        path = folder / f"{number}-{rank}.wav"
        sf.write(path, 0.1 * np.random.default_rng(number).standard_normal(8000), 16_000)
        items.append(Item(key=f"r{number}", test_set="real", seconds=0.5, noisy=path))
    Listener._judge = judge  # type: ignore[method-assign]
    listening = Listening(ListenConfig(every=1), "metric:ovrl", tuple(items), "digest")
    return Listener(listening, QUIET, folder, seed=0, rank=rank, world_size=dist.get_world_size())


def _train_by_ear(rank: int, folder: Path, options: dict[str, Any]) -> Any:
    def judge(self: Listener, recording: RecordingVersions, weights: Any) -> list[Score]:
        if weights is not None:
            self.norm = float(sum(value.square().sum() for value in weights.values()))  # type: ignore[attr-defined]
        worth = float(recording.item.key[1:]) + self.norm  # type: ignore[attr-defined]
        return [score(recording.item.key, signal, worth) for signal in ("noisy", "enhanced")]

    run = trainer(folder, QUIET, loop={"max_steps": 8}, listener=_listener(rank, folder, judge), **options)
    heard = [p.heard["ovrl"] for p in run.run() if p.heard]
    return {"heard": heard, "step": run.state.heard_step, "best": run.state.heard}


def _train_until_one_cannot_hear(rank: int, folder: Path, options: dict[str, Any]) -> Any:
    def judge(self: Listener, recording: RecordingVersions, weights: Any) -> list[Score]:
        if rank == 1:
            raise MemoryError("no memory")
        return [score(recording.item.key, signal, 1.0) for signal in ("noisy", "enhanced")]

    run = trainer(folder, QUIET, loop={"max_steps": 8}, listener=_listener(rank, folder, judge), **options)
    try:
        list(run.run())
    except ListeningError as error:
        return {"message": str(error), "step": run.state.step}
    return {}


CASES: dict[str, Callable[[int, Path, dict[str, Any]], Any]] = {
    "train": _train,
    "some steps": _train_some_steps,
    "folders": _train_without_a_common_folder,
    "one validation mixture": _train_with_one_validation_mixture,
    "stale": _train_with_a_stale_listing,
    "nan": _train_with_a_nan,
    "terminated": _train_until_one_is_terminated,
    "full disk": _train_with_a_full_disk,
    "decide": _decide,
    "listen": _train_by_ear,
    "deaf": _train_until_one_cannot_hear,
}


@pytest.mark.parametrize(("parallel", "world_size"), WORLDS)
def test_ranks_resume_from_one_and_give_its_result(parallel: str, world_size: int, alone: Run, tmp_path: Path) -> None:
    # The ranks resume a training that one rank began.
    shutil.copytree(path_of(alone[0], 4), path_of(tmp_path, 4))
    found = together("train", world_size, tmp_path, parallel=parallel)
    assert len({rank["norm"] for rank in found}) == 1
    assert [step for step, _, _ in found[0]["steps"]] == [5, 6, 7, 8]
    for (step, loss, validation), p in zip(found[0]["steps"], alone[1][4:], strict=True):
        assert (step, loss) == pytest.approx((p.step, p.losses["loss"]), rel=2e-3)
        if p.validation is not None:
            assert validation == pytest.approx(p.validation["loss"], rel=2e-3)
    first, second = (load(latest(folder) or Path()) for folder in (alone[0], tmp_path))
    for name, value in first.ema.items():
        assert torch.allclose(value, second.ema[name], atol=1e-3), name
    assert second.state.segments[-1].world_sizes == (1, world_size)


def test_weights_are_spread_anew_at_every_start(by_fours: list[float], tmp_path: Path) -> None:
    shared, found = tmp_path / "many", []
    for parallel, world_size in (("ddp", 2), ("fsdp", 4), ("fsdp", 2), ("ddp", 4)):
        ranks = together("some steps", world_size, shared, parallel=parallel, steps=2)
        assert all(rank == ranks[0] for rank in ranks)
        assert ranks[0]["begun"] == len(found)
        found += [loss for _, loss in ranks[0]["steps"]]
    assert found == pytest.approx(by_fours, rel=2e-3)
    # Every rank wrote a share of each kind of tensor.
    newest = latest(shared) or Path()
    assert sorted(path.name for path in newest.glob("*.safetensors")) == [
        f"{kind}-{rank:05d}.safetensors" for kind in ("ema", "model", "optimizer") for rank in range(4)
    ]
    sizes = [sum(path.stat().st_size for path in newest.glob(f"*-{rank:05d}.safetensors")) for rank in range(4)]
    assert max(sizes) < 1.5 * min(sizes)
    assert load(newest).state.segments[-1].world_sizes == (2, 4, 2, 4)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_ranks_without_a_common_folder_write_and_read_by_way_of_rank_0(
    parallel: str, by_fours: list[float], tmp_path: Path
) -> None:
    found = []
    for copied in (False, False, True):
        ranks = together("folders", 2, tmp_path, parallel=parallel, steps=2, copied=copied)
        assert all(rank == ranks[0] for rank in ranks)
        assert ranks[0]["begun"] == len(found)
        found += [loss for _, loss in ranks[0]["steps"]]
    assert found == pytest.approx(by_fours[:6], rel=2e-3)
    assert [path.name for path in listed(tmp_path / "0")][-2:] == ["step-00000005", "step-00000006"]
    assert all(path.name < "step-00000005" for path in listed(tmp_path / "1"))


def test_ranks_train_adapters_as_one_does(tmp_path: Path) -> None:
    lora = LoraConfig(rank=4)
    alone = list(trainer(tmp_path / "one", QUIET, loop={"max_steps": 8}, lora=lora).run())
    begun = trainer(tmp_path / "two", QUIET, loop={"max_steps": 8}, lora=lora).run()
    list(itertools.islice(begun, 4))
    begun.close()
    found = together("train", 2, tmp_path / "two", lora=lora)
    assert len({rank["norm"] for rank in found}) == 1
    for (step, loss, _), p in zip(found[0]["steps"], alone[4:], strict=True):
        assert (step, loss) == pytest.approx((p.step, p.losses["loss"]), rel=2e-3)


@pytest.mark.parametrize(("parallel", "world_size"), WORLDS)
@pytest.mark.parametrize("case", ["train", "one validation mixture"])
def test_unequal_work_hangs_nothing(case: str, parallel: str, world_size: int, tmp_path: Path) -> None:
    found = together(case, world_size, tmp_path, parallel=parallel, micro_frames=60)
    assert [[step for step, *_ in rank["steps"]] for rank in found] == [list(range(1, 9))] * world_size
    assert len({json.dumps(rank) for rank in found}) == 1


def test_all_ranks_resume_from_the_checkpoint_that_rank_0_sees(tmp_path: Path) -> None:
    run = trainer(tmp_path, QUIET, loop={"max_steps": 8, "checkpoint_every": 2}).run()
    list(itertools.islice(run, 6))
    run.close()
    found = together("stale", 2, tmp_path)
    assert [rank["begun"] for rank in found] == [6, 6]
    assert found[0] == found[1]


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_nan_on_one_rank_costs_all_ranks_the_same_step_and_the_right_utterance_is_named(
    parallel: str, tmp_path: Path
) -> None:
    first, second = together("nan", 2, tmp_path, parallel=parallel)
    assert first == second
    assert [step for step, *_ in first["steps"]] == list(range(1, 13))
    ((step, key, kind, _),) = first["skipped"]
    assert (key, kind) == ("utt-3", "spoilt")
    assert [(row.step, row.key) for row in SkipList.read(tmp_path).rows] == [(step, key)]


def test_sigterm_to_one_rank_ends_all_with_one_checkpoint(tmp_path: Path) -> None:
    first, second = together("terminated", 2, tmp_path)
    assert first == second
    assert first["stopped"]
    assert load(latest(tmp_path) or Path()).state.step == first["step"]


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_ranks_that_listen_together_hear_the_same_and_choose_the_same(parallel: str, tmp_path: Path) -> None:
    first, second = together("listen", 2, tmp_path, parallel=parallel)
    assert first == second
    assert len(first["heard"]) == 2
    state = load(latest(tmp_path) or Path()).state
    assert (state.heard_step, state.heard) == (first["step"], first["best"])
    assert first["best"] == max(first["heard"])


def test_a_rank_that_cannot_hear_ends_all_with_a_checkpoint(tmp_path: Path) -> None:
    first, second = together("deaf", 2, tmp_path)
    assert first == second
    assert "rank 1 could not judge r1: MemoryError: no memory" in first["message"]
    assert load(latest(tmp_path) or Path()).state.step == first["step"] == 4


def test_a_full_disk_of_one_rank_ends_all(tmp_path: Path) -> None:
    assert together("full disk", 2, tmp_path) == ["[Errno 28] No space left on device"] * 2
    assert listed(tmp_path) == []


def test_rank_0_decides_and_its_exception_is_everybodys(tmp_path: Path) -> None:
    found = together("decide", 3, tmp_path)
    assert found == [[7, [3.0, 3.0], ["r0", "r1", "r2"], "decided by rank 0"]] * 3


def test_a_process_alone_agrees_with_itself() -> None:
    ranks = Ranks()
    assert (ranks.first(lambda: 5), ranks.totals([2, True]), ranks.gather("a")) == (5, [2.0, 1.0], ["a"])
    ranks.wait()
    assert read(rows()[0]).noisy.size

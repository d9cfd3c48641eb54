"""Laws of the loop: it learns, a killed training resumes as if undisturbed, ranks change speed, not results."""

import dataclasses
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from flowse.audio.mel import LogMel
from flowse.data.batching import Example, Loader, Row, fixed_batches
from flowse.flow.config import DrawConfig, FlowConfig, LossConfig
from flowse.model.spec import DiTConfig, ModelSpec
from flowse.model.system import build
from flowse.training.checkpoint import CheckpointError, latest, listed, load
from flowse.training.config import LoopConfig, OptimConfig
from flowse.training.loop import NonFiniteLoss, Progress, TrainBatch, Trainer
from flowse.training.optim import freeze

HOP = 256
SPEC = ModelSpec(
    model=DiTConfig(dim=32, depth=2, heads=2, conv_groups=4, text_dim=16, text_blocks=1, dropout=0.1),
    vocabulary=tuple("abcd"),
    mel_mean=-5.0,
    mel_std=2.0,
)


@dataclasses.dataclass(frozen=True)
class FakeRow:
    key: str
    samples: int


def rows(count: int = 24) -> list[FakeRow]:
    lengths = np.random.default_rng(0).integers(10, 40, count)
    return [FakeRow(f"utt-{index}", int(length) * HOP) for index, length in enumerate(lengths)]


def read(row: Row) -> Example:
    rng = np.random.default_rng(row.samples)
    time = np.arange(row.samples) / 24_000
    clean = np.sin(2 * np.pi * rng.uniform(200, 2000) * time) * 0.3
    noisy = clean + rng.normal(0, 0.1, row.samples)
    return Example(noisy.astype(np.float32), clean.astype(np.float32), [1, 2, 3, 4])


def trainer(folder: Path, spec: ModelSpec = SPEC, **options: Any) -> Trainer:
    torch.manual_seed(0)
    draws = DrawConfig()
    grouped = dist.is_initialized()
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if grouped else (0, 1)
    reader: Callable[[Row], Example] = options.pop("read", read)
    loader = Loader(
        options.pop("rows", rows()),
        reader,
        LogMel(),
        lambda batch: TrainBatch.drawn(batch, draws),
        frames_per_step=200,
        max_frames=0,
        seed=7,
        rank=rank,
        world_size=world_size,
        micro_frames=options.pop("micro_frames", 0),
    )
    fixed = fixed_batches(
        rows(4), read, LogMel(), frames_per_batch=100, max_frames=0, seed=7, rank=rank, world_size=world_size
    )
    nothing_withheld = DrawConfig(drop_text=0.0, drop_both=0.0)
    config = {"max_steps": 12, "log_every": 1, "validate_every": 4, "checkpoint_every": 4}
    loop = LoopConfig(**{**config, **options.pop("loop", {})})
    system = build(spec)
    freeze(system, options.pop("freeze", []))
    return Trainer(
        system,
        loader,
        [TrainBatch.drawn(batch, nothing_withheld) for batch in fixed],
        config=loop,
        optim=options.pop("optim", OptimConfig(lr=2e-3, warmup_steps=2)),
        loss=LossConfig(),
        folder=folder,
        seed=7,
        identity=options.pop("identity", {"digest": "abc"}),
        **options,
    )


def losses(progress: list[Progress]) -> dict[int, float]:
    return {p.step: p.losses["loss"] for p in progress}


KINDS = {
    "gaussian": SPEC,
    "noisy": dataclasses.replace(SPEC, flow=FlowConfig(source="noisy")),
    "predicted": dataclasses.replace(SPEC, flow=FlowConfig(source="predicted")),
    "regression": dataclasses.replace(SPEC, objective="regression"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_system_learns(kind: str, tmp_path: Path) -> None:
    quiet = dataclasses.replace(KINDS[kind], model=dataclasses.replace(SPEC.model, dropout=0.0))
    every = {"max_steps": 40, "log_every": 40, "validate_every": 20, "checkpoint_every": 0}
    run = trainer(tmp_path, quiet, loop=every, optim=OptimConfig(lr=3e-3, warmup_steps=2, ema_decay=0.8))
    start = run.validate()
    progress = list(run.run())
    last = progress[-1]
    assert last.validation is not None
    assert set(last.validation) == set(start)
    assert last.validation["loss"] < 0.9 * start["loss"]
    assert (last.step, last.finished) == (40, "max_steps")


def test_a_killed_training_resumes_as_if_undisturbed(tmp_path: Path) -> None:
    undisturbed = list(trainer(tmp_path / "whole").run())
    killed = trainer(tmp_path / "killed").run()
    before = list(itertools.islice(killed, 6))  # past the checkpoint of step 4, in mid-epoch
    killed.close()
    resumed = trainer(tmp_path / "killed")
    assert resumed.resumed_from is not None
    assert resumed.resumed_from.name == "step-00000004"
    after = list(resumed.run())
    assert losses(before) == pytest.approx(losses(undisturbed[:6]), rel=1e-5)
    assert losses(after) == pytest.approx(losses(undisturbed[4:]), rel=1e-5)
    whole, again = (load(latest(tmp_path / name) or Path()) for name in ("whole", "killed"))
    for name, value in whole.ema.items():
        assert torch.allclose(value, again.ema[name], atol=1e-6), name
    assert whole.state == again.state


def test_a_finished_training_yields_nothing(tmp_path: Path) -> None:
    list(trainer(tmp_path).run())
    assert list(trainer(tmp_path).run()) == []


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    list(trainer(tmp_path, loop={"max_steps": 4}).run())
    with pytest.raises(CheckpointError, match="another run"):
        trainer(tmp_path, identity={"digest": "other"})


def test_gradient_accumulation_does_not_change_the_result(tmp_path: Path) -> None:
    quiet = dataclasses.replace(SPEC, model=dataclasses.replace(SPEC.model, dropout=0.0))
    whole = list(trainer(tmp_path / "a", quiet).run())
    cut = list(trainer(tmp_path / "b", quiet, micro_frames=60).run())
    assert losses(cut) == pytest.approx(losses(whole), rel=1e-3)


def _rank(rank: int, world_size: int, port: int, folder: Path, parallel: str) -> None:
    torch.set_num_threads(1)
    store = dist.TCPStore("127.0.0.1", port, world_size, rank == 0)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    quiet = dataclasses.replace(SPEC, model=dataclasses.replace(SPEC.model, dropout=0.0))
    progress = list(trainer(folder, quiet, loop={"max_steps": 8}, parallel=parallel).run())
    if rank == 0:
        text = json.dumps([(p.step, p.losses["loss"], p.validation) for p in progress])
        (folder / "losses.json").write_text(text)
    dist.destroy_process_group()


def _free_port() -> int:
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_ranks_resume_from_one_and_give_its_result(parallel: str, tmp_path: Path) -> None:
    quiet = dataclasses.replace(SPEC, model=dataclasses.replace(SPEC.model, dropout=0.0))
    alone = list(trainer(tmp_path / "one", quiet, loop={"max_steps": 8}).run())
    # The two ranks resume a training that one rank began.
    shared = tmp_path / "two"
    begun = trainer(shared, quiet, loop={"max_steps": 8}).run()
    list(itertools.islice(begun, 4))
    begun.close()
    # Not "fork": a thread of this process may hold a lock of MKL's, on which the child would wait for ever.
    mp.set_forkserver_preload(["flowse.training.loop"])
    mp.start_processes(_rank, (2, _free_port(), shared, parallel), nprocs=2, start_method="forkserver")
    together = json.loads((shared / "losses.json").read_text())
    assert [step for step, _, _ in together] == [5, 6, 7, 8]
    for (step, loss, validation), p in zip(together, alone[4:], strict=True):
        assert (step, loss) == pytest.approx((p.step, p.losses["loss"]), rel=2e-3)
        if p.validation is not None:
            assert validation["loss"] == pytest.approx(p.validation["loss"], rel=2e-3)
    first, second = (load(latest(tmp_path / name) or Path()) for name in ("one", "two"))
    for name, value in first.ema.items():
        assert torch.allclose(value, second.ema[name], atol=1e-3), name


def test_a_nan_stops_the_training_and_names_the_utterances(tmp_path: Path) -> None:
    def broken(row: Row) -> Example:
        example = read(row)
        return dataclasses.replace(example, noisy=example.noisy * np.float32("nan")) if row.key == "utt-3" else example

    with pytest.raises(NonFiniteLoss, match="nan") as stopped:
        list(trainer(tmp_path, read=broken).run())
    (path,) = tmp_path.glob("non-finite-*.json")
    assert str(path) in str(stopped.value)
    assert "utt-3" in json.loads(path.read_text())["utterances"]
    assert all(torch.isfinite(w).all() for p in listed(tmp_path) for w in load(p).model.values())


def test_an_exploding_gradient_stops_the_training(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteLoss, match="explode_norm=1e-06"):
        list(trainer(tmp_path, loop={"explode_norm": 1e-6}).run())


def test_patience_ends_a_training_that_no_longer_improves(tmp_path: Path) -> None:
    every = {"max_steps": 50, "validate_every": 2, "patience": 3, "checkpoint_every": 0}
    # So small a rate changes nothing in float32: the first validation stays the best.
    progress = list(trainer(tmp_path, loop=every, optim=OptimConfig(lr=1e-30, warmup_steps=0)).run())
    assert (progress[-1].step, progress[-1].finished) == (8, "patience")
    state = load(latest(tmp_path) or Path()).state
    assert (state.best_step, state.finished) == (2, "patience")


def test_frozen_weights_stay_and_the_others_change(tmp_path: Path) -> None:
    run = trainer(tmp_path, freeze=["network.blocks.*"])
    before = {name: p.detach().clone() for name, p in run.system.named_parameters()}
    list(run.run())
    assert list(trainer(tmp_path, freeze=["network.blocks.*"]).run()) == []
    for name, parameter in run.system.named_parameters():
        if name.startswith("network.blocks."):
            assert torch.equal(parameter, before[name])
    assert not torch.equal(run.system.network.final.out.weight, before["network.final.out.weight"])


def test_bfloat16_and_activation_checkpointing_train_alike(tmp_path: Path) -> None:
    plain = list(trainer(tmp_path / "a").run())
    half = trainer(tmp_path / "b", loop={"precision": "bf16"})
    half.system.activation_checkpointing(True)
    assert losses(list(half.run())) == pytest.approx(losses(plain), rel=0.05)


def test_reported_figures_are_shares_and_rates(tmp_path: Path) -> None:
    progress = list(trainer(tmp_path).run())
    for p in progress:
        assert 0 <= p.data_wait <= 1
        assert 0 <= p.padding < 0.5
        assert p.frames_per_s > 0
        assert p.audio_hours_per_hour == pytest.approx(p.frames_per_s * 256 / 24_000)
    assert [p.step for p in progress if p.validation is not None] == [4, 8, 12]
    assert progress[-1].eta_s == 0

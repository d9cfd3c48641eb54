"""Laws of the loop: it learns, a killed training resumes as if undisturbed, ranks change speed, not results."""

import dataclasses
import itertools
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from flowse.audio.mel import LogMel
from flowse.data.batching import Example, Loader, Row, fixed_batches
from flowse.errors import DamagedFile
from flowse.flow.config import DrawConfig, FlowConfig, LossConfig
from flowse.model.spec import DiTConfig, ModelSpec
from flowse.model.system import build
from flowse.training.checkpoint import CheckpointError, latest, listed, load
from flowse.training.config import LoopConfig, OptimConfig
from flowse.training.ledger import Segment
from flowse.training.loop import Progress, TrainBatch, Trainer
from flowse.training.lora import adapt, is_adapter
from flowse.training.optim import freeze
from flowse.training.skipped import BudgetSpent, NonFiniteLoss, SkipList

HOP = 256
SPEC = ModelSpec(
    model=DiTConfig(dim=32, depth=2, heads=2, conv_groups=4, text_dim=16, text_blocks=1, dropout=0.1),
    vocabulary=tuple("abcd"),
    mel_mean=-5.0,
    mel_std=2.0,
)
QUIET = dataclasses.replace(SPEC, model=dataclasses.replace(SPEC.model, dropout=0.0))


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
    if lora := options.pop("lora", None):
        adapt(system, lora)
        options["keeps"] = is_adapter
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


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Progress]]:
    """A training of 12 steps with checkpoints after 4, 8 and 12, and what it reported; nobody writes there."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return folder, list(trainer(folder).run())


@pytest.fixture(scope="module")
def with_a_nan(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Progress], SkipList]:
    """The same training of utterances one of which holds a NaN, and what it left out."""
    folder = tmp_path_factory.mktemp("nan")
    run = trainer(folder, read=broken)
    return folder, list(run.run()), run.skipped


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


@pytest.mark.parametrize("kind", KINDS)
def test_silent_targets_have_a_finite_loss_and_a_gradient(kind: str, tmp_path: Path) -> None:
    def without_speech(row: Row) -> Example:
        example = read(row)
        return Example(example.noisy - example.clean, np.zeros_like(example.clean))

    run = trainer(tmp_path, KINDS[kind], read=without_speech, loop={"max_steps": 4, "validate_every": 0})
    progress = list(run.run())
    assert run.skipped.rows == []
    assert all(np.isfinite(p.losses["loss"]) and 0 < p.grad_norm < 1e4 for p in progress)


def test_a_killed_training_resumes_as_if_undisturbed(undisturbed: tuple[Path, list[Progress]], tmp_path: Path) -> None:
    folder, reports = undisturbed
    killed = trainer(tmp_path / "killed").run()
    before = list(itertools.islice(killed, 6))  # past the checkpoint of step 4, in mid-epoch
    killed.close()
    resumed = trainer(tmp_path / "killed")
    assert resumed.resumed_from is not None
    assert resumed.resumed_from.name == "step-00000004"
    after = list(resumed.run())
    assert losses(before) == pytest.approx(losses(reports[:6]), rel=1e-5)
    assert losses(after) == pytest.approx(losses(reports[4:]), rel=1e-5)
    whole, again = (load(latest(of) or Path()) for of in (folder, tmp_path / "killed"))
    for name, value in whole.ema.items():
        assert torch.allclose(value, again.ema[name], atol=1e-6), name
    assert whole.state == again.state


def test_a_finished_training_yields_nothing(undisturbed: tuple[Path, list[Progress]]) -> None:
    assert list(trainer(undisturbed[0]).run()) == []


def test_a_checkpoint_of_another_training_is_refused(undisturbed: tuple[Path, list[Progress]]) -> None:
    with pytest.raises(CheckpointError, match="another run"):
        trainer(undisturbed[0], identity={"digest": "other"})


def test_gradient_accumulation_does_not_change_the_result(tmp_path: Path) -> None:
    loop = {"max_steps": 6, "validate_every": 0, "checkpoint_every": 0}
    whole = list(trainer(tmp_path / "a", QUIET, loop=loop).run())
    cut = list(trainer(tmp_path / "b", QUIET, loop=loop, micro_frames=60).run())
    assert losses(cut) == pytest.approx(losses(whole), rel=1e-3)


def broken(row: Row) -> Example:
    """Read an utterance; of one, a sample of the noisy waveform is NaN."""
    example = read(row)
    if row.key == "utt-3":
        example.noisy[100] = np.nan
    return example


def test_a_nan_costs_one_step_and_its_utterance_counts_nothing_afterwards(
    with_a_nan: tuple[Path, list[Progress], SkipList],
) -> None:
    folder, progress, skipped = with_a_nan
    assert (progress[-1].step, sum(p.skipped for p in progress)) == (12, 1)
    (row,) = skipped.rows
    assert (row.key, row.kind, row.reason) == ("utt-3", "spoilt", "non_finite_loss")
    assert all(torch.isfinite(weight).all() for path in listed(folder) for weight in load(path).model.values())
    assert SkipList.read(folder).rows == skipped.rows or np.isnan(row.loss)


def test_a_replay_leaves_out_what_the_first_try_left_out(
    with_a_nan: tuple[Path, list[Progress], SkipList], tmp_path: Path
) -> None:
    whole, reports, _ = with_a_nan
    for rest in (2, 9):  # before a checkpoint, and after one
        folder = tmp_path / str(rest)
        killed = trainer(folder, read=broken).run()
        list(itertools.islice(killed, rest))
        killed.close()
        # What was listed stays out, though the file has been mended since.
        after = list(trainer(folder).run()) if SkipList.read(folder).rows else list(trainer(folder, read=broken).run())
        assert losses(after) == pytest.approx({p.step: p.losses["loss"] for p in reports[12 - len(after) :]}, rel=1e-5)
    first, second = (load(latest(of) or Path()) for of in (whole, tmp_path / "9"))
    for name, value in first.model.items():
        assert torch.equal(value, second.model[name]), name


def test_an_exploding_gradient_is_not_applied_and_the_training_goes_on(
    undisturbed: tuple[Path, list[Progress]], tmp_path: Path
) -> None:
    limit = max(p.grad_norm for p in undisturbed[1]) * 0.999
    run = trainer(tmp_path, loop={"explode_norm": limit})
    progress = list(run.run())
    assert progress[-1].step == 12
    assert {row.kind for row in run.skipped.rows} == {"suspect"}
    assert run.skipped.skipped_steps == sum(p.skipped for p in progress) >= 1
    assert run.skipped.utterances == 0


def test_too_many_steps_that_are_not_applied_end_the_training_with_a_checkpoint(tmp_path: Path) -> None:
    loop = {"explode_norm": 1e-6, "max_skipped_steps": 2}
    with pytest.raises(NonFiniteLoss, match=r"step 2: .*explode_norm=1e-06.*max_skipped_steps=2"):
        list(trainer(tmp_path, loop=loop).run())
    assert load(latest(tmp_path) or Path()).state.step == 3
    # A rerun that may go on does so, from there.
    assert next(p.step for p in trainer(tmp_path, loop={"max_skipped_steps": 9}).run()) == 4


def test_too_many_utterances_that_cannot_be_read_end_the_training(tmp_path: Path) -> None:
    def fail(row: Row) -> Example:
        if row.key in ("utt-3", "utt-4", "utt-5"):
            raise DamagedFile(f"t.tar: {row.key} is cut off")
        return read(row)

    with pytest.raises(BudgetSpent, match=r"[23] of 24 utterances .*max_skipped_share=0.05.*is cut off"):
        list(trainer(tmp_path, read=fail).run())
    run = trainer(tmp_path, read=fail, loop={"max_skipped_share": 0.2})
    assert list(run.run())[-1].step == 12
    assert run.skipped.utterances == 3


def test_an_id_outside_of_the_vocabulary_costs_its_utterance_alone(tmp_path: Path) -> None:
    def odd(row: Row) -> Example:
        example = read(row)
        return dataclasses.replace(example, text_ids=[1, 5]) if row.key in ("utt-3", "utt-1") else example

    run = trainer(tmp_path, read=odd, loop={"max_skipped_share": 0.2})
    progress = list(run.run())
    assert (progress[-1].step, sum(p.skipped for p in progress)) == (12, 0)
    assert {(row.key, row.reason) for row in run.skipped.rows} == {
        ("utt-1", "unknown_token"),
        ("utt-3", "unknown_token"),
    }


def test_a_damaged_checkpoint_is_passed_over_and_said(undisturbed: tuple[Path, list[Progress]], tmp_path: Path) -> None:
    shutil.copytree(undisturbed[0], tmp_path, dirs_exist_ok=True)
    path = listed(tmp_path)[-1] / "ema-00000.safetensors"
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    resumed = trainer(tmp_path)
    assert resumed.resumed_from == listed(tmp_path)[-2]
    (note,) = resumed.notes
    assert "step-00000012/ema-00000.safetensors differs from its recorded hash" in note
    assert "resumed from step-00000008" in note
    assert losses(list(resumed.run())) == pytest.approx(losses(undisturbed[1][8:]), rel=1e-5)


def test_a_training_that_is_asked_to_stop_saves_and_resumes_where_it_stopped(tmp_path: Path) -> None:
    asked = iter([False] * 5 + [True] * 9)
    run = trainer(tmp_path, stop=lambda: next(asked))
    assert [p.step for p in run.run()] == [1, 2, 3, 4, 5]
    assert run.stopped
    assert [p.step for p in trainer(tmp_path).run()] == list(range(6, 13))


def test_another_segment_goes_on_with_everything_and_its_rate_changes_smoothly(tmp_path: Path) -> None:
    def segment(steps: int) -> Segment:
        return Segment(settings={"max_steps": steps}, dataset="d")

    optim = OptimConfig(lr=2e-3, warmup_steps=4)
    first = list(trainer(tmp_path, optim=optim, loop={"max_steps": 6}, segment=segment(6)).run())
    run = trainer(tmp_path, optim=optim, loop={"max_steps": 14}, segment=segment(14))
    assert run.notes == []
    assert (run.state.step, run.state.epoch, run.state.finished) == (6, first and run.state.epoch, "")
    second = list(run.run())
    assert [p.step for p in second] == list(range(7, 15))
    rates = [p.lr for p in (*first[-1:], *second)]
    assert max(abs(after - before) for before, after in itertools.pairwise(rates)) < 0.6e-3
    assert [(s.from_step, s.to_step, s.finished) for s in run.state.segments] == [
        (0, 6, "max_steps"),
        (6, 14, "max_steps"),
    ]


def test_another_segment_has_an_optimiser_of_its_own_settings(tmp_path: Path) -> None:
    def decays(run: Trainer) -> list[tuple[float, float]]:
        return [(group["weight_decay"], group["betas"][1]) for group in run._optimizer.param_groups]

    first = trainer(tmp_path, loop={"max_steps": 4}, segment=Segment(settings={"max_steps": 4}))
    list(first.run())
    optim = OptimConfig(lr=2e-3, weight_decay=0.5, beta_2=0.9)
    second = trainer(tmp_path, optim=optim, segment=Segment(settings={"max_steps": 8}))
    assert second.resumed_from is not None
    assert decays(first) == [(0.01, 0.99), (0.0, 0.99)]
    assert decays(second) == [(0.5, 0.9), (0.0, 0.9)]
    for parameter in second.system.parameters():
        assert second._optimizer.state[parameter]["step"] == 4


def test_other_data_begin_with_an_epoch_of_their_own(tmp_path: Path) -> None:
    list(trainer(tmp_path, loop={"max_steps": 6}, segment=Segment(settings={"max_steps": 6}, dataset="small")).run())
    run = trainer(tmp_path, rows=rows(40), segment=Segment(settings={"max_steps": 12}, dataset="grown"))
    before = load(listed(tmp_path)[-1]).state
    assert (run.state.epoch, run.state.samples) == (before.epoch + (before.samples > 0), 0)
    assert (run.state.step, run.state.best_step) == (6, -1)
    assert list(run.run())[-1].step == 12


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


def test_bfloat16_and_activation_checkpointing_train_alike(
    undisturbed: tuple[Path, list[Progress]], tmp_path: Path
) -> None:
    half = trainer(tmp_path, loop={"precision": "bf16", "validate_every": 0, "checkpoint_every": 0})
    half.system.activation_checkpointing(True)
    assert losses(list(half.run())) == pytest.approx(losses(undisturbed[1]), rel=0.05)


COMPILED = """
import dataclasses, sys, torch
from pathlib import Path
from tests.flowse.training.test_loop import QUIET, losses, trainer
compile_module = torch.nn.Module.compile
torch.nn.Module.compile = lambda self, **options: compile_module(self, **options, backend=sys.argv[2])
plain, compiled = (
    losses(list(trainer(Path(sys.argv[1]) / str(on), QUIET, compile_network=on).run())) for on in (False, True)
)
assert all(abs(compiled[step] - plain[step]) < 1e-3 * plain[step] for step in plain), (plain, compiled)
print(torch._dynamo.utils.counters["stats"]["unique_graphs"])
"""


@pytest.mark.parametrize(
    "backend",
    [
        "aot_eager",  # the graphs are captured and differentiated
        pytest.param("inductor", marks=pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")),
    ],
)
@pytest.mark.timeout(600)
def test_compiled_blocks_train_alike_and_share_a_few_graphs(backend: str, tmp_path: Path) -> None:
    # In a process of its own: what checks types in the tests cannot be compiled.
    command = [sys.executable, "-c", COMPILED, str(tmp_path), backend]
    run = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    assert 1 <= int(run.stdout.split()[-1]) <= 8


def test_reported_figures_are_shares_and_rates(undisturbed: tuple[Path, list[Progress]]) -> None:
    _, progress = undisturbed
    for p in progress:
        assert 0 <= p.data_wait <= 1
        assert 0 <= p.padding < 0.5
        assert p.frames_per_s > 0
        assert p.audio_hours_per_hour == pytest.approx(p.frames_per_s * 256 / 24_000)
    assert [p.step for p in progress if p.validation is not None] == [4, 8, 12]
    assert progress[-1].eta_s == 0

"""Laws of the training "distil": it starts as its teacher, its loss falls, and it resumes as if undisturbed."""

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch

from flowse.errors import UserError
from flowse.export import ExportError
from flowse.flow.config import DistilConfig, FlowConfig
from flowse.flow.sampling import Sampling
from flowse.model.spec import DiTConfig
from flowse.training.config import OptimConfig, TrainConfig
from flowse.training.job import prepare
from flowse.training.mixtures import Mixtures
from flowse.training.progress import Progress
from flowse.training.rank import Rank
from flowse.training.run import train
from tests.small_shards import TINY


@pytest.fixture(scope="module")
def teacher(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a small trained flow."""
    folder = tmp_path_factory.mktemp("teacher") / "flow"
    train(dataclasses.replace(TINY, max_steps=60, validate_every=0, checkpoint_every=0, log_every=60), shards, folder)
    return folder


def _distil(teacher: Path, **changes: object) -> TrainConfig:
    values = {"objective": "distil", "init_from": str(teacher), **changes}
    return dataclasses.replace(TINY, **values)  # type: ignore[arg-type]


def test_it_starts_as_its_teacher_and_the_loss_falls(teacher: Path, shards: Path, tmp_path: Path) -> None:
    config = _distil(
        teacher,
        max_steps=60,
        validate_every=20,
        checkpoint_every=60,
        select="last",
        optim=OptimConfig(lr=5e-4, warmup_steps=2, ema_decay=0.9),
    )
    job = prepare(config, Mixtures.read(shards), tmp_path / "job")
    assert job.spec.jumps
    assert job.start is not None
    assert "teacher" in job.start.describe(job.spec)
    trainer = Rank(job).trainer
    assert trainer.system.distillation is not None
    x_t, t = torch.randn(2, 30, 100), torch.tensor([0.0, 0.5])
    with torch.no_grad():
        v = trainer.system.distillation.teacher(x_t, t, -x_t)
        assert torch.equal(trainer.system.network.eval()(x_t, t, -x_t, r=torch.ones(2)), v)
    first = trainer.validate()
    reports: list[Progress] = []
    trained = train(config, shards, tmp_path / "out", report=reports.append)
    validations = [progress.validation for progress in reports if progress.validation is not None]
    assert validations[-1]["error"] < 0.9 * first["error"]
    assert sorted(first) == ["error", "loss"]
    mel = torch.randn(1, 30, 100) - 6
    _, evaluations = trained.system().enhance(mel, sampling=Sampling(steps=1))
    assert evaluations == 1


def test_an_interrupted_distillation_ends_with_the_weights_of_an_undisturbed_one(
    teacher: Path, shards: Path, tmp_path: Path
) -> None:
    class Stopped(Exception):
        """Stands for whatever ends a process."""

    def stop_after_step_10(progress: Progress) -> None:
        # The targets have come from the averaged weights for some steps.
        if progress.step == 10:
            raise Stopped

    config = _distil(teacher, distil=DistilConfig(flow_share=0.2, teacher_share=0.2))
    with pytest.raises(Stopped):
        train(config, shards, tmp_path / "a", report=stop_after_step_10)
    resumed = train(config, shards, tmp_path / "a")
    whole = train(config, shards, tmp_path / "b")
    assert resumed.job.identity == whole.job.identity
    for name, value in whole.system().state_dict().items():
        assert torch.equal(value, resumed.system().state_dict()[name]), name


def test_a_distilled_model_is_trained_further_by_distillation_alone(
    teacher: Path, shards: Path, tmp_path: Path
) -> None:
    distilled = tmp_path / "distilled"
    train(_distil(teacher, max_steps=2, validate_every=0, checkpoint_every=0), shards, distilled)
    mixtures = Mixtures.read(shards)
    with pytest.raises(UserError, match="blur"):
        prepare(dataclasses.replace(TINY, init_from=str(distilled)), mixtures, tmp_path / "flow")
    again = prepare(_distil(distilled), mixtures, tmp_path / "again")
    assert again.spec.jumps
    assert Rank(again).trainer.system.distillation is not None


def test_a_regression_model_is_no_teacher(shards: Path, tmp_path: Path) -> None:
    train(dataclasses.replace(TINY, objective="regression", max_steps=2), shards, tmp_path / "regression")
    with pytest.raises(UserError, match=r"distil.*regression"):
        prepare(_distil(tmp_path / "regression"), Mixtures.read(shards), tmp_path / "distil")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": DiTConfig(dim=64, heads=2, conv_groups=4)}, r"train\.model\.dim=64 differs from the teacher's 32"),
        ({"flow": FlowConfig(source="noisy")}, r"train\.flow\.source=noisy differs from the teacher's gaussian"),
        ({"text": True}, r"train\.text=true: the teacher takes no text"),
    ],
)
def test_settings_that_the_teacher_decides_are_not_passed_over(
    changes: dict[str, object], message: str, teacher: Path, shards: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        prepare(_distil(teacher, **changes), Mixtures.read(shards), tmp_path)
    # What is left out is the teacher's own.
    assert prepare(_distil(teacher, model=DiTConfig()), Mixtures.read(shards), tmp_path).spec.model == TINY.model


@pytest.mark.parametrize("missing", ["folder", "weights"])
def test_a_missing_teacher_is_one_line_also_where_the_training_has_begun(
    missing: str, teacher: Path, shards: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(teacher, copy)
    train(_distil(copy, max_steps=2, validate_every=0, checkpoint_every=0), shards, tmp_path / "out")
    if missing == "folder":
        shutil.rmtree(copy)
    else:
        (copy / "model.safetensors").unlink()
    with pytest.raises((UserError, ExportError, FileNotFoundError)) as error:
        train(_distil(copy, max_steps=4, validate_every=0, checkpoint_every=0), shards, tmp_path / "out")
    assert str(copy) in str(error.value)
    assert "\n" not in str(error.value)
    shutil.copytree(teacher, copy, dirs_exist_ok=True)
    longer = train(_distil(copy, max_steps=4, validate_every=0, checkpoint_every=0), shards, tmp_path / "out")
    assert longer.job.spec.jumps


@pytest.mark.parametrize(("key", "changes"), [("init_from", {"init_from": ""}), ("parallel", {"parallel": "fsdp"})])
def test_impossible_distillations_are_refused_by_name(key: str, changes: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=key):
        _distil(tmp_path, **changes)

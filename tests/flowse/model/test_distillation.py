"""Laws of distillation: the teacher stays as it is and out of sight, padding changes nothing, guidance is a target."""

import contextlib
import dataclasses
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from flowse.flow.config import DistilConfig, DrawConfig, FlowConfig, LossConfig
from flowse.flow.path import Draws, draw
from flowse.flow.sampling import Sampling
from flowse.model.spec import DiTConfig, ModelSpec
from flowse.model.system import System, build
from flowse.training.optim import MovingAverage

FLOW = ModelSpec(
    model=DiTConfig(dim=32, depth=1, heads=2, conv_groups=4, text_dim=16, text_blocks=1, dropout=0.2),
    vocabulary=tuple("abcde"),
    mel_mean=-6.0,
    mel_std=3.0,
)
LENGTHS = [13, 40, 27, 31]
NOISY, CLEAN = torch.randn(2, 4, 40, 100, generator=torch.Generator().manual_seed(0)) * 3 - 6
IDS = torch.ones(4, 9, dtype=torch.long)
TEACHER_ALONE = DistilConfig(flow_share=0.0, teacher_share=1.0)
SELF_ALONE = DistilConfig(flow_share=0.0, teacher_share=0.0, early=0.0)


def _draws(rows: slice = slice(0, 4)) -> Draws:
    return draw([1, 2, 3, 4][rows], LENGTHS[rows], 100, DrawConfig(drop_text=0.5, drop_both=0.0))


def _awake(spec: ModelSpec) -> System:
    system = build(spec)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in system.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return system


def _student(config: DistilConfig, spec: ModelSpec = FLOW) -> System:
    """A system that has the weights of its teacher."""
    teacher = _awake(spec)
    student = build(dataclasses.replace(spec, jumps=True))
    student.load_state_dict(teacher.state_dict(), strict=False)
    student.distil_from(teacher, config)
    return student


def _losses(system: System, progress: float = 1.0) -> dict[str, Tensor]:
    losses: dict[str, Tensor] = system(NOISY, CLEAN, torch.tensor(LENGTHS), IDS, _draws(), LossConfig(), progress)
    return losses


def test_the_teacher_is_in_no_state_dict_and_gets_no_gradient() -> None:
    student = _student(TEACHER_ALONE)
    assert student.state_dict().keys() == build(dataclasses.replace(FLOW, jumps=True)).state_dict().keys()
    _losses(student.train())["loss"].sum().backward()  # type: ignore[no-untyped-call]
    assert student.distillation is not None
    assert all(p.grad is None and not p.requires_grad for p in student.distillation.teacher.parameters())
    assert student.network.training
    assert not student.distillation.teacher.training
    assert all(p.grad is not None for p in student.network.parameters())


@pytest.mark.parametrize("config", [DistilConfig(), TEACHER_ALONE, SELF_ALONE])
def test_the_loss_of_an_utterance_is_the_same_alone_and_padded(config: DistilConfig) -> None:
    student = _student(config)
    student.network.train()
    for module in student.network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    together = _losses(student)
    assert sorted(together) == student.terms
    for index, length in enumerate(LENGTHS):
        row = slice(index, index + 1)
        alone = student(
            NOISY[row, :length], CLEAN[row, :length], torch.tensor([length]), IDS[row], _draws(row), LossConfig()
        )
        for name, value in alone.items():
            assert torch.allclose(value, together[name][row], rtol=1e-3), name


def test_the_averaged_weights_are_in_place_for_own_jumps_alone() -> None:
    calls = []

    @contextlib.contextmanager
    def averaged() -> Iterator[None]:
        calls.append(True)
        yield

    student = _student(TEACHER_ALONE).train()
    student.averaged = averaged
    _losses(student)
    assert not calls
    student = _student(SELF_ALONE).train()
    student.averaged = averaged
    _losses(student)
    assert calls


def test_validation_has_the_same_targets_at_any_time() -> None:
    student = _student(dataclasses.replace(SELF_ALONE, early_span=1.0)).eval()
    assert torch.equal(_losses(student, 0.0)["loss"], _losses(student, 1.0)["loss"])


def test_guidance_is_in_the_targets() -> None:
    plain, guided = (
        _losses(_student(dataclasses.replace(TEACHER_ALONE, guidance=scale)).eval())["error"] for scale in (0.0, 2.0)
    )
    assert (guided - plain).abs().min() > 1e-3


SCALED = dataclasses.replace(TEACHER_ALONE, guidance_max=2.0)


def _scaled_student(config: DistilConfig) -> System:
    teacher = _awake(FLOW)
    student = build(dataclasses.replace(FLOW, jumps=True, guidance_max=config.guidance_max))
    student.load_state_dict(teacher.state_dict(), strict=False)
    student.distil_from(teacher, config)
    return student


def _with_scale(system: System, share: float) -> dict[str, Tensor]:
    draws = dataclasses.replace(_draws(), guidance=torch.full((4,), share))
    losses: dict[str, Tensor] = system(NOISY, CLEAN, torch.tensor(LENGTHS), IDS, draws, LossConfig(), 1.0)
    return losses


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_each_utterance_has_the_targets_of_its_own_scale(share: float) -> None:
    # Before training the network imitates no scale yet: the targets alone tell the scales apart.
    fixed = _losses(_student(dataclasses.replace(TEACHER_ALONE, guidance=2.0 * share)).eval())
    drawn = _with_scale(_scaled_student(SCALED).eval(), share)
    for name, value in fixed.items():
        assert torch.allclose(drawn[name], value, rtol=1e-4), name


def test_the_paths_own_velocity_is_that_of_no_guidance() -> None:
    student = _scaled_student(dataclasses.replace(SCALED, flow_share=1.0, teacher_share=0.0))
    student.load_state_dict(_awake(dataclasses.replace(FLOW, jumps=True, guidance_max=2.0)).state_dict())
    student.train()
    student.network.text.eval()  # type: ignore[union-attr]
    for module in student.network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    assert torch.equal(_with_scale(student, 0.0)["loss"], _with_scale(student, 1.0)["loss"])


def test_the_scale_of_guidance_costs_no_evaluation_and_is_told_to_the_network() -> None:
    system = _awake(dataclasses.replace(FLOW, jumps=True, guidance_max=2.0))
    mels = {}
    for scale in (0.0, 1.0, 2.0):
        mels[scale], evaluations = system.enhance(NOISY, torch.tensor(LENGTHS), IDS, Sampling(steps=2, guidance=scale))
        assert evaluations == 2
    assert not torch.allclose(mels[0.0], mels[1.0], atol=1e-3)
    assert not torch.allclose(mels[1.0], mels[2.0], atol=1e-3)


def test_a_scale_that_was_not_drawn_is_missed() -> None:
    student = _scaled_student(SCALED).eval()
    with pytest.raises(ValueError, match="scales of guidance"):
        student(NOISY, CLEAN, None, IDS, dataclasses.replace(_draws(), guidance=None), LossConfig(), 1.0)


def test_the_predictor_of_a_distilled_flow_is_frozen() -> None:
    student = _student(DistilConfig(), dataclasses.replace(FLOW, flow=FlowConfig(source="predicted"))).train()
    _losses(student)["loss"].sum().backward()  # type: ignore[no-untyped-call]
    assert student.predictor is not None
    assert all(p.grad is None for p in student.predictor.parameters())


def test_a_jump_is_one_evaluation_with_any_method_and_guidance() -> None:
    system = _awake(dataclasses.replace(FLOW, jumps=True))
    results = [
        system.enhance(NOISY, torch.tensor(LENGTHS), IDS, Sampling(steps=2, method=method, guidance=guidance))
        for method, guidance in (("euler", 0.0), ("heun", 1.0))
    ]
    assert [evaluations for _, evaluations in results] == [2, 2]
    assert torch.equal(results[0][0], results[1][0])


def test_a_network_without_jumps_and_a_teacher_that_is_no_flow_are_refused() -> None:
    regression = dataclasses.replace(FLOW, objective="regression")
    with pytest.raises(ValueError, match="jumps"):
        build(FLOW).distil_from(build(FLOW), DistilConfig())
    with pytest.raises(ValueError, match="flow"):
        build(dataclasses.replace(FLOW, jumps=True)).distil_from(build(regression), DistilConfig())


def test_in_16_bits_the_student_is_compared_with_its_average_not_replaced_by_it() -> None:
    student = _student(SELF_ALONE).train()
    for module in student.network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    average = MovingAverage(student, 0.9)
    for weight in average.shadow.values():
        weight.mul_(0.5)
    student.averaged = average.applied
    whole = _losses(student)["error"]
    with torch.autocast("cpu", torch.bfloat16):
        halved = _losses(student)["error"]
    assert torch.allclose(halved, whole, rtol=0.05)


def test_a_data_prediction_is_distilled_too_and_starts_where_its_teacher_is() -> None:
    spec = dataclasses.replace(FLOW, flow=FlowConfig(source="predicted", sigma=0.4, predicts="data"))
    student = _student(TEACHER_ALONE, spec).eval()
    close = _losses(student, 0.0)["error"]
    far = _losses(_student(dataclasses.replace(TEACHER_ALONE, early=0.0), spec).eval(), 0.0)["error"]
    assert (close < far).all()

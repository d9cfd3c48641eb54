"""Laws of the system: padding changes nothing, the flow's loss does not reach the predictor, seeds decide the noise."""

import dataclasses

import pytest
import torch
from torch import Tensor

from flowse.audio.mel_config import DB_PER_NEPER
from flowse.flow.config import DrawConfig, FlowConfig, LossConfig
from flowse.flow.path import draw
from flowse.flow.sampling import Sampling
from flowse.model.dit import DiT
from flowse.model.dual_path import DualPath
from flowse.model.spec import DiTConfig, DualPathConfig, ModelSpec
from flowse.model.system import System, build

MASK = DualPathConfig(channels=(4, 4, 6), blocks=1, frequency_dim=4, time_dim=4)
SMALL = ModelSpec(
    model=DiTConfig(dim=32, depth=2, heads=2, conv_groups=4, text_dim=16, text_blocks=1),
    vocabulary=tuple("abcde"),
    mel_mean=-6.0,
    mel_std=3.0,
)
KINDS = {
    "gaussian": SMALL,
    "noisy": dataclasses.replace(SMALL, flow=FlowConfig(source="noisy")),
    "predicted": dataclasses.replace(SMALL, flow=FlowConfig(source="predicted")),
    "regression": dataclasses.replace(SMALL, objective="regression"),
    "mask": dataclasses.replace(SMALL, objective="regression", predictor="dual_path", dual_path=MASK),
    "jumps": dataclasses.replace(SMALL, jumps=True),
    "predicted by a mask": dataclasses.replace(
        SMALL, flow=FlowConfig(source="predicted"), predictor="dual_path", dual_path=MASK
    ),
    "data": dataclasses.replace(SMALL, flow=FlowConfig(predicts="data")),
    "data from a mask": dataclasses.replace(
        SMALL,
        flow=FlowConfig(source="predicted", predicts="data", range_db=40.0),
        predictor="dual_path",
        dual_path=MASK,
        jumps=True,
    ),
}
LENGTHS = torch.tensor([13, 40, 27])


def awake(spec: ModelSpec) -> System:
    system = build(spec)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in system.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return system.eval()


def mels(seed: int) -> Tensor:
    return torch.randn(3, 40, 100, generator=torch.Generator().manual_seed(seed)) * 3 - 6


IDS = torch.randint(1, 6, (3, 20), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("kind", KINDS)
def test_enhancement_is_the_same_alone_padded_and_in_any_batch(kind: str) -> None:
    system, noisy = awake(KINDS[kind]), mels(1)
    together, _ = system.enhance(noisy, LENGTHS, IDS, Sampling(steps=3, guidance=0.5), seed=[5, 6, 7])
    for index, length in enumerate(LENGTHS.tolist()):
        row = slice(index, index + 1)
        alone, _ = system.enhance(noisy[row, :length], None, IDS[row], Sampling(steps=3, guidance=0.5), seed=5 + index)
        assert torch.allclose(together[row, :length], alone, atol=1e-4)
        assert (together[index, length:] == system.log_floor).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_of_an_utterance_is_the_same_alone_and_padded(kind: str) -> None:
    system, noisy, clean = awake(KINDS[kind]), mels(1), mels(4)
    lengths, seeds = LENGTHS.tolist(), [5, 6, 7]
    together = system(noisy, clean, LENGTHS, IDS, draw(seeds, lengths, 100, DrawConfig()), LossConfig())
    for index, length in enumerate(lengths):
        row = slice(index, index + 1)
        draws = draw(seeds[row], lengths[row], 100, DrawConfig())
        alone = system(noisy[row, :length], clean[row, :length], LENGTHS[row], IDS[row], draws, LossConfig())
        for name, value in alone.items():
            assert torch.allclose(together[name][row], value, rtol=1e-4, atol=1e-4), name


def test_denormalise_inverts_normalise() -> None:
    system, mel = awake(SMALL), mels(1).clamp_min(-11.5)
    assert torch.allclose(system.denormalise(system.normalise(mel)), mel, atol=1e-5)


@pytest.mark.parametrize(("guidance", "evaluations"), [(0.0, 4), (1.0, 8)])
def test_evaluations_are_counted(guidance: float, evaluations: int) -> None:
    sampling = Sampling(steps=4, guidance=guidance)
    assert awake(SMALL).enhance(mels(1), sampling=sampling)[1] == evaluations
    assert awake(KINDS["predicted"]).enhance(mels(1), sampling=sampling)[1] == evaluations + 1
    assert awake(KINDS["regression"]).enhance(mels(1), sampling=sampling)[1] == 1


def test_the_same_seed_gives_the_same_result_and_another_seed_another() -> None:
    system, noisy = awake(SMALL), mels(1)
    first, _ = system.enhance(noisy, sampling=Sampling(steps=2), seed=1)
    assert torch.equal(first, system.enhance(noisy, sampling=Sampling(steps=2), seed=1)[0])
    assert not torch.allclose(first, system.enhance(noisy, sampling=Sampling(steps=2), seed=2)[0], atol=1e-2)


def test_an_untrained_regression_returns_its_input() -> None:
    noisy = mels(1).clamp_min(-11.5)
    out, _ = build(KINDS["regression"]).enhance(noisy)
    assert torch.allclose(out, noisy, atol=1e-5)


def test_the_flows_loss_does_not_reach_the_predictor() -> None:
    system = awake(KINDS["predicted"])
    terms = system(mels(1), mels(4), LENGTHS, IDS, draw([1, 2, 3], LENGTHS.tolist(), 100, DrawConfig()), LossConfig())
    (terms["loss"] - terms["predictor"]).sum().backward()
    assert system.predictor is not None
    assert all(p.grad is None or p.grad.abs().max() == 0 for p in system.predictor.parameters())
    assert all(p.grad is not None for p in system.network.parameters())


def test_zero_steps_return_the_prediction() -> None:
    system, noisy = awake(KINDS["predicted"]), mels(1)
    predicted, evaluations = system.enhance(noisy, sampling=Sampling(steps=0))
    assert evaluations == 1
    alone = build(KINDS["regression"]).eval()
    assert system.predictor is not None
    alone.network.load_state_dict(system.predictor.state_dict())
    assert torch.equal(alone.enhance(noisy)[0], predicted)


def test_only_the_predicted_source_has_a_predictor() -> None:
    system = build(dataclasses.replace(SMALL, flow=FlowConfig(source="predicted", predictor_depth=1)))
    assert system.predictor is not None
    assert len(system.predictor.blocks) == 1
    assert build(SMALL).predictor is None


def test_the_predictor_is_what_the_spec_says_in_both_objectives() -> None:
    assert isinstance(build(KINDS["predicted"]).predictor, DiT)
    assert isinstance(build(KINDS["predicted by a mask"]).predictor, DualPath)
    assert isinstance(build(KINDS["predicted by a mask"]).network, DiT)
    assert isinstance(build(KINDS["mask"]).network, DualPath)


REFINER = dataclasses.replace(
    KINDS["predicted by a mask"], flow=FlowConfig(source="predicted", sigma=0.3, predicts="data", range_db=50.0)
)


@pytest.mark.parametrize("source", ["gaussian", "noisy", "predicted"])
def test_an_untrained_data_prediction_is_what_it_changes(source: str) -> None:
    system, noisy = build(dataclasses.replace(REFINER, flow=FlowConfig(source=source, predicts="data"))).eval(), mels(1)
    enhanced, _ = system.enhance(noisy, sampling=Sampling(steps=4))
    base = system.normalise(noisy) if system.predictor is None else system.predict(noisy)
    assert torch.allclose(enhanced, system.denormalise(base), atol=1e-4)


def test_the_guard_mixes_the_prediction_in_and_at_0_nothing_else_is_left() -> None:
    system, noisy = awake(REFINER), mels(1)
    predicted, _ = system.enhance(noisy, LENGTHS, IDS, Sampling(steps=0))
    refined, _ = system.enhance(noisy, LENGTHS, IDS, Sampling(steps=2))
    half, evaluations = system.enhance(noisy, LENGTHS, IDS, Sampling(steps=2, guard=0.5))
    none, _ = system.enhance(noisy, LENGTHS, IDS, Sampling(steps=2, guard=0.0))
    assert evaluations == 3
    assert torch.equal(none, predicted)
    above = half > system.log_floor
    assert above.any()
    assert torch.allclose(
        half[above & (predicted > -11)], ((predicted + refined) / 2)[above & (predicted > -11)], atol=0.1
    )


def test_the_prediction_is_raised_to_its_range_where_the_flow_begins_alone() -> None:
    system, noisy = awake(REFINER), mels(1)
    estimate = system.predict(noisy, LENGTHS)
    for row, length in zip(estimate, LENGTHS.tolist(), strict=True):
        loudest = row[:length].max()
        assert float(row.min()) >= float(loudest) - 50 / DB_PER_NEPER / system.mel_std - 1e-5
    raw, _ = system.enhance(noisy, LENGTHS, sampling=Sampling(steps=0))
    assert float(system.normalise(raw).min()) < float(estimate.min())


def test_a_known_prediction_gives_the_same_loss_without_the_predictors() -> None:
    system, noisy, clean = awake(REFINER), mels(1), mels(2)
    draws = draw([1, 2, 3], LENGTHS.tolist(), 100, DrawConfig())
    itself = system(noisy, clean, LENGTHS, IDS, draws, LossConfig())
    known = system(noisy, clean, LENGTHS, IDS, draws, LossConfig(), predicted=system.predict(noisy, LENGTHS))
    assert "predictor" not in known
    assert torch.allclose(itself["velocity"], known["velocity"], rtol=1e-4)
    with pytest.raises(ValueError, match="predictor"):
        build(SMALL).predict(noisy)


def test_without_lengths_all_frames_are_real() -> None:
    system, noisy, clean = awake(SMALL), mels(1), mels(2)
    draws = draw([1, 2, 3], [40, 40, 40], 100, DrawConfig())
    masked = system(noisy, clean, torch.full((3,), 40), IDS, draws, LossConfig())["loss"]
    assert torch.allclose(system(noisy, clean, None, IDS, draws, LossConfig())["loss"], masked, rtol=1e-4)

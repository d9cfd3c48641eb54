"""Laws of optimisation: the schedule's shape, decay where it belongs, the average's closed form, freezing."""

import math

import pytest
import torch
from torch import nn

from flowse.model.spec import DiTConfig, ModelSpec
from flowse.model.system import build
from flowse.training.config import OptimConfig
from flowse.training.optim import MovingAverage, adamw, freeze, learning_rate

SMALL = ModelSpec(
    model=DiTConfig(dim=32, depth=3, heads=2, conv_groups=4, text_dim=16, text_blocks=1, qk_norm=True),
    vocabulary=tuple("abc"),
)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_rate_rises_to_the_peak_and_falls_to_its_fraction(schedule: str) -> None:
    config = OptimConfig(lr=2.0, warmup_steps=10, schedule=schedule, final_fraction=0.1)
    rates = [learning_rate(step, 100, config) for step in range(100)]
    assert rates[9] == rates[10] == max(rates) == 2.0
    assert rates[0] == pytest.approx(0.2)
    assert rates[-1] == pytest.approx(0.2)
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    middle = (10 + 99) / 2
    half = (rates[math.floor(middle)] + rates[math.ceil(middle)]) / 2
    assert half == pytest.approx((2.0 + 0.2) / 2, rel=0.02)


def test_a_constant_schedule_stays_at_its_peak() -> None:
    config = OptimConfig(lr=2.0, warmup_steps=0, schedule="constant")
    assert {learning_rate(step, 100, config) for step in range(100)} == {2.0}


def test_weight_decay_is_for_matrices_and_convolutions_alone() -> None:
    system = build(SMALL)
    decayed, plain = adamw(system, OptimConfig(weight_decay=0.1)).param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    names = {id(parameter): name for name, parameter in system.named_parameters()}
    kept = {names[id(parameter)] for parameter in plain["params"]}
    assert all(name.endswith("weight") for name in {names[id(p)] for p in decayed["params"]})
    assert {"network.text.embedding.weight", "network.text.blocks.0.grn.gamma"} <= kept
    assert {"network.blocks.0.attention.q_norm.weight", "network.input.bias"} <= kept
    assert len(kept) + len(decayed["params"]) == len(names)


def test_the_moving_average_has_its_closed_form() -> None:
    module = nn.Linear(3, 2)
    values = torch.randn(30, 2, 3)
    average = MovingAverage(module, decay=0.8)
    expected = module.weight.detach().clone()
    for update, value in enumerate(values):
        with torch.no_grad():
            module.weight.copy_(value)
        average.update()
        decay = min(0.8, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * value
    assert torch.allclose(average.shadow["weight"], expected, atol=1e-6)


def test_the_averaged_weights_are_in_the_module_within_the_block_alone() -> None:
    module = nn.Linear(3, 2)
    average = MovingAverage(module, decay=0.5)
    before = module.weight.detach().clone()
    with torch.no_grad():
        module.weight.add_(1)
    after = module.weight.detach().clone()
    with average.applied():
        assert torch.equal(module.weight, before)
    assert torch.equal(module.weight, after)
    assert torch.equal(average.shadow["weight"], before)


def test_freezing_by_name_leaves_the_rest_to_train() -> None:
    system = build(SMALL)
    count = freeze(system, ["network.blocks.[0-1].*", "network.text.*"])
    frozen = {name for name, p in system.named_parameters() if not p.requires_grad}
    assert count == sum(p.numel() for p in system.parameters() if not p.requires_grad)
    assert all(name.startswith(("network.blocks.0", "network.blocks.1", "network.text")) for name in frozen)
    assert not any(name.startswith("network.blocks.2") for name in frozen)
    trained = {id(p) for group in adamw(system, OptimConfig()).param_groups for p in group["params"]}
    assert trained == {id(p) for p in system.parameters() if p.requires_grad}


def test_a_pattern_without_effect_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"layers\.0"):
        freeze(build(SMALL), ["network.layers.0.*"])
    with pytest.raises(ValueError, match="nothing to train"):
        freeze(build(SMALL), ["*"])

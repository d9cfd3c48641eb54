"""Laws of adapters: at first they change no bit, merged they give what they gave, and the base is never trained."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from flowse.flow.config import FlowConfig
from flowse.flow.sampling import Sampling
from flowse.model.spec import DiTConfig, DualPathConfig, ModelSpec
from flowse.model.system import System, build
from flowse.training.lora import adapt, is_adapter, merged
from flowse.training.lora_config import LoraConfig

SMALL = DiTConfig(dim=32, depth=2, heads=2, conv_groups=4, text_dim=16, text_blocks=1)
MASK = DualPathConfig(channels=(4, 4, 6), blocks=1, frequency_dim=4, time_dim=4)
SPECS = {
    "flow": ModelSpec(model=SMALL, mel_mean=-5.0, mel_std=2.0),
    "predicted": ModelSpec(model=SMALL, flow=FlowConfig(source="predicted")),
    "mask": ModelSpec(model=SMALL, flow=FlowConfig(source="predicted"), predictor="dual_path", dual_path=MASK),
    "regression": ModelSpec(model=SMALL, objective="regression"),
}
LORA = LoraConfig(rank=4, alpha=8.0)


def system(spec: ModelSpec) -> System:
    """Build a system whose every weight counts: some are zero before training."""
    torch.manual_seed(0)
    built = build(spec).eval()
    for parameter in built.parameters():
        nn.init.normal_(parameter, std=0.1)
    return built


def enhanced(built: System) -> Tensor:
    noisy = torch.randn(2, 17, 100, generator=torch.Generator().manual_seed(1)) - 5
    with torch.no_grad():
        log_mel, _ = built.enhance(noisy, sampling=Sampling(steps=2))
    return log_mel


@pytest.mark.parametrize("kind", SPECS)
def test_before_training_the_output_is_the_bases_to_the_bit(kind: str) -> None:
    base, other = system(SPECS[kind]), system(SPECS[kind])
    assert adapt(other, LORA)
    assert torch.equal(enhanced(base), enhanced(other))


@pytest.mark.parametrize("kind", SPECS)
def test_merged_adapters_give_what_they_gave_beside_the_weights(kind: str) -> None:
    built = system(SPECS[kind])
    plain = {name: value.clone() for name, value in built.state_dict().items()}
    adapt(built, LORA)
    for name, parameter in built.named_parameters():
        if is_adapter(name):
            nn.init.normal_(parameter, std=0.2)
    weights = merged(built.state_dict(), LORA)
    assert weights.keys() == plain.keys()
    changed = {name for name, value in weights.items() if not torch.equal(value, plain[name])}
    assert changed == {
        name for name in plain if name.endswith(".weight") and any(part in name for part in (".attention.", ".feed_"))
        and plain[name].ndim == 2 and "norm" not in name and name.removesuffix(".weight") in adapted_layers(kind)
    }  # fmt: skip
    fresh = build(SPECS[kind]).eval()
    fresh.load_state_dict(weights)
    assert not torch.allclose(enhanced(fresh), enhanced(system(SPECS[kind])), atol=1e-3)
    assert torch.allclose(enhanced(fresh), enhanced(built), atol=1e-5)


def adapted_layers(kind: str) -> set[str]:
    return set(adapt(system(SPECS[kind]), LORA))


def test_adapters_alone_are_trained_and_are_few() -> None:
    built = system(SPECS["flow"])
    adapt(built, LORA)
    trained = {name for name, parameter in built.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, _ in built.named_parameters() if is_adapter(name)}
    total = sum(parameter.numel() for parameter in built.parameters())
    assert sum(built.get_parameter(name).numel() for name in trained) < 0.2 * total


def test_under_autocast_the_sum_is_as_exact_as_the_merged_weight() -> None:
    built = system(SPECS["flow"])
    (name, *_) = adapt(built, LORA)
    layer = built.get_submodule(name)
    for parameter in layer.parametrizations.weight[0].parameters():  # type: ignore[union-attr,index]
        nn.init.normal_(parameter)
    with torch.autocast("cpu", torch.bfloat16):
        weight = layer.weight
    assert weight.dtype == torch.float32
    assert torch.equal(weight, merged(built.state_dict(), LORA)[f"{name}.weight"])


def test_patterns_and_ranks_that_fit_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'\*\.gru' matches no linear layer; names are like 'network"):
        adapt(system(SPECS["flow"]), dataclasses.replace(LORA, targets=("*.gru",)))
    with pytest.raises(ValueError, match=r"lora\.rank is 32.*only 32 wide"):
        adapt(system(SPECS["flow"]), dataclasses.replace(LORA, rank=32))

"""Laws of precision: fewer bits give nearly the same mel, of models with transformers, on the device they are for."""

import dataclasses

import pytest
import torch

from flowse.flow.sampling import Sampling
from flowse.model.precision import reduce_precision
from flowse.model.spec import DiTConfig, DualPathConfig, ModelSpec
from flowse.model.system import System, build

SPEC = ModelSpec(
    model=DiTConfig(dim=64, depth=2, heads=2, conv_groups=4, text_dim=16, text_blocks=1, qk_norm=True),
    vocabulary=tuple("abcde"),
    jumps=True,
)
MASK = DualPathConfig(channels=(4, 4, 6), blocks=1, frequency_dim=4, time_dim=4)


def _system(spec: ModelSpec = SPEC) -> System:
    torch.manual_seed(0)
    system = build(spec).eval()
    for parameter in system.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return system


@pytest.mark.parametrize(("precision", "most"), [("fp32", 0.0), ("bf16", 0.03), ("int8", 0.1)])
def test_fewer_bits_change_the_mel_little(precision: str, most: float) -> None:
    noisy, ids = torch.randn(2, 40, 100) * 2 - 5, torch.ones(2, 9, dtype=torch.long)
    expected, _ = _system().enhance(noisy, torch.tensor([40, 21]), ids, Sampling(steps=2))
    system = _system()
    reduce_precision(system, precision)
    found, evaluations = system.enhance(noisy, torch.tensor([40, 21]), ids, Sampling(steps=2))
    assert found.dtype == torch.float32
    assert evaluations == 2
    change = float((found - expected).norm() / (expected - expected.mean()).norm())
    assert change <= most
    assert (change > 0) == (precision != "fp32")


def test_what_cannot_be_reduced_is_refused() -> None:
    with pytest.raises(ValueError, match="fp32, bf16, int8"):
        reduce_precision(_system(), "fp16")
    mask = build(dataclasses.replace(SPEC, objective="regression", predictor="dual_path", dual_path=MASK, jumps=False))
    with pytest.raises(ValueError, match="transformers"):
        reduce_precision(mask, "int8")
    with torch.device("meta"):
        elsewhere = build(SPEC)
    with pytest.raises(ValueError, match="for CPUs; on meta take 'bf16'"):
        reduce_precision(elsewhere, "int8")

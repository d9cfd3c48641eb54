"""Laws of the FLOP count: the closed form of the matrix products, and its growth with size and length."""

import dataclasses

import pytest

from flowse.flow.config import FlowConfig
from flowse.model.spec import PAPER, DiTConfig, ModelSpec
from flowse.training.throughput import peak_flops, training_flops_per_frame

SMALL = ModelSpec(model=DiTConfig(dim=128, depth=3, heads=2, conv_groups=4))


def closed_form(model: DiTConfig, frames: int, n_mels: int = 100) -> float:
    """FLOPs of a DiT without text: the backward pass has two products for each one of the forward pass."""
    d = model.dim
    block = 4 * d * d + 2 * model.ff_mult * d * d + 2 * frames * d  # projections, feed-forward, attention
    position = 2 * model.conv_kernel * d * d // model.conv_groups
    weights = 2 * n_mels * d + position + model.depth * block + d * n_mels
    once = model.depth * 6 * d * d + 256 * d + d * d + 2 * d * d  # modulation and time: once an utterance
    return 3 * 2 * (weights + once / frames)


@pytest.mark.parametrize("frames", [64, 500])
def test_the_count_is_the_closed_form(frames: int) -> None:
    counted = training_flops_per_frame(SMALL, frames)
    assert counted == pytest.approx(closed_form(SMALL.model, frames), rel=1e-6)


def test_a_predictor_has_the_flops_of_a_network() -> None:
    twice = dataclasses.replace(SMALL, flow=FlowConfig(source="predicted"))
    ratio = training_flops_per_frame(twice, 200) / training_flops_per_frame(SMALL, 200)
    assert ratio == pytest.approx(2.0, rel=0.02)


def test_the_papers_model_has_one_and_a_quarter_gigaflop_a_frame() -> None:
    counted = training_flops_per_frame(ModelSpec(model=PAPER), 470)
    assert counted == pytest.approx(closed_form(PAPER, 470), rel=1e-6)
    assert counted == pytest.approx(1.26e9, rel=0.01)


def test_a_cpu_has_no_peak() -> None:
    assert peak_flops("cpu") is None

"""Laws of choosing a guard on recordings: by any measure the result is never below the predictor's."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from flowse.enhancer import Enhancer
from flowse.export import ModelConfig
from flowse.flow.config import FlowConfig
from flowse.flow.guard import GuardConfig
from flowse.flow.sampling import Sampling
from flowse.guard_choice import choose_guard
from flowse.metrics.dnsmos import DnsmosScore
from flowse.model.spec import DiTConfig, ModelSpec
from flowse.model.system import build
from flowse.seeding import generator
from tests.tiny import write_vocoder

SPEC = ModelSpec(
    model=DiTConfig(dim=32, depth=1, heads=2, conv_groups=4),
    flow=FlowConfig(source="predicted", sigma=0.3, predicts="data"),
    mel_mean=-6.0,
    mel_std=3.0,
)
NOISY = [(0.1 * generator(seed).standard_normal(9_000)).astype(np.float32) for seed in range(3)]
CONFIG = GuardConfig(mixtures=3, sampling=Sampling(steps=2, synthesis="noisy_phase"))


@pytest.fixture(scope="module")
def enhancer(tmp_path_factory: pytest.TempPathFactory) -> Enhancer:
    vocoder = tmp_path_factory.mktemp("guard") / "vocoder"
    write_vocoder(vocoder)
    system = build(SPEC).eval()
    weights = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in system.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=weights) * 0.1)
    return Enhancer.from_parts(system, ModelConfig(spec=SPEC), vocoder)


def _by(measure: Callable[[np.ndarray], float]) -> Callable[[np.ndarray, int], DnsmosScore]:
    def quality(waveform: np.ndarray, rate: int) -> DnsmosScore:
        assert rate == 24_000
        value = measure(waveform)
        return DnsmosScore(ovrl=value, sig=value, bak=value, p808=value)

    return quality


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_guarded_result_is_never_below_the_predictors_and_may_be_the_predictor(
    enhancer: Enhancer, sign: float
) -> None:
    def loudness(samples: np.ndarray) -> float:
        return sign * float(np.abs(samples).mean())

    def mean(sampling: Sampling) -> float:
        return float(np.mean([loudness(enhancer.enhance(noisy, 24_000, sampling=sampling)) for noisy in NOISY]))

    found = choose_guard(enhancer, NOISY, 24_000, CONFIG, _by(loudness))
    assert found.mixtures == 3
    assert list(found.ovrl) == ["0", "0.25", "0.5", "0.75", "1"]
    predicted = mean(dataclasses.replace(CONFIG.sampling, steps=0))
    assert found.ovrl["0"] == pytest.approx(predicted)
    guarded = mean(dataclasses.replace(CONFIG.sampling, guard=found.guard))
    assert guarded == pytest.approx(max(found.ovrl.values()))
    assert guarded >= predicted - 1e-7
    others = [found.ovrl[share] - found.ovrl["0"] for share in ("0.25", "0.5", "0.75", "1")]
    assert found.guard > 0 if max(others) > 0 else found.guard == 0


def test_without_recordings_or_a_predictor_there_is_nothing_to_choose(enhancer: Enhancer, tmp_path: Path) -> None:
    quality = _by(lambda samples: 1.0)
    with pytest.raises(ValueError, match="recordings"):
        choose_guard(enhancer, [], 24_000, CONFIG, quality)
    plain = dataclasses.replace(SPEC, flow=FlowConfig())
    write_vocoder(tmp_path / "vocoder")
    other = Enhancer.from_parts(build(plain), ModelConfig(spec=plain), tmp_path / "vocoder")
    with pytest.raises(ValueError, match="no predictor"):
        choose_guard(other, NOISY, 24_000, CONFIG, quality)

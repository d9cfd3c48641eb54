"""Laws of ONNX files: they give the model's output at any length, and steps taken with them give its speech."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from flowse import onnx_export
from flowse.audio.mel_config import DB_PER_NEPER
from flowse.errors import UserError
from flowse.flow.config import FlowConfig
from flowse.flow.path import noise_of
from flowse.flow.sampling import Sampling
from flowse.model.spec import DiTConfig, DualPathConfig, ModelSpec
from flowse.model.system import System, build
from flowse.onnx_export import PREDICTOR, STEP, export_onnx

MODEL = DiTConfig(dim=32, depth=1, heads=2, conv_groups=4, text_dim=16, text_blocks=1, qk_norm=True)
MASK = DualPathConfig(channels=(4, 4, 6), blocks=1, frequency_dim=4, time_dim=4)
SPECS = {
    "text, jumps": ModelSpec(model=MODEL, vocabulary=tuple("abc"), jumps=True),
    "scale of guidance": ModelSpec(model=MODEL, vocabulary=tuple("abc"), jumps=True, guidance_max=2.0),
    "refined": ModelSpec(
        model=MODEL,
        flow=FlowConfig(source="predicted", sigma=0.3, predicts="data", range_db=40.0),
        predictor="dual_path",
        dual_path=MASK,
        mel_mean=-2.0,
        mel_std=2.0,
    ),
}


@pytest.fixture(autouse=True)
def _untyped() -> Iterator[None]:
    """The exporter traces sizes as tensors, which the annotations of the tests' type checks do not allow."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def _awake(spec: ModelSpec) -> System:
    system = build(spec).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in system.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return system


@pytest.mark.parametrize("name", ["text, jumps", "scale of guidance"])
def test_jumps_taken_with_the_file_give_the_models_speech(name: str, tmp_path: Path) -> None:
    spec, guidance = SPECS[name], 1.5 if name == "scale of guidance" else 0.0
    system = _awake(spec)
    assert export_onnx(system, spec, tmp_path)[STEP] < 1e-4
    session = onnxruntime.InferenceSession(tmp_path / STEP)
    noisy, ids = torch.randn(1, 33, 100), torch.ones(1, 33, dtype=torch.long)
    x = noise_of([7], [33], 100).numpy()
    for begin, end in ((0.0, 0.5), (0.5, 1.0)):
        feeds = {"x_t": x, "noisy": noisy.numpy(), "t": np.float32([begin]), "r": np.float32([end])}
        feeds |= {"guidance": np.float32([guidance])} if guidance else {}
        (x,) = session.run(None, {**feeds, "text_ids": ids.numpy()})
    expected, _ = system.enhance(noisy, None, ids, Sampling(steps=2, guidance=guidance), seed=7)
    assert np.allclose(x.clip(system.log_floor), expected.numpy(), atol=1e-3)
    facts = json.loads(onnx.load(str(tmp_path / STEP)).metadata_props[0].value)
    assert facts["jumps"] is True
    assert facts["guidance_max"] == spec.guidance_max
    assert facts["vocabulary"] == ["a", "b", "c"]


@pytest.mark.parametrize("guard", [0.0, 0.5, 1.0])
def test_the_files_and_their_metadata_alone_give_a_refinements_speech(guard: float, tmp_path: Path) -> None:
    spec = dataclasses.replace(SPECS["refined"], jumps=True)
    system, sampling = _awake(spec), Sampling(steps=2, guard=guard)
    export_onnx(system, spec, tmp_path, sampling)
    noisy = torch.randn(1, 33, 100, generator=torch.Generator().manual_seed(5)) * 2 - 2
    (predictor, step) = (onnxruntime.InferenceSession(tmp_path / name) for name in (PREDICTOR, STEP))
    facts = json.loads(onnx.load(str(tmp_path / STEP)).metadata_props[0].value)

    def normalised(mel: np.ndarray) -> np.ndarray:
        return np.asarray((mel - facts["mel_mean"]) / facts["mel_std"])

    (estimate,) = predictor.run(None, {"noisy_log_mel": noisy.numpy()})
    estimate = normalised(estimate)
    predicted = np.maximum(estimate, estimate.max() - facts["range_db"] / DB_PER_NEPER / facts["mel_std"])
    x = predicted + facts["sigma"] * noise_of([7], [33], 100).numpy()
    assert facts["times"] == [0.0, 0.5, 1.0]
    for begin, end in itertools.pairwise(facts["times"]):
        feeds = {"x_t": x, "noisy": normalised(noisy.numpy()), "predicted": predicted}
        feeds |= {"t": np.float32([begin]), "r": np.float32([end])}
        (x,) = step.run(None, {name: value.astype(np.float32) for name, value in feeds.items()})
    found = (estimate + facts["guard"] * (x - estimate)) * facts["mel_std"] + facts["mel_mean"]
    expected, _ = system.enhance(noisy, sampling=sampling, seed=7)
    assert np.allclose(found.clip(system.log_floor), expected.numpy(), atol=1e-3)


def test_a_flow_that_refines_has_both_files_and_a_difference_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = SPECS["refined"]
    system = _awake(spec)
    assert sorted(export_onnx(system, spec, tmp_path)) == [PREDICTOR, STEP]
    monkeypatch.setattr(onnx_export, "TOLERANCE", -1.0)
    with pytest.raises(UserError, match="differs"):
        export_onnx(system, spec, tmp_path / "again")
    assert not any((tmp_path / "again").iterdir())

"""Laws of the start: a flow from a regression model takes its spec, and an earlier training's folder is a start."""

import dataclasses
import json
from pathlib import Path

import pytest

from flowse.errors import UserError
from flowse.flow.config import DistilConfig, FlowConfig
from flowse.model.spec import DiTConfig, ModelSpec
from flowse.training.start import Start, becomes_predictor, distilled_spec, refining_spec, starting_point

REGRESSION = ModelSpec(
    model=DiTConfig(dim=32, depth=2, heads=2, conv_groups=4), objective="regression", mel_mean=-5.0, mel_std=2.0
)
FLOW = ModelSpec(
    model=DiTConfig(dim=64, depth=1, heads=2, conv_groups=4), flow=FlowConfig(source="predicted", sigma=0.2)
)


def test_only_a_regression_model_becomes_the_predictor_of_a_flow_from_an_estimate() -> None:
    assert becomes_predictor(REGRESSION, FLOW)
    assert not becomes_predictor(FLOW, FLOW)
    assert not becomes_predictor(REGRESSION, REGRESSION)
    assert not becomes_predictor(REGRESSION, dataclasses.replace(FLOW, flow=FlowConfig(source="noisy")))


def test_the_flow_has_the_starts_width_and_statistics_and_its_own_depth() -> None:
    spec = refining_spec(REGRESSION, FLOW)
    assert (spec.objective, spec.mel_mean, spec.mel_std) == ("flow", -5.0, 2.0)
    assert (spec.model.dim, spec.model.depth) == (32, 1)
    assert spec.flow == FlowConfig(source="predicted", sigma=0.2, predictor_depth=2)


def test_a_flow_beside_a_mask_has_its_own_network() -> None:
    spec = refining_spec(dataclasses.replace(REGRESSION, predictor="dual_path"), FLOW)
    assert (spec.predictor, spec.model, spec.flow) == ("dual_path", FLOW.model, FLOW.flow)


def test_a_start_says_what_is_taken_from_it() -> None:
    start = Start(REGRESSION, Path("weights"))
    assert "statistics are its own" in start.describe(REGRESSION)
    assert "becomes the predictor" in start.describe(refining_spec(REGRESSION, FLOW))


def test_the_folder_of_a_training_is_a_start(tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text(json.dumps(REGRESSION.to_dict()))
    assert starting_point(str(tmp_path)) == Start(REGRESSION, tmp_path / "model.safetensors")


def test_an_embedded_model_is_a_start() -> None:
    assert starting_point("flowse-small").weights.is_file()


def test_a_folder_of_anything_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no export, train folder or checkpoint can be read there"):
        starting_point(str(tmp_path))


def test_a_model_that_takes_scales_of_guidance_is_distilled_again_for_the_same_ones() -> None:
    start = ModelSpec(jumps=True, guidance_max=2.0)
    assert distilled_spec(start, DistilConfig(guidance_max=2.0)) == start
    for other in (0.0, 1.0):
        with pytest.raises(ValueError, match=r"guidance_max=.* must be 2\.0"):
            distilled_spec(start, DistilConfig(guidance_max=other))
    assert distilled_spec(ModelSpec(), DistilConfig(guidance_max=1.0)).guidance_max == 1.0

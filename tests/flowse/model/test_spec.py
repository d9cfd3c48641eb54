"""Laws of the spec: it survives JSON, refuses what it does not know, and builds what it says."""

import json

import pytest

from flowse.flow.path import FlowConfig
from flowse.model.dit import DiTConfig
from flowse.model.spec import ModelSpec, build

SPEC = ModelSpec(
    model=DiTConfig(dim=32, depth=2, heads=2, conv_groups=4, text_dim=16, text_blocks=1),
    flow=FlowConfig(source="predicted", sigma=0.3, predictor_depth=1),
    vocabulary=(" ", "a", "ni3"),
    mel_mean=-6.1,
    mel_std=2.9,
)


def test_a_spec_survives_json() -> None:
    assert ModelSpec.from_dict(json.loads(json.dumps(SPEC.to_dict()))) == SPEC


@pytest.mark.parametrize("where", ["", "model", "mel", "flow"])
def test_an_unknown_key_is_refused_by_name(where: str) -> None:
    values = SPEC.to_dict()
    (values[where] if where else values)["surprise"] = 1
    with pytest.raises(ValueError, match="surprise"):
        ModelSpec.from_dict(values)


@pytest.mark.parametrize(("key", "value"), [("objective", "magic"), ("mel_std", 0.0), ("vocabulary", ("a", "a"))])
def test_what_cannot_be_built_is_refused_by_name(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=key):
        ModelSpec(**{key: value})


def test_only_the_predicted_source_has_a_predictor() -> None:
    system = build(SPEC)
    assert system.predictor is not None
    assert len(system.predictor.blocks) == 1
    assert build(ModelSpec(model=SPEC.model)).predictor is None

"""Laws of the flow's settings: impossible ones are refused by name."""

import pytest

from flowse.flow.config import DistilConfig, DrawConfig, FlowConfig, LossConfig


@pytest.mark.parametrize(("key", "value"), [("source", "speech"), ("sigma", -0.1), ("predictor_depth", -1)])
def test_an_impossible_flow_is_refused_by_name(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=key):
        FlowConfig(**{key: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("key", "value"), [("time", "gamma"), ("time_std", 0.0), ("drop_condition", -0.1), ("drop_text", 1.5)]
)
def test_impossible_draws_are_refused_by_name(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=key):
        DrawConfig(**{key: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("key", ["mel_l1", "range_db", "compressed"])
def test_a_negative_weight_is_refused_by_name(key: str) -> None:
    with pytest.raises(ValueError, match=key):
        LossConfig(**{key: -1.0})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("flow_share", 1.5),
        ("teacher_share", 0.6),
        ("guidance", -1.0),
        ("guidance_max", -1.0),
        ("early_span", 0.001),
        ("teacher_span", 1.5),
        ("shortest", 0.0),
        ("offset", 0.0),
    ],
)
def test_an_impossible_distillation_is_refused_by_name(key: str, value: float) -> None:
    with pytest.raises(ValueError, match=key):
        DistilConfig(**{key: value})


def test_guidance_is_one_scale_or_drawn_and_not_both() -> None:
    with pytest.raises(ValueError, match=r"guidance=1.*guidance_max=2"):
        DistilConfig(guidance=1.0, guidance_max=2.0)

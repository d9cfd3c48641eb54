"""Laws of the spec: it survives JSON, and refuses unknown keys and impossible sizes by name."""

import dataclasses
import json
from pathlib import Path

import pytest

from flowse.flow.config import FlowConfig
from flowse.flow.sampling import Sampling
from flowse.model.spec import DiTConfig, DualPathConfig, ModelSpec

SPEC = ModelSpec(
    model=DiTConfig(dim=32, depth=2, heads=2, conv_groups=4, text_dim=16, text_blocks=1),
    flow=FlowConfig(source="predicted", sigma=0.3, predictor_depth=1),
    dual_path=DualPathConfig(channels=(4, 4, 6), blocks=1, frequency_dim=4, time_dim=4),
    vocabulary=(" ", "a", "ni3"),
    mel_mean=-6.1,
    mel_std=2.9,
)


def test_a_spec_survives_its_file(tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text(json.dumps(SPEC.to_dict()), encoding="utf-8")
    assert ModelSpec.read(tmp_path / "spec.json") == SPEC


@pytest.mark.parametrize("where", ["", "model", "mel", "flow", "dual_path"])
def test_an_unknown_key_is_refused_by_name(where: str) -> None:
    values = SPEC.to_dict()
    (values[where] if where else values)["surprise"] = 1
    with pytest.raises(ValueError, match="surprise"):
        ModelSpec.from_dict(values)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("objective", "magic"),
        ("predictor", "oracle"),
        ("mel_std", 0.0),
        ("vocabulary", ("a", "a")),
        ("guidance_max", 1.0),
    ],
)
def test_a_model_that_cannot_be_built_is_refused_by_the_name_of_the_key(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=key):
        ModelSpec(**{key: value})


def test_a_spec_written_before_masks_existed_means_a_dit() -> None:
    values = {key: value for key, value in SPEC.to_dict().items() if key not in ("predictor", "dual_path")}
    assert ModelSpec.from_dict(values).predictor == "dit"


def test_a_spec_of_before_is_read_unless_it_needs_the_mask_u_net() -> None:
    old = {**json.loads(json.dumps(SPEC.to_dict())), "unet": {"channels": [16, 32]}}
    assert ModelSpec.from_dict(old) == SPEC
    with pytest.raises(ValueError, match="'unet' is no longer supported"):
        ModelSpec.from_dict({**old, "predictor": "unet"})


@pytest.mark.parametrize(
    ("key", "value"),
    [("dim", 100), ("heads", 5), ("conv_kernel", 30), ("rotary", "none"), ("dropout", 1.0), ("text_dim", 7)],
)
def test_impossible_sizes_of_a_dit_are_refused_by_name(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=key):
        dataclasses.replace(DiTConfig(), **{key: value})


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"channels": (4, 6)}, "channels"),
        ({"channels": (4, 0, 6)}, "channels"),
        ({"blocks": 0}, "blocks"),
        ({"time_dim": 0}, "time_dim"),
    ],
)
def test_impossible_sizes_of_a_mask_are_refused_by_name(values: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=f"{named}="):
        DualPathConfig(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("where", "key", "value"),
    [
        ("model", "dim", 2**31),
        ("model", "depth", 10**9),
        ("model", "depth", "4"),
        ("model", "heads", 0),
        ("model", "dim", None),
        ("model", "conv_kernel", 31.0),
        ("model", "qk_norm", 1),
        ("mel", "hop_length", 0),
        ("mel", "n_mels", -2),
        ("mel", "floor", float("nan")),
        ("dual_path", "channels", []),
        ("dual_path", "channels", [None]),
        ("dual_path", "blocks", 2**40),
        ("flow", "sigma", float("inf")),
        ("flow", "source", None),
        ("", "mel_mean", float("nan")),
        ("", "mel_std", "x"),
        ("", "vocabulary", "abc"),
        ("", "vocabulary", [1]),
        ("", "model", None),
    ],
)
def test_a_stranger_s_values_are_refused_by_the_name_of_the_key(where: str, key: str, value: object) -> None:
    """Of another type, not finite, or so large that building the model would fill the memory or never end."""
    values = SPEC.to_dict()
    (values[where] if where else values)[key] = value
    with pytest.raises(ValueError, match=key):
        ModelSpec.from_dict(json.loads(json.dumps(values)))


def test_a_spec_without_a_scale_of_guidance_is_written_as_before_there_were_any() -> None:
    scaled = dataclasses.replace(SPEC, jumps=True, guidance_max=2.0)
    assert "guidance_max" not in SPEC.to_dict()
    assert ModelSpec.from_dict(json.loads(json.dumps(scaled.to_dict()))) == scaled


def test_sampling_that_a_model_cannot_do_is_refused_by_the_name_of_the_key() -> None:
    flow = ModelSpec()
    flow.require(Sampling(steps=1, guidance=3.0))
    SPEC.require(Sampling(steps=0))
    ModelSpec(objective="regression").require(Sampling(steps=0))
    with pytest.raises(ValueError, match="steps=0"):
        flow.require(Sampling(steps=0))
    scaled = dataclasses.replace(flow, jumps=True, guidance_max=2.0)
    scaled.require(Sampling(guidance=2.0))
    with pytest.raises(ValueError, match=r"guidance=2.5.*0 to 2"):
        scaled.require(Sampling(guidance=2.5))
    with pytest.raises(ValueError, match=r"guidance=1.*no scale"):
        dataclasses.replace(flow, jumps=True).require(Sampling(guidance=1.0))

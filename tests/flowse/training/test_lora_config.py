"""Laws of the settings of adapters: off by default, and what contradicts them is refused by name."""

import dataclasses

import pytest

from flowse.training.config import TrainConfig
from flowse.training.ledger import run_identity
from flowse.training.lora_config import LoraConfig
from tests.small_shards import TINY

ON = dataclasses.replace(TINY, init_from="flowse-small", lora=LoraConfig(rank=4))


@pytest.mark.parametrize(("key", "value"), [("rank", -1), ("alpha", 0.0), ("targets", ())])
def test_impossible_settings_are_refused_by_name(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=key):
        LoraConfig(**{"rank": 4, key: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("key", "value"), [("init_from", ""), ("objective", "distil"), ("freeze", ("x",)), ("parallel", "fsdp")]
)
def test_what_contradicts_adapters_is_refused(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=key):
        dataclasses.replace(ON, **{key: value})  # type: ignore[arg-type]


def test_runs_and_fingerprints_of_before_stay_what_they_were() -> None:
    assert "lora" not in run_identity(TINY, 5)
    assert run_identity(ON, 5)["lora"]["rank"] == 4
    (field,) = (field for field in dataclasses.fields(TrainConfig) if field.name == "lora")
    assert field.metadata["fingerprint"] == "unless default"
    assert field.default == LoraConfig()


def test_the_scale_does_not_grow_with_the_rank() -> None:
    assert LoraConfig(rank=4).scale == 2 * LoraConfig(rank=8).scale
    assert LoraConfig().scale == 0

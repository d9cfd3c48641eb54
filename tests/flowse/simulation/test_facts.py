"""Facts about a mixture survive its shard; facts of another version are refused with the key."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from flowse.json_records import WrongShape
from flowse.simulation.facts import MixtureFacts
from flowse.simulation.recipe import Recipe
from flowse.simulation.render import Checks

RECIPE = Recipe(
    key="u-00",
    utt_id="u",
    copy=0,
    split="train",
    crop_s=0.5,
    duration_s=2.0,
    noise_ids=("n",),
    noise_snrs_db=(5.0,),
    noise_offsets_s=(1.0,),
    noise_sources=(1,),
    competitor_id="",
    competitor_snr_db=0.0,
    competitor_source=-1,
    room_id="r",
    speech_source=0,
    target="dry",
    early_s=0.05,
    level_dbfs=-25.0,
    equaliser_db=(),
    clipping_share=None,
    band_limit_hz=4000.0,
    codec="",
    codec_kbps=0.0,
    lost_packets=(),
)
CHECKS = Checks(
    snr_db=5.0,
    noise_snrs_db=(5.0,),
    level_dbfs=-25.0,
    clean_level_dbfs=-26.0,
    peak=0.5,
    guard_db=0.0,
    lag=0,
    samples=48_000,
)
FACTS = MixtureFacts(
    utt_id="u",
    copy=0,
    split="train",
    text="你好",
    text_source="corpus",
    language="zh",
    speaker="s",
    corpus="c",
    licence="CC0",
    snr_db=5.0,
    room_id="r",
    rt60_s=0.4,
    distance_m=None,
    recipe=RECIPE,
    checks=CHECKS,
)


def test_facts_are_read_back_from_the_json_of_a_shard() -> None:
    """`ShardWriter` adds key and sample rate to the JSON; they are no facts of the mixture."""
    stored = json.loads(json.dumps({"key": "u-00", "sample_rate": 24_000, **FACTS.to_meta()}))
    assert MixtureFacts.of(stored) == FACTS
    assert MixtureFacts.of(replace(FACTS, rt60_s=None).to_meta()).rt60_s is None


def test_facts_of_another_version_are_refused() -> None:
    meta = FACTS.to_meta()
    with pytest.raises(WrongShape, match=r"recipe\.lost_packets is missing"):
        MixtureFacts.of(
            meta | {"recipe": {key: meta["recipe"][key] for key in meta["recipe"] if key != "lost_packets"}}
        )
    with pytest.raises(WrongShape, match="mood is unknown"):
        MixtureFacts.of(meta | {"mood": "calm"})
    with pytest.raises(WrongShape, match="split is 'all', not one of 'train'"):
        MixtureFacts.of(meta | {"split": "all"})

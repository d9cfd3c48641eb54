"""Laws of the rules against invented transcripts: each names what it rejects, and ordinary speech passes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from flowse.hallucination import Rules, longest_repetition, require_plausible
from flowse.refusal import Refusal
from flowse.whisper.transcript import Transcript

GOOD = Transcript(
    text="the quick brown fox jumps", language="en", avg_logprob=-0.3, no_speech_prob=0.1, tokens=6, seconds=2.0
)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"no_speech_prob": 0.95}, "no_speech"),
        ({"seconds": 0.0}, "no_speech"),
        ({"text": " … "}, "empty_transcript"),
        ({"text": "So: Thanks for WATCHING!"}, "known_phrase"),
        ({"text": "好的 请不吝点赞 订阅"}, "known_phrase"),
        ({"text": "go on go on go on go on go on"}, "repetition"),
        ({"text": "好好好好好好好"}, "repetition"),
        ({"compression_ratio": 2.5}, "compression_ratio"),
        ({"text": "a" * 70}, "characters_per_second"),
        ({"text": "a"}, "characters_per_second"),
        ({"text": "今天天气很好我们一起去公园玩吧然后再去吃晚饭看电影"}, "characters_per_second"),
        ({"avg_logprob": -1.1}, "low_logprob"),
        ({"avg_logprob": float("nan")}, "low_logprob"),
    ],
)
def test_each_rule_names_what_it_rejects(change: dict[str, Any], reason: str) -> None:
    require_plausible(GOOD, 2.0, Rules())
    with pytest.raises(Refusal) as raised:
        require_plausible(replace(GOOD, **change), 2.0, Rules())
    assert raised.value.reason == reason


@pytest.mark.parametrize("text", ["Thank you.", "watching birds, thanks for asking", "今天天气很好"])
def test_ordinary_speech_passes(text: str) -> None:
    require_plausible(replace(GOOD, text=text), 2.0, Rules())


@pytest.mark.parametrize(
    ("plain", "expected"), [("", 0), ("a", 1), ("a b a b a b", 3), ("a a b", 2), ("x a b c a b c y", 2), ("哈哈哈", 3)]
)
def test_repetitions_are_counted(plain: str, expected: int) -> None:
    assert longest_repetition(plain) == expected


def test_thresholds_out_of_range_are_named() -> None:
    with pytest.raises(ValueError, match="hanzi_per_second"):
        Rules(hanzi_per_second=(3.0, 1.0))
    with pytest.raises(ValueError, match="max_repeats is 0"):
        Rules(max_repeats=0)

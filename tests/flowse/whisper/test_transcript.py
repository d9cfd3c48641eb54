"""Laws of transcripts: joining is associative, silence changes nothing, no space between Hanzi."""

from __future__ import annotations

import pytest

from flowse.whisper.transcript import Transcript, join_transcripts


def test_joining_is_associative_and_silence_is_its_neutral_element() -> None:
    parts = [
        Transcript(text=text, language="en", avg_logprob=-0.1 * n, no_speech_prob=0.1 * n, tokens=n, seconds=float(n))
        for n, text in enumerate(["one two", "", "three"], start=1)
    ]
    whole = join_transcripts(parts, "en")
    assert whole.text == "one two three"
    nested = join_transcripts([join_transcripts(parts[:2], "en"), Transcript(text="", language="en"), parts[2]], "en")
    assert (whole.text, whole.tokens, whole.seconds) == (nested.text, nested.tokens, nested.seconds)
    assert (whole.avg_logprob, whole.no_speech_prob) == pytest.approx((nested.avg_logprob, nested.no_speech_prob))
    assert join_transcripts([], "en") == Transcript(text="", language="en")


def test_chinese_windows_are_joined_without_a_space() -> None:
    parts = [Transcript(text=text, language="zh", tokens=2, seconds=1.0) for text in ("你好", "世界")]
    assert join_transcripts(parts, "zh").text == "你好世界"

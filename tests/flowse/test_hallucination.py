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


KNOWN = {
    "en": "Thank you so much for watching!",
    "en, with more words": "Thank you all very much for watching this video.",
    "zh": "谢谢大家观看",
    "zh, traditional": "請不吝點贊 訂閱 轉發 打賞支持明鏡與點點欄目",
    "zh, traditional, with more": "感謝您的觀看",
    "ja": "ご視聴ありがとうございました。",
    "ko": "시청해 주셔서 감사합니다.",
    "ar": "اشتركوا في القناة",
    "ar, with vowel signs": "شُكْرًا لِلْمُشَاهَدَة",
    "de": "Untertitel der Amara.org-Community",
    "de, with more words": "Vielen Dank fürs Zuschauen und bis zum nächsten Video",
    "es": "Subtítulos realizados por la comunidad de Amara.org",
    "es, without accents": "Suscribete al canal!",
    "fr": "Sous-titres réalisés para la communauté d'Amara.org",
    "fr, other": "Merci d'avoir regardé cette vidéo !",
    "it": "Sottotitoli creati dalla comunità Amara.org",
    "pt": "Obrigado por assistir!",
    "ru": "Субтитры сделал DimaTorzok",
    "hi": "देखने के लिए धन्यवाद",
    "nl": "Ondertiteld door de Amara.org gemeenschap",
    "pl": "Dziękuję za oglądanie.",
    "tr": "İzlediğiniz için teşekkür ederim.",
}


@pytest.mark.parametrize("name", KNOWN)
def test_known_phrases_are_known_in_every_language_and_spelling(name: str) -> None:
    with pytest.raises(Refusal, match="known_phrase"):
        require_plausible(replace(GOOD, text=KNOWN[name], seconds=4.0), 4.0, Rules())


@pytest.mark.parametrize(
    ("text", "sound_s"),
    [
        ("a few words that were said in no time at all", 1.0),
        ("안녕하세요 여러분 오늘은 날씨가 매우 좋습니다", 1.0),
        ("きょうはとてもいいてんきです", 1.0),
    ],
)
def test_speech_faster_than_people_speak_is_named(text: str, sound_s: float) -> None:
    require_plausible(replace(GOOD, text=text, seconds=4.0), 4.0, Rules())
    for duration_s in (sound_s, 10.0):  # silence around it is no time to speak
        with pytest.raises(Refusal, match="characters_per_second"):
            require_plausible(replace(GOOD, text=text, seconds=sound_s), duration_s, Rules())


ORDINARY = [
    "Thank you.", "watching birds, thanks for asking", "今天天气很好", "谢谢你来看我", "he was watching me, thank god",
    "I would like to subscribe", "Danke, bis morgen", "Merci beaucoup", "спасибо большое", "ありがとうございます",
]  # fmt: skip


@pytest.mark.parametrize("text", ORDINARY)
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

"""Laws of the language decision: wanted languages count together, labels are worth what the rules say."""

from __future__ import annotations

from typing import Any

import pytest

from flowse.audio.activity import Activity
from flowse.language_filter import LanguageRules, Verdict, judge, no_speech, rank
from flowse.refusal import Refusal


def test_probabilities_that_are_not_finite_decide_nothing() -> None:
    with pytest.raises(Refusal, match="uncertain_language"):
        judge({"en": float("nan"), "zh": 0.5}, LanguageRules())


def test_cantonese_counts_as_chinese() -> None:
    assert rank({"en": 0.1, "zh": 0.35, "yue": 0.45, "fr": 0.1})[0] == ("zh", pytest.approx(0.8))


def test_wanted_languages_count_together() -> None:
    mixed = {"en": 0.45, "zh": 0.4, "fr": 0.15}
    assert judge(mixed, LanguageRules(min_probability=0.8)) == Verdict("en", 0.45)
    with pytest.raises(Refusal, match="uncertain_language"):
        judge(mixed, LanguageRules(languages=("en",)))


@pytest.mark.parametrize(
    ("label", "reason"),
    [("en", None), ("", None), ("zh", "label_mismatch: labelled zh"), ("fr", "other_language: labelled fr")],
)
def test_a_verified_label_must_agree(label: str, reason: str | None) -> None:
    english = {"en": 0.9, "zh": 0.1}
    rules = LanguageRules(labels="verify")
    if reason is None:
        assert judge(english, rules, label).language == "en"
    else:
        with pytest.raises(Refusal, match=reason):
            judge(english, rules, label)
    assert judge(english, LanguageRules(labels="ignore"), label).language == "en"


def test_another_language_is_shown_with_the_next_likeliest() -> None:
    with pytest.raises(Refusal) as raised:
        judge({"fr": 0.8, "en": 0.1, "de": 0.06, "es": 0.04}, LanguageRules())
    assert (raised.value.reason, raised.value.detail) == ("other_language", "fr 0.80, en 0.10, de 0.06")


@pytest.mark.parametrize(
    ("stretches", "detail"),
    [
        ([], "0.00 s of sound"),
        ([(0.1, 20.0)], "0.10 s of sound"),
        ([(0.5, 1.0), (0.5, 1.5)], "steady sound, its level varies by 1.5 dB"),
        ([(0.1, 1.0), (0.2, 12.0)], None),
    ],
)
def test_silence_and_hum_are_no_speech(stretches: list[tuple[float, float]], detail: str | None) -> None:
    found = [
        Activity(start=0, stop=0, active_s=active_s, dynamics_db=dynamics_db) for active_s, dynamics_db in stretches
    ]
    refusal = no_speech(found, LanguageRules())
    assert (refusal is None) if detail is None else (refusal is not None and detail in refusal.detail)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [({"languages": ()}, "languages is empty"), ({"min_probability": 1.5}, r"min_probability is 1\.5")],
)
def test_a_wrong_value_is_named(values: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        LanguageRules(**values)

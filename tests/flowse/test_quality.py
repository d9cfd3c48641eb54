"""Laws of the quality gate: a value at its limit passes, one beyond it is named, limits only ever take more away."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowse.quality import MEASURES, Quality, QualityLimits, judge
from flowse.refusal import Refusal

GOOD = Quality(utt_id="c/a", corpus="c", dnsmos=3.0, bandwidth_hz=8000.0, snr_db=30.0, clipped=0.001)
LIMITS = QualityLimits(min_dnsmos=3.0, min_bandwidth_hz=8000.0, min_snr_db=30.0, max_clipped=0.001)


def passes(quality: Quality, limits: QualityLimits) -> bool:
    try:
        judge(quality, limits)
    except Refusal:
        return False
    return True


def test_a_value_at_its_limit_passes() -> None:
    judge(GOOD, LIMITS)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"dnsmos": 2.999}, "low_dnsmos"),
        ({"bandwidth_hz": 3906.0}, "narrow_band"),
        ({"snr_db": 29.9}, "low_snr"),
        ({"clipped": 0.0011}, "clipped"),
    ],
)
def test_a_value_beyond_its_limit_is_dropped_for_its_own_reason(change: dict[str, float], reason: str) -> None:
    with pytest.raises(Refusal) as refused:
        judge(dataclasses.replace(GOOD, **change), LIMITS)
    assert (refused.value.reason, refused.value.kind) == (reason, "dropped")
    (measure,) = (measure for measure in MEASURES if measure.reason == reason)
    assert f"{change[measure.name]:g}" in refused.value.detail
    judge(dataclasses.replace(GOOD, **change), QualityLimits())


def test_the_detail_names_every_limit_that_is_broken() -> None:
    with pytest.raises(Refusal) as refused:
        judge(dataclasses.replace(GOOD, bandwidth_hz=3906.0, dnsmos=1.5), LIMITS)
    assert refused.value.reason == "narrow_band"
    assert refused.value.detail == "Bandwidth, Hz 3906, under 8000; DNSMOS overall 1.5, under 3"


def test_what_was_not_measured_passes_and_what_could_not_be_keeps_its_reason() -> None:
    judge(Quality(utt_id="c/a", corpus="c"), LIMITS)
    broken = Quality(utt_id="c/a", corpus="c", refused="truncated", detail="c/a.flac ends", kind="failed")
    with pytest.raises(Refusal) as refused:
        judge(broken, QualityLimits())
    assert (refused.value.reason, refused.value.detail, refused.value.kind) == ("truncated", "c/a.flac ends", "failed")


@given(st.floats(1, 5), st.floats(1, 5), st.floats(1, 5))
def test_a_stricter_limit_keeps_nothing_that_a_looser_one_drops(value: float, limit: float, other: float) -> None:
    quality = dataclasses.replace(GOOD, dnsmos=value)
    looser, stricter = sorted((limit, other))
    if passes(quality, QualityLimits(min_dnsmos=stricter)):
        assert passes(quality, QualityLimits(min_dnsmos=looser))


def test_a_corpus_replaces_single_limits() -> None:
    own = LIMITS.replaced(QualityLimits(min_dnsmos=1.0))
    assert own == dataclasses.replace(LIMITS, min_dnsmos=1.0)
    assert LIMITS.replaced(QualityLimits()) == LIMITS


@pytest.mark.parametrize(
    ("key", "value"), [("min_dnsmos", 0.5), ("min_bandwidth_hz", -1.0), ("min_snr_db", 200.0), ("max_clipped", 1.5)]
)
def test_limits_out_of_range_are_refused_by_key(key: str, value: float) -> None:
    with pytest.raises(ValueError, match=key):
        QualityLimits(**{key: value})


@given(st.sampled_from(MEASURES), st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_every_value_has_a_bin(measure: object, value: float) -> None:
    assert 0 <= measure.bin_of(value) < measure.bins  # type: ignore[attr-defined]

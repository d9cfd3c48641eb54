"""Laws of the record of an evaluation: it comes back as it was, and a missing key is named."""

from __future__ import annotations

import json

import pytest

from flowse.flow.sampling import Sampling
from flowse.metrics.bootstrap import Interval
from flowse.metrics.evaluation import Evaluation, WorstGain
from flowse.metrics.scores import Summary

GAIN = Interval(value=0.5, low=0.4, high=0.6)


def summary(group: str, previous: float | None) -> Summary:
    return Summary(
        group=group,
        metric="ovrl",
        recordings=3,
        noisy=2.0,
        enhanced=2.5,
        clean=None,
        previous=previous,
        gain=GAIN,
        gain_previous=None if previous is None else GAIN,
    )


RECORD = Evaluation(
    recordings=3,
    model="",
    sampling=Sampling(steps=4, limit_db=12.0),
    vocoder="vocos",
    with_text=False,
    summary=(summary("all", 2.1), summary("SNR 0…5 dB", None)),
    worst=(WorstGain(key="a", noisy=2.0, enhanced=1.9),),
    evaluations=4.0,
)


def test_a_record_comes_back_as_it_was() -> None:
    assert Evaluation.from_text(RECORD.to_text()) == RECORD
    assert RECORD.overall == {"ovrl": RECORD.summary[0]}


@pytest.mark.parametrize("key", ["summary", "sampling", "vocoder"])
def test_a_missing_key_is_named(key: str) -> None:
    values = {name: value for name, value in json.loads(RECORD.to_text()).items() if name != key}
    with pytest.raises(ValueError, match=f"{key} is missing"):
        Evaluation.from_text(json.dumps(values))


def test_a_record_of_before_evaluations_were_counted_is_read() -> None:
    values = {name: value for name, value in json.loads(RECORD.to_text()).items() if name != "evaluations"}
    assert Evaluation.from_text(json.dumps(values)).evaluations == 0

"""Laws of the record of an evaluation: it comes back as it was, and what is no record is said."""

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
)


def test_a_record_comes_back_as_it_was() -> None:
    assert Evaluation.from_json(RECORD.to_json()) == RECORD
    assert RECORD.overall == {"ovrl": RECORD.summary[0]}


def test_a_record_that_an_older_version_wrote_is_read() -> None:
    """Sampling had no `limit_db` once."""
    values = json.loads(RECORD.to_json())
    del values["sampling"]["limit_db"]
    assert Evaluation.from_json(json.dumps(values)).sampling == Sampling(steps=4)


@pytest.mark.parametrize("key", ["summary", "sampling", "vocoder"])
def test_a_missing_key_is_named(key: str) -> None:
    values = {name: value for name, value in json.loads(RECORD.to_json()).items() if name != key}
    with pytest.raises(ValueError, match=f"not the summary of an evaluation: .*{key}"):
        Evaluation.from_json(json.dumps(values))

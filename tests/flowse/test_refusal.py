"""Laws of refusals: they keep reason, detail and kind between processes, and become reject rows."""

from __future__ import annotations

import pickle

import pytest

from flowse.data.manifest import Reject, Utterance
from flowse.refusal import Refusal


@pytest.mark.parametrize("refusal", [Refusal("silent", "a.wav: nothing"), Refusal.failed("truncated", "a.wav")])
def test_a_refusal_survives_pickling(refusal: Refusal) -> None:
    copy = pickle.loads(pickle.dumps(refusal))
    assert (copy.reason, copy.detail, copy.kind) == (refusal.reason, refusal.detail, refusal.kind)
    assert str(copy) == f"{refusal.reason}: {refusal.detail}"


def test_a_refusal_is_dropped_and_a_refusal_of_something_broken_is_failed() -> None:
    assert Refusal("silent").kind == "dropped"
    assert Refusal.failed("truncated").kind == "failed"


def test_a_reject_row_carries_the_refusal_and_the_length_of_the_row_or_of_a_part() -> None:
    row = Utterance(utt_id="c/a", corpus="c", kind="speech", path="a.wav", duration_s=3.0)
    whole = Reject.of(row, "ingest", Refusal.failed("truncated", "a.wav ends early"))
    assert whole == Reject(
        utt_id="c/a", corpus="c", stage="ingest", kind="failed", reason="truncated", detail="a.wav ends early",
        duration_s=3.0,
    )  # fmt: skip
    assert Reject.of(row, "simulate", Refusal("silent"), 1.5).duration_s == 1.5

"""Laws of refusals: they keep reason, detail and kind between processes, become reject rows, and hold one to blame."""

from __future__ import annotations

import errno
import math
import pickle

import pytest

from flowse.data.manifest import Reject, Utterance
from flowse.errors import UserError
from flowse.refusal import SURROUNDINGS, Refusal, refuse_singly, refusing


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


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        ValueError("two\nlines"),
        AttributeError("'NoneType' object has no attribute 'sample_rate'"),
        OSError(errno.ENAMETOOLONG, "File name too long"),
        PermissionError(errno.EACCES, "Permission denied"),
        UnicodeEncodeError("utf-8", "\udcff", 0, 1, "surrogates not allowed"),
        RecursionError("too deep"),
    ],
)
def test_an_exception_of_one_recording_becomes_its_refusal(error: Exception) -> None:
    with pytest.raises(Refusal) as caught, refusing("corpus/a.wav"):
        raise error
    refusal = caught.value
    assert (refusal.reason, refusal.kind) == ("worker_error", "failed")
    assert "corpus/a.wav" in refusal.detail
    assert type(error).__name__ in refusal.detail
    assert "\n" not in refusal.detail
    assert refusal.__cause__ is error


def test_a_refusal_stays_as_it_is() -> None:
    refusal = Refusal("silent", "a.wav is silent")
    with pytest.raises(Refusal) as caught, refusing("a.wav"):
        raise refusal
    assert caught.value is refusal


def test_nothing_happens_where_nothing_goes_wrong() -> None:
    with refusing("a.wav"):
        done = True
    assert done


@pytest.mark.parametrize(
    "error",
    [
        *(OSError(number, "the storage fails") for number in sorted(SURROUNDINGS)),
        UserError("a wrong setting"),
        ModuleNotFoundError("No module named 'av'"),
        RuntimeError("CUDA error: device-side assert triggered"),
        type("OutOfMemoryError", (RuntimeError,), {"__module__": "torch"})("no memory on the device"),
        KeyboardInterrupt(),
    ],
)
def test_what_says_nothing_about_the_recording_goes_through(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, refusing("a.wav"):
        raise error
    assert caught.value is error


@pytest.mark.parametrize("seconds", [math.nan, math.inf, -math.inf, -1.0])
def test_a_length_that_is_no_length_does_not_spoil_the_accounts(seconds: float) -> None:
    row = Utterance(utt_id="c/a", corpus="c", kind="speech", path="a.wav", duration_s=seconds)
    assert Reject.of(row, "ingest", Refusal.failed("bad_segment")).duration_s == 0.0


def halves(numbers: list[int]) -> list[float]:
    """A batched model that an odd number breaks."""
    for number in numbers:
        if number % 2:
            raise RuntimeError(f"{number} is odd")
    return [number / 2 for number in numbers]


def test_an_exception_in_a_batch_is_traced_to_its_recordings() -> None:
    assert refuse_singly(halves, [2, 4], ["a", "b"]) == [1.0, 2.0]
    assert refuse_singly(halves, [], []) == []
    first, second, third = refuse_singly(halves, [2, 3, 4], ["a", "b", "c"])
    assert (first, third) == (1.0, 2.0)
    assert isinstance(second, Refusal)
    assert (second.reason, second.kind) == ("worker_error", "failed")
    assert "b: RuntimeError: 3 is odd" in second.detail


def test_a_batch_that_only_together_is_too_large_loses_nothing() -> None:
    def small(numbers: list[int]) -> list[int]:
        if len(numbers) > 1:
            raise MemoryError
        return numbers

    assert refuse_singly(small, [1, 2, 3], ["a", "b", "c"]) == [1, 2, 3]


@pytest.mark.parametrize("error", [UserError("mend this"), OSError(errno.EIO, "I/O error"), KeyboardInterrupt()])
def test_a_batch_is_not_repeated_for_what_no_recording_is_to_blame_for(error: BaseException) -> None:
    calls = []

    def broken(numbers: list[int]) -> list[int]:
        calls.append(numbers)
        raise error

    with pytest.raises(type(error)):
        refuse_singly(broken, [1, 2], ["a", "b"])
    assert calls == [[1, 2]]

"""Laws of protection: none for nobody, all of the input where nothing was taken out, less the more was."""

import numpy as np
import pytest

from flowse.audio.protection import PROTECTIONS, input_share
from flowse.seeding import generator


def taken(ratio_db: float) -> tuple[np.ndarray, np.ndarray]:
    """A recording, and what is left of it after noise that much weaker was taken out."""
    kept, noise = generator(1).standard_normal((2, 1, 1000))
    return kept + 10 ** (-ratio_db / 20) * noise, kept


@pytest.mark.parametrize("protection", PROTECTIONS)
def test_shares_are_shares_and_rise_with_what_was_kept(protection: str) -> None:
    shares = [float(input_share(*taken(ratio), protection)[0]) for ratio in range(-20, 60, 5)]
    assert shares == sorted(shares)
    assert 0 <= shares[0] <= shares[-1] <= 1
    assert (shares[-1] == 1.0) is (protection != "none")


def test_a_recording_that_nothing_was_taken_from_is_left_as_it_is() -> None:
    x = generator(2).standard_normal((2, 100))
    assert (input_share(x, x, "listening") == 1).all()
    assert (input_share(x, x, "none") == 0).all()


def test_an_unknown_protection_is_refused() -> None:
    with pytest.raises(ValueError, match="protect='all' must be one of none, listening, asr"):
        input_share(np.ones((1, 4)), np.ones((1, 4)), "all")

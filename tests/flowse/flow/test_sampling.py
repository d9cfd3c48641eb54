"""Laws of the sampling settings: impossible ones are refused by name, None overrides nothing."""

from typing import Any

import pytest

from flowse.flow.sampling import Sampling


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": -1},
        {"guidance": -0.1},
        {"method": "leapfrog"},
        {"grid": "hexagonal"},
        {"synthesis": "magic"},
        {"limit_db": -1.0},
        {"guard": 1.1},
    ],
)
def test_impossible_settings_are_refused_by_name(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        Sampling(**changes)


def test_a_refusal_names_the_allowed_values() -> None:
    with pytest.raises(ValueError, match="euler, ab2, midpoint, heun, dopri5"):
        Sampling(method="magic")


def test_an_override_replaces_what_is_given_and_keeps_the_rest() -> None:
    own = Sampling(steps=3, guidance=0.5, method="heun", grid="sway", limit_db=12.0)
    assert own.override() == own
    assert own.override(steps=0, synthesis="noisy_phase") == Sampling(
        steps=0, guidance=0.5, method="heun", grid="sway", synthesis="noisy_phase", limit_db=12.0
    )
    with pytest.raises(ValueError, match="guidance=-1"):
        own.override(guidance=-1.0)


def test_settings_are_printed_in_one_line() -> None:
    assert str(Sampling(steps=3, guidance=0.5)) == "euler, 3 steps, guidance 0.5, vocoder"
    assert str(Sampling(steps=8, method="ab2", grid="epss")).startswith("ab2, 8 steps (epss), ")
    assert str(Sampling(steps=1, synthesis="noisy_phase", limit_db=20.0)).endswith("noisy_phase, at most 20 dB")

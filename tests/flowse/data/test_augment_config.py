"""Laws of the augmentation settings: an impossible range is refused by name."""

from __future__ import annotations

import pytest

from flowse.data.augment_config import AugmentConfig


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"probability": 1.5}, "probability"),
        ({"tempo": (1.2, 0.8)}, "tempo"),
        ({"pitch": (0.1, 1.0)}, "pitch"),
        ({"level_db": -1.0}, "level_db"),
    ],
)
def test_the_refusal_of_an_impossible_range_names_its_key(values: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=f"{named}="):
        AugmentConfig(**values)  # type: ignore[arg-type]

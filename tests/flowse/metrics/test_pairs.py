"""Laws of test sets in folders: their identity follows their content, and their names are safe in keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowse.metrics.pairs import Pairs


def test_digests_follow_content_and_not_place(tmp_path: Path) -> None:
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "x.wav").write_bytes(b"RIFF")
    first, second = (Pairs(noisy=str(tmp_path / place)).content_digests() for place in ("one", "two"))
    assert first == second
    (tmp_path / "two" / "y.wav").write_bytes(b"RIFF")
    assert Pairs(noisy=str(tmp_path / "two")).content_digests() != first


def test_a_name_that_is_not_safe_in_a_key_is_refused() -> None:
    with pytest.raises(ValueError, match="letters, digits"):
        Pairs(name="a b")

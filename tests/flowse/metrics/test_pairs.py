"""Laws of test sets in folders: their identity follows their content, and their names are safe in keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowse.data import content
from flowse.metrics.pairs import Pairs


def digests(pairs: Pairs) -> dict[str, str]:
    return {name: outside.digest() for name, outside in pairs.outside().items()}


def test_digests_follow_content_and_not_place(tmp_path: Path) -> None:
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "x.wav").write_bytes(b"RIFF")
    first, second = (digests(Pairs(noisy=str(tmp_path / place))) for place in ("one", "two"))
    assert first == second
    (tmp_path / "two" / "y.wav").write_bytes(b"RIFF")
    assert digests(Pairs(noisy=str(tmp_path / "two"))) != first


def test_digests_see_audio_of_equal_size_and_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also below `~`."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "noisy").mkdir()
    (tmp_path / "noisy" / "x.wav").write_bytes(b"RIFF")
    (tmp_path / "t.csv").write_text("path,text\nx.wav,one\n")
    pairs = Pairs(noisy="~/noisy", clean="~/noisy", transcripts="~/t.csv")
    before = digests(pairs)
    assert set(before) == {"noisy", "clean", "transcripts"}
    assert before["noisy"] == digests(Pairs(noisy=str(tmp_path / "noisy")))["noisy"]
    (tmp_path / "noisy" / "x.wav").write_bytes(b"FORM")
    (tmp_path / "t.csv").write_text("path,text\nx.wav,two\n")
    assert all(digest != before[name] for name, digest in digests(pairs).items())


def test_facts_change_with_every_file_and_need_no_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.wav").write_bytes(b"RIFF")
    pairs = Pairs(noisy=str(tmp_path))
    monkeypatch.setattr(content, "content_of", lambda path: pytest.fail("the bytes were read"))

    def facts() -> str:
        (outside,) = pairs.outside().values()
        assert outside.facts is not None
        return outside.facts()

    before = facts()
    assert facts() == before
    (tmp_path / "x.wav").write_bytes(b"FORM")
    changed = facts()
    (tmp_path / "y.wav").write_bytes(b"FORM")
    assert len({before, changed, facts()}) == 3


def test_a_name_that_is_not_safe_in_a_key_is_refused() -> None:
    with pytest.raises(ValueError, match="letters, digits"):
        Pairs(name="a b")

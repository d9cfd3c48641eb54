"""A corpus in the config: mistakes are named before anything is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowse.errors import UserError
from pipelines.corpora.config import CorpusConfig, content_digests, refuse_repeated, roots_of


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'foldr' is not one of"):
        CorpusConfig(name="a", reader="foldr")
    with pytest.raises(ValueError, match="split"):
        CorpusConfig(name="a", split="middle")
    with pytest.raises(ValueError, match="names repeat: a"):
        refuse_repeated([CorpusConfig(name="a"), CorpusConfig(name="a", reader="dns")])
    with pytest.raises(UserError, match="'a': `root` is missing"):
        roots_of([("speech", CorpusConfig(name="a"))], tmp_path)


def test_a_made_corpus_lies_below_made_and_others_where_they_are(tmp_path: Path) -> None:
    corpora = [CorpusConfig(name="m", reader="demo"), CorpusConfig(name="f", root=str(tmp_path))]
    roots = roots_of([("speech", corpus) for corpus in corpora], tmp_path / "made")
    assert roots["f"] == tmp_path
    assert roots["m"].parent == tmp_path / "made"


def test_new_files_change_the_digest_and_moving_does_not(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a.wav").write_bytes(b"a")
    before = content_digests([CorpusConfig(name="c", root=str(tmp_path / "one"))])
    (tmp_path / "one").rename(tmp_path / "two")
    there = [CorpusConfig(name="c", root=str(tmp_path / "two"))]
    assert content_digests(there) == before
    (tmp_path / "two" / "b.wav").write_bytes(b"b")
    assert content_digests(there) != before

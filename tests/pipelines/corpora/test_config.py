"""Laws of corpora in the config: mistakes are named before anything is read, and the content decides the digest."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from flowse.data.manifest import Utterance
from flowse.errors import UserError
from pipelines.corpora.config import CorpusConfig, outside_of, refuse_repeated, roots_of


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'foldr' is not one of"):
        CorpusConfig(name="a", reader="foldr")
    with pytest.raises(ValueError, match="split"):
        CorpusConfig(name="a", split="middle")
    with pytest.raises(ValueError, match="names repeat: a"):
        refuse_repeated([CorpusConfig(name="a"), CorpusConfig(name="a", reader="dns")])
    with pytest.raises(UserError, match="'a': `root` is missing"):
        roots_of([("speech", CorpusConfig(name="a"))], tmp_path)


def test_names_that_differ_only_in_case_are_refused() -> None:
    with pytest.raises(ValueError, match="names repeat: Noise, noise; every corpus needs a name of its own"):
        refuse_repeated([CorpusConfig(name="Noise"), CorpusConfig(name="noise")])


@pytest.mark.parametrize(
    ("name", "proposed"),
    [
        ("my/corpus", "'my-corpus'"),
        ("libri.100", "'libri-100'"),
        ("..", ""),
        ("", ""),
        ("a b", "'a-b'"),
        ("a\n", "'a'"),
        ("_a", "'a'"),
        ("你", ""),
        ("x" * 65, "'xxx"),
        ("a\x1b[2J", "'a-2J'"),
    ],
)
def test_a_name_that_cannot_stand_in_ids_and_files_is_refused_in_one_line(name: str, proposed: str) -> None:
    with pytest.raises(ValueError, match="cannot name a corpus; use 1 to 64 letters") as refused:
        CorpusConfig(name=name)
    assert str(refused.value).isprintable()
    assert (f"such as {proposed}" in str(refused.value)) == bool(proposed)


@pytest.mark.parametrize("name", ["c", "dns-noise", "libri_100", "3d", "VoiceBank"])
def test_an_ordinary_name_stays(name: str) -> None:
    assert CorpusConfig(name=name).name == name


def test_a_made_corpus_gets_a_folder_below_made_and_others_keep_their_root(tmp_path: Path) -> None:
    corpora = [CorpusConfig(name="m", reader="demo"), CorpusConfig(name="f", root=str(tmp_path))]
    roots = roots_of([("speech", corpus) for corpus in corpora], tmp_path / "made")
    assert roots["f"] == tmp_path
    assert roots["m"].parent == tmp_path / "made"


def test_new_files_change_the_digest_and_moving_does_not(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a.wav").write_bytes(b"a")
    before = digests([CorpusConfig(name="c", root=str(tmp_path / "one"))])
    (tmp_path / "one").rename(tmp_path / "two")
    there = [CorpusConfig(name="c", root=str(tmp_path / "two"))]
    assert digests(there) == before
    (tmp_path / "two" / "b.wav").write_bytes(b"b")
    assert digests(there) != before


def test_the_licence_is_that_of_the_row_else_of_the_config_else_of_the_reader() -> None:
    row = Utterance(utt_id="c/x", corpus="c", kind="noise", path="x.wav")
    wham = CorpusConfig(name="c", reader="wham")
    assert wham.licence_of(row) == "CC-BY-NC-4.0"
    assert dataclasses.replace(wham, licence="B").licence_of(row) == "B"
    assert dataclasses.replace(wham, licence="B").licence_of(dataclasses.replace(row, licence="A")) == "A"


def digests(corpora: list[CorpusConfig]) -> dict[str, str]:
    return {name: outside.digest() for name, outside in outside_of(corpora).items()}


def test_one_place_is_one_look_and_what_is_made_needs_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    corpora = [
        CorpusConfig(name="a", root="x"),
        CorpusConfig(name="b", root=str(tmp_path / "x"), split="train"),
        CorpusConfig(name="c", root="x", options={"language": "en"}),
        CorpusConfig(name="d", root="y"),
        CorpusConfig(name="e", reader="demo"),
    ]
    found = outside_of(corpora)
    assert found["a"].place == found["b"].place
    assert len({outside.place for outside in found.values()}) == 4
    assert [name for name, outside in found.items() if outside.is_cheap] == ["e"]


def test_a_root_may_begin_with_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Freshness looks where ingest reads."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "speech").mkdir()
    corpus = CorpusConfig(name="c", root="~/speech")
    empty = digests([corpus])
    (tmp_path / "speech" / "x.wav").write_bytes(b"RIFF")
    assert digests([corpus]) != empty
    assert digests([corpus]) == digests([CorpusConfig(name="c", root=str(tmp_path / "speech"))])
    made = CorpusConfig(name="d", reader="demo", root="~/made")
    assert roots_of([("speech", corpus), ("speech", made)], tmp_path) == {
        "c": tmp_path / "speech",
        "d": tmp_path / "made",
    }

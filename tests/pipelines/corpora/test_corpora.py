"""Laws of what all readers share: rows, digests, and the errors for wrong roots and options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flowse.data.manifest import Utterance
from flowse.errors import UserError
from pipelines.corpora import check_names, corpus_folder, require_kind, unfit, utterance


def test_a_dead_link_is_rejected_and_not_lost(bench: Any) -> None:
    bench.audio("DKITCHEN/ch01.wav")
    (bench.root / "TBUS").mkdir()
    (bench.root / "TBUS" / "ch01.wav").symlink_to(bench.root / "gone.wav")
    (bench.root / "TCAR").mkdir()
    (bench.root / "TCAR" / "ch01.wav").symlink_to(bench.root / "TCAR" / "ch01.wav")
    measured = bench.measure("demand", "noise")
    assert measured.paths == ["DKITCHEN/ch01.wav"]
    assert measured.reasons == ["not_found", "not_found"]
    assert bench.changes("demand", lambda: bench.audio("gone.wav"))


def test_the_archives_folder_is_found_inside_the_root_or_is_the_root(tmp_path: Path) -> None:
    (tmp_path / "LibriSpeech").mkdir()
    assert corpus_folder(tmp_path, "c", "LibriSpeech") == tmp_path / "LibriSpeech"
    assert corpus_folder(tmp_path / "LibriSpeech", "c", "LibriSpeech") == tmp_path / "LibriSpeech"
    with pytest.raises(UserError, match="folder of corpus 'c' does not exist"):
        corpus_folder(tmp_path / "nowhere", "c")


def test_a_segment_has_an_offset_in_its_id_and_a_recording_none() -> None:
    assert utterance("c", "speech", "A/x.opus", offset_s=0.0).utt_id == "c/a/x-opus-000000000"
    assert utterance("c", "speech", "A/x.opus").utt_id == "c/a/x-opus"
    assert (utterance("c", "speech", "x").text_source, utterance("c", "speech", "x", text="a").text_source) == (
        "",
        "corpus",
    )


def test_an_unfit_row_is_the_row_with_a_reason() -> None:
    row = utterance("c", "noise", "x.wav", speaker="s")
    no = unfit(row, "left_out", "not wanted")
    assert Utterance(**{name: getattr(no, name) for name in vars(row)}) == row
    assert (no.reason, no.detail) == ("left_out", "not wanted")


def test_unknown_kinds_and_names_are_refused() -> None:
    require_kind("rir", ("rir", "noise"), "c")
    with pytest.raises(UserError, match=r"ingest\.speech; name it in ingest\.noise or ingest\.rirs"):
        require_kind("speech", ("rir", "noise"), "c")
    for values, message in (([], "parts: empty"), (["x"], "parts: x; allowed: a, b"), ("a", r"must be a list, \[a\]")):
        with pytest.raises(ValueError, match=message):
            check_names("parts", values, ("a", "b"))

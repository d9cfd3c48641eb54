"""Laws of the list of what is forgotten: it matches by name and by audio, holds no name, and survives two writers."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from flowse.data.manifest import Utterance
from flowse.errors import UserError
from pipelines.corpora.forgotten import (
    FILE,
    Entry,
    ForgetList,
    anonymous,
    audio_key,
    changing,
    corpus_key,
    keys_of,
    read_list,
    speaker_key,
    utterance_key,
)

ROW = Utterance(
    utt_id="calls/anna/0001-wav", corpus="calls", kind="speech", path="anna/0001.wav", speaker="anna", content="ab12",
    duration_s=2.0,
)  # fmt: skip


def entry(key: str, **values: object) -> Entry:
    return Entry(what="utterance", key=key, corpus="calls", since="2026-11-26T05:00:00+0000", **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "key", [utterance_key(ROW.utt_id), speaker_key("calls", "anna"), corpus_key("calls"), str(audio_key(ROW))]
)
def test_a_row_is_matched_by_each_of_its_names_and_by_its_audio(key: str) -> None:
    assert ROW in ForgetList([key])
    other = replace(ROW, utt_id="talks/x", corpus="talks", speaker="", content="cd34")
    assert other not in ForgetList([key])


def test_the_same_audio_under_another_name_is_matched_and_another_stretch_of_its_file_is_not() -> None:
    listed = ForgetList([str(audio_key(ROW))])
    assert replace(ROW, utt_id="talks/x", corpus="talks", path="x.wav", speaker="") in listed
    assert replace(ROW, offset_s=4.0) not in listed
    assert audio_key(replace(ROW, content="")) is None


def test_a_speaker_of_another_corpus_is_another_person() -> None:
    assert replace(ROW, corpus="talks") not in ForgetList([speaker_key("calls", "anna")])
    assert replace(ROW, speaker="") not in ForgetList([speaker_key("calls", "")])


def test_an_empty_list_matches_nothing() -> None:
    assert not ForgetList([])
    assert ROW not in ForgetList([])


def test_a_key_of_no_known_form_is_refused() -> None:
    with pytest.raises(ValueError, match="begins no key"):
        ForgetList(["calls/anna"])


def test_the_row_that_stands_for_a_forgotten_one_names_nothing_of_it() -> None:
    row = anonymous(ROW)
    assert (row.corpus, row.kind, row.reason) == ("calls", "speech", "forgotten")
    assert not any("anna" in str(value) or "0001" in str(value) for value in vars(row).values())
    assert anonymous(ROW) == row
    assert anonymous(replace(ROW, utt_id="calls/anna/0002-wav")).utt_id != row.utt_id


def test_the_list_is_read_as_it_was_written_and_holds_no_name(tmp_path: Path) -> None:
    assert read_list(tmp_path) == ()
    written = entry(utterance_key(ROW.utt_id), audio=(str(audio_key(ROW)),), recordings=1, models=("train/ab",))
    with changing(tmp_path) as entries:
        entries.append(written)
    assert read_list(tmp_path) == (written,)
    assert keys_of(read_list(tmp_path)) == tuple(sorted([utterance_key(ROW.utt_id), str(audio_key(ROW))]))
    assert "anna" not in (tmp_path / FILE).read_text()


def test_an_error_while_it_is_changed_changes_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with changing(tmp_path) as entries:
            entries.append(entry(corpus_key("calls")))
            raise UserError("no")

    with pytest.raises(UserError, match="no"):
        fail()
    assert read_list(tmp_path) == ()


def test_two_that_change_it_at_once_lose_nothing(tmp_path: Path) -> None:
    def add(number: int) -> None:
        with changing(tmp_path) as entries:
            entries.append(entry(utterance_key(str(number))))

    threads = [threading.Thread(target=add, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {of.key for of in read_list(tmp_path)} == {utterance_key(str(number)) for number in range(20)}


@pytest.mark.parametrize("text", ["", "[]", '{"forgotten": [{"what": "utterance"}]}', '{"other": []}'])
def test_a_damaged_list_stops_everything_with_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(UserError, match="not a list of what is forgotten") as error:
        read_list(tmp_path)
    assert "\n" not in str(error.value)

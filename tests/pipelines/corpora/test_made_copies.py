"""Laws of copies: those of forgotten recordings are found, unless a kept recording lies in the same file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from flowse.data.manifest import Utterance
from flowse.data.parquet import write_rows
from pipelines.corpora.forgotten import ForgetList, speaker_key, utterance_key
from pipelines.corpora.made_copies import forgotten_copies

ROW = Utterance(utt_id="hub/a", corpus="hub", kind="speech", path="part/0.wav", speaker="anna")


def test_copies_of_forgotten_recordings_are_found_and_no_others(tmp_path: Path) -> None:
    rows = [
        ROW,
        replace(ROW, utt_id="hub/b", path="part/1.wav", speaker="bert"),
        replace(ROW, utt_id="hub/c", path="part/2.wav"),
        replace(ROW, utt_id="own/d", corpus="own", path="part/0.wav"),
    ]
    write_rows(tmp_path / "old.parquet", Utterance, rows)
    write_rows(tmp_path / "kept.parquet", Utterance, rows[1:2])
    for row in rows[:2]:
        (tmp_path / row.path).parent.mkdir(exist_ok=True)
        (tmp_path / row.path).touch()
    anna = ForgetList([speaker_key("hub", "anna"), utterance_key("own/d")])
    old, kept = [tmp_path / "old.parquet"], [tmp_path / "kept.parquet"]
    assert forgotten_copies(old, kept, anna, {"hub": tmp_path}) == [tmp_path / "part" / "0.wav"]


def test_a_file_that_holds_a_kept_recording_too_stays(tmp_path: Path) -> None:
    write_rows(tmp_path / "old.parquet", Utterance, [ROW])
    write_rows(tmp_path / "kept.parquet", Utterance, [replace(ROW, utt_id="hub/b", offset_s=4.0)])
    (tmp_path / "part").mkdir()
    (tmp_path / ROW.path).touch()
    old, kept = [tmp_path / "old.parquet"], [tmp_path / "kept.parquet"]
    assert forgotten_copies(old, kept, ForgetList([utterance_key("hub/a")]), {"hub": tmp_path}) == []
    assert forgotten_copies(old, [], ForgetList([utterance_key("hub/a")]), {"hub": tmp_path}) == [tmp_path / ROW.path]


def test_a_damaged_part_names_nothing(tmp_path: Path) -> None:
    (tmp_path / "old.parquet").write_bytes(b"PAR1")
    assert (
        forgotten_copies([tmp_path / "old.parquet"], [], ForgetList([utterance_key("hub/a")]), {"hub": tmp_path}) == []
    )

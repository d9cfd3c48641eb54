"""Laws of the table of utterances: a row comes back by its id, whatever the parts, and other splits are not in it."""

import dataclasses
from pathlib import Path

import pytest

from flowse.data import utterance_table as module
from flowse.data.manifest import Utterance
from flowse.data.parquet import write_rows
from flowse.data.utterance_table import UtteranceTable


def utterances(count: int) -> list[Utterance]:
    return [
        Utterance(
            utt_id=f"demo/{number}", corpus="demo", kind="speech", path=f"{number}.wav", duration_s=1.0 + number,
            split="train" if number % 3 else "dev", text=f"number {number}", content="x" * 32,
        )
        for number in range(count)
    ]  # fmt: skip


def parts(folder: Path, rows: list[Utterance]) -> list[Path]:
    noise = dataclasses.replace(rows[1], utt_id="noise/1", kind="noise")
    write_rows(folder / "a.parquet", Utterance, [*rows[:7], noise])
    write_rows(folder / "b.parquet", Utterance, rows[7:])
    return [folder / "a.parquet", folder / "b.parquet"]


def test_a_row_comes_back_by_its_id(tmp_path: Path) -> None:
    rows = utterances(20)
    table = UtteranceTable.open(parts(tmp_path, rows), "train", tmp_path / "cache" / "t")
    wanted = [row for row in rows if row.split == "train"]
    assert len(table) == len(wanted)
    assert [table[row.utt_id] for row in wanted] == wanted
    for absent in ("demo/0", "noise/1", "demo/99"):
        with pytest.raises(KeyError):
            table[absent]


def test_the_files_are_written_once(tmp_path: Path) -> None:
    given = parts(tmp_path, utterances(20))
    UtteranceTable.open(given, "train", tmp_path / "t")
    for path in given:
        path.unlink()
    assert UtteranceTable.open(given, "train", tmp_path / "t")["demo/4"].text == "number 4"


@pytest.mark.parametrize("suffix", ["arrow", "ids.npy"])
@pytest.mark.parametrize("content", [b"", b"garbage" * 50])
def test_files_that_are_damaged_are_written_anew(tmp_path: Path, suffix: str, content: bytes) -> None:
    given = parts(tmp_path, utterances(20))
    UtteranceTable.open(given, "train", tmp_path / "t")
    (tmp_path / f"t.{suffix}").unlink()
    (tmp_path / f"t.{suffix}").write_bytes(content)
    assert UtteranceTable.open(given, "train", tmp_path / "t")["demo/4"].text == "number 4"


def test_ids_of_equal_hash_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "hash64", lambda name: 7)
    table = UtteranceTable.open(parts(tmp_path, utterances(12)), "train", tmp_path / "t")
    assert table["demo/11"].duration_s == 12.0
    with pytest.raises(KeyError):
        table["demo/0"]

"""Laws of copies on a machine: they stay within their bound, the youngest stay, and none that is needed goes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.engine.scratch import Scratch, in_use, node_folder, scratch, touch, use_scratch


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    use_scratch("", 0.0)


def copy(folder: Path, name: str, age_s: float, size: int = 1000) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    at = time.time_ns() - int(age_s * 1e9)
    os.utime(path, ns=(at, at))
    return path


def test_those_not_read_for_the_longest_time_go_first(tmp_path: Path) -> None:
    old, older, young = (
        copy(tmp_path, f"s/units/{name}.tar", age_s) for name, age_s in (("a", 2000), ("b", 3000), ("c", 10))
    )
    assert Scratch(most_bytes=2000).trim([tmp_path]) == 1000
    assert (old.exists(), older.exists(), young.exists()) == (True, False, True)
    assert touch(old)
    assert Scratch(most_bytes=1).trim([tmp_path]) == 0, "what was used within two minutes stays"


def test_tables_of_the_driver_records_and_what_is_being_sent_stay(tmp_path: Path) -> None:
    table, record, sent = (copy(tmp_path, f"s/units/{name}", 9999) for name in ("a.parquet", "a.json", "a.tar"))
    with in_use(sent):
        Scratch(most_bytes=1).trim([tmp_path])
    assert table.exists()
    assert record.exists()
    assert sent.exists()
    Scratch(most_bytes=1, tables_stay=False).trim([tmp_path])
    assert (table.exists(), record.exists(), sent.exists()) == (False, True, False)


def test_folders_of_copies_go_with_them_and_folders_of_units_stay(tmp_path: Path) -> None:
    unit = copy(tmp_path / "w", "s/units/a.tar", 9999)
    recording = copy(tmp_path / "corpora" / "copies", "ab/abcd/x.wav", 9999)
    Scratch(most_bytes=1).trim([tmp_path / "w", tmp_path / "corpora" / "copies"])
    assert not unit.exists()
    assert unit.parent.exists()
    assert not recording.parent.exists()


def test_without_a_bound_nothing_is_deleted_and_a_bound_is_looked_at_as_copies_grow(tmp_path: Path) -> None:
    path = copy(tmp_path, "s/units/a.tar", 9999)
    use_scratch("", 0.0).grew(tmp_path, 10**12)
    assert path.exists()
    use_scratch("", 1e-9).grew(tmp_path, 10**12)
    assert not path.exists()
    assert scratch().most_bytes == 1


def test_a_machine_has_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert node_folder(str(tmp_path / "named")) == tmp_path / "named" / ".node"
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = node_folder("")
    assert folder.parent == tmp_path
    assert folder.stat().st_mode & 0o077 == 0, "nobody else reads it"


def test_a_copy_that_is_gone_cannot_be_touched(tmp_path: Path) -> None:
    assert not touch(tmp_path / "x")

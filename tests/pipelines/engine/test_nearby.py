"""The source of a process asks the mirror in whose folder a file lies, and leaves other files alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from obstore.store import MemoryStore

from pipelines.engine import mirror as mirror_module
from pipelines.engine.mirror import open_mirror
from pipelines.engine.nearby import Nearby
from pipelines.engine.store import Store


def test_files_of_a_mirror_are_fetched_and_others_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror_module, "_open", {})
    store = Store("memory://ws", MemoryStore())
    (tmp_path / "a").write_bytes(b"model")
    store.put("train/abc/model", tmp_path / "a")
    mirror = open_mirror(store, tmp_path / "copies", ("train",))
    nearby = Nearby()
    path = mirror.folder / "train" / "abc" / "model"
    assert nearby.fetched(path).read_bytes() == b"model"
    assert nearby.is_far(path)
    assert nearby.facts(path) is None
    detour = mirror.folder / "train" / "other" / ".." / "abc" / "model"
    assert nearby.fetched(detour) == path, "an index names files of units from its own folder"
    assert nearby.fetched(tmp_path / "a") == tmp_path / "a"
    assert not nearby.is_far(tmp_path / "a")
    missing = mirror.folder / "train" / "abc" / "nothing"
    assert nearby.fetched(missing) == missing, "its reader says that it is not there"

"""The source of a process asks the mirror in whose folder a file lies, and leaves other files alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from obstore.store import MemoryStore

from pipelines.engine import mirror as mirror_module
from pipelines.engine import remote_tree
from pipelines.engine.mirror import open_mirror
from pipelines.engine.nearby import Nearby
from pipelines.engine.scratch import use_scratch
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


def test_an_address_in_a_store_has_a_folder_of_names_and_others_have_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_tree, "_trees", {})
    store = Store("memory://pairs", MemoryStore())
    monkeypatch.setattr(remote_tree, "Store", lambda url: store)
    use_scratch(str(tmp_path), 0.0)
    try:
        (tmp_path / "a").write_bytes(b"RIFF")
        store.put("x.wav", tmp_path / "a")
        nearby = Nearby()
        folder = nearby.folder_at("s3://bucket/noisy/", "evaluate.pairs p: noisy", again=False)
        assert folder is not None
        assert [path.name for path in folder.iterdir()] == ["x.wav"]
        assert nearby.fetched(folder / "x.wav").read_bytes() == b"RIFF"
        store.put("y.wav", tmp_path / "a")
        for again in (False, True):
            nearby.folder_at("s3://bucket/noisy", "k", again=again)
            assert (folder / "y.wav").exists() is again
        assert nearby.file_at("s3://bucket/noisy/x.wav") == folder / "x.wav"
        for elsewhere in ("http://host/noisy", "/data/noisy", "noisy"):
            assert nearby.folder_at(elsewhere, "k", again=False) is None
            assert nearby.file_at(elsewhere) is None
    finally:
        use_scratch("", 0.0)

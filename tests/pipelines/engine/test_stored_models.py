"""A model in a store is copied once, under its own names; what is no model is one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from obstore.store import MemoryStore

from flowse.errors import UserError
from flowse.pretrained import DEFAULT, resolve
from pipelines.engine import stored_models
from pipelines.engine.store import Store
from pipelines.engine.stored_models import find_model

URL = "s3://bucket/ws/export/0123456789abcdef"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The embedded model in a store, as a workspace holds it."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    store = Store(URL, MemoryStore())
    monkeypatch.setattr(stored_models, "Store", lambda url: store)
    for path in resolve(DEFAULT).rglob("*"):
        if path.is_file():
            name = path.relative_to(resolve(DEFAULT)).as_posix()
            hashed = f"{name}@0123456789abcdef" if path.suffix == ".safetensors" else name
            store.put(f"model/{hashed}", path)
    return store


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_model_is_copied_once_under_its_own_names(store: Store, tmp_path: Path) -> None:
    folder = find_model(URL)
    assert files(folder) == files(resolve(DEFAULT))
    assert folder.is_relative_to(tmp_path)
    inode = folder.stat().st_ino
    assert find_model(URL).stat().st_ino == inode
    (tmp_path / "new").write_bytes(b"another card")
    store.put("model/README.md", tmp_path / "new")
    assert find_model(URL) != folder, "another model"
    assert (find_model(URL) / "README.md").read_bytes() == b"another card"


def test_what_is_no_model_is_one_line(store: Store) -> None:
    store.delete(store.list())
    with pytest.raises(UserError, match=r"no model lies there: .*export/<fingerprint>/model"):
        find_model(URL)

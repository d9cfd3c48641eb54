"""Laws of corpora in a store: readers see the names of the bucket, and files come when they are read."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from obstore.store import MemoryStore

from flowse.data.content import content_of, file_facts
from flowse.errors import UserError
from flowse.fetching import ahead, use_source
from pipelines.engine.nearby import Nearby
from pipelines.engine.remote_tree import RemoteTree, corpora_folder, forget_recordings, tree_of
from pipelines.engine.scratch import use_scratch
from pipelines.engine.store import Store


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    use_source(None)
    use_scratch("", 0.0)


@pytest.fixture
def store() -> Store:
    return Store("memory://corpus", MemoryStore())


def put(store: Store, folder: Path, name: str, content: bytes) -> None:
    path = folder / "to-put"
    path.write_bytes(content)
    store.put(name, path)


def names(tree: RemoteTree) -> list[str]:
    return sorted(path.relative_to(tree.root).as_posix() for path in tree.root.rglob("*") if path.is_file())


def test_the_tree_is_that_of_the_bucket_after_every_listing(store: Store, tmp_path: Path) -> None:
    tree = RemoteTree(tmp_path / "tree", store)
    for name in ("a/x.wav", "a/y.FLAC", "b.csv", "c/d/e.opus"):
        put(store, tmp_path, name, name.encode())
    tree.listed("corpus")
    assert names(tree) == ["a/x.wav", "a/y.FLAC", "b.csv", "c/d/e.opus"]
    assert (tree.root / "b.csv").read_bytes() == b"b.csv", "tables are read when a corpus is listed"
    assert (tree.root / "a/x.wav").stat().st_size == 7
    store.delete(["a/y.FLAC", "c/d/e.opus"])
    put(store, tmp_path, "a/x.wav/inside.wav", b"a file became a folder")
    store.delete(["a/x.wav"])
    tree.listed("corpus")
    assert names(tree) == ["a/x.wav/inside.wav", "b.csv"]
    assert not (tree.root / "c").exists()


def test_facts_are_the_same_on_every_machine_and_change_with_the_object(store: Store, tmp_path: Path) -> None:
    put(store, tmp_path, "x.wav", b"one")
    use_source(Nearby())
    seen = []
    for machine in ("first", "second"):
        tree = RemoteTree(tmp_path / machine, store)
        (tree.folder).mkdir()
        (tree.folder / ".corpus.json").write_text('{"url": "s3://not/asked"}')
        tree.listed("corpus")
        os.utime(tree.root)  # when the tree was made says nothing
        seen.append(tree.facts(tree.root / "x.wav"))
        assert file_facts(tree.root / "x.wav") == seen[-1]
    put(store, tmp_path, "x.wav", b"two")
    tree.listed("corpus")
    seen.append(tree.facts(tree.root / "x.wav"))
    assert seen[0] == seen[1] != seen[2]
    assert tree.facts(tree.root / "y.wav") == "absent"


def test_a_recording_comes_when_it_is_read_and_comes_again_when_it_has_changed(store: Store, tmp_path: Path) -> None:
    put(store, tmp_path, "a/x.wav", b"one")
    tree = RemoteTree(tmp_path / "tree", store)
    path = tree.root / "a" / "x.wav"  # a worker's machine has no tree
    copy = tree.fetched(path)
    assert copy.read_bytes() == b"one"
    assert copy.name == "x.wav", "messages and decoders look at the name"
    assert tree.fetched(path) == copy
    put(store, tmp_path, "a/x.wav", b"two")
    assert RemoteTree(tmp_path / "tree", store).fetched(path).read_bytes() == b"two"
    missing = tree.root / "a" / "y.wav"
    assert tree.fetched(missing) == missing, "its reader says that it is not there"
    shutil.rmtree(tree.folder / "copies")
    assert tree.fetched(path).read_bytes() == b"two", "copies may be deleted at any time"


def test_items_keep_their_order_while_files_come_ahead(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.engine import remote_tree

    tree = RemoteTree(tmp_path / "tree", store)
    monkeypatch.setitem(remote_tree._trees, tree.folder, tree)
    wanted = [f"{number}.wav" for number in range(40)]
    for name in wanted[:-1]:
        put(store, tmp_path, name, name.encode())
    use_source(Nearby())
    assert tree_of(tree.root / "0.wav") is tree
    assert list(ahead(wanted, lambda name: tree.root / name)) == wanted
    assert sum(1 for path in (tree.folder / "copies").rglob("*.wav")) == 39
    assert content_of(tree.root / "3.wav")


def test_an_empty_prefix_is_one_line(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"root of corpus 'c': .*holds no object; mend the bucket"):
        RemoteTree(tmp_path / "tree", store).listed("root of corpus 'c'")


def test_copies_of_recordings_are_deleted_on_demand(store: Store, tmp_path: Path) -> None:
    use_scratch(str(tmp_path), 0.0)
    put(store, tmp_path, "a/x.wav", b"one")
    tree = RemoteTree(corpora_folder() / "corpus", store)
    copy = tree.fetched(tree.root / "a" / "x.wav")
    forget_recordings()
    assert not copy.exists()
    assert tree.fetched(tree.root / "a" / "x.wav").read_bytes() == b"one"

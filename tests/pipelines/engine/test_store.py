"""A store keeps its laws in memory and on an S3 server, also when requests fail, are cut or lose their answers."""

from __future__ import annotations

import errno
import os
import pickle
import random
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from obstore.store import MemoryStore

from flowse.errors import UserError
from pipelines.engine import mirror
from pipelines.engine import store as store_module
from pipelines.engine.store import Conflict, Store
from tests.pipelines.engine.s3 import KEYS, Proxy, port_of, s3_server


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server() as address:
        yield address


@pytest.fixture
def s3(server: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Store:
    for key, value in (KEYS | {"AWS_ENDPOINT_URL": server}).items():
        monkeypatch.setenv(key, value)
    return Store(f"s3://bucket/{abs(hash(request.node.name))}")


@pytest.fixture(params=["memory", "s3"])
def store(request: pytest.FixtureRequest) -> Any:
    return Store("memory://", MemoryStore()) if request.param == "memory" else request.getfixturevalue("s3")


def through(proxy: str, monkeypatch: pytest.MonkeyPatch, store: Store) -> Store:
    """Return the same store, reached by a proxy."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy)
    return Store(store.url, retry_s=20)


def test_what_is_put_is_listed_read_in_whole_and_in_part_and_deleted(store: Store, tmp_path: Path) -> None:
    content = os.urandom(100_000)
    (tmp_path / "x").write_bytes(content)
    names = ["a/b@1.json", "a/c d.tar", "a/é#%.txt", "a/.runs/x"]
    etags = {name: store.put(name, tmp_path / "x") for name in names}
    listed = store.list("a")
    assert {name: entry.etag for name, entry in listed.items()} == etags
    assert {entry.size for entry in listed.values()} == {len(content)}
    assert store.list_folder("a")[1] == ["a/.runs"]
    assert sorted(store.list_folder("a")[0]) == sorted(set(names) - {"a/.runs/x"})
    assert store.get(names[0]) == content
    for begin, end in ((0, 10), (5, 5), (99_990, 100_000), (7, None)):
        assert store.get(names[1], begin, end) == content[begin:end]
    store.fetch(names[2], tmp_path / "y" / "z")
    assert (tmp_path / "y" / "z").read_bytes() == content
    store.delete([*names, "a/never-there"])
    assert store.list() == {}


def test_an_object_that_is_not_there_is_named_and_leaves_no_file(store: Store, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="a/none"):
        store.get("a/none")
    with pytest.raises(FileNotFoundError, match="a/none"):
        store.fetch("a/none", tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_only_the_absent_or_unchanged_is_written(store: Store) -> None:
    first = store.put_if("lock", b"1")
    assert store.put_if("lock", b"1") == first  # its own object, as after an answer that was lost
    with pytest.raises(Conflict):
        store.put_if("lock", b"2")
    second = store.put_if("lock", b"2", first)
    with pytest.raises(Conflict):
        store.put_if("lock", b"3", first)
    with pytest.raises(Conflict):
        store.put_if("never-there", b"3", first)
    assert store.read("lock") == (b"2", second)


def test_of_many_who_write_at_once_one_wins(store: Store) -> None:
    """Of writers of an absent object one succeeds; counting by compare-and-swap loses no step."""

    def create(number: int) -> bool:
        try:
            store.put_if("once", f"{number}".encode())
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(create, range(8))) == 1
    store.put_if("count", b"0")

    def add(number: int) -> None:
        while True:
            value, etag = store.read("count")
            try:
                # Equal bytes would be taken for one's own: each writer adds its number.
                store.put_if("count", f"{int(value.split()[0]) + 1} {number}".encode(), etag)
            except Conflict:
                continue
            return

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, range(12)))
    assert store.read("count")[0].split()[0] == b"12"


def test_a_large_file_goes_up_in_parts_and_comes_back(s3: Store, tmp_path: Path) -> None:
    content = os.urandom(12_000_000)
    (tmp_path / "x").write_bytes(content)
    s3.put("large", tmp_path / "x")
    s3.fetch_all([("large", tmp_path / "y"), ("large", tmp_path / "z")])
    assert (tmp_path / "y").read_bytes() == (tmp_path / "z").read_bytes() == content
    assert s3.get("large", 11_999_000) == content[11_999_000:]


@pytest.mark.parametrize("size", [200_000, 12_000_000])
@pytest.mark.parametrize("fate", ["503", "cut", "deaf"])
def test_uploads_that_fail_are_tried_again_and_never_seen_half(
    fate: str, size: int, s3: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, left, lock = os.urandom(size), [2], threading.Lock()
    (tmp_path / "x").write_bytes(content)

    def treat(head: bytes) -> str:
        with lock:
            if head.startswith((b"PUT", b"POST")) and left[0]:
                left[0] -= 1
                return fate
        return "pass"

    with Proxy(port_of(os.environ["AWS_ENDPOINT_URL"]), treat).running() as address:
        behind = through(address, monkeypatch, s3)
        behind.put("x.tar", tmp_path / "x")
        assert left == [0]
        assert behind.get("x.tar") == content


def test_an_upload_whose_process_is_gone_is_not_there(
    s3: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every request of the last part fails: the object never appears."""
    (tmp_path / "x").write_bytes(os.urandom(12_000_000))

    def treat(head: bytes) -> str:
        return "cut" if b"partNumber=3" in head.split(b"\r\n", 1)[0] else "pass"

    with Proxy(port_of(os.environ["AWS_ENDPOINT_URL"]), treat).running() as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        with pytest.raises(UserError, match=r"x\.tar: cannot be written: .*finished units are kept"):
            Store(s3.url, retry_s=1).put("x.tar", tmp_path / "x")
        assert Store(s3.url).list() == {}


def test_a_conditional_write_whose_answer_is_lost_is_done_once(s3: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    left = [1]

    def treat(head: bytes) -> str:
        if head.startswith(b"PUT") and left[0]:
            left[0] -= 1
            return "deaf"
        return "pass"

    with Proxy(port_of(os.environ["AWS_ENDPOINT_URL"]), treat).running() as address:
        behind = through(address, monkeypatch, s3)
        etag = behind.put_if("lock", b"mine")
        assert behind.read("lock") == (b"mine", etag)
        left[0] = 1
        etag = behind.put_if("lock", b"later", etag)
        assert behind.read("lock") == (b"later", etag)


@pytest.mark.parametrize("fate", ["503", "cut", "deaf"])
def test_every_other_request_is_tried_again(
    fate: str, s3: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = iter([fate, "pass"] * 50)
    with Proxy(port_of(os.environ["AWS_ENDPOINT_URL"]), lambda head: next(turns)).running() as address:
        behind = through(address, monkeypatch, s3)
        etag = behind.put_if("a/x", b"1")
        behind.put_if("a/x", b"2", etag)
        behind.fetch("a/x", tmp_path / "x")
        assert (tmp_path / "x").read_bytes() == behind.get("a/x") == b"2"
        assert list(behind.list("a")) == ["a/x"]
        behind.delete(["a/x"])
        assert behind.list() == {}


def test_what_only_a_person_can_mend_is_one_line(s3: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="there is no such bucket"):
        Store("s3://another-bucket/x").get("y")
    with pytest.raises(UserError, match="there is no such bucket"):
        Store("s3://another-bucket/x").list()
    for url, mend in (
        ("ftp://host/x", "write s3://bucket/prefix"),
        ("s3://", "write s3://bucket/prefix"),
        ("s3:///x", "write s3://bucket/prefix"),
        ("bucket", "write s3://bucket/prefix"),
        ("s3:/bucket/x", "write s3://bucket/x"),
        ("S3://bucket/x/", "write s3://bucket/x"),
        ("s3a://bucket", "write s3://bucket"),
        ("abfs://container/x", "write az://container/x"),
        ("file:///data/w", "write the folder's path, /data/w"),
        ("s3://bucket/a/../b", "consists of dots"),
        ("s3://bucket/a//b", "empty"),
        ("s3://bucket/a\nb", "control character"),
    ):
        with pytest.raises(UserError, match=re.escape(mend)) as caught:
            Store(url)
    with Proxy(1, lambda head: "pass").running() as address:  # nobody is behind it
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        with pytest.raises(UserError, match="cannot be listed") as caught:
            Store(s3.url, retry_s=0.5).list()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "mend"),
    [
        ("403 <Error><Code>RequestTimeTooSkewed</Code><Message>Too large.</Message></Error>", "clock of this machine"),
        ("301", "in another region; name its region in AWS_DEFAULT_REGION"),
        (
            "400 <Error><Code>AuthorizationHeaderMalformed</Code><Message>expecting 'x'</Message></Error>",
            "expecting 'x'",
        ),
        ("400 <Error><Code>ExpiredToken</Code></Error>", "have expired; renew them"),
        ("403 <Error>\n<Code>InvalidAccessKeyId</Code></Error>", "refuses these credentials.*InvalidAccessKeyId"),
        ("403", "refuses these credentials"),
    ],
)
def test_an_answer_that_asking_again_would_not_change_is_said_at_once(
    s3: Store, server: str, monkeypatch: pytest.MonkeyPatch, answer: str, mend: str
) -> None:
    proxy = Proxy(port_of(server), lambda head: answer)
    with proxy.running() as address:
        store = through(address, monkeypatch, s3)
        for ask in (store.list, store.require_answer, lambda: store.get("x"), lambda: store.names("x")):
            with pytest.raises(UserError, match=mend) as caught:
                ask()
            assert "\n" not in str(caught.value)
    assert len(proxy.seen) == 4, "nothing is tried again"


def test_an_environment_that_names_no_store_is_said(s3: Store, monkeypatch: pytest.MonkeyPatch, server: str) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.removeprefix("http://"))
    with pytest.raises(UserError, match=r"AWS_ENDPOINT_URL=127.*write http:// or https:// before the host"):
        Store(s3.url).list()
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(UserError, match="AWS_SECRET_ACCESS_KEY is not set"):
        Store(s3.url).list()
    for name in list(os.environ):
        if name.startswith("AZURE_"):
            monkeypatch.delenv(name)
    with pytest.raises(UserError, match="AZURE_STORAGE_ACCOUNT_NAME"):
        Store("az://container/x").list()
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_PROFILE", "nobody's")
    with pytest.raises(UserError, match="AWS_PROFILE=nobody's: gives no credentials"):
        Store(s3.url).list()


def test_characters_of_a_prefix_stand_for_themselves(s3: Store, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"content")
    prefixes = ["my prefix", "a%20b", "a b", "q?x", "q", "a#b", "a", "ü~[1]+&=:@"]
    for prefix in prefixes:
        Store(f"{s3.url}/{prefix}").put("x y@1", tmp_path / "x")
    assert sorted(s3.list()) == sorted(f"{prefix}/x y@1" for prefix in prefixes)


def test_credentials_that_are_refused_are_said_to_be_so(monkeypatch: pytest.MonkeyPatch, server: str) -> None:
    def refuse(head: bytes) -> str:
        return "403"

    for key, value in KEYS.items():
        monkeypatch.setenv(key, value)
    with Proxy(port_of(server), refuse).running() as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        with pytest.raises(UserError, match="refuses these credentials"):
            Store("s3://bucket/x").put_if("y", b"1")


def test_what_is_pickled_holds_no_credentials(s3: Store) -> None:
    s3.put_if("x", b"1")
    pickled = pickle.dumps(s3)
    assert KEYS["AWS_SECRET_ACCESS_KEY"].encode() not in pickled.replace(s3.url.encode(), b"")
    assert pickle.loads(pickled).get("x") == b"1"


def test_a_full_disk_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store("memory://x", MemoryStore())
    (tmp_path / "a").write_bytes(b"content")
    store.put("a", tmp_path / "a")

    def full(path: Path, *_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(UserError, match=r"memory://x/a: there is no room for a copy .*cluster.scratch_gb"):
        store.fetch("a", tmp_path / "b")


def test_all_objects_are_listed_page_by_page_in_order(tmp_path: Path) -> None:
    store = Store("memory://x", MemoryStore())
    (tmp_path / "a").write_bytes(b"content")
    names = [f"{number:05d}" for number in range(2500)]
    for name in names:
        store.put_if(name, b"x")
    assert [name for name, _ in store.each()] == names
    assert store.head("00007").size == 1
    with pytest.raises(FileNotFoundError):
        store.head("nothing")


@pytest.mark.parametrize("cuts", [lambda name: (), lambda name: _digits(name), lambda name: ("a/0", name, "zzz")])
def test_several_listings_at_once_find_every_name_once(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cuts: Any
) -> None:
    assert store.names_in_parts("a", cuts) == []
    draw = random.Random(1)
    labels = ["b", "b-2", "train-000", "z"]
    names = {
        f"a/{draw.choice(labels)}-{draw.randbytes(10).hex()}.{end}" for _ in range(60) for end in ("json", "tar@1")
    }
    (tmp_path / "x").write_bytes(b"")
    for name in [*names, "a/.hidden", "b/other", "a-b/other"]:
        store.put(name, tmp_path / "x")
    for page in (1, 7, 1000):
        monkeypatch.setattr(store_module, "_PAGE", page)
        assert sorted(store.names_in_parts("a", cuts)) == sorted({*names, "a/.hidden"})


def _digits(name: str) -> list[str]:
    """The borders between units that `Mirror` guesses."""
    return list(mirror._cuts(name))

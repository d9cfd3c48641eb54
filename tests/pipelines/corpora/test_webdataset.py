"""Tar files of samples: every sample is a row or a reject row, also where a tar is damaged, and no tar is unpacked."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile
from obstore.store import MemoryStore

from flowse.audio.waveform import read
from flowse.data.content import content_of, file_facts
from flowse.errors import UserError
from flowse.fetching import current_source, fetched, use_source
from pipelines.engine import archives, remote_tree, scratch
from pipelines.engine.nearby import Nearby
from pipelines.engine.remote_tree import RemoteTree
from pipelines.engine.store import Store
from tests.pipelines.corpora.conftest import Bench


@pytest.fixture(autouse=True)
def _at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    use_source(Nearby())
    yield
    use_source(None)


def pack(bench: Any, tar: str, *members: str | tuple[str, object], form: int = tarfile.PAX_FORMAT) -> Path:
    """Write a tar of recordings, which the bench makes, and of texts: (name, content)."""
    path: Path = bench.root / tar
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as file:
        for member in members:
            if isinstance(member, str):
                bench.audio(f"../loose/{member}")
                file.add(bench.root / "../loose" / member, arcname=member)
            else:
                name, content = member
                data = content if isinstance(content, bytes) else json.dumps(content).encode()
                info = tarfile.TarInfo(name)
                info.size = len(data)
                file.addfile(info, io.BytesIO(data))
    return path


def facts(rows: list[Any]) -> list[tuple[str, str, str, str, str | None]]:
    return [(row.path, row.text, row.speaker, row.language, row.split) for row in rows]


def test_a_sample_has_what_its_json_or_its_text_says(bench: Any) -> None:
    said = {"text": "hello there", "speaker": 7, "language": "zh-CN"}
    pack(bench, "train/a-000.tar", "x.flac", ("x.json", said), "y.wav", ("y.txt", b"good\n day"), "z.opus")
    pack(bench, "b-001.tar", "./deep/x.flac", "deep/x2.ogg")
    found = bench.measure("webdataset", language="en")
    assert facts(bench.read("webdataset", language="en")) == [
        ("b-001.tar/deep/x.flac", "", "", "en", None),
        ("b-001.tar/deep/x2.ogg", "", "", "en", None),
        ("train/a-000.tar/x.flac", "hello there", "7", "zh", "train"),
        ("train/a-000.tar/y.wav", "good day", "", "en", "train"),
        ("train/a-000.tar/z.opus", "", "", "en", "train"),
    ]
    assert len(found.kept) == 5
    assert not found.rejects
    assert {row.content for row in found.kept if row.path.endswith("a-000.tar/x.flac")} == {
        content_of(bench.root / "../loose/x.flac")
    }, "known by the member's content, as if it were a file"


def test_members_are_read_as_they_were_packed(bench: Any) -> None:
    long = f"{'n' * 150}.wav"
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        pack(bench, f"{form}.tar", long, "ü.flac", form=form)
        for name in (long, "ü.flac"):
            expected, _ = soundfile.read(bench.root / "../loose" / name, dtype="float32")
            assert (read(bench.root / f"{form}.tar" / name)[0][0] == expected).all()


def test_samples_with_several_recordings_need_an_ending(bench: Any) -> None:
    pack(bench, "a.tar", "x.clean.flac", "x.noisy.flac", ("x.json", {"text": "hello"}), "y.clean.flac")
    assert bench.measure("webdataset").reasons == ["several_recordings"]
    found = bench.measure("webdataset", audio="clean.flac")
    assert found.paths == ["a.tar/x.clean.flac", "a.tar/y.clean.flac"]
    assert [row.text for row in found.kept] == ["hello", ""]


def test_what_cannot_be_used_is_a_reject_row(bench: Any) -> None:
    members: list[Any] = [
        *("ok.flac", "json.flac", ("json.json", b"{"), "list.flac", ("list.json", [1]), ("lonely.txt", b"a text")),
        *(("empty.flac", b""), ("noise.wav", b"no audio"), "bytes.wav", ("bytes.txt", b"\xff"), ("../up.flac", b"x")),
        *(("__MACOSX/._ok.flac", b"x"), (".hidden.flac", b"x"), ("README", b"says nothing")),
    ]
    pack(bench, "a.tar", *members)
    with tarfile.open(bench.root / "a.tar", "a") as file:
        link = tarfile.TarInfo("link.flac")
        link.type, link.linkname = tarfile.SYMTYPE, "ok.flac"
        file.addfile(link)
        file.add(bench.root / "../loose/ok.flac", arcname="ok.flac")  # a second one of this name
    rows = bench.read("webdataset")
    reasons = {row.path: getattr(row, "reason", "") for row in rows}
    assert reasons == {
        "a.tar/ok.flac": "",
        "a.tar/json.flac": "bad_metadata",
        "a.tar/list.flac": "bad_metadata",
        "a.tar/lonely": "not_found",
        "a.tar/empty.flac": "",
        "a.tar/noise.wav": "",
        "a.tar/bytes.wav": "bad_metadata",
        "a.tar/../up.flac": "bad_path",
        "a.tar/link.flac": "damaged_archive",
    }
    assert len(rows) == len(reasons) + 1, "ok.flac stands there twice, and ingest refuses the second"


@pytest.mark.parametrize(
    "damage", ["cut in a member", "cut between members", "a header", "a long name", "packed", "empty"]
)
def test_damaged_tars_lose_nothing_but_what_is_damaged(bench: Any, damage: str) -> None:
    name = f"{'n' * 150}.flac" if damage == "a long name" else "b.flac"
    path = pack(bench, "a.tar", "a.flac", name, "c.flac")
    with tarfile.open(path) as file:
        places = {info.name: (info.offset, info.offset_data) for info in file}
    content = bytearray(path.read_bytes())
    if damage == "cut in a member":
        content = content[: places["c.flac"][1] + 700]
    elif damage == "cut between members":
        content = content[: places["c.flac"][0]]
    elif damage in ("a header", "a long name"):
        content[places[name][1] - 512 + 20] ^= 1
    elif damage == "packed":
        import gzip

        content = bytearray(gzip.compress(content))
    else:
        content = bytearray()
    path.write_bytes(content)
    pack(bench, "whole.tar", "d.flac")
    rows = bench.read("webdataset")
    refused = [row for row in rows if getattr(row, "reason", "") == "damaged_archive"]
    kept = {row.path for row in rows} - {row.path for row in refused}
    lost = {"cut in a member": "c", "cut between members": "c", "a header": "b", "a long name": "b"}.get(damage, "abc")
    assert kept == {f"a.tar/{letter}.flac" for letter in "abc" if letter not in lost} | {"whole.tar/d.flac"}
    assert refused
    assert all(row.detail.startswith("a.tar") for row in refused)
    assert bench.measure("webdataset").paths == sorted(kept)


def test_tars_that_were_joined_are_one(bench: Any) -> None:
    first, second = pack(bench, "a.tar", "a.flac"), pack(bench, "b.tar", "b.flac")
    first.write_bytes(first.read_bytes() + second.read_bytes())
    second.unlink()
    assert bench.measure("webdataset").paths == ["a.tar/a.flac", "a.tar/b.flac"]


def test_a_tar_that_is_written_anew_is_seen_and_its_members_keep_their_content(bench: Any) -> None:
    pack(bench, "a.tar", "a.flac", "b.flac")
    before = {row.path: row.content for row in bench.measure("webdataset").kept}
    facts_before = file_facts(bench.root / "a.tar" / "b.flac")
    assert bench.changes("webdataset", lambda: pack(bench, "a.tar", "0.flac", "a.flac", "b.flac"))
    assert file_facts(bench.root / "a.tar" / "b.flac") != facts_before
    after = {row.path: row.content for row in bench.measure("webdataset").kept}
    assert {path: after[path] for path in before} == before
    assert len(after) == 3


def test_copies_of_members_are_bounded_and_come_again(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scratch, "_LEAST_GROWTH", 0)
    monkeypatch.setattr(scratch, "_IDLE_S", -1.0)
    monkeypatch.setattr(archives, "_own_copies", scratch.Scratch(most_bytes=20_000))
    pack(bench, "a.tar", *(f"{number}.wav" for number in range(6)))
    copies = [fetched(bench.root / "a.tar" / f"{number}.wav") for number in range(6)]
    assert 0 < sum(copy.exists() for copy in copies) < 6
    assert fetched(bench.root / "a.tar" / "0.wav").read_bytes() == (bench.root / "../loose/0.wav").read_bytes()
    assert [path.name for path in bench.root.iterdir()] == ["a.tar"], "nothing is written beside the tars"


def test_a_corpus_without_tars_is_one_line(bench: Any) -> None:
    bench.audio("a.flac")
    with pytest.raises(UserError, match="has no tar file"):
        bench.read("webdataset")
    (bench.root / "b.tar.gz").write_bytes(b"\x1f\x8b")
    (row,) = bench.read("webdataset")
    assert (row.reason, row.path) == ("damaged_archive", "b.tar.gz")


def test_members_of_tars_in_a_store_come_by_range(bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tar = pack(bench, "a.tar", "a.flac", ("a.json", {"text": "hello"}), "b.flac")
    before = bench.measure("webdataset")
    store = Store("memory://corpus", MemoryStore())
    store.put("part/a.tar", tar)
    tree = RemoteTree(tmp_path / "tree", store)
    monkeypatch.setitem(remote_tree._trees, tree.folder, tree)
    tree.listed("c")
    remote = Bench(tree.root / "part")
    use_source(Nearby())
    assert facts(remote.read("webdataset")) == facts(bench.read("webdataset"))
    after = remote.measure("webdataset")
    assert [row.content for row in after.kept] == [row.content for row in before.kept]
    assert not list((tree.folder / "copies").rglob("*")), "no tar is fetched as a whole"

    # A worker's machine has no tree, only the address.
    elsewhere = RemoteTree(tmp_path / "elsewhere", store)
    monkeypatch.setitem(remote_tree._trees, elsewhere.folder, elsewhere)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "elsewhere"))
    assert content_of(elsewhere.root / "part/a.tar/b.flac") == after.kept[1].content


def test_a_folder_of_a_bucket_may_be_named_like_a_tar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store("memory://corpus", MemoryStore())
    (tmp_path / "x").write_bytes(b"content")
    store.put("a.tar/x.wav", tmp_path / "x")
    tree = RemoteTree(tmp_path / "tree", store)
    monkeypatch.setitem(remote_tree._trees, tree.folder, tree)
    assert fetched(tree.root / "a.tar/x.wav").read_bytes() == b"content", "on a machine without a tree"
    tree.listed("c")
    use_source(Nearby())
    assert fetched(tree.root / "a.tar/x.wav").read_bytes() == b"content"


def test_another_process_finds_members_as_this_one_does(bench: Any) -> None:
    pack(bench, "a.tar", "a.flac")
    fetched(bench.root / "a.tar" / "a.flac")
    use_source(pickle.loads(pickle.dumps(current_source())))
    assert content_of(bench.root / "a.tar" / "a.flac") == content_of(bench.root / "../loose/a.flac")

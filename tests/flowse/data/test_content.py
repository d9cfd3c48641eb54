"""Laws of a recording's content: it follows the bytes and nothing else, and audio that changed is never read."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from flowse.data import content as module
from flowse.data.content import content_if_there, content_of, file_facts, refusing_changes, require_unchanged
from flowse.data.manifest import Utterance
from flowse.refusal import Refusal


def row(content: str) -> Utterance:
    return Utterance(utt_id="c/x", corpus="c", kind="speech", path="x.wav", content=content)


@given(st.binary(max_size=300), st.integers(1, 64))
def test_the_content_is_the_hash_of_the_bytes_however_they_are_read(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, block: int
) -> None:
    path = tmp_path_factory.mktemp("content") / "x.wav"
    path.write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK_BYTES", block)
        assert content_of(path) == xxhash.xxh3_128_hexdigest(data)


def test_a_file_that_was_replaced_by_one_of_equal_size_and_time_has_another_content(tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    path.write_bytes(b"one")
    before, times = content_of(path), path.stat()
    other = tmp_path / "other.wav"
    other.write_bytes(b"two")
    other.replace(path)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert path.stat().st_mtime_ns == times.st_mtime_ns
    assert content_of(path) != before


def test_a_file_that_is_not_there_has_an_empty_content(tmp_path: Path) -> None:
    (tmp_path / "x.wav").write_bytes(b"one")
    (tmp_path / "dead").symlink_to("nowhere")
    assert content_if_there(tmp_path / "x.wav") == content_of(tmp_path / "x.wav")
    assert [content_if_there(tmp_path / name) for name in ("nowhere", "dead", ".", "x.wav/y")] == [""] * 4


def test_a_file_is_read_once_while_it_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    path.write_bytes(b"one")
    misses = module._hashed.cache_info().misses
    assert content_of(path) == content_of(path)
    assert module._hashed.cache_info().misses == misses + 1


def test_only_the_recorded_bytes_are_let_through(tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    path.write_bytes(b"one")
    require_unchanged(row(content_of(path)), path)
    require_unchanged(row(""), path)  # a manifest that was made by hand
    path.write_bytes(b"two")
    with pytest.raises(Refusal, match=r"changed_since_ingest: x\.wav: holds other bytes .* run again") as caught:
        require_unchanged(row(xxhash.xxh3_128_hexdigest(b"one")), path)
    assert caught.value.kind == "failed"


@pytest.mark.parametrize("name", ["nowhere.wav", "x.wav/y.wav", ".", "a\0b"])
def test_a_file_that_is_gone_has_changed(tmp_path: Path, name: str) -> None:
    (tmp_path / "x.wav").write_bytes(b"one")
    with pytest.raises(Refusal, match=r"changed_since_ingest: .* cannot be read any more"):
        require_unchanged(row("0" * 32), tmp_path / name)
    require_unchanged(row(""), tmp_path / name)


def test_facts_of_files_that_are_not_there_or_not_allowed_are_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The listing goes on: whoever decodes such a file says what is wrong with it."""
    (tmp_path / "x.wav").write_bytes(b"one")
    (tmp_path / "self").symlink_to("self")
    assert file_facts(tmp_path / "x.wav").startswith("(3, ")
    assert [file_facts(tmp_path / name) for name in ("nowhere", "self", "x.wav/y", "a\0b")] == ["absent"] * 4

    def refuse(path: Path, **_: object) -> os.stat_result:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "stat", refuse)
    assert file_facts(tmp_path / "x.wav") == "forbidden"
    assert content_if_there(tmp_path / "x.wav") == ""


def test_a_storage_that_fails_is_not_the_recordings_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> str:
        raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr(module, "content_of", fail)
    with pytest.raises(OSError, match="Input/output error"):
        require_unchanged(row("0" * 32), tmp_path)
    with pytest.raises(OSError, match="Input/output error"):
        content_if_there(tmp_path)


def test_what_was_read_of_a_file_that_changed_meanwhile_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    path.write_bytes(b"one")
    with refusing_changes(path, "x.wav"):
        content_of(path)
    with pytest.raises(Refusal, match=r"changed_while_read: x\.wav"), refusing_changes(path, "x.wav"):
        path.write_bytes(b"longer")
    with pytest.raises(FileNotFoundError), refusing_changes(tmp_path / "nowhere.wav", "nowhere.wav"):
        content_of(tmp_path / "nowhere.wav")

"""Laws of atomic writes: the target is whole or as before, nothing temporary stays, writers at once do not mix."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from flowse import files

FORK = multiprocessing.get_context("fork")
OLD, NEW = b"old" * 1000, b"new" * 1000


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


@pytest.mark.parametrize("name", ["a.json", "cuts.jsonl.gz", "no_suffix", ".hidden"])
def test_a_temporary_path_is_hidden_beside_its_target_and_keeps_every_suffix(tmp_path: Path, name: str) -> None:
    with files.atomic_path(tmp_path / "new" / name) as temporary:
        assert temporary.parent == tmp_path / "new"
        assert temporary.name.startswith(".")
        assert temporary.name.endswith(name)
        temporary.write_bytes(NEW)
        assert listing(temporary.parent) == [temporary.name]
    assert (tmp_path / "new" / name).read_bytes() == NEW
    assert listing(tmp_path / "new") == [name]


@pytest.mark.parametrize("before", [None, OLD])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_the_target_as_it_was(
    tmp_path: Path, before: bytes | None, error: type[BaseException]
) -> None:
    path = tmp_path / "a.bin"
    if before is not None:
        path.write_bytes(before)

    def fail_halfway() -> None:
        with files.atomic_path(path) as temporary:
            temporary.write_bytes(NEW[:10])
            raise error

    with pytest.raises(error):
        fail_halfway()
    assert (path.read_bytes() if path.exists() else None) == before
    assert listing(tmp_path) == ([] if before is None else ["a.bin"])


def test_a_block_that_writes_nothing_is_refused_and_leaves_the_target_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(OLD)
    with pytest.raises(FileNotFoundError), files.atomic_path(tmp_path / "a.bin"):
        pass
    assert (tmp_path / "a.bin").read_bytes() == OLD


def _killed_in_a_file(path: Path) -> None:
    with files.atomic_path(path) as temporary:
        temporary.write_bytes(NEW[:10])
        os.kill(os.getpid(), signal.SIGKILL)


def _killed_in_a_folder(path: Path) -> None:
    with files.atomic_folder(path) as temporary:
        (temporary / "weights").write_bytes(NEW[:10])
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("write", [_killed_in_a_file, _killed_in_a_folder])
def test_a_killed_writer_leaves_no_target_and_its_rest_can_be_removed(
    tmp_path: Path, write: Callable[[Path], None]
) -> None:
    (tmp_path / "kept.tmp").write_bytes(OLD)
    process = FORK.Process(target=write, args=(tmp_path / "sub" / "target",))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (tmp_path / "sub" / "target").exists()
    assert listing(tmp_path / "sub") != []
    files.remove_temporaries(tmp_path)
    assert listing(tmp_path) == ["kept.tmp", "sub"]


def test_temporary_files_of_earlier_versions_are_removed_too(tmp_path: Path) -> None:
    (tmp_path / ".part-0.parquet.4711-deadbeef.tmp").write_bytes(OLD)
    files.remove_temporaries(tmp_path)
    assert listing(tmp_path) == []


def _write_often(path: Path, content: bytes) -> None:
    for _ in range(50):
        files.write_bytes(path, content)


def _write_a_folder_often(path: Path, content: bytes) -> None:
    for _ in range(20):
        with files.atomic_folder(path) as temporary:
            (temporary / "1").write_bytes(content)
            (temporary / "2").write_bytes(content)


def _together(write: Callable[[Path, bytes], None], path: Path) -> None:
    processes = [FORK.Process(target=write, args=(path, content)) for content in (OLD, NEW, b"third")]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]


def test_of_writers_at_once_one_wins_whole(tmp_path: Path) -> None:
    _together(_write_often, tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() in (OLD, NEW, b"third")
    assert listing(tmp_path) == ["a.bin"]


def test_of_folders_written_at_once_one_wins_whole(tmp_path: Path) -> None:
    _together(_write_a_folder_often, tmp_path / "model")
    assert (tmp_path / "model" / "1").read_bytes() == (tmp_path / "model" / "2").read_bytes()
    assert listing(tmp_path) == ["1", "2", "model"]


def test_content_is_on_disk_before_it_has_its_name_and_the_name_before_the_call_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []
    sync, replace = files.sync, Path.replace

    def watched_sync(path: Path) -> None:
        happened.append(f"sync {'folder' if path.is_dir() else 'file'}")
        sync(path)

    def watched_replace(self: Path, target: Path) -> Path:
        happened.append("rename")
        return replace(self, target)

    monkeypatch.setattr(files, "sync", watched_sync)
    monkeypatch.setattr(Path, "replace", watched_replace)
    files.write_bytes(tmp_path / "a.bin", NEW)
    assert happened == ["sync file", "rename", "sync folder"]


def test_a_folder_appears_with_all_its_files_and_replaces_the_one_before(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "m"
    for content in (OLD, NEW):
        with files.atomic_folder(folder) as temporary:
            (temporary / "sub").mkdir()
            (temporary / "sub" / "weights").write_bytes(content)
    assert (folder / "sub" / "weights").read_bytes() == NEW
    assert listing(tmp_path) == ["m", "models", "sub", "weights"]


def test_a_folder_that_others_may_be_reading_can_be_kept(tmp_path: Path) -> None:
    for content in (OLD, NEW):
        with files.atomic_folder(tmp_path / "m", keep_existing=True) as temporary:
            (temporary / "weights").write_bytes(content)
    assert (tmp_path / "m" / "weights").read_bytes() == OLD
    assert listing(tmp_path) == ["m", "weights"]


def test_a_folder_whose_writing_fails_leaves_the_one_before(tmp_path: Path) -> None:
    with files.atomic_folder(tmp_path / "m") as temporary:
        (temporary / "weights").write_bytes(OLD)

    def fail_halfway() -> None:
        with files.atomic_folder(tmp_path / "m") as temporary:
            (temporary / "weights").write_bytes(NEW[:10])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_halfway()
    assert (tmp_path / "m" / "weights").read_bytes() == OLD
    assert listing(tmp_path) == ["m", "weights"]


def test_files_and_folders_have_the_permissions_of_any_other_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(NEW)
    (tmp_path / "plain_folder").mkdir()
    files.write_bytes(tmp_path / "a.bin", NEW)
    with files.atomic_folder(tmp_path / "m"):
        pass
    for name, like in (("a.bin", "plain"), ("m", "plain_folder")):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == stat.S_IMODE((tmp_path / like).stat().st_mode)


def test_equal_values_give_equal_json_and_other_letters_stay_readable(tmp_path: Path) -> None:
    files.write_json(tmp_path / "1.json", {"b": [1, 2.5, None], "a": "语音"})
    files.write_json(tmp_path / "2.json", {"a": "语音", "b": [1, 2.5, None]})
    text = (tmp_path / "1.json").read_text(encoding="utf-8")
    assert text == (tmp_path / "2.json").read_text(encoding="utf-8")
    assert "语音" in text
    assert json.loads(text) == {"a": "语音", "b": [1, 2.5, None]}


def test_the_digest_is_that_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert files.sha256_file(tmp_path / "empty").startswith("e3b0c44298fc1c14")


@pytest.mark.parametrize("name", ["x" * 251 + ".wav", "你" * 83 + ".wav"], ids=["ascii", "hanzi"])
def test_a_name_as_long_as_the_file_system_holds_can_be_written(name: str, tmp_path: Path) -> None:
    with files.atomic_path(tmp_path / name) as temporary:
        assert temporary.suffix == ".wav"
        temporary.with_name(f"{temporary.name}.flac").touch()
        temporary.with_name(f"{temporary.name}.flac").rename(temporary)
    assert [path.name for path in tmp_path.iterdir()] == [name]

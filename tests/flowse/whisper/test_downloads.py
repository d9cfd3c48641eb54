"""A published model is loaded by one worker first; the others wait until it is whole."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from flowse.whisper.downloads import download_folder, first_alone


def test_many_workers_download_once(tmp_path: Path) -> None:
    file, half = tmp_path / "models" / "large.pt", []

    def load() -> None:
        with first_alone(tmp_path / "models", "large"):
            if not file.exists():
                half.append(file)
                file.write_text("half")
                time.sleep(0.2)
                file.write_text("whole")
            assert file.read_text() == "whole"

    workers = [threading.Thread(target=load) for _ in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(half) == 1


def test_after_a_download_that_broke_the_next_worker_is_alone_again(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="network"), first_alone(tmp_path, "large"):
        raise OSError("network")
    assert not (tmp_path / ".large.complete").exists()
    with first_alone(tmp_path, "large"):
        pass
    assert (tmp_path / ".large.complete").exists()


def test_a_folder_that_cannot_be_written_is_read_without_a_lock(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with first_alone(tmp_path / "file" / "models", "large"):
        pass


def test_the_named_folder_counts_where_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert download_folder(str(tmp_path)) == tmp_path
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert download_folder("") == download_folder("/not/there") == Path("/cache/whisper")

"""Laws of the folder of a run of training: the driver ends with what rank 0 has written, on whatever machine."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from obstore.store import MemoryStore

from pipelines.engine import mirror as mirror_module
from pipelines.engine import run_folder
from pipelines.engine.mirror import MARKER, Mirror, open_mirror
from pipelines.engine.run_folder import followed, kept
from pipelines.engine.store import Store

RUN = "train/.runs/a"


@pytest.fixture
def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The folder of a run on the driver's machine and on another."""
    monkeypatch.setattr(mirror_module, "_open", {})
    monkeypatch.setattr(run_folder, "_SEND_S", 0.05)
    monkeypatch.setattr(run_folder, "_FOLLOW_S", 0.05)
    store = Store("memory://ws", MemoryStore())
    open_mirror(store, tmp_path / "driver", ("train",))
    node = tmp_path / "node"
    node.mkdir()
    (node / MARKER).write_text(json.dumps({"url": store.url, "node": True}))
    mirror_module._open[node] = Mirror(node, store, is_node=True)
    (tmp_path / "driver" / RUN).mkdir(parents=True)
    return tmp_path / "driver" / RUN, node / RUN


def write(folder: Path, name: str, content: bytes) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def until(true: Path) -> None:
    end = time.monotonic() + 20
    while not true.exists():
        assert time.monotonic() < end, true
        time.sleep(0.02)


def test_the_driver_has_what_a_rank_elsewhere_has_written(machines: tuple[Path, Path]) -> None:
    here, there = machines
    write(here, "spec.json", b"{}")
    with followed(here), kept(there, writes=True) as sees_the_driver:
        assert not sees_the_driver
        assert (there / "spec.json").exists(), "it begins with what the driver has published"
        write(there, "step-1/state.json", b"1")
        write(there, "progress.json", b"{1}")
        until(here / "progress.json")
        (there / "step-1" / "state.json").unlink()
        write(there, "step-2/model.safetensors", bytes(5 << 20))
        write(there, "mels/only-here", b"")
    expected = files(there)
    del expected["mels/only-here"]
    assert files(here) == expected


def test_a_request_to_stop_reaches_ranks_elsewhere(machines: tuple[Path, Path]) -> None:
    here, there = machines
    with followed(here), kept(there, writes=False):
        write(here, "stop", b"")
        until(there / "stop")


def test_what_any_rank_names_as_wrong_reaches_the_driver(machines: tuple[Path, Path]) -> None:
    here, there = machines
    with followed(here):
        with kept(there, writes=True):
            write(there, "history.jsonl", b"x")
        with kept(there, writes=False):
            write(there, "verdict.txt", b"the shards are damaged")
    assert (here / "verdict.txt").read_bytes() == b"the shards are damaged"


def test_rank_0_may_move_from_machine_to_machine(machines: tuple[Path, Path]) -> None:
    here, there = machines
    with followed(here):
        with kept(there, writes=True):
            write(there, "step-1/state.json", b"there")
        with kept(here, writes=True) as sees_the_driver:
            assert sees_the_driver
            assert (here / "step-1" / "state.json").read_bytes() == b"there", "it goes on from where the other was"
            write(here, "step-1/state.json", b"here")
            write(here, "step-2/state.json", b"here")
    assert files(here) == {"step-1/state.json": b"here", "step-2/state.json": b"here"}, "the store's are older"


def test_the_driver_publishes_nothing_of_a_run_that_another_machine_writes(machines: tuple[Path, Path]) -> None:
    here, there = machines
    mirror = mirror_module._open[here.parents[2]]
    write(here, "history.jsonl", b"1")
    with followed(here):
        with kept(here, writes=True):  # rank 0 begins here …
            write(here, "history.jsonl", b"1 2")
        with kept(there, writes=True):  # … and goes on there, while a rank here brings what it finds
            with kept(here, writes=False):
                write(here, "history.jsonl", b"an old copy")
            mirror.publish("train")
            write(there, "history.jsonl", b"1 2 3")
        mirror.publish("train")
    assert files(here) == {"history.jsonl": b"1 2 3"}
    assert mirror.store.get(f"{RUN}/.writer") == b"another machine", "the driver's own is as old as its folder"


def test_a_copy_that_is_not_the_stores_is_brought_again(machines: tuple[Path, Path]) -> None:
    here, there = machines
    with followed(here):
        with kept(there, writes=True):
            write(there, "progress.json", b"the last")
            until(here / "progress.json")
        write(here, "progress.json", b"old")
    assert files(here) == {"progress.json": b"the last"}


def test_what_a_rank_elsewhere_names_as_wrong_reaches_a_rank_0_on_the_drivers_machine(
    machines: tuple[Path, Path],
) -> None:
    here, there = machines
    with followed(here), kept(here, writes=True):
        with kept(there, writes=False):
            write(there, "verdict.txt", b"the shards are damaged")
        until(here / "verdict.txt")
    assert (here / "verdict.txt").read_bytes() == b"the shards are damaged"

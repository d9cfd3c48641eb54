"""Laws of the lock in a store: one holds it, the dead lose it after a lease, and who has lost it publishes nothing."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from obstore.store import MemoryStore

from flowse.errors import UserError
from pipelines.engine import store_lock as lock_module
from pipelines.engine.store import Store
from pipelines.engine.store_lock import LOCK, StoreLock, store_lock, take

ANN = {"command": "ann", "host": "h", "pid": "1", "since": "today"}
BEN = {"command": "ben", "host": "h", "pid": "1", "since": "today"}  # equal host and process: both are containers


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("BEAT_S", 0.05), ("LEASE_S", 1.0), ("_LOOK_S", 0.05)):
        monkeypatch.setattr(lock_module, name, seconds)


@pytest.fixture
def store() -> Store:
    return Store("memory://", MemoryStore())


def test_a_second_driver_is_told_who_holds_the_workspace(store: Store) -> None:
    with store_lock(store, ANN) as held:
        with pytest.raises(UserError, match=r"in use: `ann` \(process 1 on h, since today\)"):
            take(store, BEN)
        held.check()
    assert take(store, BEN).fence == held.fence + 1  # at once, as it was released


def test_of_drivers_that_race_one_wins(store: Store) -> None:
    held = threading.Barrier(4)

    def run(number: int) -> int:
        held.wait()
        try:
            with store_lock(store, ANN | {"pid": str(number)}) as lock:
                won.wait(20)
                return lock.fence
        except UserError:
            lost.release()
            return 0

    won, lost = threading.Event(), threading.Semaphore(0)
    with ThreadPoolExecutor(4) as pool:
        fences = [pool.submit(run, number) for number in range(4)]
        for _ in range(3):
            assert lost.acquire(timeout=20)
        won.set()
        assert sorted(fence.result() for fence in fences) == [0, 0, 0, 1]


def test_a_driver_that_died_loses_the_lock_after_a_lease_and_no_sooner(store: Store) -> None:
    dead = take(store, ANN)
    said: list[str] = []
    begun = lock_module.now_s()
    lock = take(store, BEN, said.append)
    assert lock_module.now_s() - begun >= lock_module.LEASE_S
    assert said == [store.url]
    assert lock.fence == dead.fence + 1


def test_a_driver_that_slept_through_its_lease_publishes_nothing_and_frees_nothing(store: Store) -> None:
    sleeper = take(store, ANN)
    sleeper.check()
    other = take(store, BEN)
    with pytest.raises(UserError, match=r"has lost the workspace .*`ben`.* has it"):
        sleeper.check()
    sleeper.beat()
    sleeper.release()
    other.check()
    other.beat()
    other.check()


def test_a_driver_that_beats_late_but_alone_goes_on(store: Store) -> None:
    """Nobody took the lock meanwhile: there is nothing to lose."""
    lock = take(store, ANN)
    lock.beat()
    again = StoreLock(store, lock._held, "an etag of before")  # a beat whose answer was lost
    again.beat()
    again.beat()
    again.check()


def test_a_lock_that_was_deleted_is_lost(store: Store) -> None:
    lock = take(store, ANN)
    store.delete([LOCK])
    with pytest.raises(UserError, match="its lock was deleted"):
        lock.check()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"fence": "x"}'])
def test_a_damaged_lock_is_one_line_with_the_mend(content: bytes, store: Store, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(content)
    store.put(LOCK, tmp_path / "x")
    with pytest.raises(UserError, match=r"LOCK: damaged; delete the object"):
        take(store, ANN)

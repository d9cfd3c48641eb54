"""The lock of a workspace in a store: one driver holds it, by writes that succeed only if nobody wrote in between.

The object `LOCK` names the owner, a heartbeat and a **fencing number**, which grows whenever another driver takes the
lock. A lock is taken over only where its object has not changed for a whole lease *by the clock of the driver that
looks at it*: neither clocks that differ nor equal names of hosts take a lock from a driver that lives. One that slept
through its lease finds another number in the object, and publishes nothing more.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from flowse.errors import UserError
from flowse.json_records import from_json, to_json
from pipelines.engine.store import LOCK, Conflict, Store

BEAT_S = 5.0
LEASE_S = 30.0
_LOOK_S = 0.5


@dataclass(frozen=True)
class Held:
    """The content of the object.

    Attributes:
        fence: Fencing number: how often the lock was taken.
        owner: Who holds it, for messages; empty: nobody.
        nonce: Of the driver's process, so that no two write equal bytes.
        beat: Number of the heartbeat.
    """

    fence: int
    owner: Mapping[str, str] = field(default_factory=dict)
    nonce: str = ""
    beat: int = 0

    def to_bytes(self) -> bytes:
        """Write it."""
        return json.dumps(to_json(self)).encode()


def _read(store: Store) -> tuple[Held | None, str]:
    """Read the lock and its etag; None and "" if there is none.

    Raises:
        UserError: It is damaged.
    """
    try:
        content, etag = store.read(LOCK)
    except FileNotFoundError:
        return None, ""
    try:
        return from_json(Held, json.loads(content)), etag
    except ValueError:
        raise UserError(
            f"{store.url}/{LOCK}: damaged; delete the object if no run is using this workspace, and run again"
        ) from None


def now_s() -> float:
    """Return seconds that also pass while the machine sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class StoreLock:
    """A lock that this process holds.

    Attributes:
        fence: Its fencing number.
    """

    def __init__(self, store: Store, held: Held, etag: str) -> None:
        """Hold a lock that `store_lock` has taken."""
        self._store, self._held, self._etag = store, held, etag
        self.fence = held.fence
        self._guard = threading.Lock()
        self._lost = ""

    def check(self) -> None:
        """Make sure that the lock is still held.

        Raises:
            UserError: It is not.
        """
        with self._guard:
            if not self._lost:
                try:
                    self._lost = self._not_mine(_read(self._store)[0])
                except UserError as error:
                    self._lost = str(error)
            if self._lost:
                raise UserError(
                    f"{self._store.url}: this run has lost the workspace ({self._lost}); it publishes nothing more, "
                    "and what it has published stays: run again when the other has ended"
                )

    def _not_mine(self, found: Held | None) -> str:
        """Say who holds the lock instead; empty: this process does."""
        if found is None:
            return "its lock was deleted"
        if (found.fence, found.nonce) == (self._held.fence, self._held.nonce):
            return ""
        return (
            f"it was silent for {LEASE_S:g} s, and now {_named(found.owner)}" if found.owner else "another had it since"
        )

    def beat(self) -> None:
        """Show that this process lives; a failure of the network is no loss, and the next beat tries again."""
        with self._guard:
            if self._lost:
                return
            following = Held(self._held.fence, self._held.owner, self._held.nonce, self._held.beat + 1)
            try:
                self._etag = self._store.put_if(LOCK, following.to_bytes(), self._etag)
                self._held = following
            except Conflict:
                try:
                    found, etag = _read(self._store)
                except UserError:
                    return
                self._lost = self._not_mine(found)
                if not self._lost:
                    self._etag = etag
            except UserError:
                return

    def release(self) -> None:
        """Let others take the lock; the fencing number stays, so that it never repeats."""
        with self._guard:
            if not self._lost:
                try:
                    free = Held(self._held.fence, nonce=self._held.nonce)
                    self._store.hurried().put_if(LOCK, free.to_bytes(), self._etag)
                except (Conflict, UserError):
                    return  # the lease ends by itself


def _named(owner: Mapping[str, str]) -> str:
    return (
        f"`{owner.get('command', '?')}` (process {owner.get('pid', '?')} on {owner.get('host', '?')}, since "
        f"{owner.get('since', '?')}) has it"
    )


def take(store: Store, owner: Mapping[str, str], say_wait: Callable[[str], None] = lambda url: None) -> StoreLock:
    """Take the lock of a workspace; that of an owner who shows no sign of life for a lease is taken over.

    Args:
        store: The workspace.
        owner: Who takes it: command, pid, host, since.
        say_wait: Called with the store's URL when a lease has to be waited for.

    Raises:
        UserError: A living driver holds it, or it is damaged.
    """
    nonce = secrets.token_hex(8)
    seen, since, said = "", now_s(), False
    while True:
        found, etag = _read(store)
        if found is not None and found.owner:
            if etag != seen and seen:
                raise UserError(
                    f"{store.url}: in use: {_named(found.owner)}; wait for it, stop it, or give this run another "
                    "--workspace"
                )
            if not seen:
                seen, since, said = etag, now_s(), False
            if not said and now_s() - since > 1.5 * BEAT_S:
                say_wait(store.url)
                said = True
            if now_s() - since < LEASE_S:
                time.sleep(_LOOK_S)
                continue
        held = Held((found.fence if found else 0) + 1, dict(owner), nonce)
        try:
            return StoreLock(store, held, store.put_if(LOCK, held.to_bytes(), etag or None))
        except Conflict:
            seen = ""  # another was faster: it is looked at anew


@contextmanager
def store_lock(
    store: Store, owner: Mapping[str, str], say_wait: Callable[[str], None] = lambda url: None
) -> Iterator[StoreLock]:
    """Hold the lock of a workspace while the block runs; see `take`."""
    lock = take(store, owner, say_wait)
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(BEAT_S):
            lock.beat()

    thread = threading.Thread(target=beat, daemon=True, name="store-lock")
    thread.start()
    try:
        yield lock
    finally:
        stop.set()
        thread.join()
        lock.release()

"""The folder of a run of training whose ranks are on other machines than the driver, by way of the store.

Rank 0 writes checkpoints and history. On another machine than the driver's, its folder begins as the store has it, and
what it writes goes up as it appears; the driver follows, and copies everything when the ranks have ended. Requests to
stop go the other way. On the driver's machine ranks use the driver's folder itself, which the runner publishes. Where
rank 0 moves after a failure, the object `.writer` says who has written last; of a run that is written elsewhere, the
driver publishes nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from flowse.errors import UserError
from flowse.files import write_text
from pipelines.engine.mirror import WRITER, Mirror, mirror_of

_SEND_S = 5.0
_FOLLOW_S = 2.0
_STOP, _VERDICT = "stop", "verdict.txt"
_OF_THIS_MACHINE = ("ray", "mels")
_ELSEWHERE = "another machine"


@contextmanager
def repeatedly(act: Callable[[], None], every_s: float) -> Iterator[None]:
    """Do something again and again in a thread while the block runs; what fails is tried again the next time."""
    ended = threading.Event()

    def work() -> None:
        while not ended.wait(every_s):
            with suppress(UserError, OSError):  # a file may also be deleted as it is read
                act()

    thread = threading.Thread(target=work, daemon=True, name="run folder")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def kept(folder: Path, *, writes: bool) -> Iterator[bool]:
    """Keep the folder of a rank in the store while the block runs, if its machine is not the driver's.

    Yields whether it is the driver's, or one that sees its folders.

    Args:
        folder: Of the run, on this machine.
        writes: Whether it is rank 0.

    Raises:
        UserError: The store does not answer.
    """
    mirror = mirror_of(folder)
    if mirror is None:
        yield True
        return
    folder.mkdir(parents=True, exist_ok=True)
    from_elsewhere = mirror.is_node or _wrote_elsewhere(mirror, folder)
    if writes and mirror.is_node:  # before it is brought: from now on the driver changes nothing
        _say_who_writes(mirror, folder, _ELSEWHERE)
    if from_elsewhere:
        mirror.bring_run(folder)
    if writes and not mirror.is_node:  # after it is here: until then the driver has not what it would publish
        _say_who_writes(mirror, folder, "the driver's machine")
    if not mirror.is_node:
        yield True
        return

    def exchange() -> None:
        if writes:
            mirror.send_run(folder, _OF_THIS_MACHINE, but=(_STOP,))
        if not (folder / _STOP).exists():
            with suppress(FileNotFoundError):
                mirror.store.get(mirror.name_of(folder / _STOP))
                (folder / _STOP).touch()

    (folder / _STOP).unlink(missing_ok=True)
    try:
        with repeatedly(exchange, _SEND_S):
            yield False
    finally:
        if writes:
            mirror.send_run(folder, _OF_THIS_MACHINE, but=(_STOP,))
        elif (folder / _VERDICT).exists():
            mirror.store.put(mirror.name_of(folder / _VERDICT), folder / _VERDICT)


@contextmanager
def followed(folder: Path) -> Iterator[None]:
    """Let the driver see what ranks on other machines write while the block runs, and have all of it at the end.

    Args:
        folder: Of the run, on the driver's machine.
    """
    mirror = mirror_of(folder)
    if mirror is None:
        yield
        return
    asked = mirror.name_of(folder / _STOP)
    mirror.publish(asked.partition("/")[0])
    mirror.store.delete([asked, mirror.name_of(folder / _VERDICT)])
    told, run = False, f"{mirror.name_of(folder)}/"

    def follow() -> None:
        nonlocal told
        if not told and (folder / _STOP).exists():
            mirror.store.put(asked, folder / _STOP)
            told = True
        if _wrote_elsewhere(mirror, folder):
            mirror.bring_run(folder, deep=False)
        else:
            _bring_verdict(mirror, folder)

    mirror.is_anothers = lambda path: path.startswith(run) and _wrote_elsewhere(mirror, folder)
    try:
        with repeatedly(follow, _FOLLOW_S):
            yield
    finally:
        if _wrote_elsewhere(mirror, folder):
            mirror.bring_run(folder)
        else:
            _bring_verdict(mirror, folder)
        mirror.is_anothers = lambda path: False


def _say_who_writes(mirror: Mirror, folder: Path, who: str) -> None:
    write_text(folder / WRITER, who)
    mirror.store.put(mirror.name_of(folder / WRITER), folder / WRITER)


def _bring_verdict(mirror: Mirror, folder: Path) -> None:
    """Copy what a rank on another machine says is wrong, where rank 0 is on the driver's and the rest is here."""
    if not (folder / _VERDICT).exists():
        with suppress(FileNotFoundError):
            mirror.store.fetch(mirror.name_of(folder / _VERDICT), folder / _VERDICT)


def _wrote_elsewhere(mirror: Mirror, folder: Path) -> bool:
    """Whether the last rank 0 was on another machine than the driver's: then the store has what it wrote."""
    try:
        return mirror.store.get(mirror.name_of(folder / WRITER)) == _ELSEWHERE.encode()
    except FileNotFoundError:
        return False

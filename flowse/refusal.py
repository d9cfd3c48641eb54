"""The exception for a recording or mixture that cannot be used, with its reason for machines and for people."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, TypeVar

from flowse.errors import UserError

SURROUNDINGS = frozenset(
    {
        errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE,
        errno.EAGAIN, errno.EINTR, errno.EBUSY, errno.ENXIO, errno.ENODEV, errno.EREMOTEIO, errno.ENOTCONN,
        errno.ECONNRESET, errno.ECONNABORTED, errno.ECONNREFUSED, errno.EPIPE, errno.EHOSTDOWN, errno.EHOSTUNREACH,
        errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET,
    }
)  # fmt: skip
"""Numbers of the I/O errors that say nothing about a file: a storage or network fails, and a later try may succeed."""

CHANGED = "changed_since_ingest"
"""Reason of a recording whose file is another than ingest decoded, or gone.

It says when a stage has run, and nothing about the recording: a later run tries such recordings again.
"""

Item = TypeVar("Item")
Result = TypeVar("Result")

RefusalKind = Literal["dropped", "failed"]
"""A dropped recording was judged unfit; a failed recording could not be judged because something is broken."""


class Refusal(Exception):
    """A recording or mixture cannot be used; a stage turns the refusal into a reject row.

    Attributes:
        reason: Machine-readable reason, e.g. "too_short" or "undecodable".
        detail: One line for people: what is wrong, where, and how to mend it.
        kind: "dropped" or "failed".
    """

    def __init__(self, reason: str, detail: str = "", kind: RefusalKind = "dropped") -> None:
        super().__init__(reason, detail, kind)
        self.reason = reason
        self.detail = detail
        self.kind: RefusalKind = kind

    @classmethod
    def failed(cls, reason: str, detail: str = "") -> Refusal:
        """Return the refusal of a recording that could not be judged because something is broken."""
        return cls(reason, detail, "failed")

    def __str__(self) -> str:
        """Return reason and detail in one line."""
        return f"{self.reason}: {self.detail}"


@contextmanager
def refusing(name: str) -> Iterator[None]:
    """Turn what goes wrong with one recording into its refusal (failed, `worker_error`), so that the others go on.

    This is the only place that decides which exceptions a recording can be blamed for. It lets through what says
    nothing about the recording (`is_of_surroundings`): then the unit of work fails, and it is tried again.

    Args:
        name: The recording's path or id.

    Raises:
        Refusal: The refusal that was raised inside, or `worker_error` with the exception's class and its first line.

    Example:
        >>> with refusing("c/a.wav"):
        ...     raise MemoryError("no room for 8 GB")
        Traceback (most recent call last):
        flowse.refusal.Refusal: worker_error: c/a.wav: MemoryError: no room for 8 GB; try the file alone, ...
    """
    try:
        yield
    except Refusal:
        raise
    except Exception as error:
        if is_of_surroundings(error):
            raise
        raise as_refusal(error, name) from error


def refuse_singly(
    batch: Callable[[Sequence[Item]], Sequence[Result]], items: Sequence[Item], names: Sequence[str]
) -> list[Result | Refusal]:
    """Call a function on a batch of recordings; if it raises, call it on each, so that only the culprits are refused.

    Args:
        batch: Returns one result for each recording, in their order, e.g. a model's answers.
        items: The recordings.
        names: Path or id of each recording.

    Returns:
        For each recording its result, or its refusal as in `refusing`.

    Raises:
        Exception: What `refusing` lets through.
    """
    try:
        return list(batch(items))
    except Exception as error:
        if is_of_surroundings(error):
            raise
    results: list[Result | Refusal] = []
    for item, name in zip(items, names, strict=True):
        try:
            with refusing(name):
                results += batch([item])
        except Refusal as refusal:
            results.append(refusal)
    return results


def as_refusal(error: Exception, name: str) -> Refusal:
    """Return the refusal of a recording at which an exception was raised that is no refusal itself."""
    if isinstance(error, Refusal):
        return error
    lines = str(error).strip().splitlines() or ["(no message)"]
    return Refusal.failed(
        "worker_error",
        f"{name}: {type(error).__name__}: {lines[0][:200]}; try the file alone, convert it to FLAC, or leave it out",
    )


def is_of_surroundings(error: BaseException) -> bool:
    """Whether an exception says nothing about the recording that is worked on.

    That is so for a user's mistake, for storage and network errors (`SURROUNDINGS`), for a missing package, and for
    what torch (a dead or full accelerator), Ray and the type checkers of the tests raise themselves: to take such an
    exception for a bad recording would empty a corpus and report success.
    """
    if isinstance(error, OSError):
        return error.errno in SURROUNDINGS
    if isinstance(error, UserError | ImportError) or not isinstance(error, Exception):
        return True
    if type(error).__module__.partition(".")[0] in {"torch", "ray", "jaxtyping", "beartype"}:
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in ("CUDA", "cuDNN", "cuBLAS", "MPS"))

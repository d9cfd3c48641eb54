"""Objects in a store: S3, Google Cloud Storage, Azure, or this process' memory, all by obstore.

A store has five calls: `list`, `get` (whole or a range), `put` (a file), `put_if` (bytes, if the object is absent or
unchanged) and `delete`. An object is whole or absent: no half of an upload is ever seen. Requests that fail for the
network's or the server's sake are tried again for three minutes.

Credentials come from where the store's own tools take them, and from nowhere else: environment variables (`AWS_…`,
`GOOGLE_…`, `AZURE_…`), the machine's role, for S3 also the profiles of `~/.aws` (these need the package boto3).
"""

from __future__ import annotations

import bisect
import errno
import functools
import itertools
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from flowse.errors import UserError
from flowse.files import atomic_path

if TYPE_CHECKING:
    from obstore.store import ObjectStore

Answer = TypeVar("Answer")
SCHEMES = ("s3", "gs", "az")
LOCK = "LOCK"
"""Object of a workspace that says who runs in it (`pipelines.engine.store_lock`)."""
_CHUNK = 1 << 20
_PAGE = 1000  # names that a listing gives at a time
_AT_ONCE = 16  # requests in flight where many objects are read or written
_RETRY_S = 180.0
_REQUEST_S = 120.0
_FIRST_ANSWER_S = 10.0
_ROLES = ("169.254.169.254", "169.254.170.2", "metadata.google.internal")  # who is asked for a machine's role


@dataclass(frozen=True, slots=True)
class Entry:
    """What a listing says of an object.

    Attributes:
        size: Bytes.
        etag: Changes whenever the object does.
        modified_ns: When the store wrote it, in ns since 1970 by the store's clock.
    """

    size: int
    etag: str
    modified_ns: int


class _Unanswered(UserError):
    """A request failed for the network's or the server's sake; it may have been carried out."""


class Conflict(Exception):
    """An object is there already, or is not the one that the writer has seen."""


class Store:
    """Objects below a URL, by names relative to it: `a/b.json`."""

    def __init__(self, url: str, objects: ObjectStore | None = None, retry_s: float = _RETRY_S) -> None:
        """Remember where the objects are; nothing is asked yet.

        Args:
            url: Bucket and prefix, e.g. "s3://bucket/prefix".
            objects: The store, where it is no URL's (tests: obstore's MemoryStore).
            retry_s: How long, in seconds, a request that fails is tried again.

        Raises:
            UserError: The URL is of no kind that is known, or names no bucket.
        """
        self.url, self._retry_s, self._given = url.rstrip("/"), retry_s, objects
        if objects is not None:
            self.__dict__["_objects"] = objects
        elif why := why_no_store(self.url):
            raise UserError(f"{url}: {why}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the address, and no credentials."""
        return Store, (self.url, None, self._retry_s)

    @cached_property
    def _objects(self) -> ObjectStore:
        """The connection; the environment is read when it is needed first."""
        try:
            from obstore.store import from_url
        except ImportError as error:
            raise UserError(f"{self.url}: needs the package obstore ({error}); pip install obstore") from None
        options: dict[str, Any] = {}
        if self.url.startswith("s3://") and (provider := _profile()):
            options["credential_provider"] = provider
        variable = "AWS_ENDPOINT_URL_S3" if os.environ.get("AWS_ENDPOINT_URL_S3") else "AWS_ENDPOINT_URL"
        endpoint = os.environ.get(variable, "")
        if endpoint and not endpoint.startswith(("http://", "https://")):
            raise UserError(
                f"{variable}={endpoint}: write http:// or https:// before the host, e.g. https://{endpoint}"
            )
        with self._explained("", "opened"):
            return from_url(
                # Characters of the prefix stand for themselves, as with the stores' own tools.
                quote(self.url, safe=":/"),
                client_options={
                    "allow_http": endpoint.startswith("http://"),
                    "connect_timeout": timedelta(seconds=10),
                    "timeout": timedelta(seconds=_REQUEST_S),
                },
                retry_config={
                    "max_retries": 20,
                    "retry_timeout": timedelta(seconds=self._retry_s),
                    "backoff": {
                        "init_backoff": timedelta(seconds=0.1),
                        "max_backoff": timedelta(seconds=10),
                        "base": 2,
                    },
                },
                **options,
            )

    def _where(self, name: str) -> str:
        return f"{self.url}/{name}" if name else self.url

    def _no_bucket(self) -> UserError:
        return UserError(f"{self.url}: there is no such bucket; make it, or mend the URL")

    @contextmanager
    def _explained(self, name: str, verb: str) -> Iterator[None]:
        """Turn the store's errors into one line each; those that a caller acts on pass.

        Raises:
            FileNotFoundError: There is no such object.
            Conflict: A condition of the request does not hold.
            UserError: Anything else.
        """
        from obstore import exceptions

        try:
            yield
        except FileNotFoundError as error:
            # A bucket that does not exist answers in the same way as an object that does not.
            if "NoSuchBucket" in str(error):
                raise self._no_bucket() from None
            raise FileNotFoundError(self._where(name)) from None
        except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
            raise Conflict(self._where(name)) from None
        except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
            mend = _refusal(str(error)) or _REFUSED
            raise UserError(f"{self._where(name)}: cannot be {verb}: {mend} ({_brief(error)})") from None
        except (exceptions.BaseError, OSError) as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise UserError(
                    f"{self._where(name)}: there is no room for a copy on this machine ({error.strerror}); free some, "
                    "give cluster.scratch another disk, or bound the copies by cluster.scratch_gb"
                ) from None
            if "NoSuchBucket" in str(error):
                raise self._no_bucket() from None
            if mend := _refusal(str(error)):
                raise UserError(f"{self._where(name)}: cannot be {verb}: {mend} ({_brief(error)})") from None
            if any(address in str(error) for address in _ROLES):
                raise UserError(
                    f"{self.url}: there are no credentials: neither in the environment (AWS_…, GOOGLE_…, AZURE_…) nor "
                    "in a profile, and the machine has no role"
                ) from None
            raise _Unanswered(
                f"{self._where(name)}: cannot be {verb}: {_brief(error)}; run again when the store answers: finished "
                "units are kept"
            ) from None

    def _until_answered(self, request: Callable[[], Answer]) -> Answer:
        """Repeat a request that may be repeated; obstore itself does so only where the protocol promises that.

        Raises:
            UserError: It has failed for too long.
        """
        end, pause_s = time.monotonic() + self._retry_s, 0.2
        while True:
            try:
                return request()
            except _Unanswered:
                if time.monotonic() + pause_s > end:
                    raise
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 10.0)

    def require_answer(self) -> None:
        """Ask once, without the patience that a store which is known deserves: a wrong address shows within seconds.

        Raises:
            UserError: It does not answer, has no such bucket, or lets nobody in.
        """
        self.hurried().list_folder()

    def hurried(self) -> Store:
        """Return the same store with the patience of a person who waits for an answer."""
        return Store(self.url, self._given, retry_s=min(self._retry_s, _FIRST_ANSWER_S))

    def list(self, prefix: str = "") -> dict[str, Entry]:
        """Return all objects below a folder, by name; a thousand cost one request."""
        return self._until_answered(lambda: {meta["path"]: _entry(meta) for meta in self._listed(prefix)})

    def each(self) -> Iterator[tuple[str, Entry]]:
        """Yield all objects in the order of their names; a thousand cost one request, and few are in memory at once."""
        last: str | None = None
        while True:
            page = self._until_answered(functools.partial(self._page, last))
            yield from ((meta["path"], _entry(meta)) for meta in page)
            if not page:
                return
            last = page[-1]["path"]

    def _page(self, after: str | None) -> Sequence[Any]:
        import obstore

        with self._explained("", "listed"):
            return list(next(iter(obstore.list(self._objects, offset=after, chunk_size=_PAGE)), ()))

    def head(self, name: str) -> Entry:
        """Return what the store says of an object.

        Raises:
            FileNotFoundError: There is no such object.
        """
        return self._until_answered(lambda: self._head(name))

    def _head(self, name: str) -> Entry:
        import obstore

        with self._explained(name, "looked at"):
            return _entry(obstore.head(self._objects, name))

    def names(self, prefix: str) -> Sequence[str]:
        """Return the names of all objects below a folder, as `list` does."""
        return self._until_answered(lambda: [meta["path"] for meta in self._listed(prefix)])

    def names_in_parts(self, prefix: str, cuts: Callable[[str], Iterable[str]]) -> Sequence[str]:
        """Return what `names` does, in any order, by several listings at once: a bucket gives 1,000 names a request.

        Args:
            prefix: The folder.
            cuts: Given a name, guesses names (which need not exist) between which the following ones may be listed at
                the same time. Wrong guesses cost requests, and no name is lost.
        """
        found: Sequence[Sequence[str]] = []
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            waiting = {pool.submit(self._stretch, prefix, "", "", 1)}
            while waiting:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for names, goes_on in (task.result() for task in done):
                    found = [*found, names]
                    if goes_on:
                        borders = [names[-1], *sorted({cut for cut in cuts(names[-1]) if cut > names[-1]}), ""]
                        for after, until in itertools.pairwise(borders):
                            # What follows the last cut is cut again; without cuts it is listed to its end.
                            pages = 1 if not until and len(borders) > 2 else 0
                            waiting.add(pool.submit(self._stretch, prefix, after, until, pages))
        return [*itertools.chain.from_iterable(found)]

    def _stretch(self, prefix: str, after: str, until: str, pages: int) -> tuple[Sequence[str], bool]:
        """Return the names after one up to another, and whether there are more than in so many pages (0: all)."""
        return self._until_answered(lambda: self._names_between(prefix, after, until, pages))

    def _names_between(self, prefix: str, after: str, until: str, pages: int) -> tuple[Sequence[str], bool]:
        import obstore

        names: Any = []
        with self._explained(prefix, "listed"):
            chunks = obstore.list(self._objects, prefix or None, offset=after or None, chunk_size=_PAGE)
            for number, chunk in enumerate(chunks, start=1):
                names += [meta["path"] for meta in chunk]
                if until and names and names[-1] > until:
                    return names[: bisect.bisect_right(names, until)], False
                if number == pages and len(chunk) == _PAGE:
                    return names, True
        return names, False

    def _listed(self, prefix: str) -> Iterator[Any]:
        import obstore

        with self._explained(prefix, "listed"):
            for chunk in obstore.list(self._objects, prefix or None, chunk_size=_PAGE):
                yield from chunk

    def list_folder(self, prefix: str = "") -> tuple[dict[str, Entry], Sequence[str]]:
        """Return the objects of a folder itself, by name, and the names of the folders in it."""
        return self._until_answered(lambda: self._list_folder(prefix))

    def _list_folder(self, prefix: str) -> tuple[dict[str, Entry], Sequence[str]]:
        import obstore

        with self._explained(prefix, "listed"):
            found = obstore.list_with_delimiter(self._objects, prefix or None)
        return {meta["path"]: _entry(meta) for meta in found["objects"]}, list(found["common_prefixes"])

    def get(self, name: str, begin: int = 0, end: int | None = None) -> bytes:
        """Return an object's bytes, or those from `begin` up to, not including, `end`.

        Raises:
            FileNotFoundError: There is no such object.
        """
        if begin == 0 and end is None:
            return self.read(name)[0]
        return self._until_answered(lambda: self._range(name, begin, end))

    def _range(self, name: str, begin: int, end: int | None) -> bytes:
        import obstore

        with self._explained(name, "read"):
            if end is None:
                options: Any = {"range": {"offset": begin}}
                return bytes(obstore.get(self._objects, name, options=options).bytes())
            return bytes(obstore.get_range(self._objects, name, start=begin, end=end)) if end > begin else b""

    def read(self, name: str) -> tuple[bytes, str]:
        """Return an object's bytes and its etag.

        Raises:
            FileNotFoundError: There is no such object.
        """
        return self._until_answered(lambda: self._read(name))

    def _read(self, name: str) -> tuple[bytes, str]:
        import obstore

        with self._explained(name, "read"):
            found = obstore.get(self._objects, name)
            return bytes(found.bytes()), str(found.meta["e_tag"])

    def fetch(self, name: str, path: Path) -> Entry:
        """Copy an object to a file, which is whole or as before; return what the store says of the object.

        Raises:
            FileNotFoundError: There is no such object.
        """
        return self._until_answered(lambda: self._fetch(name, path))

    def _fetch(self, name: str, path: Path) -> Entry:
        import obstore

        with atomic_path(path) as temporary, self._explained(name, "read"):
            found = obstore.get(self._objects, name)
            entry = _entry(found.meta)
            with temporary.open("wb") as file:
                for chunk in found.stream(min_chunk_size=_CHUNK):
                    file.write(chunk)
            if (size := temporary.stat().st_size) != entry.size:
                raise OSError(f"{size} of {entry.size} bytes came")
        return entry

    def put(self, name: str, path: Path) -> str:
        """Copy a file to an object, whatever is there; large ones in parts, several at a time; return the etag."""
        return self._until_answered(lambda: self._put(name, path))

    def _put(self, name: str, path: Path) -> str:
        import obstore

        with self._explained(name, "written"):
            return str(obstore.put(self._objects, name, path)["e_tag"])

    def put_if(self, name: str, content: bytes, etag: str | None = None) -> str:
        """Write an object if it is absent, or, with `etag`, if it is still the one of that etag; return the new etag.

        A request that was carried out although its answer was lost is tried again and then meets its own object:
        equal bytes are no conflict.

        Raises:
            Conflict: It is there, or has changed, or is gone.
        """
        return self._until_answered(lambda: self._put_if(name, content, etag))

    def _put_if(self, name: str, content: bytes, etag: str | None) -> str:
        import obstore

        try:
            with self._explained(name, "written"):
                mode: Any = "create" if etag is None else {"e_tag": etag}
                return str(obstore.put(self._objects, name, content, mode=mode, use_multipart=False)["e_tag"])
        except Conflict:
            try:
                found, found_etag = self.read(name)
            except FileNotFoundError:
                found, found_etag = b"", ""
            if found_etag and found == content:
                return found_etag
            raise

    def delete(self, names: Iterable[str]) -> None:
        """Delete objects, a thousand a request; those that are not there are no error."""
        wanted = [*names]
        for begin in range(0, len(wanted), 1000):
            self._until_answered(functools.partial(self._delete, wanted[begin : begin + 1000]))

    def _delete(self, names: Sequence[str]) -> None:
        import obstore

        with self._explained(names[0], "deleted"):
            try:
                obstore.delete(self._objects, names)
            except FileNotFoundError:  # stores without a call for many at once say so
                for name in names:
                    _delete_one(self._objects, name)

    def fetch_all(self, wanted: Iterable[tuple[str, Path]], *, may_lack: bool = False) -> None:
        """Copy objects to files, several at a time.

        Args:
            wanted: Name of each object, and the path of the file.
            may_lack: Whether objects that are not there are left out.

        Raises:
            FileNotFoundError: There is no such object; the others may have been copied.
        """

        def fetch(pair: tuple[str, Path]) -> None:
            try:
                self.fetch(*pair)
            except FileNotFoundError:
                if not may_lack:
                    raise

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for _ in pool.map(fetch, wanted):
                pass


def _delete_one(objects: Any, name: str) -> None:
    import obstore

    try:
        obstore.delete(objects, name)
    except FileNotFoundError:
        return


def _entry(meta: Any) -> Entry:
    return Entry(meta["size"], meta["e_tag"] or "", int(meta["last_modified"].timestamp() * 1e9))


_REFUSED = (
    "the store refuses these credentials; they come from the environment (AWS_…, GOOGLE_…, AZURE_…), a profile, or the "
    "machine's role"
)
_REFUSALS = (
    # What a store answers, by its codes, and what mends it; to ask again would not.
    (
        re.compile(r"RequestTimeTooSkewed|RequestExpired|Signature not yet current"),
        "the clock of this machine is not that of the store; set it (NTP), and run again",
    ),
    (
        re.compile(
            r"AuthorizationHeaderMalformed|PermanentRedirect|IllegalLocationConstraint|redirect without LOCATION"
        ),
        "the bucket is in another region; name its region in AWS_DEFAULT_REGION, and run again",
    ),
    (re.compile(r"ExpiredToken|TokenRefreshRequired"), "the credentials have expired; renew them, and run again"),
    (
        re.compile(r"Missing (SecretAccessKey|AccessKeyId)"),
        "one of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY is not set; set both",
    ),
    (re.compile(r"Account must be specified"), "name the account in AZURE_STORAGE_ACCOUNT_NAME"),
    (
        re.compile(r"InvalidAccessKeyId|SignatureDoesNotMatch|AccessDenied|InvalidToken|code: 40[13]"),
        _REFUSED,
    ),
)
_CODE = re.compile(r"<Code>([^<]*)</Code>(?:\s*<Message>([^<]*)</Message>)?")


def _refusal(text: str) -> str:
    """Return what a person has to mend, by what a store's client says; empty: it may be the network."""
    return next((mend for pattern, mend in _REFUSALS if pattern.search(text)), "")


def _brief(error: BaseException) -> str:
    """Return the first line of an error without what is only for whoever debugs the store's client."""
    if answer := _CODE.search(str(error)):
        return ": ".join(part for part in answer.groups() if part)[:300]
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__


_OTHER_NAMES = {"s3a": "s3", "s3n": "s3", "gcs": "gs", "abfs": "az", "abfss": "az", "azure": "az", "adl": "az"}


def why_no_store(url: str) -> str:
    """Return why a text is not the URL of a store, and what to write instead; empty: it is one.

    A prefix has one URL: what a client would take for another prefix, such as a/../b, is refused.
    """
    scheme, colon, rest = url.partition(":")
    known = scheme.strip().lower()
    known = _OTHER_NAMES.get(known, known)
    bucket, _, prefix = rest.strip().lstrip("/").rstrip("/").partition("/")
    if known == "file":
        return f"this is no store; write the folder's path, {'/' + rest.lstrip('/') if rest.strip('/') else '/…'}"
    if not colon or known not in SCHEMES or not bucket or (rest.startswith("///")):
        return f"not the URL of a store; write {', '.join(f'{scheme}://bucket/prefix' for scheme in SCHEMES)}"
    if scheme != known or not rest.startswith("//"):
        return f"not the URL of a store; write {known}://{bucket}{'/' if prefix else ''}{prefix}"
    if any(part.strip(". ") == "" for part in prefix.split("/")) and prefix:
        return "a part of the prefix is empty or consists of dots; write it without"
    if not prefix.isprintable():
        return "the prefix holds a control character; write it without"
    return ""


def _profile() -> Any:
    """Return what reads AWS profiles; None where the environment holds keys, or there is no profile.

    Raises:
        UserError: A profile is named, and boto3, which reads it, is not installed; or it gives no credentials.
    """
    named = os.environ.get("AWS_PROFILE", "")
    if os.environ.get("AWS_ACCESS_KEY_ID") or not (named or Path("~/.aws/credentials").expanduser().exists()):
        return None
    try:
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError:
        if named:
            raise UserError(f"AWS_PROFILE={named}: profiles are read by boto3; pip install boto3") from None
        return None
    from botocore.exceptions import BotoCoreError  # type: ignore[import-untyped]

    try:
        return Boto3CredentialProvider()
    except (BotoCoreError, ValueError) as error:
        name = f"AWS_PROFILE={named}" if named else "~/.aws"
        raise UserError(f"{name}: gives no credentials ({error}); mend the profile, or name another") from None

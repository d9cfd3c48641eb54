"""A workspace of made-up units as an S3 server on loopback would hold it, with a delay for every request.

Only what the commands ask for is there: listings (by prefix, by folder, from a name on), reads and heads of whole
objects and ranges, conditional writes and deletions. Files of units are a few bytes; millions of names fit.
"""

from __future__ import annotations

import bisect
import hashlib
import re
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

_DATE = "2026-11-26T00:00:00.000Z"
_HTTP_DATE = "Thu, 26 Nov 2026 00:00:00 GMT"
_LARGE = 4 << 20
_UNIT = re.compile(r"^[^/]+/units/")


class MadeStore:
    """The objects: those of a folder, and what was written since.

    Attributes:
        requests: How many there were, by kind.
    """

    def __init__(self, folder: Path, prefix: str, delay_s: float, others: Iterable[str] = ()) -> None:
        """Take the files of a workspace in a folder.

        Args:
            folder: The workspace.
            prefix: Of the workspace in its bucket.
            delay_s: Of each answer.
            others: Names of further objects, which nobody reads.
        """
        self.delay_s, self.requests = delay_s, Counter[str]()
        self._prefix, self._written = prefix, dict[str, bytes]()
        self._places: dict[str, Path] = {}
        self._guard = threading.Lock()
        of_data: dict[bytes, str] = {}
        for path in folder.rglob("*"):
            if not path.is_file() or path.name.startswith("."):
                continue
            name = path.relative_to(folder).as_posix()
            if (_UNIT.match(name) and not name.endswith(".json")) or path.stat().st_size > _LARGE:
                content = path.read_bytes()
                if len(content) > 100 or content not in of_data:
                    of_data[content[:100]] = hashlib.sha256(content).hexdigest()[:16]
                name = f"{name}@{of_data[content[:100]]}"
            self._places[f"{prefix}/{name}"] = path
        unread = [f"{prefix}/{name}" for name in others]
        self.names = sorted([*self._places, *unread])
        # A bucket does not look at its disk for a listing, and what this server takes of the machine is not measured.
        self._listed = {name: _listed(name, path.stat().st_size) for name, path in self._places.items()}
        self._listed |= {name: _listed(name, 1000) for name in unread}

    def get(self, name: str) -> bytes | None:
        """Return an object; None: there is none."""
        if name in self._written:
            return self._written[name]
        place = self._places.get(name)
        return None if place is None else place.read_bytes()

    def put(self, name: str, content: bytes, absent: bool, etag: str) -> bool:
        """Write an object, if it is absent or has an etag, where that is asked for; return whether it was."""
        with self._guard:
            before = self.get(name)
            if (absent and before is not None) or (etag and (before is None or etag_of(before) != etag)):
                return False
            self._written[name] = content
            self._listed[name] = _listed(name, len(content))
            if before is None:
                bisect.insort(self.names, name)
            return True

    def listed(self, names: list[str]) -> str:
        """Return what a listing says of objects."""
        return "".join(map(self._listed.__getitem__, names))

    def page(self, prefix: str, after: str, delimiter: str, most: int) -> tuple[list[str], list[str], str]:
        """Return names, common prefixes and where to go on."""
        at = bisect.bisect_right(self.names, after) if after > prefix else bisect.bisect_left(self.names, prefix)
        found, folders = list[str](), list[str]()
        while at < len(self.names) and self.names[at].startswith(prefix) and len(found) + len(folders) < most:
            name = self.names[at]
            cut = name.find(delimiter, len(prefix)) if delimiter else -1
            if cut < 0:
                found.append(name)
                at += 1
            else:
                folders.append(name[: cut + 1])
                at = bisect.bisect_left(self.names, f"{name[:cut]}0")  # "0" is the character after "/"
        goes_on = at < len(self.names) and self.names[at].startswith(prefix)
        return found, folders, self.names[at - 1] if goes_on else ""


def _listed(name: str, size: int) -> str:
    return (
        f"<Contents><Key>{escape(name)}</Key><LastModified>{_DATE}</LastModified><ETag>&quot;x&quot;</ETag>"
        f"<Size>{size}</Size></Contents>"
    )


def etag_of(content: bytes) -> str:
    """Return an etag."""
    return f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    store: MadeStore

    def log_message(self, *_: Any) -> None:
        return

    def _answer(self, status: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _begin(self, kind: str) -> tuple[str, dict[str, str]]:
        time.sleep(self.store.delay_s)
        self.store.requests[kind] += 1
        parts = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(parts.query, keep_blank_values=True))
        return urllib.parse.unquote(parts.path).lstrip("/").partition("/")[2], query

    def do_GET(self) -> None:
        name, query = self._begin("list" if "list-type" in self.path else "read")
        if "list-type" in query:
            self._list(query)
            return
        content = self.store.get(name)
        if content is None:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
            return
        known = {"ETag": etag_of(content), "Last_Modified": _HTTP_DATE}
        matched = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if matched and self.command == "GET":
            begin, end = int(matched[1]), int(matched[2] or len(content) - 1)
            part = content[begin : end + 1]
            self._answer(206, part, Content_Range=f"bytes {begin}-{begin + len(part) - 1}/{len(content)}", **known)
            return
        self._answer(200, content, **known)

    do_HEAD = do_GET

    def _list(self, query: dict[str, str]) -> None:
        after = query.get("continuation-token") or query.get("start-after", "")
        found, folders, following = self.store.page(query.get("prefix", ""), after, query.get("delimiter", ""), 1000)
        entries = self.store.listed(found) + "".join(
            f"<CommonPrefixes><Prefix>{escape(folder)}</Prefix></CommonPrefixes>" for folder in folders
        )
        token = f"<NextContinuationToken>{escape(following)}</NextContinuationToken>" if following else ""
        text = (
            f"<ListBucketResult><IsTruncated>{str(bool(following)).lower()}</IsTruncated>{token}"
            f"<KeyCount>{len(found) + len(folders)}</KeyCount>{entries}</ListBucketResult>"
        )
        self._answer(200, text.encode(), Content_Type="application/xml")

    def do_PUT(self) -> None:
        name, _ = self._begin("write")
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        done = self.store.put(name, content, self.headers.get("If-None-Match") == "*", self.headers.get("If-Match", ""))
        self._answer(200 if done else 412, ETag=etag_of(content))

    def do_POST(self) -> None:  # deletions: nothing is deleted in what is measured
        self._begin("delete")
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer(200, b"<DeleteResult></DeleteResult>")


@contextmanager
def serving(store: MadeStore) -> Iterator[str]:
    """Serve the objects on loopback; give the address."""
    handler = type("Handler", (_Handler,), {"store": store})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()

"""An S3 server on loopback (moto) for tests, and a proxy before it that fails on demand."""

from __future__ import annotations

import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


@contextmanager
def s3_server() -> Iterator[str]:
    """Run moto's S3 in a thread; give its address. It has an empty bucket `bucket`."""
    import logging

    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    address = f"http://127.0.0.1:{port}"
    try:
        for method, path in (("POST", "/moto-api/reset"), ("PUT", "/bucket")):
            request = urllib.request.Request(address + path, method=method)
            urllib.request.urlopen(request, timeout=30).close()
        yield address
    finally:
        server.stop()


@dataclass
class Proxy:
    """A TCP proxy that treats each connection as `treat` says; nothing is kept alive, so a connection is a request.

    Attributes:
        port: Of the server behind it.
        treat: Given the first bytes of a request, returns "pass", a status such as "503" (and what is answered, after
            a space), "cut" (the connection is
            closed in the middle of the request's body) or "deaf" (the request is carried out, its answer is lost).
        seen: First line and treatment of each request.
    """

    port: int
    treat: Callable[[bytes], str]
    seen: list[tuple[str, str]] = field(default_factory=list)

    @contextmanager
    def running(self) -> Iterator[str]:
        """Listen; give the proxy's address."""
        listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client:
            client.settimeout(30)
            try:
                head, body = self._head(client)
                if not head:
                    return
                fate = self.treat(head + body)
                self.seen.append((head.split(b"\r\n", 1)[0].decode(errors="replace"), fate))
                status, _, content = fate.partition(" ")
                if status.isdigit():
                    self._rest(client, head, body)
                    about = f"content-length: {len(content.encode())}\r\nconnection: close"
                    client.sendall(f"HTTP/1.1 {status} Refused\r\n{about}\r\n\r\n{content}".encode())
                    return
                self._forward(client, head, body, fate)
            except OSError:
                return

    def _head(self, client: socket.socket) -> tuple[bytes, bytes]:
        received = b""
        while b"\r\n\r\n" not in received:
            piece = client.recv(65536)
            if not piece:
                return b"", b""
            received += piece
        head, _, body = received.partition(b"\r\n\r\n")
        return head, body

    def _length(self, head: bytes) -> int:
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                return int(line.split(b":")[1])
        return 0

    def _rest(self, client: socket.socket, head: bytes, body: bytes) -> bytes:
        while len(body) < self._length(head):
            piece = client.recv(65536)
            if not piece:
                break
            body += piece
        return body

    def _forward(self, client: socket.socket, head: bytes, body: bytes, fate: str) -> None:
        lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as server:
            server.sendall(b"\r\n".join([*lines, b"connection: close"]) + b"\r\n\r\n")
            if fate == "cut":
                server.sendall(body[: self._length(head) // 2])
                return  # both connections are closed here
            server.sendall(self._rest(client, head, body))
            while piece := server.recv(65536):
                if fate != "deaf":
                    client.sendall(piece)


def port_of(address: str) -> int:
    """Return the port of an address."""
    return int(address.rpartition(":")[2])

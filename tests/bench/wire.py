"""HTTP/1.1 over TLS with as little work as possible, so that the other end is what takes the time.

Owns: a client connection that is kept alive, and a server with a thread for each connection. Blocking sockets; only for
peers on this machine that are known to send ``Content-Length`` and canonical JSON.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from threading import Thread

_READ_SIZE = 256 * 1024
_SECONDS = 60.0

Answerer = Callable[[bytes, bytes], bytes]
"""Takes the request's first line and its body, and returns the answer's body."""


class Connection:
    """A connection to a server on loopback, for one request after the other.

    Args:
        port: TCP port.
    """

    def __init__(self, port: int) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols(["http/1.1"])
        plain = socket.create_connection(("127.0.0.1", port), timeout=_SECONDS)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = context.wrap_socket(plain, server_hostname="localhost")
        self._reader = _Reader(self._socket)

    def exchange(self, request: bytes) -> tuple[int, bytes]:
        """Send a whole request; returns the answer's status and body.

        Raises:
            OSError: the connection broke, or nothing came in time.
        """
        self._socket.sendall(request)
        message = self._reader.message()
        if message is None:
            raise ConnectionError("the server closed the connection instead of answering")
        head, body = message
        return int(head.split(b" ", 2)[1]), body

    def close(self) -> None:
        """Close it."""
        self._socket.close()


def serve(port: int, certificate: Path, private_key: Path, answer: Answerer) -> None:
    """Listen on loopback, in the background, until the process ends.

    Args:
        answer: called in the connection's thread, several at a time.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, private_key)
    context.set_alpn_protocols(["http/1.1"])
    listening = socket.create_server(("127.0.0.1", port))
    Thread(target=_accept, args=(listening, context, answer), daemon=True).start()


def _accept(listening: socket.socket, context: ssl.SSLContext, answer: Answerer) -> None:
    while True:
        plain, _ = listening.accept()
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        Thread(target=_converse, args=(plain, context, answer), daemon=True).start()


def _converse(plain: socket.socket, context: ssl.SSLContext, answer: Answerer) -> None:
    try:
        with context.wrap_socket(plain, server_side=True) as connection:
            reader = _Reader(connection)
            while (message := reader.message()) is not None:
                head, body = message
                content = answer(head.partition(b"\r\n")[0], body)
                connection.sendall(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
                    % (len(content), content)
                )
    except (ConnectionError, ssl.SSLError):
        # The other side went away in its own manner; it will be back if it wants something.
        return


class _Reader:
    """Cuts a stream into messages of a head and a body."""

    def __init__(self, connection: ssl.SSLSocket) -> None:
        self._connection = connection
        self._buffer = bytearray()

    def message(self) -> tuple[bytes, bytes] | None:
        """The next message, ``None`` at the end of the stream."""
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if not self._fill():
                return None
        head = bytes(self._buffer[:end])
        length = _content_length(head)
        while len(self._buffer) < end + 4 + length:
            if not self._fill():
                return None
        body = bytes(self._buffer[end + 4 : end + 4 + length])
        del self._buffer[: end + 4 + length]
        return head, body

    def _fill(self) -> bool:
        data = self._connection.recv(_READ_SIZE)
        self._buffer += data
        return bool(data)


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            return int(value)
    return 0

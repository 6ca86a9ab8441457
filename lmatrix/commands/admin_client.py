"""Asking the running server, for the commands that do.

Owns: :class:`AdminClient`, which finds the admin API and its token by the server's own configuration file, and makes
one request after the other, waiting for each.

Invariants: the token is only sent to a listener of that configuration, and over TLS only to one that shows the very
certificate which the configuration names (the certificate's names, and who issued it, do not matter then); it is in no
message.
"""

from __future__ import annotations

import http.client
import ipaddress
import ssl
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast
from urllib.parse import quote, urlencode

from lmatrix import canonical_json
from lmatrix.config.files import load_admin_token_file
from lmatrix.config.listeners import ListenerConfig, Resource
from lmatrix.errors import InvalidJson, LMatrixError

JsonObject = dict[str, Any]

PREFIX = "/_lmatrix/admin/v1"
SECONDS = 60.0
"""How long an answer may take."""

MAX_ANSWER = 256 * 1024 * 1024
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what is listened on, not what we listen on


class AdminRefused(LMatrixError):
    """The server answered with an error.

    Args:
        status: HTTP status.
        answer: the error object; empty when it is none.
    """

    def __init__(self, status: int, answer: Mapping[str, Any]) -> None:
        message = answer.get("error")
        super().__init__(message if isinstance(message, str) else f"the server answered {status}")
        self.status = status
        self.answer = dict(answer)


class Served(Protocol):
    """What of a server's configuration is needed."""

    @property
    def listeners(self) -> Sequence[ListenerConfig]: ...

    @property
    def admin_token_path(self) -> Path | None: ...


class AdminClient:
    """The admin API of a running server.

    Args:
        config: the server's.

    Raises:
        LMatrixError: no listener serves the admin API, or the token cannot be read.
    """

    def __init__(self, config: Served) -> None:
        serving = [listener for listener in config.listeners if Resource.ADMIN in listener.resources and listener.port]
        if not serving:
            raise LMatrixError(
                "no listener of the configuration serves `admin` on a known port: add it to the `resources` of a"
                " listener on a loopback address, and name a file as `admin_token_path`"
            )
        if config.admin_token_path is None:
            raise LMatrixError("the configuration names no `admin_token_path`")
        self._token = load_admin_token_file(config.admin_token_path)
        self._listener = serving[0]
        self._host = _address(serving[0])

    def get(self, *segments: str, query: Mapping[str, object] | None = None) -> JsonObject:
        """A ``GET`` request; the answer.

        Args:
            segments: of the path below the API's prefix, not yet encoded.

        Raises:
            AdminRefused: the server answered with an error.
            LMatrixError: it did not answer.
        """
        target = _path(segments) + ("?" + urlencode(query) if query else "")
        return self._request("GET", target, None, SECONDS)

    def post(self, *segments: str, content: JsonObject, seconds: float = SECONDS) -> JsonObject:
        """A ``POST`` request; as :meth:`get` otherwise."""
        return self._request("POST", _path(segments), canonical_json.encode(content), seconds)

    def pages(self, *segments: str) -> Iterator[JsonObject]:
        """All pages of a list."""
        query: dict[str, object] = {}
        while True:
            answer = self.get(*segments, query=query)
            yield answer
            if not isinstance(answer.get("next_batch"), str):
                return
            query = {"from": answer["next_batch"]}

    def _request(self, method: str, target: str, body: bytes | None, seconds: float) -> JsonObject:
        host = f"[{self._host}]" if ":" in self._host else self._host
        place = f"{'https' if self._listener.tls else 'http'}://{host}:{self._listener.port}"
        connection = self._connection(seconds)
        try:
            connection.connect()
            self._check_certificate(connection)
            headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
            connection.request(method, target, body, headers)
            response = connection.getresponse()
            status, data = response.status, response.read(MAX_ANSWER + 1)
        except TimeoutError as error:
            raise LMatrixError(f"the server at {place} has not answered in {seconds:.0f} seconds") from error
        except (OSError, http.client.HTTPException) as error:
            raise LMatrixError(f"the server does not answer at {place}; is it running? ({error})") from error
        finally:
            connection.close()
        if len(data) > MAX_ANSWER:
            raise LMatrixError(f"the answer of {place} is too long")
        return _judged(status, data, place)

    def _connection(self, seconds: float) -> http.client.HTTPConnection:
        if self._listener.tls is None:
            return http.client.HTTPConnection(self._host, self._listener.port, timeout=seconds)
        context = ssl.create_default_context()
        # The certificate itself is compared, which says more than its names and issuer.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return http.client.HTTPSConnection(self._host, self._listener.port, timeout=seconds, context=context)

    def _check_certificate(self, connection: http.client.HTTPConnection) -> None:
        files = self._listener.tls
        if files is None:
            return
        shown = cast(ssl.SSLSocket, connection.sock).getpeercert(binary_form=True)
        if shown != _certificate(files.certificate_path):
            raise LMatrixError(
                f"the server shows another certificate than {files.certificate_path}; if it was renewed, send the"
                " server SIGHUP"
            )


def _address(listener: ListenerConfig) -> str:
    """Where to connect to; a loopback address if there is one."""
    addresses = [_ANY.get(address, address) for address in listener.bind_addresses]
    return min(addresses, key=lambda address: not ipaddress.ip_address(address).is_loopback)


def _path(segments: tuple[str, ...]) -> str:
    return "/".join((PREFIX, *(quote(segment, safe="") for segment in segments)))


def _certificate(path: Path) -> bytes:
    try:
        text = path.read_text(encoding="ascii")
        end = "-----END CERTIFICATE-----"
        return ssl.PEM_cert_to_DER_cert(text[text.index("-----BEGIN CERTIFICATE-----") : text.index(end) + len(end)])
    except (OSError, ValueError) as error:
        raise LMatrixError(f"{path}: the certificate cannot be read: {error}") from error


def _judged(status: int, data: bytes, place: str) -> JsonObject:
    try:
        answer = canonical_json.parse(data)
    except InvalidJson:
        answer = None
    if status == 200 and isinstance(answer, dict):
        return answer
    if status == 401:
        raise LMatrixError(f"the server at {place} does not know the token; was it started with this configuration?")
    if status == 404 and isinstance(answer, dict) and answer.get("errcode") == "M_UNRECOGNIZED":
        raise LMatrixError(f"what listens at {place} has no admin API; was it started with this configuration?")
    raise AdminRefused(status, answer if isinstance(answer, dict) else {})

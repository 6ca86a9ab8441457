"""A participant reduced to the bare protocol: ``python -m tests.bench.participant``, controlled by lines of JSON.

Owns: signing everything before the clock starts, sending it with a given number of transactions in flight, and noting
when each transaction is answered and when each event comes back from the hub. It serves its key, takes whatever the hub
sends, and checks none of it.

The first line on standard input says who it is (:class:`Role`); every further line is a :class:`Task` or ``"run"``.
Each line is answered by one on standard output. It ends with its standard input.

Times are seconds of the monotonic clock, which all processes of a machine share.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Thread
from time import monotonic, time
from typing import Any

import attrs

from lmatrix.canonical_json import encode
from lmatrix.crypto.keys import SigningKey
from lmatrix.crypto.signed_json import sign_object
from lmatrix.events.building import build_lpdu
from lmatrix.events.room_versions import RoomVersion, room_version
from lmatrix.federation.outgoing import transaction_body
from lmatrix.federation.xmatrix import XMatrix, format_authorization, request_signing_bytes
from tests.bench.wire import Connection, serve

ECHO_SECONDS = 60.0
"""How long echoes may take after the last answer."""

_ECHOED = re.compile(rb'"lpdu":\{"sha256":"([^"]+)"\}')


@attrs.frozen(kw_only=True)
class Role:
    """Who this participant is, and whom it talks to.

    Attributes:
        server_name: its own name, ``localhost:`` and its port.
        key: its signing key, as in a key file.
        certificate, private_key: paths of its TLS certificate and key.
        hub: the hub's server name, ``localhost:`` and its port.
    """

    server_name: str
    key: str
    certificate: str
    private_key: str
    hub: str


@attrs.frozen(kw_only=True)
class Task:
    """What to send.

    Attributes:
        name: goes into transaction IDs and message texts; never used twice.
        sender: a user of this server who is in the room.
        transactions: how many.
        events: in each of them.
        in_flight: how many at a time.
    """

    name: str
    room_id: str
    room_version: str
    sender: str
    transactions: int
    events: int
    in_flight: int


@attrs.frozen(kw_only=True)
class Result:
    """What happened, in seconds.

    Attributes:
        events: how many were sent.
        refused: how many were not accepted.
        began, answered, echoed: when the first transaction was sent, the last one answered, the last event back.
        answers: for each transaction, from its sending to its answer.
        echoes: for each event, from its sending until it came back.
    """

    events: int
    refused: int
    began: float
    answered: float
    echoed: float
    answers: list[float]
    echoes: list[float]


def message_content(text: str) -> dict[str, Any]:
    """The content of the messages that are sent: a common kind, of a common length."""
    return {"msgtype": "m.text", "body": f"{text}: as long as what people say to one another, on the average."}


@attrs.frozen
class _Signed:
    """A transaction that is ready to be sent: the request, and the LPDU hashes of its events."""

    request: bytes
    lpdu_hashes: list[bytes]


class Participant:
    """A participant.

    Args:
        role: who it is.
    """

    def __init__(self, role: Role) -> None:
        self._role = role
        self._key = SigningKey.from_line(role.key)
        self._echoes: dict[bytes, float] = {}
        self._awaited: set[bytes] = set()
        self._all_back = Event()
        self._ready: tuple[Task, list[_Signed]] | None = None
        port = int(role.server_name.rpartition(":")[2])
        serve(port, Path(role.certificate), Path(role.private_key), self._answer)

    def prepare(self, task: Task) -> None:
        """Sign everything."""
        self._ready = task, list(self._signed(task))

    def run(self) -> Result:
        """Send what was prepared, and wait until every event is back.

        Raises:
            RuntimeError: not all of them came back, or the hub answered with an error.
        """
        assert self._ready is not None
        task, signed = self._ready
        self._ready = None
        self._echoes = {}
        self._all_back.clear()
        self._awaited = {lpdu_hash for one in signed for lpdu_hash in one.lpdu_hashes}
        waiting: SimpleQueue[_Signed] = SimpleQueue()
        for one in signed:
            waiting.put(one)
        hub_port = int(self._role.hub.rpartition(":")[2])
        connections = [Connection(hub_port) for _ in range(min(task.in_flight, task.transactions))]
        done: list[tuple[_Signed, float, float, int]] = []
        failures: list[str] = []
        began = monotonic()
        senders = [Thread(target=self._send, args=(one, waiting, done, failures)) for one in connections]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
        if failures:
            raise RuntimeError(failures[0])
        refused = sum(count for *_, count in done)
        if not refused and not self._all_back.wait(ECHO_SECONDS):
            raise RuntimeError(f"{len(self._awaited)} events did not come back within {ECHO_SECONDS:.0f} s")
        return Result(
            events=task.transactions * task.events,
            refused=refused,
            began=began,
            answered=max(answered for _, _, answered, _ in done),
            echoed=max(self._echoes.values(), default=began),
            answers=[answered - sent for _, sent, answered, _ in done],
            echoes=[
                self._echoes[lpdu_hash] - sent
                for one, sent, _, _ in done
                for lpdu_hash in one.lpdu_hashes
                if lpdu_hash in self._echoes
            ],
        )

    def _send(
        self,
        connection: Connection,
        waiting: SimpleQueue[_Signed],
        done: list[tuple[_Signed, float, float, int]],
        failures: list[str],
    ) -> None:
        while not failures:
            try:
                one = waiting.get_nowait()
            except Empty:
                break
            sent = monotonic()
            try:
                status, body = connection.exchange(one.request)
            except OSError as error:
                failures.append(f"the hub did not answer: {error}")
                break
            answered = monotonic()
            if status != 200:
                failures.append(f"the hub answered {status}: {body[:300]!r}")
                break
            refused = 0 if b'"failed_pdus":{}' in body else len(json.loads(body)["failed_pdus"])
            done.append((one, sent, answered, refused))
        connection.close()

    def _answer(self, first_line: bytes, body: bytes) -> bytes:
        if first_line.startswith(b"PUT "):
            now = monotonic()
            for lpdu_hash in _ECHOED.findall(body):
                if lpdu_hash in self._awaited:
                    self._awaited.discard(lpdu_hash)
                    self._echoes[lpdu_hash] = now
            if not self._awaited:
                self._all_back.set()
            return b'{"failed_pdus":{}}'
        return self._published_key()

    def _published_key(self) -> bytes:
        key = self._key.public
        published = {
            "server_name": self._role.server_name,
            "valid_until_ts": int(time() * 1000) + 24 * 60 * 60 * 1000,
            "m.linearized": True,
            "verify_keys": {key.key_id: {"key": key.to_base64()}},
            "old_verify_keys": {},
        }
        return encode(sign_object(published, self._role.server_name, [self._key]))

    def _signed(self, task: Task) -> Iterator[_Signed]:
        version = room_version(task.room_version)
        began_ms = int(time() * 1000)
        for number in range(task.transactions):
            lpdus = [
                self._lpdu(task, version, began_ms + number * task.events + offset) for offset in range(task.events)
            ]
            body = transaction_body([canonical for canonical, _ in lpdus], [])
            target = f"/_matrix/federation/v2/send/{task.name}-{number}"
            yield _Signed(self._request(target, body), [lpdu_hash for _, lpdu_hash in lpdus])

    def _lpdu(self, task: Task, version: RoomVersion, origin_server_ts: int) -> tuple[bytes, bytes]:
        lpdu = build_lpdu(
            version,
            room_id=task.room_id,
            type="m.room.message",
            sender=task.sender,
            content=message_content(f"{task.name} {origin_server_ts}"),
            origin_server_ts=origin_server_ts,
            hub_server=self._role.hub,
            server_name=self._role.server_name,
            keys=[self._key],
        )
        return lpdu.canonical, (lpdu.lpdu_hash or "").encode("ascii")

    def _request(self, target: str, body: bytes) -> bytes:
        us, hub = self._role.server_name, self._role.hub
        signature = self._key.sign(request_signing_bytes("PUT", target, us, hub, body))
        authorization = format_authorization(XMatrix(us, hub, self._key.key_id, signature))
        head = (
            f"PUT {target} HTTP/1.1\r\nHost: {hub}\r\nAuthorization: {authorization}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode("ascii") + body


def main() -> None:
    """Carry out what standard input says."""
    lines = map(json.loads, sys.stdin)
    participant = Participant(Role(**next(lines)))
    _reply({"ready": True})
    for order in lines:
        if order == "run":
            _reply(attrs.asdict(participant.run()))
        else:
            participant.prepare(Task(**order))
            _reply({"ready": True})


def _reply(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()

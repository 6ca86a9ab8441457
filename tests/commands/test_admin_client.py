"""The commands' side of the admin API: whom they talk to, whom they give the token, and what they make of answers."""

from __future__ import annotations

import contextlib
import datetime
import io
import json
import ssl
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from lmatrix.cli import main
from lmatrix.commands.admin_client import AdminClient
from lmatrix.config import load_config
from lmatrix.errors import LMatrixError
from lmatrix.http.tls import write_self_signed
from lmatrix.storage.beside import reading
from lmatrix.storage.inline import InlineDatabase
from lmatrix.storage.restoration import SqlRestorationStore

TOKEN = "lmadmin_a-token-that-nobody-guesses"
ROOM = "!room:hub.example"
NOW = datetime.datetime.now(datetime.UTC)

CONFIG = """\
server_name: "hub.example"
signing_key_path: "signing.key"
admin_token_path: "admin.token"
listeners:
  - port: {port}
    bind_addresses: ["127.0.0.1"]
    tls: {tls}
{files}    resources: [admin]
database:
  path: "lmatrix.db"
"""

Answering = Callable[[str, str, bytes], tuple[int, Any]]
"""From method, target and body to status and JSON."""


class AdminClientTestCase(SynchronousTestCase):
    """A configuration, and something that listens where it says."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        self.config = self.directory / "lmatrix.yaml"
        token = self.directory / "admin.token"
        token.write_text(TOKEN + "\n")
        token.chmod(0o600)
        self.heard: list[tuple[str, str, str | None]] = []

    def listen(self, answering: Answering, *, tls: bool = False, shown: str = "tls") -> None:
        """Answer requests in a thread, until the test is over.

        Args:
            shown: which certificate is shown.
        """
        heard = self.heard

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                heard.append((self.command, self.path, self.headers.get("Authorization")))
                body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                status, answer = answering(self.command, self.path, body)
                data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_POST = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                """Nothing."""

        class Server(HTTPServer):
            def handle_error(self, *_: object) -> None:
                """A client that goes away is no news."""

        server = Server(("127.0.0.1", 0), Handler)
        files = ""
        if tls:
            for name in {"tls", shown}:
                certificate, key = self.directory / f"{name}.crt", self.directory / f"{name}.key"
                write_self_signed(certificate, key, ["hub.example"], NOW)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.directory / f"{shown}.crt", self.directory / f"{shown}.key")
            server.socket = context.wrap_socket(server.socket, server_side=True)
            files = '    tls_certificate_path: "tls.crt"\n    tls_private_key_path: "tls.key"\n'
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        self.addCleanup(server.server_close)
        self.addCleanup(thread.join)
        self.addCleanup(server.shutdown)
        self.configure(server.server_address[1], tls=tls, files=files)

    def configure(self, port: int, *, tls: bool = False, files: str = "") -> None:
        self.config.write_text(CONFIG.format(port=port, tls=str(tls).lower(), files=files))

    def client(self) -> AdminClient:
        return AdminClient(load_config(self.config))

    def run_main(self, *arguments: str) -> tuple[int, str, str]:
        """Exit status, standard output, standard error."""
        output, errors = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            status = main(arguments)
        return status, output.getvalue(), errors.getvalue()


class Asking(AdminClientTestCase):
    def test_request(self) -> None:
        """Paths are encoded segment by segment, and every request bears the token."""
        self.listen(lambda method, target, body: (200, {"method": method, "body": body.decode()}))
        self.assertEqual({"method": "GET", "body": ""}, self.client().get("rooms", ROOM + "/x", query={"from": "a b"}))
        answer = self.client().post("rooms", content={"server": "x"})
        self.assertEqual({"method": "POST", "body": '{"server":"x"}'}, answer)
        self.assertEqual("/_lmatrix/admin/v1/rooms/%21room%3Ahub.example%2Fx?from=a+b", self.heard[0][1])
        self.assertEqual({f"Bearer {TOKEN}"}, {authorization for _, _, authorization in self.heard})

    def test_pages(self) -> None:
        """All pages, until one names no next."""

        def answering(_: str, target: str, __: bytes) -> tuple[int, Any]:
            return 200, {"n": 1} if "from=7" in target else {"n": 0, "next_batch": "7"}

        self.listen(answering)
        self.assertEqual([0, 1], [page["n"] for page in self.client().pages("rooms")])

    def test_errors(self) -> None:
        """What the server says is passed on; a server that does not know the token, or has no admin API, is named."""
        answers = {
            "refused": (403, {"errcode": "M_FORBIDDEN", "error": "no, you may not"}),
            "token": (401, {"errcode": "M_UNKNOWN_TOKEN", "error": "Unrecognised access token"}),
            "none": (404, {"errcode": "M_UNRECOGNIZED", "error": "Unrecognized request"}),
            "proxy": (502, b"<html>"),
            "list": (200, []),
        }
        self.listen(lambda _, target, __: answers[target.rpartition("/")[2]])
        for what, words in (
            ("refused", "no, you may not"),
            ("token", "does not know the token"),
            ("none", "has no admin API"),
            ("proxy", "the server answered 502"),
            ("list", "the server answered 200"),
        ):
            error = self.assertRaises(LMatrixError, self.client().get, what)
            self.assertIn(words, str(error))
            self.assertNotIn(TOKEN, str(error))

    def test_nobody_there(self) -> None:
        """A server that is not running, and one that does not answer."""
        self.listen(lambda *_: (200, {}))
        self.client().get("rooms")
        self.doCleanups()
        self.assertIn("is it running?", str(self.assertRaises(LMatrixError, self.client().get, "rooms")))

    def test_too_slow(self) -> None:
        """A server that takes its time is not waited for longer than was said."""
        going_on = Event()

        def answering(*_: object) -> tuple[int, Any]:
            going_on.wait()
            return 200, {}

        self.listen(answering)
        post = self.client().post
        error = self.assertRaises(LMatrixError, post, "rooms", content={}, seconds=0.1)
        going_on.set()
        self.assertIn("has not answered in 0 seconds", str(error))


class Certificates(AdminClientTestCase):
    def test_the_configured_one(self) -> None:
        """The certificate of the configuration is taken, whoever issued it and whatever its names are."""
        self.listen(lambda *_: (200, {"fine": True}), tls=True)
        self.assertEqual({"fine": True}, self.client().get("rooms"))

    def test_another_one(self) -> None:
        """Whoever shows another certificate does not get the token."""
        self.listen(lambda *_: (200, {}), tls=True, shown="other")
        error = self.assertRaises(LMatrixError, self.client().get, "rooms")
        self.assertIn("shows another certificate", str(error))
        self.assertEqual([], self.heard)


class Configurations(AdminClientTestCase):
    def test_without_an_admin_listener(self) -> None:
        """A configuration that does not serve the admin API, or on a port that nobody knows."""
        self.configure(0)
        self.assertIn("on a known port", str(self.assertRaises(LMatrixError, self.client)))
        self.configure(1)
        self.config.write_text(self.config.read_text().replace("[admin]", "[health]"))
        self.assertIn("no listener", str(self.assertRaises(LMatrixError, self.client)))

    def test_without_a_token(self) -> None:
        """A token that cannot be read is named, and is not in the message."""
        self.configure(1)
        (self.directory / "admin.token").chmod(0o644)
        error = self.assertRaises(LMatrixError, self.client)
        self.assertIn("chmod 600", str(error))
        self.assertNotIn(TOKEN, str(error))

    def test_addresses(self) -> None:
        """A loopback address is preferred, and an address that means all of them is reached by one."""
        for addresses, host in (
            ("'127.0.0.5'", "127.0.0.5"),
            ("'::1'", "::1"),
        ):
            self.configure(1)
            self.config.write_text(self.config.read_text().replace('"127.0.0.1"', addresses))
            self.assertIn(host, str(self.assertRaises(LMatrixError, self.client().get, "rooms")))


class Commands(AdminClientTestCase):
    """What the commands make of the server's answers."""

    def test_transfer_hub(self) -> None:
        """Moved: what is the hub now. Not moved: why, with status 1, and who could."""
        answers: dict[str, tuple[int, Any]] = {
            "good": (200, {"event_id": "$event"}),
            "no": (502, {"errcode": "M_UNKNOWN", "error": "no could not be reached"}),
            "late": (400, {"errcode": "M_WRONG_SERVER", "error": "not the hub", "hub_server": "other.example"}),
        }
        self.listen(lambda _, __, body: answers[json.loads(body)["server"]])
        run = [str(self.config), ROOM]
        status, output, errors = self.run_main("transfer-hub", *run, "good")
        self.assertEqual((0, f"the hub of {ROOM} is good now (by event $event)\n", ""), (status, output, errors))
        status, output, errors = self.run_main("transfer-hub", *run, "no")
        self.assertEqual((1, ""), (status, output))
        self.assertEqual("lmatrix: the room was not moved: no could not be reached\n", errors)
        status, _, errors = self.run_main("transfer-hub", *run, "late")
        self.assertEqual((1, "lmatrix: not the hub (only other.example can move the room)\n"), (status, errors))

    def test_rooms(self) -> None:
        """One line for each room; more of one."""
        room = {
            "room_id": ROOM,
            "room_version": "I.1",
            "hub": "hub.example",
            "role": "participant",
            "head": {"position": 5, "place": "1+5", "event_id": "$head"},
            "joined": {"hub.example": 2},
        }
        one = {**room, "role": "hub", "pending_lpdus": 1, "evidence": 2, "candidates": ["north.example"]}
        self.listen(lambda _, target, __: (200, {"rooms": [room]} if target.endswith("/rooms") else one))
        status, output, _ = self.run_main("rooms", str(self.config))
        self.assertEqual(0, status)
        line = f"{ROOM}  I.1  participant of hub.example  $head at 1+5  2 of hub.example\n"
        self.assertEqual(line, output)
        status, output, _ = self.run_main("rooms", str(self.config), ROOM)
        for words in ("2 (see `lmatrix audit`)", "could be moved to:   north.example", "1 events of this server's"):
            self.assertIn(words, output)

    def test_destinations(self) -> None:
        """One line for each, with what is known."""
        one = {
            "server": "north.example",
            "owed_events": 3,
            "owed_rooms": 2,
            "pending_lpdus": 1,
            "edus": 4,
            "failing_since_ts": 1_700_000_000_000,
            "retry_at_ts": None,
            "back_off_ms": 0,
            "last_success_ts": None,
        }
        self.listen(lambda *_: (200, {"destinations": [one]}))
        status, output, _ = self.run_main("destinations", str(self.config))
        self.assertEqual(
            "north.example: lacks 3 events of 2 rooms, 1 events of our users wait for it, 4 EDUs,"
            " failing since 2023-11-14 22:13:20+00:00\n",
            output,
        )
        self.assertEqual(0, status)

    def test_recovery(self) -> None:
        """Each room that waits, and for whom; status 1 while there is any; and going on without somebody."""
        held = {"room_id": ROOM, "since_ts": 0, "reason": "restored", "waiting_for": {"gone.example": "no answer"}}
        bodies: list[bytes] = []

        def answering(method: str, target: str, body: bytes) -> tuple[int, Any]:
            bodies.append(body)
            return (200, {}) if method == "POST" else (200, {"held_rooms": [held] if len(bodies) == 1 else []})

        self.listen(answering)
        status, output, _ = self.run_main("recovery", str(self.config))
        self.assertEqual(1, status)
        self.assertIn(f"{ROOM}: since 1970-01-01 00:00:00+00:00: restored", output)
        self.assertIn("waits for gone.example: no answer", output)
        status, output, _ = self.run_main("recovery", str(self.config), ROOM, "--without", "gone.example")
        self.assertEqual((0, {"without": ["gone.example"]}), (status, json.loads(bodies[-1])))
        self.assertEqual((0, "nothing is being recovered\n"), self.run_main("recovery", str(self.config))[:2])
        self.assertEqual(1, self.run_main("recovery", str(self.config), "--without", "x")[0])

    def test_mark_restored(self) -> None:
        """It marks the database that the configuration names, once it is there; the server need not run."""
        self.configure(1)
        status, _, errors = self.run_main("mark-restored", str(self.config))
        self.assertEqual(1, status)
        self.assertIn("does not exist", errors)
        file = self.directory / "lmatrix.db"
        InlineDatabase(file).close()
        status, output, _ = self.run_main("mark-restored", str(self.config))
        self.assertEqual(0, status)
        self.assertIn("is marked", output)
        with reading(file) as database:
            self.assertIsNotNone(database.read(SqlRestorationStore().copied_ts))

    def test_audit_without_evidence(self) -> None:
        """Nothing to say is status 0."""
        document = {
            "format": "org.lmatrix.evidence.1",
            "room_id": ROOM,
            "room_version": "I.1",
            "collected_by": "hub.example",
            "evidence": [],
            "keys": {},
        }
        self.listen(lambda *_: (200, document))
        self.assertEqual((0, f"no evidence is kept about {ROOM}\n", ""), self.run_main("audit", str(self.config), ROOM))

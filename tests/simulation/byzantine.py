"""A server that does not keep the rules.

Owns: :class:`Mischief`. The server itself is a real one with users of its own, so that it gets into rooms, makes some
and is handed others; what it says on the wire is not what it means to say. Everything wrong that it says is properly
signed by it, unless the missing signature is what is wrong: nobody may be saved by the door alone.

What it does comes in moods, each of which lasts a while. As the hub of a room it can lie about that room, and what
becomes of such a room is only held to what one honest server can promise alone; all other rooms must not notice.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

import attrs
from twisted.logger import Logger

from lmatrix.canonical_json import encode
from lmatrix.crypto.digest import encode_base64
from lmatrix.crypto.keys import SigningKey
from lmatrix.events.building import build_hub_event, build_lpdu
from lmatrix.events.forms import Pdu
from lmatrix.events.hashing import content_hash, lpdu_hash
from lmatrix.events.redaction import redact_fields
from lmatrix.events.room_versions import room_version
from lmatrix.federation.discovery import Route, Target
from lmatrix.federation.transport import Answer, OutgoingRequest
from lmatrix.federation.xmatrix import XMatrix, format_authorization, request_signing_bytes
from tests.simulation.clocks import WorldClock
from tests.simulation.node import Node

JsonObject = dict[str, Any]

NAME = "mallory.example"

WIRE_MOODS = ("unsigned_requests", "garbage", "empty", "too_much")
LPDU_MOODS = ("others_words", "bad_signatures", "changed_content", "same_again", "old_hub", "two_faced")
HUB_MOODS = ("equivocate", "withhold", "reorder", "deny", "unlawful", "disown")
SCRIPTS = ("flood", "usurp", "steal", "strange_requests", "forged_invite")


class Mischief:
    """What the server does.

    Args:
        node: the server.
        victims: names of the others.
    """

    log = Logger()

    def __init__(self, clock: WorldClock, seed: int, note: Callable[[str], None], victims: tuple[str, ...]) -> None:
        self.node: Node | None = None
        self._clock = clock
        self._seed = seed
        self._note = note
        self._victims = victims
        self._moods: dict[str, Random] = {}
        self._over = False
        self.scripted: dict[str, int] = {}
        self._signed_offers: list[JsonObject] = []

    def step(self, number: int) -> None:
        """A new mood, or something out of the way."""
        rng = Random(f"{self._seed} step {number}")
        what = rng.choice((*WIRE_MOODS, *LPDU_MOODS, *HUB_MOODS, *SCRIPTS))
        self._note(f"mallory: {what}")
        if what in SCRIPTS:
            getattr(self, f"_script_{what}")(rng)
            return
        self._moods[what] = rng
        self._clock.callLater(rng.uniform(2.0, 40.0), self._moods.pop, what, None)

    def repent(self) -> None:
        """From now on it keeps the rules."""
        self._over = True
        self._moods.clear()

    # -- On the wire ---------------------------------------------------------------------------------------------------

    def tamper(self, origin: str, destination: str, request: OutgoingRequest) -> OutgoingRequest | None:
        """What is sent instead of a request; ``None`` for nothing."""
        for mood, rng in sorted(self._moods.items()):
            if rng.random() < 0.5:
                changed = getattr(self, f"_{mood}")(rng, destination, request)
                if changed is None:
                    return None
                request = changed
        return request

    def answer(self, request_target: str, answer: Answer) -> Answer:
        """What is answered instead of an answer."""
        for mood, rng in sorted(self._moods.items()):
            if answer.status != 200 or rng.random() < 0.5:
                continue
            if mood == "garbage":
                answer = attrs.evolve(answer, body=rng.choice((b"", b"{", b"[]", rng.randbytes(30), b'{"pdus":{}}')))
            elif mood == "deny" and "/backfill" in request_target:
                answer = attrs.evolve(answer, status=404, body=b'{"errcode":"M_NOT_FOUND","error":"no"}')
            elif mood == "withhold" and "/send_join" in request_target:
                answer = self._without_some_state(rng, answer)
            elif mood == "two_faced" and "/offer/" in request_target:
                answer = self._denied(rng, answer)
            elif mood == "disown" and any(
                name in request_target for name in ("/send/", "/make_", "/send_", "/invite/")
            ):
                body = {"errcode": "M_WRONG_SERVER", "error": "not me", "hub_server": rng.choice(self._victims)}
                answer = attrs.evolve(answer, status=400, body=encode(body))
            elif mood == "empty" and "/send/" in request_target:
                answer = attrs.evolve(answer, body=b"{}")
            elif mood == "bad_signatures" and "/send" in request_target:
                answer = attrs.evolve(answer, body=_spoilt_signatures(rng, answer.body))
        return answer

    def _unsigned_requests(self, rng: Random, destination: str, request: OutgoingRequest) -> OutgoingRequest:
        headers = dict(request.headers)
        wrong = rng.choice(([], ["X-Matrix nonsense"], ["X-Matrix origin=x"], None))
        if wrong is None:
            wrong = [value.replace('sig="', 'sig="A') for value in headers.get("Authorization", [])]
        headers["Authorization"] = wrong
        return attrs.evolve(request, headers=headers)

    def _garbage(self, rng: Random, destination: str, request: OutgoingRequest) -> OutgoingRequest:
        if request.body is None:
            return request
        bodies: tuple[Any, ...] = (
            [], {"pdus": 7}, {"pdus": [1, None]}, {"pdus": [{}], "edus": "x"}, {"event": []},
            {"pdus": [{"room_id": "!x:y", "type": 5}]}, {"pdus": [{"type": "m.room.member", "content": {}}]},
            {"pdus": [{"room_id": 7, "content": {"membership": []}}]},
        )  # fmt: skip
        return self._signed(destination, request, encode(rng.choice(bodies)))

    def _empty(self, rng: Random, destination: str, request: OutgoingRequest) -> OutgoingRequest | None:
        return None

    def _too_much(self, rng: Random, destination: str, request: OutgoingRequest) -> OutgoingRequest:
        def repeat(pdus: list[JsonObject]) -> list[JsonObject]:
            return (pdus * 60)[: rng.choice((51, 60, 200))]

        return self._with_pdus(destination, request, repeat)

    # -- LPDUs ---------------------------------------------------------------------------------------------------------

    def _others_words(self, rng: Random, destination: str, request: OutgoingRequest) -> OutgoingRequest:
        """Events of users of other servers, signed by us."""

        def forge(pdus: list[JsonObject]) -> list[JsonObject]:
            forged = []
            for pdu in pdus:
                sender = f"@ann:{rng.choice(self._victims)}"
                forged.append(self._rebuilt({**pdu, "sender": sender}) if "prev_events" not in pdu else pdu)
            return [*pdus, *forged][:50]

        return self._with_pdus(destination, request, forge)

    def _bad_signatures(self, rng: Random, destination: str, request: OutgoingRequest) -> OutgoingRequest:
        if request.body is None:
            return request
        return self._signed(destination, request, _spoilt_signatures(rng, request.body))

    def _changed_content(self, rng: Random, destination: str, request: OutgoingRequest) -> OutgoingRequest:
        """Content that its hashes do not match."""

        def change(pdus: list[JsonObject]) -> list[JsonObject]:
            return [{**pdu, "content": {**pdu["content"], "changed": rng.randint(0, 9)}} for pdu in pdus]

        return self._with_pdus(destination, request, change)

    def _same_again(self, rng: Random, destination: str, request: OutgoingRequest) -> OutgoingRequest:
        return self._with_pdus(destination, request, lambda pdus: (pdus * 3)[:50])

    def _old_hub(self, rng: Random, destination: str, request: OutgoingRequest) -> OutgoingRequest:
        """LPDUs that are signed for somebody else."""
        other = rng.choice(self._victims)

        def turn(pdus: list[JsonObject]) -> list[JsonObject]:
            return [pdu if "prev_events" in pdu else self._rebuilt({**pdu, "hub_server": other}) for pdu in pdus]

        return self._with_pdus(destination, request, turn)

    def _two_faced(self, rng: Random, destination: str, request: OutgoingRequest) -> OutgoingRequest:
        """What was signed in answer to an offer, and denied, is used after all: as it is, or completed by us."""

        def add(pdus: list[JsonObject]) -> list[JsonObject]:
            stale = self._signed_offers[-3:]
            forged = [
                self._rebuilt({**one, "prev_events": [one["content"]["head"]], "auth_events": []}) for one in stale
            ]
            return [*stale, *forged, *pdus][:50]

        return self._with_pdus(destination, request, add)

    def _denied(self, rng: Random, answer: Answer) -> Answer:
        """An answer to an offer: we have signed, and may say that we have not."""
        event = json.loads(answer.body).get("event")
        if isinstance(event, dict):
            self._signed_offers.append(event)
        if rng.random() < 0.5:
            return answer
        return attrs.evolve(answer, status=403, body=b'{"errcode":"M_FORBIDDEN","error":"I have not signed anything"}')

    # -- As a hub ------------------------------------------------------------------------------------------------------

    def _equivocate(self, rng: Random, destination: str, request: OutgoingRequest) -> OutgoingRequest:
        """Each server is told something else, all of it properly signed."""

        def lie(pdus: list[JsonObject]) -> list[JsonObject]:
            return [self._another(pdu, f"for {destination}") for pdu in pdus]

        return self._with_pdus(destination, request, lie)

    def _unlawful(self, rng: Random, destination: str, request: OutgoingRequest) -> OutgoingRequest:
        """Events that the rules do not allow, in the chain."""

        def add(pdus: list[JsonObject]) -> list[JsonObject]:
            unlawful = []
            for pdu in pdus:
                if "prev_events" in pdu and pdu.get("hub_server") == NAME and "state_key" not in pdu:
                    made = {**pdu, "type": "m.room.power_levels", "state_key": "", "sender": f"@nobody:{NAME}"}
                    unlawful.append(self._rebuilt(made))
            return [*unlawful, *pdus][:50]

        return self._with_pdus(destination, request, add)

    def _withhold(self, rng: Random, destination: str, request: OutgoingRequest) -> OutgoingRequest:
        return self._with_pdus(destination, request, lambda pdus: [pdu for pdu in pdus if rng.random() < 0.6])

    def _reorder(self, rng: Random, destination: str, request: OutgoingRequest) -> OutgoingRequest:
        return self._with_pdus(destination, request, lambda pdus: rng.sample(pdus, k=len(pdus)))

    def _deny(self, rng: Random, destination: str, request: OutgoingRequest) -> OutgoingRequest:
        return request  # it is answers that are denied

    _disown = _deny

    # -- Out of the way ------------------------------------------------------------------------------------------------

    def _script_flood(self, rng: Random) -> None:
        """Many requests at one time."""
        victim = rng.choice(self._victims)
        room_id = rng.choice(self._rooms() or ["!unknown:mallory.example"])
        for number in range(rng.choice((50, 300))):
            target = rng.choice(
                (
                    f"/_matrix/federation/v1/make_join/{room_id}/@ann:{NAME}?ver=I.1",
                    f"/_matrix/federation/v2/backfill/{room_id}?v=$x{number}&limit=100",
                    f"/_matrix/federation/v2/event/$y{number}",
                    "/_matrix/key/v2/server",
                )
            )
            self._ask(victim, "GET", target, None)
            self._ask(victim, "PUT", f"/_matrix/federation/v2/send/flood{number}", {"pdus": []})

    def _script_usurp(self, rng: Random) -> None:
        """Events signed as if we were the hub of somebody else's room."""
        key = self._key()
        for room_id in self._rooms():
            for victim in self._victims:
                event = build_hub_event(
                    room_version("I.1"),
                    room_id=room_id,
                    type="m.room.message",
                    sender=f"@ann:{NAME}",
                    content={"body": "I am the hub"},
                    origin_server_ts=int(self._clock.seconds() * 1000),
                    hub_server=NAME,
                    auth_events=[],
                    prev_events=[self._head(room_id) or "$nothing"],
                    keys=[key],
                )
                self._ask(victim, "PUT", f"/_matrix/federation/v2/send/usurp{rng.random()}", {"pdus": [_object(event)]})

    def _script_steal(self, rng: Random) -> None:
        """Become the hub without having been asked, by the right event at the right time."""
        now_ms = int(self._clock.seconds() * 1000)
        process = self._ready()
        for room_id in self._rooms():
            hub = process.rooms.rooms._loaded[room_id].room.hub_server
            lpdu = build_lpdu(
                room_version("I.1"),
                room_id=room_id,
                type="m.room.hub",
                sender=f"@ann:{NAME}",
                content={"previous_hub": hub, "head": self._head(room_id), "valid_until_ts": now_ms + 30_000},
                origin_server_ts=now_ms,
                hub_server=hub,
                server_name=NAME,
                keys=[self._key()],
                state_key="",
            )
            if hub != NAME:
                body = {"pdus": [dict(lpdu.fields)]}
                self._ask(hub, "PUT", f"/_matrix/federation/v2/send/steal{rng.random()}", body)

    def _script_strange_requests(self, rng: Random) -> None:
        """Everything that an endpoint is not made for."""
        for victim in self._victims:
            room_id = rng.choice(self._rooms() or ["!unknown:mallory.example"])
            offer = {"room_id": room_id, "room_version": "I.1", "head": "$" + "x" * 43, "valid_until_ts": 2**50}
            hub = "/_matrix/federation/unstable/org.lmatrix.hub"
            self._ask(victim, "POST", f"{hub}/offer/{rng.random()}", offer)
            self._ask(
                victim, "POST", f"{hub}/request/{rng.random()}", {"room_id": room_id, "user_id": f"@ann:{victim}"}
            )
            self._ask(victim, "POST", f"{hub}/request/{rng.random()}", {"room_id": room_id, "user_id": f"@ann:{NAME}"})
            self._ask(victim, "GET", f"/_matrix/federation/v1/make_join/{room_id}/@ann:{victim}?ver=I.1", None)
            self._ask(victim, "GET", f"/_matrix/federation/v1/make_leave/{room_id}/@ann:{NAME}", None)
            self._ask(victim, "PUT", f"/_matrix/federation/v2/send/{'x' * 300}", {"pdus": []})
            self._ask(victim, "GET", f"/_matrix/federation/v2/backfill/{room_id}?v={'%24'}&limit=-1", None)

    def _script_forged_invite(self, rng: Random) -> None:
        """Invites into rooms that are not ours to invite into."""
        for victim in self._victims:
            for room_id in [*self._rooms()[:1], "!nowhere:north.example"]:
                lpdu = build_lpdu(
                    room_version("I.1"),
                    room_id=room_id,
                    type="m.room.member",
                    sender=f"@ann:{NAME}",
                    content={"membership": rng.choice(("invite", "ban", "join"))},
                    origin_server_ts=int(self._clock.seconds() * 1000),
                    hub_server=rng.choice((victim, NAME)),
                    server_name=NAME,
                    keys=[self._key()],
                    state_key=f"@ann:{victim}",
                )
                body = {"event": dict(lpdu.fields), "room_version": "I.1", "invite_room_state": []}
                self._ask(victim, "POST", f"/_matrix/federation/v2/invite/{rng.random()}", body)

    # -- Tools ---------------------------------------------------------------------------------------------------------

    def _rooms(self) -> list[str]:
        process = self._ready()
        return [] if process is None else sorted(process.rooms.rooms._loaded)

    def _head(self, room_id: str) -> str | None:
        process = self._ready()
        return None if process is None else process.rooms.rooms._loaded[room_id].room.head_event_id

    def _ready(self) -> Any:
        return None if self.node is None else self.node.ready

    def _key(self) -> SigningKey:
        assert self.node is not None
        text = self.node.config.signing_key_path.read_text()
        return SigningKey.from_line(text.splitlines()[0])

    def _ask(self, destination: str, method: str, target: str, content: JsonObject | None) -> None:
        process = self._ready()
        if process is None:
            return
        body = None if content is None else encode(content)
        request = self._signed(destination, OutgoingRequest(method, target, {}, body, True), body)
        answer = process.transport.exchange(
            Route(destination, destination, (Target(destination, 8448),)), request, 2**20
        )
        answer.addCallbacks(lambda given: self._noted(given.status), lambda _: self._noted(0))

    def _noted(self, status: int) -> None:
        self.scripted[str(status)] = self.scripted.get(str(status), 0) + 1

    def _signed(self, destination: str, request: OutgoingRequest, body: bytes | None) -> OutgoingRequest:
        """The request with another body, and a signature that is good."""
        key = self._key()
        try:
            message = request_signing_bytes(request.method, request.target, NAME, destination, body or b"{}")
        except Exception:
            self.log.failure("mallory cannot sign this")
            raise
        authorization = format_authorization(XMatrix(NAME, destination, key.key_id, key.sign(message)))
        return attrs.evolve(request, headers={**request.headers, "Authorization": [authorization]}, body=body)

    def _with_pdus(
        self, destination: str, request: OutgoingRequest, change: Callable[[list[JsonObject]], list[JsonObject]]
    ) -> OutgoingRequest:
        if request.body is None or request.method != "PUT" or "/send/" not in request.target:
            return request
        body = json.loads(request.body)
        pdus = body.get("pdus") if isinstance(body, dict) else None
        if not isinstance(pdus, list) or not all(isinstance(pdu, dict) and "sender" in pdu for pdu in pdus):
            return request  # it is garbage already
        return self._signed(destination, request, encode({**body, "pdus": change(pdus)}))

    def _another(self, pdu: JsonObject, text: str) -> JsonObject:
        """An event of ours that says something else; others' events as they are."""
        if pdu.get("hub_server", NAME) != NAME or not pdu["sender"].endswith(f":{NAME}") or "state_key" in pdu:
            return pdu
        return self._rebuilt({**pdu, "content": {**pdu["content"], "body": text}})

    def _rebuilt(self, fields: JsonObject) -> JsonObject:
        """The event with hashes that match and our signature, in whichever form it is."""
        key, rules = self._key(), room_version("I.1").redaction
        event = {name: value for name, value in fields.items() if name not in ("signatures", "hashes")}
        hashes: JsonObject = {}
        if "hub_server" in event:
            hashes["lpdu"] = {"sha256": lpdu_hash(event)}
        event["hashes"] = hashes
        if "prev_events" in event:
            hashes["sha256"] = content_hash(event)
        message = encode(redact_fields(event, rules))
        return {**event, "signatures": {NAME: {key.key_id: key.sign(message)}}}

    def _without_some_state(self, rng: Random, answer: Answer) -> Answer:
        body = json.loads(answer.body)
        state = [event for event in body.get("state", []) if rng.random() < 0.7]
        return attrs.evolve(answer, body=encode({**body, "state": state}))


def _spoilt_signatures(rng: Random, body: bytes) -> bytes:
    """The same JSON with some signatures in it changed."""

    def spoil(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                name: _spoilt(rng, inner) if name == "signatures" else spoil(inner) for name, inner in value.items()
            }
        return [spoil(inner) for inner in value] if isinstance(value, list) else value

    return encode(spoil(json.loads(body)))


def _spoilt(rng: Random, signatures: Any) -> Any:
    how = rng.choice(("none", "empty", "wrong", "keep"))
    if how == "none":
        return {}
    if how == "keep" or not isinstance(signatures, Mapping):
        return signatures
    wrong = "" if how == "empty" else encode_base64(rng.randbytes(64))
    return {server: dict.fromkeys(made, wrong) for server, made in signatures.items()}


def _object(event: Pdu) -> JsonObject:
    return dict(event.fields)

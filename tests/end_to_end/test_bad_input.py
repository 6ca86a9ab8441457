"""Bad requests to every federation endpoint of a real server, in both of its forms.

Each row of each table is one request, and the status and errcode that the I-D gives for it ("Errors", "Unsupported
Endpoints", "Malformed Requests", "Request Authentication").
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import quote

import attrs
from signedjson.key import generate_signing_key

from tests.end_to_end.bad_input import BadInputTestCase
from tests.end_to_end.signing_client import FORMS, path
from tests.end_to_end.wire_events import I1, Identity, JsonObject, canonical

NOT_JSON = (b"", b"not JSON", b'{"a":', b"{'a': 1}", b'{"a":NaN}', b'"\xff\xfe"', b"{} {}", b"\x00")
NO_OBJECT = (b"[]", b'"text"', b"1", b"null", b"true")
UNSAFE = (b'{"a":1,"a":2}', b'{"a":9007199254740992}', b'{"a":"\\ud800"}')
"""JSON that does not survive canonicalisation."""


@attrs.frozen(slots=True)
class Request:
    """A request that is in order.

    Attributes:
        name: of the endpoint; or its whole path up to the segments, where it has but one form.
        segments, query: of the path.
        content: the body, ``None`` where there is none.
    """

    name: str
    method: str
    segments: tuple[str, ...]
    query: tuple[tuple[str, object], ...] = ()
    content: JsonObject | None = None

    def targets(self) -> list[str]:
        """The request target, in each of the endpoint's forms."""
        if self.name.startswith("/"):
            return ["/".join((self.name, *(quote(segment, safe="") for segment in self.segments)))]
        return [path(self.name, *self.segments, form=form, query=self.query) for form in FORMS]


class RequestTests(BadInputTestCase):
    """What is refused whatever the room is."""

    def requests(self) -> Iterator[Request]:
        """A request to each endpoint."""
        room_id, member, head = self.room_id, self.member, self.head
        yield Request("send", "PUT", ("txn",), content={"pdus": []})
        for change in ("join", "leave", "knock"):
            query = () if change == "leave" else (("ver", I1),)
            yield Request(f"make_{change}", "GET", (room_id, member), query)
            lpdu = self.raw.client.member(room_id, member, change, hub_server=self.us.server_name)
            yield Request(f"send_{change}", "POST", ("txn",), content=lpdu)
        yield Request("invite", "POST", ("txn",), content={"event": {}, "room_version": I1})
        yield Request("event", "GET", (head,))
        yield Request("state", "GET", (room_id,), (("event_id", head),))
        yield Request("state_ids", "GET", (room_id,), (("event_id", head),))
        yield Request("backfill", "GET", (room_id,), (("v", head), ("limit", 1)))
        yield Request("user", "GET", (self.alice.user_id, "device", "PHONE"))
        yield Request("user", "POST", ("keys", "claim"), content={"one_time_keys": {}})
        yield Request("/_matrix/federation/v1/user/devices", "GET", (self.alice.user_id,))
        for ask in ("offer", "request"):
            yield Request(f"/_matrix/federation/unstable/org.lmatrix.hub/{ask}", "POST", ("txn",), content={})

    def everywhere(self) -> Iterator[tuple[Request, str]]:
        """Each endpoint's request with each of its targets."""
        for request in self.requests():
            for target in request.targets():
                yield request, target

    async def test_who_asks(self) -> None:
        """Whoever does not prove who asks gets 401 M_FORBIDDEN: every header must be good, and one must be there.

        A key counts only while its server lists it under ``verify_keys`` and vouches for it.
        """
        await self.stage()
        us, raw, stale = self.us.server_name, self.raw, self.signing_server()
        stale.valid_for_ms = -1000
        unlisted = Identity(raw.server_name, generate_signing_key("unlisted"))
        forged = Identity(raw.server_name, generate_signing_key(raw.identity.key.version))
        for request, target in self.everywhere():

            def header(
                content: object = request.content,
                method: str = request.method,
                target: str = target,
                identity: Identity | None = None,
                **bent: str,
            ) -> str:
                return raw.client.authorization(us, method, target, content, identity=identity, bent=bent)

            good = header()
            signature = good.rpartition("sig=")[2].strip('"')
            table: Mapping[str, Sequence[str]] = {
                "no header": (),
                "no scheme": ("",),
                "another scheme": ("Bearer abc",),
                "no parameters": ("X-Matrix ",),
                "no key": (good.replace("key=", "yek="),),
                "no destination": (good.replace("destination=", "where="),),
                "malformed": (good + ',"',),
                "for another server": (header(destination=raw.server_name),),
                "by another server": (header(origin=stale.server_name),),
                "by nobody": (header(origin="localhost:1"),),
                "by no server": (header(origin="not a name"),),
                "by the server itself": (header(origin=us),),
                "no signature": (header(sig=""),),
                "no base64": (header(sig="*" * 86),),
                "a short signature": (header(sig=signature[:-4]),),
                "another body": (header(content={"other": 1}),),
                "another method": (header(method="DELETE"),),
                "another target": (header(target=target + "x"),),
                "a forged key": (header(identity=forged),),
                "an unlisted key": (header(identity=unlisted),),
                "a retired key": (header(identity=self.retired),),
                "a good and a bad header": (good, header(identity=unlisted)),
                "a bad and a good header": (header(identity=forged), good),
                "a good header and rubbish": (good, "X-Matrix rubbish"),
                "the same header twice": (good, good),
            }
            for what, headers in table.items():
                answer = await raw.client.request(us, request.method, target, request.content, authorization=headers)
                self.judge(f"{target}: {what}", answer, 401, "M_FORBIDDEN")
            answer = await stale.client.request(us, request.method, target, request.content)
            self.judge(f"{target}: an expired key", answer, 401, "M_FORBIDDEN")
        await self.assert_nothing_happened()

    async def test_where(self) -> None:
        """Unknown endpoints, trailing and double slashes: 404 M_UNRECOGNIZED; another method: 405 M_UNRECOGNIZED.

        That is so whether or not the request says who asks, and for the keys' endpoint too.
        """
        await self.stage()
        us, client = self.us.server_name, self.raw.client
        targets = [(request.method, target) for request, target in self.everywhere()]
        targets += [("GET", "/_matrix/key/v2/server"), ("GET", f"/_matrix/key/v2/query/{us}")]
        for method, target in targets:
            place, _, query = target.partition("?")
            for bent in (
                f"{place}/?{query}",
                f"{place}/more?{query}",
                "/" + target,
                target.replace("_matrix/", "_matrix//"),
            ):
                self.judge(f"{method} {bent}", await client.request(us, method, bent, {}), 404, "M_UNRECOGNIZED")
                answer = await client.request(us, method, bent, {}, authorization=())
                self.judge(f"{method} {bent} unsigned", answer, 404, "M_UNRECOGNIZED")
            for other in {"GET", "PUT", "POST", "DELETE", "PATCH"} - {method}:
                answer = await client.request(us, other, target, {}, authorization=())
                self.judge(f"{other} {target}", answer, 405, "M_UNRECOGNIZED")
                if answer.headers.getRawHeaders("allow") != [method]:
                    self.wrong.append(f"{other} {target}: Allow is {answer.headers.getRawHeaders('allow')}")
        for unknown in (
            *(
                "/",
                "/_matrix",
                "/_matrix/federation",
                "/_matrix/federation/v1/send/txn",
                "/_matrix/federation/v3/send/txn",
            ),
            *(
                "/_matrix/federation/v2/send",
                "/_matrix/federation/v2/unheard_of/txn",
                "/_matrix/federation/v2/send/a/b",
            ),
            *("/_matrix/key/v2/server/x", "/_matrix/key/v1/server", "/_matrix/client/versions", "/etc/passwd"),
            *("/_matrix/federation/v2/../v2/send/txn", "/_MATRIX/federation/v2/send/txn", "/health", "/metrics"),
        ):
            for method in ("GET", "PUT", "POST"):
                answer = await client.request(us, method, unknown, None if method == "GET" else {})
                self.judge(f"{method} {unknown}", answer, 404, "M_UNRECOGNIZED")
        await self.assert_nothing_happened()

    async def test_bodies(self) -> None:
        """Not JSON: 400 M_NOT_JSON; no object, or JSON that cannot be signed: 400 M_BAD_JSON; too large: 413.

        Beyond the endpoint's bound the body is not even read to its end.
        """
        await self.stage()
        us, client = self.us.server_name, self.raw.client
        for request, target in self.everywhere():

            async def ask(
                what: str,
                body: bytes,
                status: int,
                errcode: str,
                method: str = request.method,
                target: str = target,
            ) -> None:
                answer = await client.request(us, method, target, {}, body=body)
                self.judge(f"{target}: {what}", answer, status, errcode)

            if request.content is not None:
                for body in NOT_JSON:
                    await ask(repr(body), body, 400, "M_NOT_JSON")
                for body in (*NO_OBJECT, *UNSAFE):
                    await ask(repr(body), body, 400, "M_BAD_JSON")
                await ask("a deep one", b'{"a":' * 150 + b"1" + b"}" * 150, 400, "M_BAD_JSON")
            size = 10 * 1024 * 1024 if request.name == "send" else 1024 * 1024
            if request.name != "send" or "/v2/" in target:
                await ask("too large", canonical({"a": "x" * size}), 413, "M_TOO_LARGE")
        await self.assert_nothing_happened()

"""A north that lies: what it answers to us, and what it sends us, is not what it meant.

Owns: :func:`lying_replies` and :func:`lying_requests`. The north is a whole server that keeps all rules; its answers
and requests are changed on their way, so that they are right in all but a few places, and signed again.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import attrs
from hypothesis import note
from hypothesis import strategies as st
from twisted.internet.error import ConnectionLost
from twisted.web.http_headers import Headers

from lmatrix.errors import TooLarge
from lmatrix.federation.transport import Answer, OutgoingRequest
from tests.fuzz.events import signed_again
from tests.fuzz.requests import authorization, words
from tests.fuzz.values import anything, mutated, plain, text_of
from tests.fuzz.world import World

_ERRCODES = (
    *("M_UNKNOWN", "M_WRONG_SERVER", "M_UNRECOGNIZED", "M_FORBIDDEN", "M_LIMIT_EXCEEDED", "M_BAD_STATE", "x" * 500),
    *("M_INCOMPATIBLE_ROOM_VERSION", "M_UNSUPPORTED_ROOM_VERSION", "M_NOT_FOUND", "M_UNKNOWN_TOKEN", ""),
)
_BODIES = (b"", b"\xff\xfe", b"[]", b"null", b"{", b'"x"', b"{}", b'{"pdus":{}}', b"<html>", b"[" * 50_000, b"1e999")


def lying_replies(data: st.DataObject, world: World, *, honest: int = 1) -> None:
    """From now on the north's answers to us are changed, but for one in so many."""

    def reply(destination: str, request: OutgoingRequest, answer: Answer) -> Answer | BaseException | None:
        return world.drawing(lambda: lie(request, answer), answer)

    def lie(request: OutgoingRequest, answer: Answer) -> Answer | BaseException | None:
        how = data.draw(st.integers(0, 7 + honest), label="how the answer is changed")
        if how > 7:
            return answer
        changed = _changed(data, world, how, answer)
        note(f"   {request.method} {request.target}: {answer.body!r} becomes {changed}")
        return changed

    world.reply = reply


def _changed(data: st.DataObject, world: World, how: int, answer: Answer) -> Answer | BaseException | None:
    draw = data.draw
    if how == 0:
        status = draw(st.sampled_from((200, 201, 204, 301, 400, 401, 403, 404, 405, 413, 429, 500, 502, 503, 99, 999)))
        fields: dict[str, Any] = {
            "errcode": draw(st.sampled_from(_ERRCODES)),
            "error": draw(st.sampled_from(("", "why", "x" * 5000, "\ud800"))),
            "hub_server": draw(st.sampled_from(words(world))),
            "retry_after_ms": draw(st.sampled_from((0, -1, 10**15, "x", 5000))),
            "room_version": "I.1",
        }
        return Answer(status, Headers(), text_of(draw(mutated(fields, words(world)))))
    if how == 1:
        return Answer(200, Headers(), draw(st.one_of(st.sampled_from(_BODIES), anything.map(text_of))))
    if how == 2:
        return draw(st.sampled_from((None, ConnectionLost(), TooLarge("the answer is too long"))))
    try:
        body = json.loads(answer.body)
    except ValueError:
        return answer
    return attrs.evolve(answer, body=_lie(data, world, body))


def lying_requests(data: st.DataObject, world: World) -> None:
    """From now on the north's requests to us are changed, but for some."""

    def rewrite(destination: str, request: OutgoingRequest) -> OutgoingRequest | None:
        return world.drawing(lambda: lie(request), request)

    def lie(request: OutgoingRequest) -> OutgoingRequest | None:
        if request.body is None or data.draw(st.integers(0, 3), label="whether the request is changed") == 0:
            return request
        body = _lie(data, world, json.loads(request.body))
        note(f"   {request.method} {request.target}: {request.body!r} becomes {body!r}")
        header = authorization(world, request.method, request.target, body)
        return attrs.evolve(request, body=body, headers={**request.headers, "Authorization": [header]})

    world.rewrite = rewrite


def _lie(data: st.DataObject, world: World, body: Any) -> bytes:
    changed = data.draw(mutated(body, words(world)), label="what it says instead")
    if data.draw(st.integers(0, 3), label="whether it is signed again"):
        with suppress(ValueError, RecursionError):
            changed = signed_again(plain(changed), world.north.key)
    return text_of(changed)

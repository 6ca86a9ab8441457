"""The target as a notary (I-D "GET /_matrix/key/v2/query/:serverName", "POST /_matrix/key/v2/query")."""

from __future__ import annotations

from urllib.parse import quote

from twisted.internet.task import deferLater

from tests.conformance.cases.request_authentication import NOBODYS
from tests.conformance.cases.server_keys import LONG_KNOWN
from tests.conformance.peer import Peer
from tests.conformance.registry import case
from tests.conformance.stage import Stage
from tests.conformance.verdicts import NotTested, expect, expect_answer, expect_equal
from tests.end_to_end.wire_events import JsonObject, canonical, check_signature

QUERY = "/_matrix/key/v2/query"
NOBODY = "localhost:1"
"""A server that nobody runs."""

FAR_MS = 365 * 24 * 60 * 60 * 1000


async def _one(s: Stage, server_name: str, **query: int) -> list[JsonObject]:
    target = f"{QUERY}/{quote(server_name, safe='')}"
    if query:
        target += "?" + "&".join(f"{name}={value}" for name, value in query.items())
    return _list(expect_answer(await s.plain("GET", target), 200))


async def _many(s: Stage, criteria: JsonObject) -> list[JsonObject]:
    return _list(expect_answer(await s.plain("POST", QUERY, body=canonical({"server_keys": criteria})), 200))


def _list(answer: JsonObject) -> list[JsonObject]:
    found = answer.get("server_keys")
    expect(isinstance(found, list), f"server_keys is no array: {answer}")
    assert isinstance(found, list)
    return found


def _named(found: list[JsonObject], peer: Peer) -> list[JsonObject]:
    return [one for one in found if one.get("server_name") == peer.server_name]


def _with_key(found: list[JsonObject], key_id: str) -> list[JsonObject]:
    return [one for one in found if key_id in one.get("verify_keys", {})]


async def _check(s: Stage, peer: Peer, one: JsonObject) -> None:
    """That an object is what the server published, and signed by it and by the notary."""
    keys = await s.peer.client.keys_of([s.target])
    check_signature(one, s.target, keys)
    mine = {peer.server_name: {peer.identity.key_id: peer.identity.verify_key}}
    check_signature(one, peer.server_name, mine)
    expect_equal(peer.identity.public, one["verify_keys"][peer.identity.key_id]["key"], "the key")


@case("api-notary-query/answers", "api-notary-query/notary-signs")
async def asked_about_one(s: Stage) -> None:
    """A server's keys come as it published them, with its own signature and the notary's."""
    peer = s.fresh("known")
    found = _named(await _one(s, peer.server_name), peer)
    expect(found, "no keys came")
    await _check(s, peer, found[0])


@case("api-notary-query-bulk/answers", "api-notary-query/notary-signs")
async def asked_about_many(s: Stage) -> None:
    """Several servers at once, with and without key IDs; nobody's keys are not there."""
    peers = [s.fresh("bulk"), s.fresh("bulk")]
    criteria: JsonObject = {
        peers[0].server_name: {},
        peers[1].server_name: {peers[1].identity.key_id: {"minimum_valid_until_ts": 0}},
        NOBODY: {},
    }
    found = await _many(s, criteria)
    for peer in peers:
        named = _named(found, peer)
        expect(named, f"no keys of {peer.server_name} came")
        await _check(s, peer, named[0])
    expect_equal({peer.server_name for peer in peers}, {one["server_name"] for one in found}, "servers")


@case("api-notary-query/unreachable-is-empty")
async def asked_about_nobody(s: Stage) -> None:
    """Of a server that cannot be reached, and never was, there are no keys."""
    expect_equal([], await _one(s, NOBODY), "server_keys")


@case("api-notary-query/minimum-valid-until-ts")
async def asked_for_later(s: Stage) -> None:
    """Keys that are not valid for as long as is asked are left out, those that are, are not."""
    peer = s.fresh("until")
    later, soon = peer.now_ms() + FAR_MS, peer.now_ms() + 1000
    expect_equal([], await _one(s, peer.server_name, minimum_valid_until_ts=later), "server_keys")
    expect(await _one(s, peer.server_name, minimum_valid_until_ts=soon), "keys that are valid for long did not come")
    criteria = {peer.server_name: {peer.identity.key_id: {"minimum_valid_until_ts": later}}}
    expect_equal([], await _many(s, criteria), "server_keys of the bulk query")


@case("api-notary-query-bulk/none-asked-none-given")
async def asked_about_none(s: Stage) -> None:
    """Who asks about no server is given nothing."""
    expect_equal([], await _many(s, {}), "server_keys")


@case("api-notary-query-bulk/criteria-required", "malformed-requests/bad-json")
async def asked_badly(s: Stage) -> None:
    """A bulk query without server_keys, or with something else there, is 400 M_BAD_JSON."""
    contents: tuple[JsonObject, ...] = (
        {},
        {"server_keys": []},
        {"server_keys": None},
        {"server_keys": {"a.example": []}},
    )
    for content in contents:
        answer = await s.plain("POST", QUERY, body=canonical(content))
        expect_answer(answer, 400, "M_BAD_JSON")


@case("api-notary-query-bulk/only-what-was-asked")
async def asked_for_other_keys(s: Stage) -> None:
    """When only a key is asked for that the server does not have, its other ones are not given."""
    peer = s.fresh("other")
    expect_equal([], await _many(s, {peer.server_name: {"ed25519:none": {}}}), "server_keys")


@case("api-self-key/notary-caches-half-its-life")
async def asked_again(s: Stage) -> None:
    """Who is asked again soon does not ask the server again."""
    peer = s.fresh("again")
    for _ in range(3):
        expect(_named(await _one(s, peer.server_name), peer), "no keys came")
    expect_equal(1, peer.keys_asked, "how often the server was asked")


@case("api-self-key/notary-keeps-the-last")
async def asked_about_a_server_that_is_gone(s: Stage) -> None:
    """The keys of a server that can no longer be reached are still given."""
    peer = s.fresh("gone")
    peer.valid_for_ms = 2 * 60 * 1000
    expect(_named(await _one(s, peer.server_name), peer), "no keys came")
    await peer.stop()
    found = _named(await _one(s, peer.server_name), peer)
    expect(found, "its keys are forgotten")
    await _check(s, peer, found[0])


@case("api-self-key/notary-keeps-all-keys", last=True)
async def asked_about_a_server_that_changed(s: Stage) -> None:
    """After a server has changed its key, and no longer lists the old one, both can be had."""
    # Known since the run's first cases, so that nobody need wait for the target to ask again.
    peer, asked = s.suite.peer(LONG_KNOWN), s.endpoint("event", NOBODYS)
    first = peer.identity.key_id
    expect_answer(await s.get(asked, peer=peer), 404)
    expect(_with_key(await _one(s, peer.server_name), first), "the first key did not come")
    peer.change_key("changed", keep_old=False)
    for _ in range(20):
        answer = await s.get(asked, peer=peer)
        if answer.status == 404:
            break
        await deferLater(s.suite.reactor, 0.5, lambda: None)
    else:
        raise NotTested("the target does not ask for the new key so soon")
    found = await _many(s, {peer.server_name: {}})
    for key_id in (first, peer.identity.key_id):
        expect(_with_key(found, key_id), f"the response with {key_id} is not given")

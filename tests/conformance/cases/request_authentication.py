"""Requests that prove who makes them, well and badly (I-D "Request Authentication")."""

from __future__ import annotations

import attrs
from signedjson.key import generate_signing_key

from tests.conformance.registry import case
from tests.conformance.stage import Stage
from tests.conformance.verdicts import NotTested, expect, expect_answer, expect_equal
from tests.end_to_end.raw_http import Answer
from tests.end_to_end.wire_events import Identity, JsonObject, signed_object

NOBODYS = "$nobodyhasaneventwiththisid0000000000000000000"


def _asked(s: Stage) -> str:
    return s.endpoint("event", NOBODYS)


async def _ask(s: Stage, *headers: str) -> Answer:
    """Ask for an event that nobody has, with these headers."""
    return await s.get(_asked(s), authorization=headers)


def _header(s: Stage, **bent: str) -> str:
    return s.peer.client.authorization(s.target, "GET", _asked(s), bent=bent)


def _parameters(s: Stage) -> dict[str, str]:
    pairs = _header(s).removeprefix("X-Matrix ").split(",")
    return {name: value.strip('"') for name, _, value in (pair.partition("=") for pair in pairs)}


def _admitted(answer: Answer) -> None:
    expect_answer(answer, 404, "M_NOT_FOUND")


@case("transport-auth/what-is-signed", "transport-auth/empty-content", "signing-objects/signed")
async def good_signatures(s: Stage) -> None:
    """A GET that signs an empty object, a PUT that signs its body, and a target with a query are admitted."""
    _admitted(await _ask(s, _header(s)))
    await s.send()
    room_id = f"!nobodys:{s.target}"
    target = s.endpoint("backfill", room_id, query=[("v", NOBODYS), ("limit", 10)])
    _admitted(await s.get(target))


@case("transport-auth/what-is-signed", "transport-auth/401", "checking-signatures/wrong-signature")
async def anything_else_than_signed(s: Stage) -> None:
    """Another method, target, query, body or key than what was signed is answered with 401 M_FORBIDDEN."""
    client, asked = s.peer.client, _asked(s)
    put = s.endpoint("send", s.transaction_id())
    forged = Identity(s.peer.server_name, generate_signing_key(s.peer.identity.key.version))
    for what, header in {
        "method": client.authorization(s.target, "POST", asked),
        "target": client.authorization(s.target, "GET", asked + "x"),
        "query": client.authorization(s.target, "GET", asked + "?a=b"),
        "body": client.authorization(s.target, "GET", asked, {"a": "b"}),
        "key": client.authorization(s.target, "GET", asked, identity=forged),
    }.items():
        answer = await _ask(s, header)
        expect(answer.status == 401 and answer.errcode == "M_FORBIDDEN", f"another {what}: {answer}")
    signed = client.authorization(s.target, "PUT", put, {"pdus": []})
    answer = await s.request("PUT", put, {"pdus": [], "edus": []}, authorization=[signed])
    expect_answer(answer, 401, "M_FORBIDDEN")


@case("transport-auth/origin-matches", "server-names/case-sensitive")
async def another_origin(s: Stage) -> None:
    """A header whose origin is not the server that signed is refused, also when the names differ in case only."""
    second, name = s.second.identity, s.peer.server_name
    expect_answer(await _ask(s, _header(s, origin=second.server_name)), 401, "M_FORBIDDEN")
    other = name.upper() if name != name.upper() else name.lower()
    if other == name:
        raise NotTested("the suite's server name has no letters")
    expect_answer(await _ask(s, _header(s, origin=other)), 401, "M_FORBIDDEN")
    signed = s.peer.client.authorization(
        s.target, "GET", _asked(s), identity=attrs.evolve(s.peer.identity, server_name=other), bent={"origin": other}
    )
    expect_answer(await _ask(s, signed), 401, "M_FORBIDDEN")


@case("transport-auth/destination-matches", "server-names/case-sensitive")
async def another_destination(s: Stage) -> None:
    """A request for another server is refused, whether it was signed so, or its header says so."""
    client = s.peer.client
    elsewhere = client.authorization("elsewhere.example", "GET", _asked(s))
    expect_answer(await _ask(s, elsewhere), 401, "M_FORBIDDEN")
    expect_answer(await _ask(s, _header(s, destination="elsewhere.example")), 401, "M_FORBIDDEN")
    claimed = client.authorization("elsewhere.example", "GET", _asked(s), bent={"destination": s.target})
    expect_answer(await _ask(s, claimed), 401, "M_FORBIDDEN")
    if s.target != s.target.upper():
        in_capitals = client.authorization(s.target.upper(), "GET", _asked(s))
        expect_answer(await _ask(s, in_capitals), 401, "M_FORBIDDEN")


@case("transport-auth/unknown-parameters")
async def unknown_parameters(s: Stage) -> None:
    """Parameters that nobody knows, as tokens and quoted, change nothing."""
    _admitted(await _ask(s, _header(s) + ',org.example.more="a, b",flag=1'))


@case("transport-auth/header-grammar")
async def header_grammar(s: Stage) -> None:
    """Parameters in another order, names in capitals, white space, several spaces, escapes and bare tokens."""
    known = _parameters(s)
    quoted = {name: f'"{value}"' for name, value in known.items()}
    for what, header in {
        "another order": "X-Matrix " + ",".join(f"{name}={quoted[name]}" for name in sorted(quoted, reverse=True)),
        "names in capitals": "X-Matrix " + ",".join(f"{name.upper()}={value}" for name, value in quoted.items()),
        "white space": "X-Matrix " + " ,\t".join(f"{name}={value}" for name, value in quoted.items()),
        "several spaces": "X-Matrix    " + ",".join(f"{name}={value}" for name, value in quoted.items()),
        "the scheme in lower case": "x-matrix " + ",".join(f"{name}={value}" for name, value in quoted.items()),
        "escapes": "X-Matrix "
        + ",".join(
            f'{name}="{value[:1]}' + "".join(f"\\{one}" for one in value[1:]) + '"' for name, value in known.items()
        ),
    }.items():
        answer = await _ask(s, header)
        expect(answer.status == 404, f"{what}: {answer.status} {answer.errcode} for {header}")
    # The only values that can be tokens: a colon and a slash cannot be in one.
    bare = {name: value if _is_token(value) else f'"{value}"' for name, value in known.items()}
    answer = await _ask(s, "X-Matrix flag=token," + ",".join(f"{name}={value}" for name, value in bare.items()))
    expect_equal(404, answer.status, "status for values as tokens")


@case("transport-auth/endpoints-that-require-it", "transport-auth/401")
async def every_header_counts(s: Stage) -> None:
    """No header, one that is not X-Matrix, one that is nonsense, and a good one beside a bad one: 401 M_FORBIDDEN."""
    good, bad = _header(s), _header(s, sig="A" * 86)
    for headers in (
        (),
        ("Basic YTpi",),
        ("Bearer abc",),
        ("X-Matrix",),
        ("X-Matrix origin",),
        ('X-Matrix origin="a',),
        ("X-Matrix " + good.partition(",")[2],),
        (good, bad),
        (bad, good),
        (bad,),
    ):
        answer = await _ask(s, *headers)
        expect(
            answer.status == 401 and answer.errcode == "M_FORBIDDEN",
            f"{answer.status} {answer.errcode} instead of 401 M_FORBIDDEN for {list(headers)}",
        )


@case("transport-auth/endpoints-that-require-it", "transport-auth/401")
async def a_server_with_two_keys(s: Stage) -> None:
    """A server with two active keys is admitted with a header for each, and with one; not when either is bad."""
    peer = s.fresh("two_keys")
    other = Identity(peer.server_name, generate_signing_key("other"))

    def both(published: JsonObject) -> JsonObject:
        bare = {name: value for name, value in published.items() if name != "signatures"}
        bare["verify_keys"] = {**bare["verify_keys"], other.key_id: {"key": other.public}}
        return signed_object(other, signed_object(peer.identity, bare))

    peer.publish = both
    asked = _asked(s)
    good = [
        peer.client.authorization(s.target, "GET", asked, identity=one, bent={"key": one.key_id})
        for one in (peer.identity, other)
    ]
    bad = [
        peer.client.authorization(s.target, "GET", asked + "x", identity=one, bent={"key": one.key_id})
        for one in (peer.identity, other)
    ]
    for headers in (good, good[::-1], good[:1], good[1:]):
        _admitted(await s.get(asked, peer=peer, authorization=headers))
    for headers in ([good[0], bad[1]], [bad[0], good[1]], [good[1], bad[0]], [bad[1], good[0]], bad):
        expect_answer(await s.get(asked, peer=peer, authorization=headers), 401, "M_FORBIDDEN")


@case("transport-auth/endpoints-that-require-it")
async def which_endpoints_require_it(s: Stage) -> None:
    """Every endpoint of which the I-D says so refuses a request without a header."""
    room_id, user_id = f"!nobodys:{s.target}", s.peer.identity.user("somebody")
    for method, target in (
        ("PUT", s.endpoint("send", "t")),
        ("GET", s.endpoint("event", NOBODYS)),
        ("GET", s.endpoint("state", room_id, query=[("event_id", NOBODYS)])),
        ("GET", s.endpoint("state_ids", room_id, query=[("event_id", NOBODYS)])),
        ("GET", s.endpoint("backfill", room_id, query=[("v", NOBODYS), ("limit", 1)])),
        ("POST", s.endpoint("invite", "t")),
        *(("GET", s.endpoint(f"make_{change}", room_id, user_id, query=[("ver", "I.1")])) for change in _CHANGES),
        *(("POST", s.endpoint(f"send_{change}", "t")) for change in _CHANGES),
        ("GET", s.endpoint("user", user_id, "device", "ABC")),
        ("POST", s.endpoint("user", "keys", "claim")),
    ):
        answer = await s.plain(method, target, body=None if method == "GET" else b"{}")
        expect(
            answer.status == 401 and answer.errcode == "M_FORBIDDEN",
            f"{method} {target}: {answer.status} {answer.errcode} instead of 401 M_FORBIDDEN",
        )


@case("transport-auth/ignored-elsewhere")
async def ignored_where_not_required(s: Stage) -> None:
    """The server's keys are given whatever the header is."""
    for header in ("X-Matrix nonsense", _header(s, sig="A" * 86), "Bearer x"):
        answer = await s.plain("GET", "/_matrix/key/v2/server", headers={"Authorization": [header]})
        expect_answer(answer, 200)


@case("transport-auth/unexpired-keys", "api-self-key/only-verify-keys-for-requests", "checking-signatures/unknown-key")
async def keys_that_may_not_sign(s: Stage) -> None:
    """A key in old_verify_keys, a key that is not published, and keys that are no longer valid sign nothing."""
    peer = s.fresh("keys")
    old = peer.change_key("changed", keep_old=True)
    unlisted = Identity(peer.server_name, generate_signing_key("unlisted"))
    asked = _asked(s)
    _admitted(await s.get(asked, peer=peer))
    for identity in (old, unlisted):
        header = peer.client.authorization(s.target, "GET", asked, identity=identity)
        expect_answer(await s.get(asked, peer=peer, authorization=[header]), 401, "M_FORBIDDEN")
    late = s.fresh("late")
    late.valid_for_ms = -60_000
    expect_answer(await s.get(asked, peer=late), 401, "M_FORBIDDEN")


@case("signing/key-version", "signing/algorithm")
async def keys_of_other_kinds(s: Stage) -> None:
    """A request that names a key of another algorithm, or with a version that none can have, is refused."""
    for key_id in ("ed448:1", "rsa:1", "ed25519:", "ed25519:a-b", "ed25519"):
        expect_answer(await _ask(s, _header(s, key=key_id)), 401, "M_FORBIDDEN")


@case("checking-signatures/bad-base64", "checking-signatures/missing")
async def signatures_that_are_none(s: Stage) -> None:
    """A signature that is no base64, is empty, or too short is refused."""
    for signature in ("*", "", "AAAA", "A" * 85 + "*"):
        expect_answer(await _ask(s, _header(s, sig=signature)), 401, "M_FORBIDDEN")


@case("unpadded-base64/padding-is-accepted")
async def padded_signature(s: Stage) -> None:
    """A signature with padding is as good."""
    signature = _parameters(s)["sig"]
    _admitted(await _ask(s, _header(s, sig=signature + "=" * (-len(signature) % 4))))


_CHANGES = ("join", "leave", "knock")


def _is_token(value: str) -> bool:
    return all(one.isalnum() or one in "!#$%&'*+-.^_`|~" for one in value) and value.isascii()

"""HTTP: versions, paths, methods, bodies and errors (I-D "Transport", "API Standards")."""

from __future__ import annotations

from tests.conformance.cases.request_authentication import NOBODYS
from tests.conformance.http2 import connect
from tests.conformance.registry import case
from tests.conformance.stage import Stage, endpoint
from tests.conformance.verdicts import NotApplicable, NotTested, expect, expect_answer, expect_equal
from tests.end_to_end.wire_events import canonical

CHANGES = ("join", "leave", "knock")


def endpoints(s: Stage) -> list[tuple[str, str]]:
    """Method and target of every endpoint of the I-D."""
    room_id, user_id = f"!nobodys:{s.target}", s.peer.identity.user("somebody")
    return [
        ("GET", "/_matrix/key/v2/server"),
        ("GET", f"/_matrix/key/v2/query/{s.peer.server_name}"),
        ("POST", "/_matrix/key/v2/query"),
        ("PUT", s.endpoint("send", "t")),
        ("GET", s.endpoint("event", NOBODYS)),
        ("GET", s.endpoint("state", room_id, query=[("event_id", NOBODYS)])),
        ("GET", s.endpoint("state_ids", room_id, query=[("event_id", NOBODYS)])),
        ("GET", s.endpoint("backfill", room_id, query=[("v", NOBODYS), ("limit", 1)])),
        ("POST", s.endpoint("invite", "t")),
        *(("GET", s.endpoint(f"make_{change}", room_id, user_id, query=[("ver", "I.1")])) for change in CHANGES),
        *(("POST", s.endpoint(f"send_{change}", "t")) for change in CHANGES),
        ("GET", s.endpoint("user", user_id, "device", "ABC")),
        ("POST", s.endpoint("user", "keys", "claim")),
    ]


@case("transport/http2-and-tls13")
async def http2_and_tls13(s: Stage) -> None:
    """A connection that offers TLS 1.3 and HTTP/2 only is taken, and a request on it is answered."""
    target = s.suite.target
    if not target.url.startswith("https://"):
        raise NotTested("the target's URL is not https")
    connection = await connect(s.suite.reactor, target.url, insecure=target.insecure)
    try:
        expect_equal("TLSv1.3", connection.tls_version, "TLS version")
        expect_equal(b"h2", connection.protocol_name, "protocol that ALPN agreed on")
        answer = await connection.request("GET", target.server_name, "/_matrix/key/v2/server", {})
        expect_answer(answer, 200)
    finally:
        await connection.close()


@case("tls/known-authority")
async def certificate(s: Stage) -> None:
    """The certificate verifies, with the authorities that this system trusts."""
    if s.suite.target.insecure:
        raise NotTested("certificates are not checked (--insecure)")
    expect_answer(await s.plain("GET", "/_matrix/key/v2/server"), 200)


@case("requests-responses/all-endpoints")
async def all_endpoints(s: Stage) -> None:
    """No endpoint of the I-D is answered as an unknown one."""
    missing = []
    for method, target in endpoints(s):
        answer = await s.request(method, target, None if method == "GET" else {})
        if answer.status == 405 or answer.errcode == "M_UNRECOGNIZED" or answer.status >= 500:
            missing.append(f"{method} {target.partition('?')[0]}: {answer.status} {answer.errcode}")
    expect(not missing, "; ".join(missing))


@case("requests-responses/all-endpoints")
async def unstable_twins(s: Stage) -> None:
    """The endpoints that are new in the I-D are there under its unstable prefix, too."""
    for method, target in (
        ("PUT", endpoint("send", "t", unstable=True)),
        ("GET", endpoint("event", NOBODYS, unstable=True)),
        ("GET", endpoint("backfill", "!a:b", query=[("v", NOBODYS), ("limit", 1)], unstable=True)),
        ("POST", endpoint("invite", "t", unstable=True)),
        *(("POST", endpoint(f"send_{change}", "t", unstable=True)) for change in CHANGES),
    ):
        answer = await s.plain(method, target, body=None if method == "GET" else b"{}")
        expect(answer.errcode != "M_UNRECOGNIZED", f"{method} {target}: {answer.status} {answer.errcode}")


@case("requests-responses/no-trailing-slashes", "unknown-endpoints/404")
async def slashes_too_many(s: Stage) -> None:
    """A slash at the end, a double one at the beginning or in the middle, and both: 404 M_UNRECOGNIZED."""
    for good in ("/_matrix/key/v2/server", s.endpoint("event", NOBODYS)):
        for target in (f"{good}/", f"/{good}", f"/{good}/", good.replace("/_matrix/", "/_matrix//")):
            answer = await s.get(target)
            expect(
                answer.status == 404 and answer.errcode == "M_UNRECOGNIZED",
                f"{target}: {answer.status} {answer.errcode} instead of 404 M_UNRECOGNIZED",
            )


@case("unknown-endpoints/404")
async def unknown_endpoints(s: Stage) -> None:
    """Paths that nobody has defined, with any method, are answered with 404 M_UNRECOGNIZED."""
    for target in (
        "/_matrix/federation/v2/nothing",
        "/_matrix/federation/v99/send/t",
        "/_matrix/federation/v2/send",
        "/_matrix/federation/unstable/org.example/send/t",
        "/_matrix/key/v3/server",
        "/_matrix/nothing",
    ):
        for method in ("GET", "PUT", "POST"):
            answer = await s.request(method, target, None if method == "GET" else {})
            expect(
                answer.status == 404 and answer.errcode == "M_UNRECOGNIZED",
                f"{method} {target}: {answer.status} {answer.errcode} instead of 404 M_UNRECOGNIZED",
            )


@case("unknown-endpoints/405")
async def wrong_methods(s: Stage) -> None:
    """Every endpoint with another method is answered with 405 M_UNRECOGNIZED."""
    wrong = []
    for method, target in endpoints(s):
        others = {"GET", "PUT", "POST", "DELETE"} - {method}
        for other in sorted(others):
            answer = await s.request(other, target, None if other in ("GET", "DELETE") else {})
            if (answer.status, answer.errcode) != (405, "M_UNRECOGNIZED"):
                wrong.append(f"{other} {target.partition('?')[0]}: {answer.status} {answer.errcode}")
    expect(not wrong, "; ".join(wrong))


async def _bodies(s: Stage, body: bytes, status: int, errcode: str) -> None:
    wrong = []
    for method, target in endpoints(s):
        if method == "GET":
            continue
        answer = await s.request(method, target, {}, body=body)
        # Where authentication comes first, a body that cannot be signed is not authenticated either.
        if (answer.status, answer.errcode) not in ((status, errcode), (401, "M_FORBIDDEN")):
            wrong.append(f"{method} {target}: {answer.status} {answer.errcode}")
    expect(not wrong, f"{body[:40]!r} is not answered with {status} {errcode}: " + "; ".join(wrong))


@case("malformed-requests/not-json", "requests-responses/body-is-an-object")
async def bodies_that_are_not_json(s: Stage) -> None:
    """A body that is not JSON, or no body at all, is answered with 400 M_NOT_JSON."""
    for body in (b"", b"not json", b"{", b'{"pdus": [}', b'{"a": NaN}', b"{'a': 1}"):
        await _bodies(s, body, 400, "M_NOT_JSON")


@case("requests-responses/utf-8")
async def bodies_that_are_not_utf8(s: Stage) -> None:
    """JSON in UTF-16 or Latin-1 is not JSON."""
    text = '{"pdus": [], "name": "Grüße"}'
    for encoding in ("utf-16", "latin-1"):
        await _bodies(s, text.encode(encoding), 400, "M_NOT_JSON")


@case("malformed-requests/bad-json")
async def bodies_that_are_malformed(s: Stage) -> None:
    """JSON that is no object, or lacks what is required, or has it of another type: 400 M_BAD_JSON."""
    wrong = []
    for method, target in endpoints(s):
        if method == "GET":
            continue
        bodies: tuple[object, ...] = ({}, [], "text", 1, None)
        for content in bodies:
            body = canonical(content)
            answer = await s.request(method, target, content, body=body)
            # What is not an object cannot be the content of what is signed: 401 is as good.
            allowed = {(400, "M_BAD_JSON")} | (set() if content == {} else {(401, "M_FORBIDDEN")})
            if (answer.status, answer.errcode) not in allowed:
                wrong.append(f"{method} {target} {body!r}: {answer.status} {answer.errcode}")
    transactions: tuple[object, ...] = (
        {"pdus": {}},
        {"pdus": None},
        {"pdus": [1]},
        {"pdus": [], "edus": {}},
        {"pdus": [], "edus": ["x"]},
    )
    for content in transactions:
        answer = await s.request("PUT", s.endpoint("send", s.transaction_id()), content)
        if (answer.status, answer.errcode) != (400, "M_BAD_JSON"):
            wrong.append(f"send {content}: {answer.status} {answer.errcode}")
    expect(not wrong, "not answered with 400 M_BAD_JSON: " + "; ".join(wrong))


@case("rate-limiting/429", "rate-limiting/limits", "rate-limiting/retry-after-ms", seconds=120)
async def rate_limits(s: Stage) -> None:
    """Very many requests at once are not all answered: some get 429 M_LIMIT_EXCEEDED, and are told how long to wait."""
    if not s.suite.target.hammer:
        raise NotTested("it needs very many requests (--hammer N)")
    peer, asked = s.fresh("hammer"), s.endpoint("event", NOBODYS)
    for _ in range(s.suite.target.hammer):
        answer = await s.get(asked, peer=peer)
        if answer.status == 429:
            break
    else:
        raise NotApplicable(f"{s.suite.target.hammer} requests did not reach a limit")
    limited = expect_answer(answer, 429, "M_LIMIT_EXCEEDED")
    wait = limited.get("retry_after_ms")
    expect(wait is None or type(wait) is int, f"retry_after_ms is {wait!r}")


@case("requests-responses/content-type-of-answers", last=True)
async def content_type_of_all_answers(s: Stage) -> None:
    """All answers of this run had the Content-Type application/json."""
    _none(s, "content type")


@case("requests-responses/utf-8", last=True)
async def all_answers_are_utf8(s: Stage) -> None:
    """All answers of this run were UTF-8."""
    _none(s, "UTF-8")


@case("errors/error-object", last=True)
async def all_errors_are_objects(s: Stage) -> None:
    """All errors of this run were objects with an errcode and, if at all, words."""
    _none(s, "error object")


@case("errors/not-json-is-400", "errors/bad-json-is-400", last=True)
async def statuses_of_errcodes(s: Stage) -> None:
    """Wherever M_NOT_JSON or M_BAD_JSON came, it came with 400."""
    _none(s, "not JSON")
    _none(s, "bad JSON")


@case("errors/most-appropriate", last=True)
async def no_internal_errors(s: Stage) -> None:
    """Nothing in this run made the target answer that it had failed itself; the other cases look at each error."""
    _none(s, "500")


def _none(s: Stage, kind: str) -> None:
    if not s.suite.transcript.answered:
        raise NotTested("nothing was asked")
    odd = s.suite.transcript.oddities(kind)
    expect(not odd, f"{len(odd)} of {s.suite.transcript.answered} answers: " + "; ".join(odd[:5]))

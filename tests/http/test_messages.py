"""Requests and answers as values."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers

from lmatrix.errors import BadRequest, NotJson, UnsafeJson
from lmatrix.http.messages import MAX_QUERY_FIELDS, JsonAnswer, JsonRequest, parse_query, split_target


def _request(
    body: bytes = b"", query: dict[str, list[str]] | None = None, headers: Headers | None = None
) -> JsonRequest:
    return JsonRequest(method="PUT", raw_uri=b"/", body=body, query=query or {}, headers=headers or Headers())


class BodyTests(SynchronousTestCase):
    """The I-D's "Malformed Requests"."""

    def test_an_object_is_read(self) -> None:
        """A body that is a JSON object comes back as a dictionary, whatever its Content-Type."""
        self.assertEqual(_request(b'{"a": [1]}').json(), {"a": [1]})

    def test_not_json_is_told_apart(self) -> None:
        """Bytes that are no JSON, nothing at all among them, are NotJson."""
        for body in (b"", b"{", b"a=b", b"\xff"):
            self.assertRaises(NotJson, _request(body).json)

    def test_json_of_another_kind_is_a_bad_request(self) -> None:
        """JSON that is no object is JSON all the same."""
        self.assertRaises(BadRequest, _request(b"[]").json)

    def test_unsafe_json_is_refused(self) -> None:
        """What does not survive canonicalisation is refused."""
        self.assertRaises(UnsafeJson, _request(b'{"a":1,"a":2}').json)

    def test_no_body_can_stand_for_an_empty_object(self) -> None:
        """Only json_or_empty takes nothing for {}; other bodies are read as ever."""
        self.assertEqual(_request(b"").json_or_empty(), {})
        self.assertEqual(_request(b'{"a":1}').json_or_empty(), {"a": 1})
        self.assertRaises(NotJson, _request(b"x").json_or_empty)


class FieldTests(SynchronousTestCase):
    """Headers and query values."""

    def test_header_values_keep_their_order(self) -> None:
        """Several Authorization fields all come back, first to last."""
        headers = Headers({"Authorization": ["X-Matrix a", "X-Matrix b"]})
        request = _request(headers=headers)
        self.assertEqual(request.header_values("authorization"), ["X-Matrix a", "X-Matrix b"])
        self.assertEqual(request.header("Authorization"), "X-Matrix a")
        self.assertIsNone(request.header("Cookie"))

    def test_a_single_query_value(self) -> None:
        """query_one takes one value or none, and refuses several."""
        request = _request(query={"a": ["1"], "b": ["1", "2"]})
        self.assertEqual(request.query_one("a"), "1")
        self.assertIsNone(request.query_one("c"))
        self.assertRaises(BadRequest, request.query_one, "b")

    def test_an_integer_query_value(self) -> None:
        """query_int has a default, a floor that is an error, and a ceiling that is not."""
        request = _request(query={"a": ["7"], "big": ["5000"], "low": ["-1"], "word": ["x"], "huge": ["9" * 5000]})

        def read(name: str) -> int:
            return request.query_int(name, 10, minimum=0, maximum=100)

        self.assertEqual((read("a"), read("none"), read("big")), (7, 10, 100))
        for name in ("low", "word", "huge"):
            self.assertRaises(BadRequest, read, name)

    def test_only_the_origin_can_be_set_later(self) -> None:
        """Whoever authenticates a request notes its origin; what came over the wire stays as it came."""
        request = _request()
        request.origin = "a.example"
        self.assertEqual(request.origin, "a.example")
        with self.assertRaises(AttributeError):
            request.raw_uri = b"/other"  # type: ignore[misc]


class TargetTests(SynchronousTestCase):
    """Taking a request target apart."""

    def test_segments_are_decoded_one_by_one(self) -> None:
        """A percent-encoded slash is a part of its segment, and plus signs mean themselves."""
        self.assertEqual(split_target(b"/a/b%2Fc/%21d:x/1+1?q=/"), (["a", "b/c", "!d:x", "1+1"], b"q=/"))

    def test_stray_slashes_show(self) -> None:
        """A trailing or double slash is an empty segment, which no parameter matches."""
        self.assertEqual(split_target(b"/a//b/")[0], ["a", "", "b", ""])

    def test_a_target_that_is_no_path(self) -> None:
        """OPTIONS * and absolute targets are no paths."""
        self.assertEqual(split_target(b"*"), (None, b""))

    def test_segments_must_be_utf8(self) -> None:
        """A path that is not UTF-8 is malformed."""
        self.assertRaises(BadRequest, split_target, b"/a/%ff")

    def test_query_values_keep_their_order(self) -> None:
        """Keys may repeat, values may be missing."""
        self.assertEqual(
            parse_query(b"ver=I.1&x=a%20b+c&ver=2&flag"), {"ver": ["I.1", "2"], "x": ["a b c"], "flag": [""]}
        )

    def test_a_query_is_bounded_and_utf8(self) -> None:
        """Too many fields, or bytes that are no text, are malformed."""
        for raw in (b"&".join([b"a=1"] * (MAX_QUERY_FIELDS + 1)), b"a=%ff", b"a=\xff"):
            self.assertRaises(BadRequest, parse_query, raw)


class AnswerTests(SynchronousTestCase):
    """Encoding answers."""

    def test_objects_are_encoded_and_bytes_are_left_alone(self) -> None:
        """An object goes out as canonical JSON; bytes go out as they are."""
        self.assertEqual(JsonAnswer(200, {"b": 1, "a": "é"}).encoded(), '{"a":"é","b":1}'.encode())
        self.assertEqual(JsonAnswer(200, b'{"b" :1}').encoded(), b'{"b" :1}')

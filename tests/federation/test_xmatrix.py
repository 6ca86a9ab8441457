"""The ``X-Matrix`` scheme: its grammar, and the bytes that are signed."""

from __future__ import annotations

import string

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from lmatrix import canonical_json
from lmatrix.errors import Unauthenticated
from lmatrix.federation.xmatrix import (
    XMatrix,
    format_authorization,
    parse_authorization,
    request_signing_bytes,
    signed_request_object,
)

EXPECTED = XMatrix("a.example", "b.example", "ed25519:1", "c2ln")

WELL_FORMED = {
    "as we send it": 'X-Matrix origin="a.example",destination="b.example",key="ed25519:1",sig="c2ln"',
    "another order": 'X-Matrix sig="c2ln",key="ed25519:1",destination="b.example",origin="a.example"',
    "signature instead of sig": 'X-Matrix origin="a.example",destination="b.example",key="ed25519:1",signature="c2ln"',
    "both, alike": 'X-Matrix origin="a.example",destination="b.example",key="ed25519:1",sig="c2ln",signature="c2ln"',
    "unquoted tokens": 'X-Matrix origin=a.example,destination=b.example,key="ed25519:1",sig=c2ln',
    "an unquoted colon, as old servers do": "X-Matrix origin=a.example,destination=b.example,key=ed25519:1,sig=c2ln",
    "names in capitals": 'X-Matrix ORIGIN="a.example",Destination="b.example",KEY="ed25519:1",Sig="c2ln"',
    "the scheme in small letters": 'x-matrix origin="a.example",destination="b.example",key="ed25519:1",sig="c2ln"',
    "many spaces": 'X-Matrix   origin = "a.example" ,\tdestination="b.example" , key= "ed25519:1",sig ="c2ln"  ',
    "empty list elements": 'X-Matrix ,,origin="a.example",, destination="b.example", ,key="ed25519:1",sig="c2ln",',
    "escaped characters": r'X-Matrix origin="\a.example",destination="b\.example",key="ed25519\:1",sig="c2\ln"',
    "an unknown parameter": 'X-Matrix v=2,origin="a.example",destination="b.example",key="ed25519:1",sig="c2ln"',
    "an unknown parameter that looks like others": (
        'X-Matrix x="origin=\\"z\\",sig=z, key",origin="a.example",destination="b.example",key="ed25519:1",sig="c2ln"'
    ),
}

MALFORMED = {
    "nothing": "",
    "white space": "   ",
    "another scheme": "Bearer abcdef",
    "a scheme that begins alike": 'X-Matrixes origin="a.example",destination="b.example",key="ed25519:1",sig="c2ln"',
    "the scheme alone": "X-Matrix",
    "no space after the scheme": 'X-Matrix,origin="a.example",destination="b.example",key="ed25519:1",sig="c2ln"',
    "no scheme": 'origin="a.example",destination="b.example",key="ed25519:1",sig="c2ln"',
    "no origin": 'X-Matrix destination="b.example",key="ed25519:1",sig="c2ln"',
    "no destination": 'X-Matrix origin="a.example",key="ed25519:1",sig="c2ln"',
    "no key": 'X-Matrix origin="a.example",destination="b.example",sig="c2ln"',
    "no signature": 'X-Matrix origin="a.example",destination="b.example",key="ed25519:1"',
    "an empty origin": 'X-Matrix origin="",destination="b.example",key="ed25519:1",sig="c2ln"',
    "an empty signature": 'X-Matrix origin="a.example",destination="b.example",key="ed25519:1",sig=""',
    "two different signatures": (
        'X-Matrix origin="a.example",destination="b.example",key="ed25519:1",sig="c2ln",signature="b3Ro"'
    ),
    "a parameter twice": 'X-Matrix origin="a.example",origin="z",destination="b.example",key="ed25519:1",sig="c2ln"',
    "a parameter twice, in capitals": (
        'X-Matrix origin="a.example",ORIGIN="z",destination="b.example",key="ed25519:1",sig="c2ln"'
    ),
    "an unclosed quotation mark": 'X-Matrix origin="a.example",destination="b.example",key="ed25519:1",sig="c2ln',
    "an escape at the end": 'X-Matrix origin="a.example",destination="b.example",key="ed25519:1",sig="c2ln\\"',
    "an unquoted slash": 'X-Matrix origin=a.example,destination=b.example,key="ed25519:1",sig=c2/n',
    "a missing comma": 'X-Matrix origin="a.example" destination="b.example",key="ed25519:1",sig="c2ln"',
    "semicolons": 'X-Matrix origin="a.example";destination="b.example";key="ed25519:1";sig="c2ln"',
    "no value": 'X-Matrix origin=,destination="b.example",key="ed25519:1",sig="c2ln"',
    "no equals sign": 'X-Matrix origin,destination="b.example",key="ed25519:1",sig="c2ln"',
    "a token68": "X-Matrix YWJjZGVm==",
    "a control character": 'X-Matrix origin="a.\x01example",destination="b.example",key="ed25519:1",sig="c2ln"',
    "beyond ASCII": 'X-Matrix origin="a.\xe9xample",destination="b.example",key="ed25519:1",sig="c2ln"',
    "a line break": 'X-Matrix origin="a.example",destination="b.example",key="ed25519:1",sig="c2ln"\n',
    "another header in the same line": (
        'X-Matrix origin="a.example",destination="b.example",key="ed25519:1",sig="c2ln", '
        'X-Matrix origin="a.example",destination="b.example",key="ed25519:2",sig="c2ln"'
    ),
    "rubbish behind": 'X-Matrix origin="a.example",destination="b.example",key="ed25519:1",sig="c2ln" rubbish',
    "too long": 'X-Matrix origin="a.example",destination="b.example",key="ed25519:1",sig="' + "a" * 5000 + '"',
}


class ParseTests(SynchronousTestCase):
    """Reading a header."""

    def test_well_formed(self) -> None:
        """Every spelling that the grammar allows gives the same parameters."""
        for what, header in WELL_FORMED.items():
            self.assertEqual(parse_authorization(header), EXPECTED, what)

    def test_malformed(self) -> None:
        """Everything else is refused, and the refusal is that of an unauthenticated request."""
        for what, header in MALFORMED.items():
            with self.subTest(what):
                self.assertRaises(Unauthenticated, parse_authorization, header)

    def test_quoted_values_may_hold_anything_printable(self) -> None:
        """Commas, equals signs and escaped quotation marks in a value separate nothing."""
        header = r'X-Matrix origin="a, sig=\"b\"",destination="=,=",key="k\\",sig="s"'
        self.assertEqual(parse_authorization(header), XMatrix('a, sig="b"', "=,=", "k\\", "s"))

    @given(st.lists(st.text(string.printable[:95], min_size=1, max_size=40), min_size=4, max_size=4))
    def test_formatted_headers_parse_back(self, values: list[str]) -> None:
        """Whatever is printable survives being written and read."""
        authorization = XMatrix(*values)
        self.assertEqual(parse_authorization(format_authorization(authorization)), authorization)

    @given(st.text(max_size=300))
    def test_never_fails_otherwise(self, text: str) -> None:
        """No text whatever makes the parser fail in another way than by refusing."""
        for header in (text, "X-Matrix " + text):
            try:
                parse_authorization(header)
            except Unauthenticated:
                continue


class SigningBytesTests(SynchronousTestCase):
    """What is signed."""

    def test_example(self) -> None:
        """The I-D's object, in RFC 8785's order of keys."""
        self.assertEqual(
            request_signing_bytes("PUT", "/path?with_qs=true", "a.example", "b.example", b'{"x":1}'),
            b'{"content":{"x":1},"destination":"b.example","method":"PUT","origin":"a.example",'
            b'"uri":"/path?with_qs=true"}',
        )

    def test_without_content(self) -> None:
        """Matrix's form for a request without a body has no ``content``; the I-D's has an empty one."""
        self.assertEqual(
            request_signing_bytes("GET", "/p", "a", "b", None),
            b'{"destination":"b","method":"GET","origin":"a","uri":"/p"}',
        )
        self.assertEqual(signed_request_object("GET", "/p", "a", "b", {})["content"], {})
        self.assertNotIn("content", signed_request_object("GET", "/p", "a", "b", None))

    @given(
        method=st.sampled_from(["GET", "PUT", "POST"]),
        uri=st.text(max_size=50),
        origin=st.text(max_size=20),
        destination=st.text(max_size=20),
        content=st.none()
        | st.dictionaries(st.text(max_size=5), st.integers(-100, 100) | st.text(max_size=5), max_size=4),
    )
    def test_splicing_is_encoding(
        self, method: str, uri: str, origin: str, destination: str, content: dict[str, object] | None
    ) -> None:
        """Putting in a body that is canonical already gives what encoding the whole object gives."""
        canonical = None if content is None else canonical_json.encode(content)
        self.assertEqual(
            request_signing_bytes(method, uri, origin, destination, canonical),
            canonical_json.encode(signed_request_object(method, uri, origin, destination, content)),
        )

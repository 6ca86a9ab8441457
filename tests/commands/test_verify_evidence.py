"""``lmatrix verify-evidence``: which keys it believes. What it proves with them is judged in tests/rooms."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from lmatrix.commands.verify_evidence import believed, compared
from lmatrix.crypto.keys import SigningKey
from lmatrix.errors import PeerUnreachable
from lmatrix.events.signatures import KnownKey

ONE, TWO = (SigningKey.generate(version, version.encode() * 32) for version in ("1", "2"))
OTHER = SigningKey.generate("1", b"x" * 32)


def known(*keys: SigningKey) -> dict[str, KnownKey]:
    return {key.key_id: KnownKey(key.key_id, key.public) for key in keys}


class Keys(SynchronousTestCase):
    def test_in_words(self) -> None:
        """Of each key in the file it says whether the server publishes it, another one, or none."""
        in_file = known(ONE, TWO)
        words = compared("hub.example", in_file, known(OTHER))
        self.assertIn("ed25519:1 is ANOTHER key than the one in the file", words)
        self.assertIn("ed25519:2 is not published any more", words)
        self.assertIn("ed25519:1 is as in the file", compared("hub.example", in_file, known(ONE)))
        words = compared("hub.example", in_file, PeerUnreachable("hub.example", "no answer"))
        self.assertIn("hub.example was not reached", words)

    def test_believed(self) -> None:
        """A server that answers is believed, and the file about it no more; for a server that does not, the file is."""
        in_file = {"a.example": known(ONE, TWO), "b.example": known(ONE)}
        found = believed(in_file, {"a.example": known(ONE), "b.example": PeerUnreachable("b.example", "no answer")})
        self.assertEqual({"a.example": known(ONE), "b.example": known(ONE)}, found)

"""The token for the admin API, and the file that holds it.

Owns: :func:`read_admin_token` and :func:`write_new_admin_token`. The file has the token in one line, and nothing else;
the server and the commands that talk to it read the same file. Invariant: no error repeats what the file holds.
"""

from __future__ import annotations

import base64
import random
from pathlib import Path

from lmatrix.crypto.private_file import PrivateFileError, read_private, write_private

_TOKEN_BYTES = 32
_LEAST_CHARACTERS = 20
_MAX_BYTES = 1024


def read_admin_token(path: Path) -> str:
    """The token.

    Raises:
        PrivateFileError: others than its owner have access to the file, or there is no good token in it.
        OSError: it cannot be read.
    """
    data = read_private(path, _MAX_BYTES)
    try:
        token = data.decode("ascii").strip()
    except UnicodeDecodeError:
        raise PrivateFileError(path, "not text; is it the file with the token?") from None
    if len(token.split()) != 1 or not token.isprintable():
        raise PrivateFileError(path, "a token is one word, in one line")
    if len(token) < _LEAST_CHARACTERS:
        raise PrivateFileError(path, f"the token is too short: at least {_LEAST_CHARACTERS} characters are needed")
    return token


def write_new_admin_token(path: Path, rng: random.Random) -> None:
    """Make a token and write it to a new file, which only its owner can read.

    Args:
        rng: where the token comes from: the operating system's randomness, but in tests.

    Raises:
        FileExistsError: there is such a file.
        OSError: it cannot be written.
    """
    token = base64.urlsafe_b64encode(rng.randbytes(_TOKEN_BYTES)).rstrip(b"=").decode("ascii")
    write_private(path, f"lmadmin_{token}\n")

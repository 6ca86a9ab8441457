"""The grammar of identifiers (I-D "Server Names", "Rooms", "Room Versions", "Users", "Devices", "Events", "Signing").

Owns: one checking function for each kind of identifier, and the few ways of taking a checked one apart. A checking
function takes anything and returns the same string, or raises :class:`~lmatrix.errors.InvalidIdentifier`.

Identifiers are compared byte for byte: nothing here changes case, and two server names which differ in case only are
two servers. Limits count bytes; every identifier is ASCII, so bytes are characters once the grammar has been checked.
The one exception is the room alias, which the I-D leaves to Matrix (specification v1.11, appendix "Room Aliases"): its
localpart has whatever characters people write with.

Two points go beyond the letter of the I-D:

* IP literals match :func:`server_name`. Whether one may be *used* is the configuration's matter, asked with
  :func:`is_ip_literal`.
* the I-D's grammar for room versions has no capital letter, while its own version is called ``I.1``: the prefix ``I.``
  is allowed besides.
"""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv6Address

from lmatrix.errors import InvalidIdentifier

MAX_ID_BYTES = 255
"""Longest user ID, room ID, room alias, event ID, device ID or key ID."""

MAX_ROOM_VERSION_BYTES = 128
MAX_HOSTNAME_BYTES = 255

# RFC 1123 section 2.1: labels of letters, digits and inner hyphens, up to 63 each. The groups are what the pattern does
# not decide: the form of an IPv6 address, and the range of a port.
_LABEL = r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)"
_SERVER_NAME = rf"(?:{_LABEL}(?:\.{_LABEL})*|(\[[0-9A-Fa-f:.]{{2,45}}\]))(?::([0-9]{{1,5}}))?"

_server_name = re.compile(_SERVER_NAME).fullmatch
_user_id = re.compile(rf"@[0-9a-z._=/+-]+:{_SERVER_NAME}").fullmatch
_room_id = re.compile(rf"![0-9A-Za-z._~-]+:{_SERVER_NAME}").fullmatch
_room_alias = re.compile(rf"#[^:\x00\ud800-\udfff]+:{_SERVER_NAME}").fullmatch
_event_id = re.compile(r"\$[0-9A-Za-z_-]+").fullmatch
_room_version_id = re.compile(r"(?:I\.)?[0-9a-z.-]+").fullmatch
_device_id = re.compile(r"[0-9A-Za-z_]+").fullmatch
_key_id = re.compile(r"ed25519:[0-9A-Za-z_]+").fullmatch

# A host whose last label is a number (decimal or hexadecimal) is read as an IPv4 address by resolvers: 127.0.0.1, but
# 127.1, 0x7f.1 and 2130706433 as well.
_ends_in_number = re.compile(r"(?:.*\.)?(?:[0-9]+|0[xX][0-9A-Fa-f]*)").fullmatch


def server_name(value: object) -> str:
    """Check a server name: a host name (RFC 1123) or an IP literal, with or without a port.

    Raises:
        InvalidIdentifier: anything else.
    """
    match = _server_name(value) if isinstance(value, str) else None
    if match is None:
        raise _invalid("server name", value, "expected a host name, optionally with a port")
    _check_server_parts("server name", match)
    if len(match[0]) > MAX_HOSTNAME_BYTES and len(split_host_port(match[0])[0]) > MAX_HOSTNAME_BYTES:
        raise _invalid("server name", value, f"a host name has at most {MAX_HOSTNAME_BYTES} bytes")
    return match[0]


def user_id(value: object) -> str:
    """Check a user ID, ``@localpart:server``.

    Raises:
        InvalidIdentifier: anything else.
    """
    match = _user_id(value) if isinstance(value, str) else None
    if match is None:
        raise _invalid("user ID", value, "expected @localpart:server, the localpart of a-z, 0-9 and any of -.=_/+")
    _check_server_parts("user ID", match)
    return _short("user ID", match[0])


def room_id(value: object) -> str:
    """Check a room ID, ``!localpart:server``.

    Raises:
        InvalidIdentifier: anything else.
    """
    match = _room_id(value) if isinstance(value, str) else None
    if match is None:
        raise _invalid("room ID", value, "expected !localpart:server, the localpart of A-Z, a-z, 0-9 and any of -.~_")
    _check_server_parts("room ID", match)
    return _short("room ID", match[0])


def room_alias(value: object) -> str:
    """Check a room alias, ``#localpart:server``.

    Raises:
        InvalidIdentifier: anything else.
    """
    match = _room_alias(value) if isinstance(value, str) else None
    if match is None:
        raise _invalid("room alias", value, "expected #localpart:server, the localpart without colons")
    _check_server_parts("room alias", match)
    size = len(match[0].encode())
    if size > MAX_ID_BYTES:
        raise _invalid("room alias", match[0], f"{size} bytes; {MAX_ID_BYTES} are allowed")
    return match[0]


def event_id(value: object) -> str:
    """Check an event ID, ``$`` and URL-safe unpadded base64.

    Raises:
        InvalidIdentifier: anything else.
    """
    if not isinstance(value, str) or _event_id(value) is None:
        raise _invalid("event ID", value, "expected $ and URL-safe unpadded base64")
    return _short("event ID", value)


def room_version_id(value: object) -> str:
    """Check a room version's identifier: up to 128 of ``a``–``z``, digits, ``-`` and ``.``, after an optional ``I.``.

    Raises:
        InvalidIdentifier: anything else.
    """
    if not isinstance(value, str) or _room_version_id(value) is None:
        raise _invalid("room version", value, "expected a-z, 0-9, - and . (after I. at most)")
    return _short("room version", value, MAX_ROOM_VERSION_BYTES)


def device_id(value: object) -> str:
    """Check a device ID: letters, digits and ``_``.

    Raises:
        InvalidIdentifier: anything else.
    """
    if not isinstance(value, str) or _device_id(value) is None:
        raise _invalid("device ID", value, "expected letters, digits and _")
    return _short("device ID", value)


def key_id(value: object) -> str:
    """Check a signing key's ID, ``ed25519:`` and a version of letters, digits and ``_``.

    Raises:
        InvalidIdentifier: anything else, other algorithms too.
    """
    if not isinstance(value, str) or _key_id(value) is None:
        raise _invalid("key ID", value, "expected ed25519: and letters, digits and _")
    return _short("key ID", value)


def is_key_id(text: str) -> bool:
    """Whether a text is a signing key's ID; see :func:`key_id`."""
    return _key_id(text) is not None and len(text) <= MAX_ID_BYTES


def server_of(user_or_room_id: str) -> str:
    """The server name in a user ID, room ID or room alias that has been checked.

    Raises:
        InvalidIdentifier: there is none in it.
    """
    _, colon, server = user_or_room_id.partition(":")
    if not colon:
        raise _invalid("user ID or room ID", user_or_room_id, "it names no server")
    return server


def localpart_of(user_id: str) -> str:
    """The localpart, without the sigil, of a user ID that has been checked.

    Raises:
        InvalidIdentifier: it has none.
    """
    localpart, colon, _ = user_id.partition(":")
    if not colon or not localpart.startswith("@"):
        raise _invalid("user ID", user_id, "it has no localpart")
    return localpart[1:]


def split_host_port(server_name: str) -> tuple[str, int | None]:
    """Host and port of a server name that has been checked; the port is ``None`` when it names none.

    An IPv6 literal comes without its brackets.
    """
    if server_name.startswith("["):
        host, _, rest = server_name[1:].partition("]")
        port = rest[1:]
    else:
        host, _, port = server_name.partition(":")
    return host, int(port) if port else None


def is_ip_literal(server_name: str) -> bool:
    """Whether a checked server name's host is an IP address, or something that resolvers take for one (``127.1``)."""
    host, _ = split_host_port(server_name)
    return ":" in host or _ends_in_number(host) is not None


def _check_server_parts(kind: str, match: re.Match[str]) -> None:
    """What the pattern of a server name leaves open: the form of an IPv6 address, the range of a port."""
    if match.lastindex is None:
        return
    literal, port = match.groups()
    if literal is not None:
        try:
            IPv6Address(literal[1:-1])
        except AddressValueError:
            raise _invalid(kind, match[0], "not an IPv6 address in the brackets") from None
    if port is not None and not 1 <= int(port) <= 65535:
        raise _invalid(kind, match[0], "the port must lie between 1 and 65535")


def _short(kind: str, value: str, limit: int = MAX_ID_BYTES) -> str:
    if len(value) > limit:
        raise _invalid(kind, value, f"{len(value)} bytes; {limit} are allowed")
    return value


def _invalid(kind: str, value: object, reason: str) -> InvalidIdentifier:
    if not isinstance(value, str):
        reason = "not a string"
    return InvalidIdentifier(kind, value, reason)

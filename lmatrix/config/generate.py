"""Writing a new server's configuration file, and the keys and the token that it names.

Invariant: nothing that exists is overwritten. An existing signing key (or certificate, or admin token) is kept and
used; an existing configuration file is an error.
"""

from __future__ import annotations

import datetime
import os
import random
from pathlib import Path

import attrs

from lmatrix import ids
from lmatrix.config.admin_token import write_new_admin_token
from lmatrix.config.template import Choices, render
from lmatrix.crypto.key_file import new_key_version, read_signing_keys, write_new_signing_key
from lmatrix.errors import InvalidIdentifier, LMatrixError
from lmatrix.http.tls import write_self_signed

DEFAULT_FEDERATION_PORT = 8448


@attrs.frozen(slots=True)
class Generated:
    """What :func:`generate` wrote, or found and kept."""

    output: Path
    database_path: Path
    signing_key_id: str
    notes: tuple[str, ...]


def generate(
    *,
    server_name: str,
    output: Path,
    data_dir: Path | None,
    federation_port: int | None,
    client_port: int,
    tls: bool,
    development: bool,
    rng: random.Random,
    now: datetime.datetime,
) -> Generated:
    """Write a configuration file, a signing key, an admin token and, for development with TLS, a certificate.

    Args:
        data_dir: made if it does not exist; ``None`` for the directory of ``output``.
        federation_port: ``None`` for the one in ``server_name``, or the usual one.
        rng: where the secrets come from: the operating system's randomness, but in tests.
        now: with a time zone; for the certificate.

    Raises:
        LMatrixError: the name is not a server name, the file exists, or something cannot be written.
    """
    try:
        ids.server_name(server_name)
    except InvalidIdentifier as error:
        raise LMatrixError(f"--server-name: {error}") from error
    if ids.is_ip_literal(server_name) and not development:
        raise LMatrixError("--server-name: a server may be named by an IP address in development only")
    output = output.absolute()
    directory = (data_dir or output.parent).absolute()
    choices = Choices(
        server_name=server_name,
        data_dir=directory,
        federation_port=federation_port or ids.split_host_port(server_name)[1] or DEFAULT_FEDERATION_PORT,
        client_port=client_port,
        tls=tls,
        development=development,
    )
    if output.exists():
        raise LMatrixError(f"{output} exists already; it is not overwritten")
    notes: list[str] = []
    try:
        directory.mkdir(parents=True, exist_ok=True)
        output.parent.mkdir(parents=True, exist_ok=True)
        key_id = _signing_key(choices, rng, notes)
        _admin_token(choices, rng, notes)
        if tls:
            _certificate(choices, now, notes)
        _write_new(output, render(choices))
    except OSError as error:
        raise LMatrixError(f"{error.filename or output}: {error.strerror}") from error
    return Generated(output, choices.database_path, key_id, tuple(notes))


def _signing_key(choices: Choices, rng: random.Random, notes: list[str]) -> str:
    path = choices.signing_key_path
    if path.exists():
        notes.append(f"kept the signing key in {path}")
        return read_signing_keys(path)[0].key_id
    key = write_new_signing_key(path, new_key_version(rng), rng)
    notes.append(f"wrote {path} (keep a copy in a safe place)")
    return key.key_id


def _admin_token(choices: Choices, rng: random.Random, notes: list[str]) -> None:
    path = choices.admin_token_path
    if path.exists():
        notes.append(f"kept the admin token in {path}")
        return
    write_new_admin_token(path, rng)
    notes.append(f"wrote {path} (whoever can read it can administer the server)")


def _certificate(choices: Choices, now: datetime.datetime, notes: list[str]) -> None:
    there = choices.certificate_path.exists() and choices.private_key_path.exists()
    if there:
        notes.append(f"kept the certificate in {choices.certificate_path}")
    elif choices.development:
        host, _ = ids.split_host_port(choices.server_name)
        names = list(dict.fromkeys((host.strip("[]"), "localhost", "127.0.0.1", "::1")))
        write_self_signed(choices.certificate_path, choices.private_key_path, names, now)
        notes.append(f"wrote {choices.certificate_path} (self-signed, for development only)")
    else:
        notes.append(f"put the TLS certificate in {choices.certificate_path}, its key in {choices.private_key_path}")


def _write_new(file: Path, content: str) -> None:
    # Not a secret, but it names every secret's place.
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640), "w", encoding="utf-8") as stream:
        stream.write(content)

"""Writing a new configuration file, with a comment for every setting.

Owns: the text of what ``lmatrix generate-config`` writes. Invariant: what is written here is read back by
:mod:`lmatrix.config.root` without a problem, and says in comments what each section's defaults are.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import attrs


@attrs.frozen(slots=True)
class Choices:
    """What is decided when a configuration is generated; everything else starts with its default.

    Attributes:
        server_name: who the server will be.
        data_dir: where key, certificate and database go.
        federation_port, client_port: TCP ports.
        tls: whether the federation listener speaks TLS itself.
        development: a server for one machine: loopback addresses, unverified certificates, open registration.
    """

    server_name: str
    data_dir: Path
    federation_port: int
    client_port: int
    tls: bool
    development: bool

    @property
    def file_stem(self) -> str:
        """The server name as part of a file name."""
        return re.sub(r"[^A-Za-z0-9.-]+", "_", self.server_name).strip("_")

    @property
    def signing_key_path(self) -> Path:
        return self.data_dir / f"{self.file_stem}.signing.key"

    @property
    def admin_token_path(self) -> Path:
        return self.data_dir / f"{self.file_stem}.admin.token"

    @property
    def certificate_path(self) -> Path:
        return self.data_dir / f"{self.file_stem}.tls.crt"

    @property
    def private_key_path(self) -> Path:
        return self.data_dir / f"{self.file_stem}.tls.key"

    @property
    def database_path(self) -> Path:
        return self.data_dir / f"{self.file_stem}.db"


def render(choices: Choices) -> str:
    """The text of a configuration file."""
    sections = [
        _head(choices),
        _listeners(choices),
        _database(choices),
        _federation(choices),
        _accounts(choices),
        _rate_limits(choices),
        _POLICIES,
        _LOGS,
    ]
    return "\n".join(sections)


def _quoted(value: object) -> str:
    # JSON's text is YAML's, too: every special character is safe between these quotes.
    return json.dumps(str(value), ensure_ascii=False)


def _flag(value: bool) -> str:
    return "true" if value else "false"


def _head(choices: Choices) -> str:
    return f"""\
# Configuration of an lmatrix server. Check it with:  lmatrix check-config THIS-FILE
#
# An unknown key is an error, so a typing mistake never goes unnoticed. Relative paths start at this file's directory.

# Who this server is. It is part of every user ID and every room ID, and of every event that this server has signed:
# it can never be changed. A name with a port ("chat.example.org:8449") makes other servers connect to exactly that
# port; a name without one is looked up (well-known, SRV record, port 8448).
server_name: {_quoted(choices.server_name)}

# The key with which this server signs its events and requests. The file must be readable by its owner only.
# Keep a copy in a safe place: who has it, can speak for this server.
signing_key_path: {_quoted(choices.signing_key_path)}

# Keys that signed once and no longer do. Others need them to check older events. `lmatrix rotate-key` changes the key
# and remembers the old one in a file beside the key (its name with .retired added); nothing has to be written here.
# It is the place for keys of a former installation: their PUBLIC part, and the time (ms since 1970) of their last use.
# old_signing_keys:
#   "ed25519:a_old1":
#     key: "base64 of the public key, as /_matrix/key/v2/server showed it"
#     expired_ts: 1700000000000
old_signing_keys: {{}}

# The token for the admin API, with which the commands `lmatrix rooms`, `transfer-hub`, `audit` and `destinations` ask
# the running server. The file must be readable by its owner only.
admin_token_path: {_quoted(choices.admin_token_path)}

# The room version of rooms whose creator names none.
# default_room_version: "I.1"
"""


def _listeners(choices: Choices) -> str:
    if choices.tls:
        tls = f"""\
    tls: true
    tls_certificate_path: {_quoted(choices.certificate_path)}
    tls_private_key_path: {_quoted(choices.private_key_path)}
    x_forwarded: false
"""
        public = '"127.0.0.1"' if choices.development else '"0.0.0.0"'
    else:
        tls = f"""\
    tls: false
    x_forwarded: {_flag(not choices.development)}
"""
        public = '"127.0.0.1"'
    return f"""\
# The ports this server opens. For each:
#   port                  TCP port
#   bind_addresses        local IP addresses; "0.0.0.0" is every IPv4 address, "::" every address
#   tls                   whether this port speaks TLS itself; if so, both files are needed:
#   tls_certificate_path  PEM: the certificate, then its chain
#   tls_private_key_path  PEM
#   x_forwarded           a reverse proxy stands before this port: believe its X-Forwarded-For header. Without TLS,
#                         federation is served only behind such a proxy, or on loopback addresses
#   max_connections       open connections at one time (2000 unless given)
#   resources             what is served here, any of:
#     federation            the server-server API
#     keys                  this server's public keys (other servers need them)
#     client                the Client-Server API, for this server's own users
#     health                /health, for load balancers
#     metrics               /metrics, for Prometheus. Not for the public
#     admin                 /_lmatrix/admin, for the operator: on loopback addresses, or with TLS
listeners:
  - port: {choices.federation_port}
    bind_addresses: [{public}]
{tls}    resources: [federation, keys]

  # Clients reach this port through a reverse proxy that adds TLS; pass on /_matrix/client and nothing else.
  - port: {choices.client_port}
    bind_addresses: ["127.0.0.1"]
    tls: false
    x_forwarded: {_flag(not choices.development)}
    resources: [client, health, metrics, admin]
"""


def _database(choices: Choices) -> str:
    return f"""\
# Where rooms, accounts and everything else are kept. SQLite writes two more files beside this one.
database:
  engine: sqlite
  path: {_quoted(choices.database_path)}
"""


def _federation(choices: Choices) -> str:
    loose = choices.development
    return f"""\
# How this server talks to others.
federation:
  # Check the TLS certificates of other servers. Never switch this off on the Internet.
  verify_certificates: {_flag(not loose)}

  # Accept servers whose name is an IP address.
  allow_ip_literals: {_flag(loose)}

  # Connect to private, loopback and link-local addresses. Where it is false, another server cannot make this one
  # send requests into your own network.
  allow_private_addresses: {_flag(loose)}

  # Become the hub of a room when its hub offers it: the hub leaves the room, or a user with the power to do so asks.
  # accept_hub_offers: true

  # Ranges of such addresses that are allowed all the same.
  # allowed_address_ranges: ["10.1.0.0/16"]

  # Servers that are believed about the keys of servers that do not answer. Name only servers that you trust: what they
  # say of a server that this one has never reached cannot be checked in any other way.
  # notaries: ["notary.example.org"]

  # The largest transaction that is taken, and how many requests are handled at one time.
  # limits:
  #   transaction_bytes: 10485760
  #   concurrent_requests: 512

  # The longest time between attempts at a server that keeps failing.
  # timeouts:
  #   longest_back_off_seconds: 3600

  # What is different about particular servers:
  #   plaintext                  speak plain HTTP to it (loopback and trusted networks only)
  #   concurrent_transactions    let its transactions wait in a queue, instead of refusing a second one in flight
  #   one_event_per_transaction  never send it several events at once
  # peers:
  #   "old.example.org:8008":
  #     plaintext: true
  #     concurrent_transactions: true
  #     one_event_per_transaction: true
"""


def _accounts(choices: Choices) -> str:
    return f"""\
# Whether anyone may make an account on this server.
registration:
  enabled: {_flag(choices.development)}
"""


def _rate_limits(choices: Choices) -> str:
    return f"""\
# How often one client or one server may ask: `burst` requests at once, and `per_second` in the long run.
rate_limits:
  enabled: {_flag(not choices.development)}
  # registration: {{per_second: 0.2, burst: 5}}    # by address
  # login: {{per_second: 0.2, burst: 10}}          # by address
  # client: {{per_second: 10, burst: 50}}          # by user
  # federation: {{per_second: 200, burst: 1000}}   # by server
  # notary: {{per_second: 2, burst: 200}}          # other servers' keys fetched on request, by address
"""


_POLICIES = """\
# What is not wanted here, beside what the rules of a room say; nothing unless you name it. Patterns are names in which
# * stands for anything and ? for one character. This section is read again on SIGHUP. See docs/policies.rst.
policies:
  # Rooms in which nobody of this server takes part. Users who are in one leave it, and requests about it are refused.
  # blocked_rooms:
  #   ids: ["!room:example.org"]
  #   servers: ["*.bad.example"]        # every room whose ID bears such a server name

  # Who may invite users of this server.
  # invites:
  #   blocked_servers: ["bad.example"]  # nobody of these servers, and nobody into a room whose hub is one of them
  #   blocked_users: ["@spam*:*"]
  #   allowed_servers: []               # if there are any: only users of these servers, and of this one
  #   only_from_shared_rooms: false     # only users of servers that share a room with this one already

  # Policies that others wrote: for each a class, and what it is to be told.
  # modules: [{module: "package.module.Class", config: {}}]
"""

_LOGS = """\
# What is logged. Levels: debug, info, warn, error, critical.
log_config:
  level: info

  # Other levels for parts of the program.
  # levels:
  #   lmatrix.federation: debug

  # Append to this file; without it, to standard output.
  # file: "lmatrix.log"

  # "text", or "json" for one JSON object a line.
  format: text
"""

"""The whole configuration: every section, and what must hold between them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import attrs

from lmatrix import ids
from lmatrix.config.accounts import RegistrationConfig, read_registration
from lmatrix.config.database import SqliteConfig, read_database
from lmatrix.config.federation import FederationConfig, federation_warnings, read_federation
from lmatrix.config.listeners import ListenerConfig, Resource, read_listeners
from lmatrix.config.logs import LogConfig, read_log_config
from lmatrix.config.policies import PoliciesConfig, read_policies
from lmatrix.config.rate_limits import RateLimitConfig, read_rate_limits
from lmatrix.config.reading import ConfigError, Problem, Section, checked_text, choice, path, read_document
from lmatrix.config.signing import OldKey, read_old_keys
from lmatrix.events.room_versions import DEFAULT_ROOM_VERSION, known_room_versions


@attrs.frozen(slots=True)
class Config:
    """Everything that an administrator decides. Frozen; read once at start-up and never written back.

    Attributes:
        server_name: who this server is, for ever.
        signing_key_path: file with the keys that sign.
        old_signing_keys: keys no longer used, by key ID.
        admin_token_path: file with the token for the admin API; ``None`` where that is not served.
        default_room_version: for rooms whose creator does not choose one.
        rate_limits: ``None`` when they are off.
        policies: which rooms are blocked, who may invite our users, and whose modules have a say.
    """

    server_name: str
    signing_key_path: Path
    old_signing_keys: Mapping[str, OldKey]
    admin_token_path: Path | None
    default_room_version: str
    listeners: tuple[ListenerConfig, ...]
    database: SqliteConfig
    federation: FederationConfig
    registration: RegistrationConfig
    rate_limits: RateLimitConfig | None
    policies: PoliciesConfig
    log_config: LogConfig

    def warnings(self) -> tuple[str, ...]:
        """What makes this server unfit for the open Internet, in words; empty for a strict configuration."""
        warnings = list(federation_warnings(self.federation))
        if self.registration.enabled:
            warnings.append("anyone may register an account (registration.enabled)")
        if self.rate_limits is None:
            warnings.append("rate limits are off (rate_limits.enabled)")
        for listener in self.listeners:
            exposed = not (listener.tls or listener.loopback_only or listener.x_forwarded)
            if exposed and Resource.CLIENT in listener.resources:
                warnings.append(f"passwords travel without TLS on {listener} (listeners)")
            if Resource.METRICS in listener.resources and not listener.loopback_only:
                warnings.append(f"metrics are open to everyone who reaches {listener} (listeners)")
        return tuple(warnings)


def _read_root(section: Section) -> Config:
    config = Config(
        server_name=section.required("server_name", checked_text(ids.server_name, "a server name")),
        signing_key_path=section.required("signing_key_path", path),
        old_signing_keys=read_old_keys(section),
        admin_token_path=section.optional("admin_token_path", None, path),
        default_room_version=section.optional(
            "default_room_version", DEFAULT_ROOM_VERSION, choice(*known_room_versions())
        ),
        listeners=read_listeners(section),
        database=section.subsection("database", read_database),
        federation=section.subsection("federation", read_federation),
        registration=section.subsection("registration", read_registration),
        rate_limits=section.subsection("rate_limits", read_rate_limits),
        policies=section.subsection("policies", read_policies),
        log_config=section.subsection("log_config", read_log_config),
    )
    if section.sound and ids.is_ip_literal(config.server_name) and not config.federation.allow_ip_literals:
        section.problem("server_name", "is an IP address, which only `federation.allow_ip_literals: true` allows")
    if section.sound and config.admin_token_path is None and _serves(config, Resource.ADMIN):
        section.problem("admin_token_path", "is missing, but a listener serves `admin`")
    if section.sound and config.server_name in config.federation.notaries:
        section.problem("federation", "names this server itself among its `notaries`")
    return config


def _serves(config: Config, resource: Resource) -> bool:
    return any(resource in listener.resources for listener in config.listeners)


def parse_config(content: str, file_name: str, directory: Path) -> Config:
    """Read a configuration from its text.

    Args:
        content: YAML.
        file_name: for messages.
        directory: base of relative paths.

    Raises:
        ConfigError: with every problem that was found.
    """
    return read_document(content, file_name, directory, _read_root)


def load_config(file: Path) -> Config:
    """Read a configuration file; its relative paths are relative to its own directory.

    Raises:
        ConfigError: if it cannot be read, or with every problem that was found.
    """
    try:
        content = file.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(str(file), [Problem(1, "", f"cannot be read: {error.strerror}")]) from error
    except UnicodeDecodeError as error:
        raise ConfigError(str(file), [Problem(1, "", "is not UTF-8 text")]) from error
    return parse_config(content, str(file), file.absolute().parent)

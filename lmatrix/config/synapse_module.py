"""The configuration of lmatrix inside of Synapse: what stands under ``config`` of the module in ``homeserver.yaml``.

Owns: :class:`ModuleConfig` and its reader. Synapse has parsed the YAML already and hands over a mapping, so that
problems name the key and what was expected there, but no line. Relative paths are relative to the directory in which
Synapse was started, like the paths in ``homeserver.yaml`` itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import yaml

from lmatrix.config.database import SqliteConfig, read_database
from lmatrix.config.federation import FederationConfig, federation_warnings, read_federation
from lmatrix.config.listeners import ListenerConfig, Resource, read_listeners
from lmatrix.config.rate_limits import RateLimitConfig, read_rate_limits
from lmatrix.config.reading import ConfigError, Section, path, read_document, text

DEFAULT_APPLICATION_SERVICE = "lmatrix"

_NAME = "the configuration of lmatrix"


@attrs.frozen(slots=True)
class ModuleConfig:
    """Everything that an administrator of Synapse decides about lmatrix.

    Attributes:
        application_service: ``id`` of the registration that reserves the ghosts' user IDs.
        listeners: ports of our own; by default none, for Synapse's own ports serve us too.
        worker_to_run_on: name of the Synapse worker that runs this; ``None``: the main process.
        admin_token_path: file with the token for the admin API; ``None`` where that is not served.
    """

    database: SqliteConfig
    application_service: str
    federation: FederationConfig
    rate_limits: RateLimitConfig | None
    listeners: tuple[ListenerConfig, ...]
    worker_to_run_on: str | None
    admin_token_path: Path | None

    def warnings(self) -> tuple[str, ...]:
        """What makes this server unfit for the open Internet, in words; empty for a strict configuration."""
        warnings = list(federation_warnings(self.federation))
        if self.rate_limits is None:
            warnings.append("rate limits are off (rate_limits.enabled)")
        return tuple(warnings)


def parse_module_config(config: Mapping[str, Any], directory: Path) -> ModuleConfig:
    """Read the configuration.

    Args:
        config: the mapping under ``config``.
        directory: base of relative paths.

    Raises:
        ConfigError: with every problem that was found.
    """
    content = yaml.safe_dump(dict(config), sort_keys=False)
    return read_document(content, _NAME, directory, _read)


def words_for(error: ConfigError) -> str:
    """All problems in one sentence each, without the lines, which are not the file's."""
    return "; ".join(
        f"`{problem.key}` {problem.message}" if problem.key else problem.message for problem in error.problems
    )


def _read(section: Section) -> ModuleConfig:
    config = ModuleConfig(
        database=section.subsection("database", read_database),
        application_service=section.optional("application_service", DEFAULT_APPLICATION_SERVICE, text),
        federation=section.subsection("federation", read_federation),
        rate_limits=section.subsection("rate_limits", read_rate_limits),
        listeners=read_listeners(section) if "listeners" in section else (),
        worker_to_run_on=section.optional("worker_to_run_on", None, text),
        admin_token_path=section.optional("admin_token_path", None, path),
    )
    served = {resource for listener in config.listeners for resource in listener.resources}
    if section.sound and Resource.CLIENT in served:
        section.problem("listeners", "serve `client`, which is Synapse's to serve")
    if section.sound and Resource.ADMIN in served and config.admin_token_path is None:
        section.problem("admin_token_path", "is missing, but a listener serves `admin`")
    return config

"""The configuration of a running server of either kind, for the commands that ask it: a standalone server's own file,
or the ``homeserver.yaml`` of a Synapse with lmatrix inside of it.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from lmatrix.config.root import Config, load_config
from lmatrix.config.synapse_module import ModuleConfig, parse_module_config

_MODULE = "lmatrix.synapse_module."


def load_running(file: Path) -> Config | ModuleConfig:
    """Read it.

    Raises:
        ConfigError: it cannot be read, or with every problem that was found.
    """
    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return load_config(file)  # which says what is wrong
    modules = document.get("modules") if isinstance(document, dict) else None
    for one in modules if isinstance(modules, list) else ():
        if isinstance(one, dict) and str(one.get("module", "")).startswith(_MODULE):
            return parse_module_config(one.get("config") or {}, file.absolute().parent)
    return load_config(file)

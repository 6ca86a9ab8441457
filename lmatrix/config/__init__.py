"""Reading configuration: a frozen class for each section, and errors that name line, key and what was expected.

:func:`load_config` reads a file into a :class:`Config`; :mod:`lmatrix.config.template` writes a new commented one.
"""

from __future__ import annotations

from lmatrix.config.listeners import Resource
from lmatrix.config.reading import ConfigError, Problem
from lmatrix.config.root import Config, load_config, parse_config

__all__ = ["Config", "ConfigError", "Problem", "Resource", "load_config", "parse_config"]

"""Making policies out of somebody else's modules.

Owns: :func:`make_module`: from ``package.Class`` and what the configuration says for it to a policy.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from typing import Any

from lmatrix.errors import LMatrixError
from lmatrix.policies.plugin import HOOKS


class ModuleProblem(LMatrixError):
    """A policy module cannot be used.

    Args:
        module: what the configuration names.
        reason: why, in words.
    """

    def __init__(self, module: str, reason: str) -> None:
        super().__init__(f"{module}: {reason}")
        self.module = module
        self.reason = reason


def make_module(module: str, config: Mapping[str, Any], server_name: str) -> object:
    """Import a class and make a policy of it.

    Args:
        module: ``package.module.Class``.
        config: for the class, as it stands in the configuration.
        server_name: ours, for the class.

    Returns:
        What ``Class(config, server_name)`` made: an object with at least one of the hooks.

    Raises:
        ModuleProblem: it cannot be imported, does not like its configuration, or has no hook.
    """
    package, _, name = module.rpartition(".")
    try:
        made = getattr(importlib.import_module(package), name)(dict(config), server_name)
    except Exception as error:
        raise ModuleProblem(module, f"{type(error).__name__}: {error}") from error
    hooks = [hook for hook in dir(made) if hook.startswith("check_") and callable(getattr(made, hook))]
    for hook in hooks:
        if hook not in HOOKS:
            [near] = difflib.get_close_matches(hook, HOOKS, n=1, cutoff=0)
            raise ModuleProblem(module, f"{hook} is no hook; did you mean {near}?")
    if not hooks:
        raise ModuleProblem(module, f"has none of the hooks: {', '.join(HOOKS)}")
    return made

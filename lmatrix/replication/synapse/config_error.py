"""What Synapse wants raised for a configuration that cannot be used: then it does not start, and says why."""

from __future__ import annotations

from synapse.module_api.errors import ConfigError


def synapse_config_error(message: str) -> Exception:
    """Synapse's own exception, with our words."""
    error: Exception = ConfigError(message)
    return error

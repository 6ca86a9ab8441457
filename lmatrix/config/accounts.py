"""The ``registration`` section: who may make an account."""

from __future__ import annotations

import attrs

from lmatrix.config.reading import Section, boolean


@attrs.frozen(slots=True)
class RegistrationConfig:
    """Who may make an account.

    Attributes:
        enabled: anyone may register over the client API.
    """

    enabled: bool


def read_registration(section: Section) -> RegistrationConfig:
    """Read ``registration``; closed unless it says otherwise."""
    return RegistrationConfig(enabled=section.optional("enabled", False, boolean))

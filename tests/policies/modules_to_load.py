"""Classes that a configuration may name, good and bad ones."""

from __future__ import annotations

from typing import Any

from lmatrix.policies import ALLOW, Verdict


class Good:
    """Keeps what it was given."""

    def __init__(self, config: dict[str, Any], server_name: str) -> None:
        self.given = (config, server_name)

    def check_room(self, room_id: str) -> Verdict:
        return ALLOW


class Picky:
    """Does not like its configuration."""

    def __init__(self, config: dict[str, Any], server_name: str) -> None:
        raise ValueError("`colour` is missing")


class Idle:
    """Has no hook."""

    def __init__(self, config: dict[str, Any], server_name: str) -> None:
        """Nothing to keep."""


class Mistyped(Good):
    """Has a hook that nobody would call."""

    def check_invites(self, invite: object) -> Verdict:
        return ALLOW


not_a_class = 7

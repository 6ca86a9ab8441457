"""The ``policies`` section: blocked rooms, who may invite our users, and the modules of others that have a say."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from lmatrix import ids
from lmatrix.config.reading import Section, Value, boolean, checked_text, list_of, mapping_as_it_is, section_of
from lmatrix.policies.globs import check_glob
from lmatrix.policies.modules import make_module

_CLASS_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII)


@attrs.frozen(slots=True)
class BlockedRoomsConfig:
    """Rooms in which this server takes no part.

    Attributes:
        ids: room IDs.
        servers: patterns for the server names in room IDs.
    """

    ids: tuple[str, ...]
    servers: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.ids or self.servers)


@attrs.frozen(slots=True)
class InvitesConfig:
    """Who may invite our users.

    Attributes:
        blocked_servers: patterns for servers of inviters and hubs.
        blocked_users: patterns for user IDs of inviters.
        allowed_servers: patterns; when there are any, nobody else may.
        only_from_shared_rooms: only users of servers that share a room with us.
    """

    blocked_servers: tuple[str, ...]
    blocked_users: tuple[str, ...]
    allowed_servers: tuple[str, ...]
    only_from_shared_rooms: bool

    def __bool__(self) -> bool:
        return bool(self.blocked_servers or self.blocked_users or self.allowed_servers or self.only_from_shared_rooms)


@attrs.frozen(slots=True)
class ModuleConfig:
    """A policy that somebody else wrote.

    Attributes:
        module: ``package.module.Class``.
        config: what the class is given.
    """

    module: str
    config: Mapping[str, Any] = attrs.field(repr=False)


@attrs.frozen(slots=True)
class PoliciesConfig:
    """What this server's operator allows beside the rules of the rooms."""

    blocked_rooms: BlockedRoomsConfig
    invites: InvitesConfig
    modules: tuple[ModuleConfig, ...]


def _class_name(value: Value) -> str:
    found = value.scalar("str") or ""
    if not _CLASS_NAME.fullmatch(found):
        value.wrong("a class with its module, such as 'package.module.Class'")
    return found


_patterns = list_of(checked_text(check_glob, "a name or a pattern such as '*.example.org'"), "names or patterns")


def _read_blocked_rooms(section: Section) -> BlockedRoomsConfig:
    return BlockedRoomsConfig(
        ids=section.optional("ids", (), list_of(checked_text(ids.room_id, "a room ID"), "room IDs")),
        servers=section.optional("servers", (), _patterns),
    )


def _read_invites(section: Section) -> InvitesConfig:
    return InvitesConfig(
        blocked_servers=section.optional("blocked_servers", (), _patterns),
        blocked_users=section.optional("blocked_users", (), _patterns),
        allowed_servers=section.optional("allowed_servers", (), _patterns),
        only_from_shared_rooms=section.optional("only_from_shared_rooms", False, boolean),
    )


def _read_module(section: Section) -> ModuleConfig:
    return ModuleConfig(
        module=section.required("module", _class_name),
        config=section.optional("config", {}, mapping_as_it_is),
    )


def read_policies(section: Section) -> PoliciesConfig:
    """Read ``policies``; none unless it says otherwise."""
    return PoliciesConfig(
        blocked_rooms=section.subsection("blocked_rooms", _read_blocked_rooms),
        invites=section.subsection("invites", _read_invites),
        modules=section.optional("modules", (), list_of(section_of(_read_module), "modules, each with its `module`")),
    )


def make_modules(config: PoliciesConfig, server_name: str) -> Sequence[object]:
    """The policies that the modules make.

    Raises:
        ModuleProblem: the first that cannot be used.
    """
    return [make_module(one.module, one.config, server_name) for one in config.modules]

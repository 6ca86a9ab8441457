"""Mirrors, as an operator sees them and acts on them.

Owns: :class:`MirrorOperations`: plain JSON out, and errors that an operator's request can be answered with.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar

from lmatrix.errors import Forbidden, Overloaded
from lmatrix.replication.interfaces import DagRefused, DagUnavailable, Mirrors, MirrorStatus

T = TypeVar("T")
JsonObject = dict[str, Any]

_RETRY_AFTER_MS = 5_000


class MirrorOperations:
    """What the admin API calls.

    Args:
        mirrors: all mirrors.
    """

    def __init__(self, mirrors: Mirrors) -> None:
        self._mirrors = mirrors

    async def all_mirrors(self) -> Sequence[JsonObject]:
        """Every mirror: ``room_id``, ``dag_room_id``, ``stage``, ``reason``, ``outward`` and ``inward`` (each with
        ``events`` that wait and ``waited_ms``), ``lost`` by cause.
        """
        return [_shown(status) for status in await self._mirrors.statuses()]

    async def compare(self, room_id: str) -> JsonObject:
        """``mirror``, ``settled``, and ``differences``: each with ``what``, ``lm`` and ``dag``.

        Raises:
            Forbidden: there is no such mirror.
            Overloaded: not now.
        """
        found = await _said(self._mirrors.compare(room_id))
        differences = [{"what": one.what, "lm": one.lm, "dag": one.dag} for one in found.differences]
        return {"mirror": _shown(found.status), "settled": found.settled, "differences": differences}

    async def open_room(self, dag_room_id: str, opener: str, invitees: Sequence[str]) -> str:
        """Offer a DAG room to LM servers; the LM room's ID. Raises as :meth:`compare`, for what cannot be offered."""
        return await _said(self._mirrors.open_room(dag_room_id, opener, invitees))

    async def enter_room(self, user_id: str, lm_room_id: str, via: Sequence[str]) -> str:
        """Have a local user invited into an LM room; the DAG room's ID. Raises as :meth:`open_room`."""
        return await _said(self._mirrors.enter_room(user_id, lm_room_id, via))

    async def stop_mirror(self, room_id: str, reason: str) -> None:
        """Stop mirroring a room. Raises as :meth:`compare`."""
        await _said(self._mirrors.stop_mirror(room_id, reason))


async def _said(work: Awaitable[T]) -> T:
    try:
        return await work
    except DagRefused as refused:
        raise Forbidden(str(refused)) from refused
    except DagUnavailable as unavailable:
        raise Overloaded(_RETRY_AFTER_MS, str(unavailable)) from unavailable


def _shown(status: MirrorStatus) -> JsonObject:
    return {
        "room_id": status.lm_room_id,
        "dag_room_id": status.dag_room_id,
        "stage": status.stage.value,
        "reason": status.reason,
        "outward": {"events": status.outward_lag, "waited_ms": status.outward_lag_ms},
        "inward": {"events": status.inward_lag, "waited_ms": status.inward_lag_ms},
        "lost": dict(status.lost),
    }

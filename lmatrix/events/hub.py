"""Who is the hub.

Owns: the two ways in which a room's hub follows from its state. A room version names one of them; everybody else asks
:meth:`lmatrix.events.room_versions.RoomVersion.hub_server`.

Source: I-D "Hub Selection"; protocol notes, "Hub transfer (I.1)".
"""

from __future__ import annotations

from lmatrix.events.state import StateView

HUB_EVENT = "m.room.hub"


def creators_server(state: StateView) -> str:
    """The server of the room's creator, for ever.

    Raises:
        ValueError: the state has no ``m.room.create``.
    """
    create = state.get("m.room.create")
    if create is None:
        raise ValueError("state without m.room.create has no hub")
    return create.sender_server


def latest_hub(state: StateView) -> str:
    """The server of the sender of the latest ``m.room.hub``, else of the room's creator.

    Raises:
        ValueError: the state has neither.
    """
    hub = state.get(HUB_EVENT)
    return creators_server(state) if hub is None else hub.sender_server

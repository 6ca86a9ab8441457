"""An ordinary Matrix client, matrix-nio, as a process of its own; see :func:`main` for its arguments.

Joins a room if it is invited, says something, waits until it has seen what it was told to wait for, and prints what it
saw of the room as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from nio import AsyncClient, JoinResponse, RoomMessageText, RoomSendResponse, SyncResponse

PATIENCE_SECONDS = 60.0


async def talk(homeserver: str, user_id: str, token: str, room_id: str, says: str, waits_for: str) -> dict[str, object]:
    """Take part in a room.

    Args:
        says: what to say.
        waits_for: the text to wait for.
    """
    client = AsyncClient(homeserver, user_id)
    client.restore_login(user_id, "NIO", token)
    seen: list[list[str]] = []
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        said = False
        full_state = True
        while time.monotonic() < deadline:
            answer = await client.sync(timeout=1000, full_state=full_state)
            full_state = False
            assert isinstance(answer, SyncResponse), answer
            if room_id in answer.rooms.invite:
                joined = await client.join(room_id)
                assert isinstance(joined, JoinResponse), joined
            if room_id in answer.rooms.join:
                events = answer.rooms.join[room_id].timeline.events
                seen += [[event.sender, event.body] for event in events if isinstance(event, RoomMessageText)]
            if room_id in client.rooms and not said:
                content = {"msgtype": "m.text", "body": says}
                sent = await client.room_send(room_id, "m.room.message", content)
                assert isinstance(sent, RoomSendResponse), sent
                said = True
            if said and any(body == waits_for for _, body in seen):
                room = client.rooms[room_id]
                return {"seen": seen, "name": room.display_name, "members": sorted(room.users)}
        raise AssertionError(f"{user_id} saw only {seen}")
    finally:
        await client.close()


def main() -> None:
    """``nio_client.py HOMESERVER USER TOKEN ROOM SAYS WAITS_FOR``: take part, and print what was seen."""
    print(json.dumps(asyncio.run(talk(*sys.argv[1:7]))))


if __name__ == "__main__":
    main()

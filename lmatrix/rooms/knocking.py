"""Knocking on rooms whose hub is another server (I-D "Knocks").

Owns: the ``make_knock``/``send_knock`` handshake, and keeping the knock until the room answers it with an invite, a
refusal, or not at all. Like an invite it does not make this server a participant.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.logger import Logger

from lmatrix.errors import LMatrixError, NotFound, SchemaViolation, UnsupportedRoomVersion
from lmatrix.events.stripped_state import check_stripped
from lmatrix.rooms.asking import Asker, version_of_room
from lmatrix.rooms.identity import ServerIdentity
from lmatrix.rooms.interfaces import Database, InviteStore, JsonObject, LocalAudience, Peers


class Knocker:
    """Knocks, on behalf of our own users.

    Args:
        identity: who we are.
        asker, peers: the way to hubs.
        database, store: where the knock is kept.
        audience: tells the user's other devices.
    """

    log = Logger()

    def __init__(
        self,
        identity: ServerIdentity,
        asker: Asker,
        peers: Peers,
        database: Database,
        store: InviteStore,
        audience: LocalAudience,
    ) -> None:
        self._identity = identity
        self._asker = asker
        self._peers = peers
        self._database = database
        self._store = store
        self._audience = audience

    async def knock(self, user_id: str, room_id: str, candidates: Sequence[str], content: JsonObject) -> None:
        """Knock through the first of the candidate servers that lets us.

        Args:
            candidates: server names that may be, or know, the hub; tried in order.
            content: content of the knock, ``membership`` included.

        Raises:
            NotFound: there is no candidate.
            PeerError, UnsupportedRoomVersion: the last candidate's failure, when none works.
        """
        failure: LMatrixError = NotFound(f"no server is known that could take a knock on {room_id}")
        for candidate in candidates:
            if candidate == self._identity.server_name:
                continue
            try:
                await self._knock_through(candidate, user_id, room_id, content)
            except LMatrixError as error:
                failure = error
            else:
                return
        raise failure

    async def _knock_through(self, server: str, user_id: str, room_id: str, content: JsonObject) -> None:
        asked = await self._asker.ask(server, "knock", room_id, user_id, content)
        answer = await self._peers.send_membership(asked.hub, "knock", asked.version, asked.lpdu)
        try:
            state = check_stripped(answer.get("stripped_state", answer.get("knock_room_state", [])))
            version = version_of_room(asked, state)
        except (SchemaViolation, UnsupportedRoomVersion) as error:
            # The hub has taken the knock, and what it says of its room is for show.
            self.log.warn("{room_id}: {hub} says of the room: {error}", room_id=room_id, hub=asked.hub, error=error)
            state, version = [], asked.version

        def work(tx: Any) -> int:
            return self._store.put(tx, user_id, room_id, version.identifier, asked.hub, asked.lpdu, state)

        stream = await self._database.write(work)
        self._audience.stream_advanced(stream, room_id, (user_id,))
        self.log.info("{room_id}: {user_id} knocked at {hub}", room_id=room_id, user_id=user_id, hub=asked.hub)

"""Policies of a running server: the configuration is read again, and what changes then."""

from __future__ import annotations

from tests.test_load_shedding import WholeHubCase


class ReloadTests(WholeHubCase):
    """A hub whose room is blocked while it runs."""

    def test_a_room_is_blocked_by_a_reload(self) -> None:
        """On SIGHUP, other servers' requests are refused from then on and our user leaves. Once it is off the list, the
        room is served again.
        """
        wire = self.wire("198.51.100.1")
        self.send(self.quiet, wire, 1, self.message(self.quiet, "before"))
        [answer] = self.wait([wire], 2)
        self.assertEqual(answer.json["failed_pdus"], {})

        without = self.config
        self.config = f"{without}policies: {{blocked_rooms: {{ids: ['{self.room_id}']}}}}\n"
        self.server.reload()
        refused = self.message(self.quiet, "meanwhile")
        self.send(self.quiet, wire, 2, refused)
        [answer] = self.wait([wire], 2)
        self.assertEqual(
            answer.json["failed_pdus"], {refused.event_id: {"error": "This room is blocked on this server."}}
        )
        room = self.finish(self.server.rooms.rooms.load(self.room_id))
        self.assertEqual(room.membership("@alice:hub.example"), "leave")
        self.assertEqual(self.metric("policy_refusals_total", hook="room", why="failed"), 0)
        self.assertGreater(self.metric("policy_refusals_total", hook="room", why="refused"), 0)

        self.config = without
        self.server.reload()
        self.send(self.quiet, wire, 3, self.message(self.quiet, "after"))
        [answer] = self.wait([wire], 2)
        self.assertEqual(answer.json["failed_pdus"], {})
        self.assertEqual(self.bodies(), ["before", "after"])

    def test_a_configuration_that_cannot_be_read_changes_nothing(self) -> None:
        """What held goes on to hold."""
        self.config += f"policies: {{blocked_rooms: {{ids: ['{self.room_id}'], id: []}}}}\n"
        self.server.reload()
        wire = self.wire("198.51.100.1")
        self.send(self.quiet, wire, 1, self.message(self.quiet, "x"))
        [answer] = self.wait([wire], 2)
        self.assertEqual(answer.json["failed_pdus"], {})

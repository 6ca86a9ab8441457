"""Waking long polls: nothing is missed, nothing wakes twice, nothing is left behind."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.client_api.notifier import Listener, Notifier
from lmatrix.errors import Overloaded

ALICE = "@alice:a.test"
ROOM = "!one:a.test"
OTHER = "!two:a.test"


class NotifierTests(SynchronousTestCase):
    """A listener hears of what concerns it, and only of that."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.notifier = Notifier(self.clock)

    def waiting(self, listener: Listener, seconds: float = 30) -> Deferred[bool]:
        return Deferred.fromCoroutine(listener.wait(seconds))

    def test_news_in_a_room_wakes_who_is_in_it(self) -> None:
        """An event in one of the rooms that concern a user wakes the user's request at once."""
        with self.notifier.listen(ALICE) as listener:
            listener.seen(5, [ROOM])
            waiting = self.waiting(listener)
            self.assertNoResult(waiting)
            self.notifier.stream_advanced(6, ROOM)
            self.assertIs(self.successResultOf(waiting), True)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_news_without_a_place_in_the_stream(self) -> None:
        """What has no place in the stream wakes who is in the room, and those who have not looked yet; each look takes
        notice of what was stirred before it.
        """
        with self.notifier.listen(ALICE) as listener:
            listener.seen(5, [ROOM])
            waiting = self.waiting(listener)
            self.notifier.room_stirred(OTHER)
            self.assertNoResult(waiting)
            self.notifier.room_stirred(ROOM)
            self.assertIs(self.successResultOf(waiting), True)
            listener.looks()
            self.notifier.room_stirred(ROOM)
            listener.seen(5, [ROOM])
            self.assertIs(self.successResultOf(self.waiting(listener)), True)
            listener.looks()
            listener.seen(5, [ROOM])
            self.assertNoResult(self.waiting(listener))
        with self.notifier.listen(ALICE) as listener:
            listener.looks()
            self.notifier.room_stirred(ROOM)
            listener.seen(5, [ROOM])
            self.assertIs(self.successResultOf(self.waiting(listener)), True)

    def test_news_for_users(self) -> None:
        """What is for some users wakes these, and only what they have not seen."""
        with self.notifier.listen(ALICE) as listener:
            listener.seen(5, [])
            waiting = self.waiting(listener)
            self.notifier.users_advanced(6, ["@bob:a.test"])
            self.notifier.users_advanced(5, [ALICE])
            self.assertNoResult(waiting)
            self.notifier.users_advanced(6, [ALICE])
            self.assertIs(self.successResultOf(waiting), True)

    def test_news_elsewhere_wakes_nobody(self) -> None:
        """An event in another room, or for another user, leaves the request waiting until its time-out."""
        with self.notifier.listen(ALICE) as listener:
            listener.seen(5, [ROOM])
            waiting = self.waiting(listener, 10)
            self.notifier.stream_advanced(6, OTHER)
            self.notifier.stream_advanced(7, ROOM, ["@bob:a.test"])
            self.clock.advance(9.9)
            self.assertNoResult(waiting)
            self.clock.advance(0.2)
            self.assertIs(self.successResultOf(waiting), False)

    def test_news_for_a_user_wakes_whatever_the_room(self) -> None:
        """An invite to a room that the request knows nothing of wakes it."""
        with self.notifier.listen(ALICE) as listener:
            listener.seen(5, [ROOM])
            waiting = self.waiting(listener)
            self.notifier.stream_advanced(6, OTHER, [ALICE])
            self.assertIs(self.successResultOf(waiting), True)

    def test_news_during_the_look_is_not_lost(self) -> None:
        """What is committed after the request began to listen, and is not in what it saw, wakes it."""
        with self.notifier.listen(ALICE) as listener:
            self.notifier.stream_advanced(6, ROOM)
            listener.seen(5, [ROOM])
            self.assertIs(self.successResultOf(self.waiting(listener)), True)

    def test_news_that_was_seen_does_not_wake(self) -> None:
        """What was committed after the request began to listen but is in what it saw does not wake it."""
        with self.notifier.listen(ALICE) as listener:
            self.notifier.stream_advanced(6, ROOM)
            self.notifier.stream_advanced(6, OTHER, [ALICE])
            listener.seen(6, [ROOM])
            self.assertNoResult(self.waiting(listener))

    def test_rooms_that_no_longer_concern_are_forgotten(self) -> None:
        """After another look without a room, that room's news no longer wakes."""
        with self.notifier.listen(ALICE) as listener:
            listener.seen(5, [ROOM, OTHER])
            listener.seen(7, [ROOM])
            waiting = self.waiting(listener)
            self.notifier.stream_advanced(8, OTHER)
            self.assertNoResult(waiting)
            self.notifier.stream_advanced(9, ROOM)
            self.assertIs(self.successResultOf(waiting), True)

    def test_no_time_to_wait(self) -> None:
        """A time-out of zero answers at once."""
        with self.notifier.listen(ALICE) as listener:
            listener.seen(5, [ROOM])
            self.assertIs(self.successResultOf(self.waiting(listener, 0)), False)

    def test_a_client_that_goes_away_leaves_nothing_behind(self) -> None:
        """Cancelling ends the wait, and closing forgets the listener, its rooms and its timer."""
        with self.notifier.listen(ALICE) as listener:
            listener.seen(5, [ROOM])
            waiting = self.waiting(listener)
            waiting.cancel()
            self.failureResultOf(waiting, CancelledError)
        self.assertEqual(self.notifier.listening, 0)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.notifier.stream_advanced(6, ROOM)
        self.notifier.stream_advanced(7, ROOM, [ALICE])

    def test_there_is_a_bound(self) -> None:
        """Beyond the bounds a request is told to come back; a closed listener makes room again."""
        notifier = Notifier(self.clock, max_listeners=2, max_listeners_of_user=1)
        with notifier.listen(ALICE):
            with self.assertRaises(Overloaded):
                notifier.listen(ALICE)
            with notifier.listen("@bob:a.test"), self.assertRaises(Overloaded):
                notifier.listen("@carol:a.test")
        with notifier.listen(ALICE):
            self.assertEqual(notifier.listening, 1)

"""The rooms, put together.

Owns: the order in which the parts of this floor are built and handed to one another. It takes what the floors above
provide (stores, keyring, peers, delivery) and gives back what they call.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import attrs
from twisted.internet.interfaces import IReactorTime

from lmatrix.metrics import Metrics
from lmatrix.rooms.announcer import Announcer
from lmatrix.rooms.asking import Asker
from lmatrix.rooms.candidacy import Candidacy
from lmatrix.rooms.checks import EventChecker
from lmatrix.rooms.contents import Contents
from lmatrix.rooms.departing import Departer
from lmatrix.rooms.handshakes import Handshakes
from lmatrix.rooms.hearing import HeadListener
from lmatrix.rooms.hub import Hub
from lmatrix.rooms.identity import ServerIdentity
from lmatrix.rooms.inbound import TransactionReceiver
from lmatrix.rooms.interfaces import (
    AccountLookup,
    ClientTransactionStore,
    Database,
    Delivery,
    EduReceiver,
    InviteStore,
    Keyring,
    LocalAudience,
    LocalDirectory,
    MemberProfiles,
    MembershipWatcher,
    Peers,
    PendingLpduStore,
    RoomStore,
    TransactionStore,
)
from lmatrix.rooms.invitations import Invitations, StoredAccounts
from lmatrix.rooms.inviting import Inviter
from lmatrix.rooms.joining import Joiner
from lmatrix.rooms.knocking import Knocker
from lmatrix.rooms.leading_out import LeadingOut
from lmatrix.rooms.local_users import LocalUsers
from lmatrix.rooms.outbox import Outbox
from lmatrix.rooms.participant import Participant
from lmatrix.rooms.policy import NoPolicies, Policies
from lmatrix.rooms.recovery import Recovery
from lmatrix.rooms.registry import Rooms
from lmatrix.rooms.renaming import Departures, Renamer
from lmatrix.rooms.resending import Resender
from lmatrix.rooms.restoration_store import RestorationStore
from lmatrix.rooms.scrollback import Scrollback
from lmatrix.rooms.stating import HeadSpeaker
from lmatrix.rooms.timestamps import Timestamps
from lmatrix.rooms.transactions import Transactions
from lmatrix.rooms.transfer import HubTransfer


@attrs.frozen(slots=True)
class RoomStores:
    """The stores that the rooms use."""

    rooms: RoomStore
    pending_lpdus: PendingLpduStore
    invites: InviteStore
    transactions: TransactionStore
    client_transactions: ClientTransactionStore
    directory: AccountLookup
    restoration: RestorationStore
    profiles: MemberProfiles


@attrs.frozen(slots=True)
class RoomsFloor:
    """What the floors above call.

    Attributes:
        rooms: the registry.
        receiver: ``PUT /send``.
        handshakes: ``make_*``, ``send_*``, ``invite``.
        outbox: is told by the delivery what hubs answered.
        local_users: what local users do.
        renamer: tells rooms what local users are called now.
        transfer, candidacy: giving rooms away, and taking them over.
        resender: at start, LPDUs that a change of hub has made void.
        heads, listener: how far we hold rooms, and what others say of that.
        recovery: what was forgotten when the database was restored from a copy.
        leading_out: out of rooms that have been blocked.
    """

    rooms: Rooms
    receiver: TransactionReceiver
    handshakes: Handshakes
    outbox: Outbox
    local_users: LocalUsers
    renamer: Renamer
    transfer: HubTransfer
    candidacy: Candidacy
    resender: Resender
    heads: HeadSpeaker
    listener: HeadListener
    recovery: Recovery
    leading_out: LeadingOut

    @classmethod
    def build(
        cls,
        identity: ServerIdentity,
        database: Database,
        stores: RoomStores,
        *,
        keyring: Keyring,
        peers: Peers,
        delivery: Delivery,
        audience: LocalAudience,
        edus: EduReceiver,
        watcher: MembershipWatcher,
        may_overlap: Callable[[str], bool],
        clock: IReactorTime,
        rng: Random,
        metrics: Metrics,
        directory: LocalDirectory | None = None,
        policies: Policies | None = None,
        accept_hub_offers: bool = True,
    ) -> RoomsFloor:
        """Build the floor.

        Args:
            audience, edus, watcher: the floor above, as far as the rooms know it.
            may_overlap: whether an origin may have several transactions in flight (a setting for each peer).
            directory: which users are ours; by default those that have an account in the database.
            accept_hub_offers: whether this server takes rooms over from hubs that offer them.
            policies: what is allowed beside the rules of the rooms; by default everything.
        """
        announcer = Announcer(delivery, audience, watcher, metrics)
        rooms = Rooms(database, stores.rooms, identity.server_name, clock, metrics, announcer.committed)
        checker = EventChecker(keyring, clock, metrics)
        outbox = Outbox(
            database, stores.pending_lpdus, stores.client_transactions, delivery, clock, identity.server_name
        )
        policies = policies or NoPolicies()
        hub = Hub(identity, checker, database, stores.rooms, policies, metrics)
        speaker = HeadSpeaker(identity, rooms, delivery, policies, clock, metrics)
        participant = Participant(checker, database, stores.rooms, peers, outbox, clock, metrics, speaker.urge)
        directory = directory or StoredAccounts(database, stores.directory)
        invitations = Invitations(identity, checker, database, stores.invites, directory, audience, policies)
        inviter = Inviter(identity, checker, keyring, peers, invitations, policies)
        transfer = HubTransfer(identity, rooms, checker, peers, policies, clock)
        resender = Resender(identity, rooms, hub, outbox, database, stores.pending_lpdus, clock)
        outbox.attach(resender.stored, rooms.takes_part)
        recovery = Recovery(
            identity,
            rooms,
            participant,
            resender,
            database,
            stores.restoration,
            stores.rooms,
            checker,
            keyring,
            peers,
            clock,
            rng,
            metrics,
        )
        rooms.attach(recovery.confirm)
        listener = HeadListener(
            identity, rooms, participant, recovery, checker, keyring, database, stores.rooms, peers, clock, metrics
        )
        timestamps = Timestamps(clock)
        asker = Asker(identity, peers, timestamps)
        departures = Departures()
        scrollback = Scrollback(rooms, checker, database, stores.rooms, peers)
        transactions = Transactions(database, stores.transactions, clock, may_overlap)
        local_users = LocalUsers(
            identity,
            rooms,
            hub,
            outbox,
            inviter,
            invitations,
            Joiner(identity, rooms, checker, database, stores.rooms, asker, peers),
            Departer(asker, peers),
            Knocker(identity, asker, peers, database, stores.invites, audience),
            scrollback,
            transfer,
            peers,
            database,
            stores.rooms,
            stores.client_transactions,
            stores.profiles,
            departures,
            policies,
            audience,
            watcher,
            timestamps,
            clock,
            rng,
        )
        leading_out = LeadingOut(policies, rooms, local_users, database, stores.rooms, stores.invites)
        announcer.attach(inviter, outbox, resender, transfer, leading_out, speaker)
        return cls(
            rooms=rooms,
            receiver=TransactionReceiver(
                rooms, hub, participant, invitations, listener, edus, transactions, policies, metrics
            ),
            handshakes=Handshakes(
                identity, rooms, hub, inviter, invitations, transactions, database, stores.rooms, policies, clock
            ),
            outbox=outbox,
            local_users=local_users,
            renamer=Renamer(
                identity,
                rooms,
                outbox,
                asker,
                database=database,
                pending=stores.pending_lpdus,
                profiles=stores.profiles,
                policies=policies,
                departures=departures,
                timestamps=timestamps,
            ),
            transfer=transfer,
            candidacy=Candidacy(
                identity,
                rooms,
                participant,
                scrollback,
                Contents(checker, database, stores.rooms, peers),
                database,
                stores.rooms,
                policies,
                clock,
                timestamps,
                willing=accept_hub_offers,
            ),
            resender=resender,
            heads=speaker,
            listener=listener,
            recovery=recovery,
            leading_out=leading_out,
        )

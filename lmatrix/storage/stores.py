"""All stores, to be handed to those who use them.

Owns: :class:`Stores`, made in the one place where the server is put together. Stores keep nothing in memory: one set
serves any number of databases.
"""

from __future__ import annotations

import attrs

from lmatrix.storage.accounts import SqlAccountStore
from lmatrix.storage.aliases import SqlAliasStore
from lmatrix.storage.delivery import SqlDeliveryStore
from lmatrix.storage.devices import SqlDeviceStore
from lmatrix.storage.invites import SqlInviteStore
from lmatrix.storage.one_time_keys import SqlOneTimeKeyStore
from lmatrix.storage.overview import SqlOverviewStore
from lmatrix.storage.pending_lpdus import SqlPendingLpduStore
from lmatrix.storage.profiles import SqlProfileStore
from lmatrix.storage.published_rooms import SqlPublishedRoomStore
from lmatrix.storage.receipts import SqlReceiptStore
from lmatrix.storage.replication import SqlMirrorStore
from lmatrix.storage.restoration import SqlRestorationStore
from lmatrix.storage.room_log import SqlRoomStore
from lmatrix.storage.server_keys import SqlServerKeyStore
from lmatrix.storage.sharing import SqlSharingStore
from lmatrix.storage.timeline import SqlTimelineStore
from lmatrix.storage.to_device import SqlToDeviceStore
from lmatrix.storage.transactions import SqlTransactionStore


@attrs.frozen(slots=True)
class Stores:
    """One store for each family of tables."""

    rooms: SqlRoomStore
    pending_lpdus: SqlPendingLpduStore
    invites: SqlInviteStore
    transactions: SqlTransactionStore
    server_keys: SqlServerKeyStore
    delivery: SqlDeliveryStore
    accounts: SqlAccountStore
    timeline: SqlTimelineStore
    overview: SqlOverviewStore
    sharing: SqlSharingStore
    devices: SqlDeviceStore
    one_time_keys: SqlOneTimeKeyStore
    to_device: SqlToDeviceStore
    receipts: SqlReceiptStore
    mirrors: SqlMirrorStore
    restoration: SqlRestorationStore
    profiles: SqlProfileStore
    aliases: SqlAliasStore
    published_rooms: SqlPublishedRoomStore

    @classmethod
    def create(cls) -> Stores:
        """All of them, with their default bounds."""
        return cls(
            rooms=SqlRoomStore(),
            pending_lpdus=SqlPendingLpduStore(),
            invites=SqlInviteStore(),
            transactions=SqlTransactionStore(),
            server_keys=SqlServerKeyStore(),
            delivery=SqlDeliveryStore(),
            accounts=SqlAccountStore(),
            timeline=SqlTimelineStore(),
            overview=SqlOverviewStore(),
            sharing=SqlSharingStore(),
            devices=SqlDeviceStore(),
            one_time_keys=SqlOneTimeKeyStore(),
            to_device=SqlToDeviceStore(),
            receipts=SqlReceiptStore(),
            mirrors=SqlMirrorStore(),
            restoration=SqlRestorationStore(),
            profiles=SqlProfileStore(),
            aliases=SqlAliasStore(),
            published_rooms=SqlPublishedRoomStore(),
        )

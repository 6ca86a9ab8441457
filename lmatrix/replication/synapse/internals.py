"""Every reach into what Synapse keeps to itself.

Synapse promises modules only its ``ModuleApi``, and that does not reach far enough. Owns: :class:`Internals`, the one
place that knows private objects of Synapse by name. Invariant: everything that is needed is looked for when the module
is built; when anything is missing, :class:`UnsupportedSynapse` names all of it, and Synapse does not start.

Two worlds meet here. Synapse's code runs in *logging contexts*, which an ``await`` hands on; ours does not know them.
:meth:`Internals.inside` calls into Synapse from our world, :meth:`Internals.outside` lets our code run from Synapse's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from importlib import import_module, metadata
from typing import Any, TypeVar

from twisted.internet.defer import ensureDeferred

from lmatrix.crypto.keys import SigningKey, VerifyKey
from lmatrix.crypto.retired_keys import RetiredKey
from lmatrix.errors import LMatrixError

T = TypeVar("T")

_NAMES = {
    "SERVLET_GROUPS": "synapse.federation.transport.server",
    "FEDERATION_SERVLET_CLASSES": "synapse.federation.transport.server.federation",
    "LoggingContext": "synapse.logging.context",
    "PreserveLoggingContext": "synapse.logging.context",
    "make_deferred_yieldable": "synapse.logging.context",
    "REGISTRY": "prometheus_client",
    "UserID": "synapse.types",
    "create_requester": "synapse.types",
    "SynapseError": "synapse.api.errors",
    "ShadowBanError": "synapse.api.errors",
    "Codes": "synapse.api.errors",
}
"""What is imported: name → module."""

_OF_THE_HOMESERVER = (
    "config.key.signing_key",
    "config.key.old_signing_keys",
    "config.federation.federation_domain_whitelist",
    "config.worker.writers.typing",
    "get_instance_name",
    "get_reactor",
)
"""What the homeserver object must have."""

_PARTS: Mapping[str, Sequence[str]] = {
    "get_notifier": ("add_replication_callback",),
    "get_event_creation_handler": ("create_and_send_nonmember_event", "get_event_id_from_transaction"),
    "get_room_member_handler": ("update_membership",),
    "get_room_creation_handler": ("create_room",),
    "get_registration_handler": ("appservice_register",),
    "get_profile_handler": ("get_displayname", "get_avatar_url", "set_displayname", "set_avatar_url"),
    "get_receipts_handler": ("received_client_receipt",),
    "get_typing_handler": ("get_current_token", "get_all_typing_updates"),
    "get_server_notices_manager": ("is_enabled", "send_notice"),
    "get_storage_controllers": ("state.get_current_state_ids",),
    "get_datastores": (
        "main.get_all_new_event_ids_stream",
        "main.get_all_updated_receipts",
        "main.get_app_services",
        "main.get_events",
        "main.get_ex_outlier_stream_rows",
        "main.get_max_receipt_stream_id",
        "main.get_metadata_for_events",
        "main.get_room_max_stream_ordering",
        "main.get_room_version",
        "main.get_user_by_id",
        "main.is_host_joined",
        "main.store_device",
    ),
}
"""What else the homeserver object must have: the method that leads to a part → what that part must have."""


class UnsupportedSynapse(LMatrixError):
    """This Synapse lacks something that we rely on.

    Args:
        version: Synapse's.
        missing: what was looked for in vain.
    """

    def __init__(self, version: str, missing: Sequence[str]) -> None:
        super().__init__(
            f"lmatrix does not work inside of Synapse {version}, which lacks: {', '.join(missing)}. "
            "The documentation names the versions that it was tested with."
        )
        self.version = version
        self.missing = tuple(missing)


class Internals:
    """One Synapse process, as we know it from inside.

    Args:
        api: Synapse's ``ModuleApi``.

    Raises:
        UnsupportedSynapse: something is missing.
    """

    def __init__(self, api: Any) -> None:
        missing: list[str] = []
        self._names = {name: _imported(module, name, missing) for name, module in _NAMES.items()}
        self._hs: Any = _attribute(api, "_hs", "ModuleApi", missing)
        if not missing:
            for path in _OF_THE_HOMESERVER:
                _attribute(self._hs, path, "HomeServer", missing)
            for getter, paths in _PARTS.items():
                get = _attribute(self._hs, getter, "HomeServer", missing)
                for path in paths if get is not None else ():
                    _attribute(get(), path, f"HomeServer.{getter}()", missing)
        if missing:
            raise UnsupportedSynapse(synapse_version(), missing)
        self._api = api
        self._store: Any = self._hs.get_datastores().main

    # -- Who this server is -------------------------------------------------------------------------------------------

    @property
    def server_name(self) -> str:
        """Synapse's, and so ours."""
        return str(self._api.server_name)

    def signing_keys(self) -> tuple[SigningKey, ...]:
        """The keys that Synapse signs with. Raises :class:`~lmatrix.crypto.keys.InvalidKey`."""
        return tuple(SigningKey.generate(key.version, bytes(key)) for key in self._hs.config.key.signing_key)

    def retired_keys(self) -> tuple[RetiredKey, ...]:
        """The keys that Synapse signed with once. Raises :class:`~lmatrix.crypto.keys.InvalidKey`."""
        return tuple(
            RetiredKey(VerifyKey(key_id, bytes(key)), key.expired)
            for key_id, key in self._hs.config.key.old_signing_keys.items()
        )

    @property
    def federation_domain_whitelist(self) -> Collection[str] | None:
        """The only servers that Synapse talks to; ``None``: any."""
        whitelist: Collection[str] | None = self._hs.config.federation.federation_domain_whitelist
        return whitelist

    # -- The process --------------------------------------------------------------------------------------------------

    @property
    def reactor(self) -> Any:
        """Twisted's reactor, or what stands in for it."""
        return self._hs.get_reactor()

    @property
    def metrics_registry(self) -> Any:
        """What Synapse's metrics listener shows."""
        return self._names["REGISTRY"]

    async def inside(self, what: str, call: Callable[..., Awaitable[T]], *args: Any, **kwargs: Any) -> T:
        """Call a coroutine function of Synapse's from our world.

        Args:
            what: a few words for its logs and metrics.
            call: the function, with its arguments.
        """
        logging_context, preserve = self._names["LoggingContext"], self._names["PreserveLoggingContext"]

        async def within() -> T:
            with logging_context(name=f"lmatrix-{what}", server_name=self.server_name):
                return await call(*args, **kwargs)

        with preserve():
            running = ensureDeferred(within())
        return await running

    async def outside(self, begin: Callable[[], Awaitable[T]]) -> T:
        """Run a piece of our own code from Synapse's world, and come back into its logging context.

        Args:
            begin: called without a logging context.
        """
        with self._names["PreserveLoggingContext"]():
            running = ensureDeferred(_waiting_for(begin))
        result: T = await self._names["make_deferred_yieldable"](running)
        return result

    # -- The federation port ------------------------------------------------------------------------------------------

    @property
    def federation_servlets(self) -> Sequence[Any]:
        """The classes of Synapse's own federation endpoints; ``PREFIX + PATH`` is a pattern of paths."""
        classes: Sequence[Any] = self._names["FEDERATION_SERVLET_CLASSES"]
        return classes

    def serve_first(self, key: str, servlet: Callable[..., Any]) -> None:
        """Have every federation listener that is opened from now on ask our endpoints before Synapse's own.

        Args:
            key: ours among the groups of endpoints.
            servlet: called for each listener, as Synapse makes its own endpoints; what it returns is asked to
                ``register(resource)``.
        """
        groups: dict[str, Any] = self._names["SERVLET_GROUPS"]
        others = {name: group for name, group in groups.items() if name != key}
        groups.clear()
        groups[key] = (servlet,)
        groups.update(others)

    # -- Errors -------------------------------------------------------------------------------------------------------

    def refusal(self, error: BaseException) -> tuple[int, str] | None:
        """Status and words of one of Synapse's errors; ``None`` for any other exception."""
        if isinstance(error, self._names["ShadowBanError"]):
            return 403, "the user is shadow-banned"
        if isinstance(error, self._names["SynapseError"]):
            return int(error.code), str(error.msg)
        return None

    def forbidden(self, words: str) -> Any:
        """What a callback answers to refuse a request with these words."""
        return self._names["Codes"].FORBIDDEN, {"error": words}

    # -- Users --------------------------------------------------------------------------------------------------------

    def application_service(self, service_id: str) -> Any | None:
        """The registered application service of that ID."""
        return next((one for one in self._store.get_app_services() if one.id == service_id), None)

    def user_of(self, service: Any) -> str:
        """The user ID of an application service's own user."""
        sender = service.sender
        return sender if isinstance(sender, str) else str(sender.to_string())

    def requester(self, user_id: str, *, service: Any = None, device_id: str | None = None) -> Any:
        """A user of ours, as whom something is done at the server's own wish."""
        return self._names["create_requester"](
            user_id, app_service=service, device_id=device_id, authenticated_entity=self.server_name
        )

    def user_id(self, user_id: str) -> Any:
        """Synapse's form of a user ID."""
        return self._names["UserID"].from_string(user_id)

    async def account(self, user_id: str) -> Any | None:
        """A local user's account."""
        return await self.inside("user", self._store.get_user_by_id, user_id)

    async def register(self, localpart: str, service: Any) -> None:
        """Make an account in an application service's namespace."""
        await self.inside("register", self._hs.get_registration_handler().appservice_register, localpart, service.token)

    async def keep_device(self, user_id: str, device_id: str, name: str) -> None:
        """Make sure that a user has a device: only what devices send is known again by its transaction ID."""
        await self.inside("device", self._store.store_device, user_id, device_id, name)

    async def profile(self, user_id: str) -> tuple[str | None, str | None]:
        """Display name and avatar of a local user."""
        handler, user = self._hs.get_profile_handler(), self.user_id(user_id)

        async def look() -> tuple[str | None, str | None]:
            return await handler.get_displayname(user), await handler.get_avatar_url(user)

        return await self.inside("profile", look)

    async def set_profile(self, requester: Any, *, displayname: str | None, avatar_url: str | None) -> None:
        """Set what is not ``None``, without telling rooms."""
        handler = self._hs.get_profile_handler()
        common = {"target_user": requester.user, "requester": requester, "by_admin": True, "propagate": False}
        if displayname is not None:
            await self.inside("profile", handler.set_displayname, new_displayname=displayname, **common)
        if avatar_url is not None:
            await self.inside("profile", handler.set_avatar_url, new_avatar_url=avatar_url, **common)

    async def server_notice(self, user_id: str, content: dict[str, Any]) -> bool:
        """Send a server notice; whether this server has such things."""
        manager = self._hs.get_server_notices_manager()
        if not manager.is_enabled():
            return False
        await self.inside("notice", manager.send_notice, user_id, content)
        return True

    # -- Events: reading ----------------------------------------------------------------------------------------------

    def when_something_is_new(self, wake: Callable[[], None]) -> None:
        """Have ``wake`` called, outside of any logging context, whenever a stream of Synapse's has grown."""
        preserve = self._names["PreserveLoggingContext"]

        def woken() -> None:
            with preserve():
                wake()

        self._hs.get_notifier().add_replication_callback(woken)

    def stream_position(self) -> int:
        """All events up to it are in the database."""
        return int(self._store.get_room_max_stream_ordering())

    async def new_event_ids(self, after: int, up_to: int, limit: int) -> tuple[int, Sequence[str]]:
        """Events that were stored at ``after < position <= up_to``, in order, and how far that reaches."""
        position, ids = await self.inside("stream", self._store.get_all_new_event_ids_stream, after, up_to, limit)
        return int(position), list(ids)

    async def completed_events(self, after: int, up_to: int) -> Sequence[tuple[int, str]]:
        """Events whose content was known before (as "outliers") and which took their place in a room at ``after <
        position <= up_to``: that position, and the event ID.
        """
        instance = self._hs.get_instance_name()
        rows = await self.inside("stream", self._store.get_ex_outlier_stream_rows, instance, after, up_to)
        return [(int(row[0]), str(row[1])) for row in rows]

    async def metadata(self, event_ids: Sequence[str]) -> Mapping[str, tuple[str, str, str | None]]:
        """Room ID, type and state key of events."""
        found = await self.inside("stream", self._store.get_metadata_for_events, event_ids)
        return {event_id: (one.room_id, one.event_type, one.state_key) for event_id, one in found.items()}

    async def events(self, event_ids: Sequence[str]) -> Mapping[str, Any]:
        """Events that were not rejected, redacted ones as such."""
        events: Mapping[str, Any] = await self.inside("events", self._store.get_events, list(event_ids))
        return events

    async def state(
        self, room_id: str, keys: Collection[tuple[str, str]] | None = None
    ) -> Mapping[tuple[str, str], Any]:
        """A room's resolved state: all of it, or that of some types and state keys."""
        ids = await self.inside("state", self._hs.get_storage_controllers().state.get_current_state_ids, room_id)
        wanted = {key: event_id for key, event_id in ids.items() if keys is None or key in keys}
        events = await self.events(list(wanted.values()))
        return {key: events[event_id] for key, event_id in wanted.items() if event_id in events}

    async def is_in_room(self, room_id: str) -> bool:
        """Whether a user of ours is joined there."""
        return bool(await self.inside("room", self._store.is_host_joined, room_id, self.server_name))

    async def room_version(self, room_id: str) -> Any:
        """A room's version, with its properties."""
        return await self.inside("room", self._store.get_room_version, room_id)

    def creators_stand_above(self, version: Any) -> bool:
        """Whether in rooms of this version the creators have more power than any level."""
        return bool(getattr(version, "msc4289_creator_power_enabled", False))

    # -- Events: writing ----------------------------------------------------------------------------------------------

    async def send(self, requester: Any, event: dict[str, Any], transaction_id: str) -> str:
        """Make an event that is not a membership; its event ID."""
        handler = self._hs.get_event_creation_handler()
        sent, _ = await self.inside(
            "send",
            handler.create_and_send_nonmember_event,
            requester,
            event,
            ratelimit=False,
            txn_id=transaction_id,
            ignore_shadow_ban=True,
        )
        return str(sent.event_id)

    async def sent_before(self, requester: Any, room_id: str, transaction_id: str) -> str | None:
        """The event ID of what was sent under a transaction ID."""
        look_up = self._hs.get_event_creation_handler().get_event_id_from_transaction
        event_id: str | None = await self.inside("send", look_up, requester, transaction_id, room_id)
        return event_id

    async def change_membership(self, requester: Any, target: str, room_id: str, action: str, **settings: Any) -> str:
        """Change a membership; the event ID. ``action`` is a membership, ``kick`` or ``unban``."""
        handler = self._hs.get_room_member_handler()
        event_id, _ = await self.inside(
            "membership",
            handler.update_membership,
            requester,
            self.user_id(target),
            room_id,
            action,
            ratelimit=False,
            require_consent=False,
            **settings,
        )
        return str(event_id)

    async def create_room(self, requester: Any, config: dict[str, Any]) -> str:
        """Make a room; its ID."""
        handler = self._hs.get_room_creation_handler()
        room_id, *_ = await self.inside(
            "room", handler.create_room, requester, config, ratelimit=False, ignore_forced_encryption=True
        )
        return str(room_id)

    # -- Beside the events --------------------------------------------------------------------------------------------

    def typing_position(self) -> int:
        """Where the stream of typing notices is."""
        return int(self._hs.get_typing_handler().get_current_token())

    async def typing_changes(self, after: int, up_to: int, limit: int) -> Sequence[tuple[str, Sequence[str]]]:
        """Rooms in which it changed who types, and all who type there now."""
        handler, instance = self._hs.get_typing_handler(), self._hs.get_instance_name()
        rows, _, _ = await self.inside("typing", handler.get_all_typing_updates, instance, after, up_to, limit)
        return [(str(row[0]), list(row[1])) for _, row in rows]

    async def set_typing(self, requester: Any, room_id: str, *, typing: bool, timeout_ms: int) -> None:
        """One of our users types, or does not. Nothing happens in a process that does not write such notices."""
        if self._hs.get_instance_name() not in self._hs.config.worker.writers.typing:
            return
        handler = self._hs.get_typing_writer_handler()
        common = {"target_user": requester.user, "requester": requester, "room_id": room_id}
        if typing:
            await self.inside("typing", handler.started_typing, **common, timeout=timeout_ms)
        else:
            await self.inside("typing", handler.stopped_typing, **common)

    def receipt_position(self) -> int:
        """Where the stream of receipts is: everything up to it is in the database."""
        return int(self._store.get_max_receipt_stream_id().stream)

    async def receipts(
        self, after: int, up_to: int, limit: int
    ) -> tuple[int, Sequence[tuple[str, str, str, str, Mapping[str, Any]]]]:
        """Receipts: how far these reach, and of each room ID, type, user ID, event ID and content."""
        instance = self._hs.get_instance_name()
        rows, reached, _ = await self.inside(
            "receipts", self._store.get_all_updated_receipts, instance, after, up_to, limit
        )
        return int(reached), [(row[0], row[1], row[2], row[3], row[5]) for _, row in rows]

    async def set_read(self, user_id: str, room_id: str, event_id: str) -> None:
        """One of our users has read up to an event."""
        handler = self._hs.get_receipts_handler()
        await self.inside(
            "receipts",
            handler.received_client_receipt,
            room_id,
            "m.read",
            user_id=self.user_id(user_id),
            event_id=event_id,
            thread_id=None,
        )

    # -- What Synapse asks us -----------------------------------------------------------------------------------------

    def ask_about_invites(self, callback: Callable[[str, str, str], Awaitable[Any]]) -> None:
        """Have ``callback(inviter, invitee, room ID)`` asked whether a local user may invite somebody; it answers
        ``"NOT_SPAM"`` or :meth:`forbidden`. Server administrators are not asked about.
        """
        self._api.register_spam_checker_callbacks(user_may_invite=callback)


def synapse_version() -> str:
    """The installed Synapse's version."""
    try:
        return metadata.version("matrix-synapse")
    except metadata.PackageNotFoundError:
        return "of an unknown version"


async def _waiting_for(begin: Callable[[], Awaitable[T]]) -> T:
    return await begin()


def _imported(module: str, name: str, missing: list[str]) -> Any:
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError):
        missing.append(f"{module}.{name}")
        return None


def _attribute(start: Any, path: str, called: str, missing: list[str]) -> Any:
    found = start
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            missing.append(f"{called}.{path}")
            return None
    return found

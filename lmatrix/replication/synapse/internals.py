"""Every reach into what Synapse keeps to itself.

Synapse promises modules only its ``ModuleApi``, and that does not reach far enough. Owns: :class:`Internals`, the one
place that knows private objects of Synapse by name. Invariant: everything that is needed is looked for when the module
is built; when anything is missing, :class:`UnsupportedSynapse` names all of it, and Synapse does not start.

Two worlds meet here. Synapse's code runs in *logging contexts*, which an ``await`` hands on; ours does not know them.
:meth:`Internals.inside` calls into Synapse from our world, :meth:`Internals.outside` lets our code run from Synapse's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
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
}
"""What is imported: name → module."""

_OF_THE_HOMESERVER = (
    "config.key.signing_key",
    "config.key.old_signing_keys",
    "config.federation.federation_domain_whitelist",
    "get_reactor",
)
"""What the homeserver object must have."""


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
        if missing:
            raise UnsupportedSynapse(synapse_version(), missing)
        self._api = api

    # -- Who this server is -------------------------------------------------------------------------------------------

    @property
    def server_name(self) -> str:
        """Synapse's, and so ours."""
        return str(self._api.server_name)

    @property
    def worker_name(self) -> str | None:
        """The name of this process; ``None`` for the main one."""
        name: str | None = self._api.worker_name
        return name

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

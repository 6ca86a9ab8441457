"""The pure core: what an event is, and what the rules say of it. No I/O, no clock, no Twisted.

An event that comes in goes through these modules in this order: :mod:`~lmatrix.events.forms` (its shape, by
:mod:`~lmatrix.events.schema`), :mod:`~lmatrix.events.verification` (its signatures and hashes),
:mod:`~lmatrix.events.auth_rules` (whether it is allowed, in some :mod:`~lmatrix.events.state`). One that goes out comes
from :mod:`~lmatrix.events.building`. Everything in which room versions differ is a property of
:class:`~lmatrix.events.room_versions.RoomVersion`.
"""

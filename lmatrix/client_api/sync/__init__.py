"""``GET /sync``: what happened in a user's rooms since a token (Client-Server API v1.11, "Syncing").

:mod:`~lmatrix.client_api.sync.window` finds the newest events of one room that belong in an answer,
:mod:`~lmatrix.client_api.sync.room_news` says what one room has to tell, :mod:`~lmatrix.client_api.sync.reader` puts
the rooms together from one database snapshot, :mod:`~lmatrix.client_api.sync.endpoint` waits until there is something
to tell.
"""

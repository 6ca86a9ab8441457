"""The Matrix Client-Server API (v1.11), for this server's own users.

:mod:`~lmatrix.client_api.routes` puts it together; each other module owns one family of endpoints or one idea that they
share. It knows the rooms by their facade and the database by its stores, and no SQL and no rules.
"""

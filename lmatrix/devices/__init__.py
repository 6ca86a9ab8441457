"""What goes from user to user beside the rooms' logs: devices and their keys, messages to devices, typing, receipts.

It stands on the rooms, of which it asks who is in which room, and knows neither HTTP nor SQL: like the rooms it
declares what it needs (:mod:`~lmatrix.devices.interfaces`), and storage, federation and the client API meet it there.
:mod:`~lmatrix.devices.floor` puts it together.
"""

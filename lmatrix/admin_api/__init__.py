"""The API for the operator of this server: what rooms and destinations there are, how they do, and moving rooms.

It is ours (``/_lmatrix/admin/v1``), small, and meant for the commands of ``lmatrix`` and for an operator's scripts.
"""

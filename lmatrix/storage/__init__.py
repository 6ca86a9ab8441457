"""The database: engine, schema, group commit, and one store for each family of tables.

SQL lives here and nowhere else. A store method takes the transaction and never commits; whoever calls
:meth:`~lmatrix.rooms.interfaces.Database.write` owns the boundary. Start with :mod:`~lmatrix.storage.stores` (what
there is), :mod:`~lmatrix.storage.database` (how it runs) and ``schema/`` (what is kept).
"""

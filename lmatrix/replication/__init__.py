"""The bridge between Linearized Matrix rooms and rooms of a DAG-capable server (MSC3995).

A *mirror* pairs a linearized room, kept by this library's own rooms and store, with an ordinary room of the DAG server.
:mod:`lmatrix.replication.interfaces` is the port; adapters implement it, this package knows none of them.
"""

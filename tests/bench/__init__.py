"""The benchmark: what a hub can do, beside what the bare primitives cost on the same machine.

Run it with ``python -m tests.bench`` (or ``tox -e bench``). It is not part of the tests: real processes, real sockets
on loopback with TLS, a real database that waits for the disk, and no assertion on how fast they are.

* :mod:`.rooms` writes rooms of any length and membership into a hub's database, as the hub itself would have;
* :mod:`.hub` runs the hub, a ``twistd`` process;
* :mod:`.participant` is a participant reduced to what must be there, so that the hub is what is measured: a program of
  its own that sends transactions which were signed beforehand and notes when their events come back (:mod:`.wire`);
* :mod:`.loads` puts the participants to work and says what came of it;
* :mod:`.primitives` measures what nobody can do without;
* :mod:`.end_to_end` measures three real servers, from one user to another;
* :mod:`.report` is the table.
"""

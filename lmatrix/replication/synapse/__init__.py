"""Synapse: how lmatrix lives inside of it. The only package that imports ``synapse``, behind the extra
``lmatrix[synapse]``.

:mod:`.internals` owns every reach into what Synapse keeps to itself; the other modules work with what it hands out.
"""

"""Whole servers in one process, on one clock and a network in memory, with everything random drawn from one seed.

``python -m tests.simulation --seed N`` runs one seed; see :mod:`tests.simulation.__main__`.
"""

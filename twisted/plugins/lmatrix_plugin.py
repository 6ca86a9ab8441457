"""Tells ``twistd`` that ``lmatrix`` exists; :mod:`lmatrix.tap` is imported only when it is asked for.

There is no ``__init__.py`` in this directory or its parent: Twisted's own package finds such directories by itself.
"""

# Twisted has no annotations here.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from twisted.application.service import ServiceMaker

lmatrix = ServiceMaker("lmatrix", "lmatrix.tap", "A Linearized Matrix server: hub and participant.", "lmatrix")

"""A Linearized Matrix server and library.

Owns: the version number, the only copy of it. Everything else is imported from the package that owns it; the pure core
for library users is :mod:`lmatrix.events` (with :mod:`lmatrix.crypto`, :mod:`lmatrix.canonical_json` and
:mod:`lmatrix.ids`).
"""

from __future__ import annotations

__version__ = "0.1.0"

__all__ = ["__version__"]

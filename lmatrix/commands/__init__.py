"""The subcommands of ``lmatrix``: one module each, with ``add_to(subparsers)`` and a function that runs it.

A command gets its parsed arguments, prints for a person, and returns an exit status; what goes wrong on the user's side
is raised as :class:`~lmatrix.errors.LMatrixError`, and :mod:`lmatrix.cli` prints it.
"""

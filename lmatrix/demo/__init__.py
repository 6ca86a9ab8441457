"""``lmatrix demo``: three real servers on this machine whose users talk in one room.

:mod:`~lmatrix.demo.servers` starts them, :mod:`~lmatrix.demo.story` is what their users do,
:mod:`~lmatrix.demo.evidence` reads and verifies what each server has stored, :mod:`~lmatrix.demo.report` prints it,
:mod:`~lmatrix.demo.load` measures, and :mod:`~lmatrix.demo.main` puts these in order.
"""

"""What a process holds on to.

Owns: :func:`reachable`, which walks through everything that a server holds, :func:`waiting`, which finds whoever in it
waits for something, and :func:`size`. A server that has come to rest has nobody waiting: a Deferred that is left
hanging is found here, wherever it hangs.
"""

from __future__ import annotations

import gc
import inspect
import types
from collections.abc import Iterator, Mapping
from typing import Any

from twisted.internet.defer import Deferred

_NOT_ITS_OWN = (type, types.ModuleType, types.FrameType, types.CodeType, types.BuiltinFunctionType)


def reachable(root: object) -> Iterator[Any]:
    """Everything that an object holds on to, itself included, each once; but not what belongs to the simulation."""
    seen: set[int] = set()
    stack: list[Any] = [root]
    while stack:
        one = stack.pop()
        if id(one) in seen or isinstance(one, _NOT_ITS_OWN) or type(one).__module__.startswith("tests."):
            continue
        seen.add(id(one))
        yield one
        stack.extend(_held_by(one))


def waiting(root: object) -> Iterator[str]:
    """Coroutines in the middle of something, by the line that they have come to; and Deferreds that have not fired and
    that somebody has added a callback to.
    """
    for one in reachable(root):
        if isinstance(one, types.CoroutineType) and inspect.getcoroutinestate(one) == inspect.CORO_SUSPENDED:
            yield f"{one.__qualname__} at line {one.cr_frame.f_lineno if one.cr_frame else 0}"
        elif isinstance(one, Deferred) and not one.called and one.callbacks:
            yield f"a Deferred with {len(one.callbacks)} callbacks"


def size(root: object) -> int:
    """How many objects it holds on to."""
    return sum(1 for _ in reachable(root))


def _held_by(one: Any) -> Iterator[Any]:
    if isinstance(one, types.FunctionType):
        # Not its module's globals, through which everything can be reached.
        yield from one.__closure__ or ()
        yield from one.__defaults__ or ()
    elif isinstance(one, Mapping) and "__builtins__" in one:
        return
    else:
        yield from gc.get_referents(one)

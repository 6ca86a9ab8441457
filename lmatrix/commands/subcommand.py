"""What every subcommand shares: the type of the object that it adds itself to."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    Subparsers: TypeAlias = argparse._SubParsersAction[argparse.ArgumentParser]
else:
    # The class has no public name, and can be indexed only by type checkers.
    Subparsers = object

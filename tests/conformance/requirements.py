"""What the Internet-Draft asks for: the table behind the report and ``docs/conformance.rst``.

Owns: :class:`Section` and :class:`Requirement`, read from ``requirements/*.toml``, in the I-D's order. There is one
requirement for each MUST, MUST NOT, SHOULD or SHOULD NOT, in words of our own; what the I-D states flatly about the
behaviour of a server ("a 404 is returned") stands there as ``says``, and binds like a MUST.

Each is proved by cases (they name it), by tests of this repository (``tests``), or says why it is not: ``other`` when
it is not for a server to fulfil, ``open`` when it is, and is not proved yet.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import attrs

BINDING = ("MUST", "MUST NOT", "says")
"""Levels of which a failure is a failure of the target."""

ADVISED = ("SHOULD", "SHOULD NOT")

_DIRECTORY = Path(__file__).parent / "requirements"


@attrs.frozen(slots=True)
class Requirement:
    """One thing that is asked for.

    Attributes:
        id: section and name: ``"api-send-txn/at-most-50-pdus"``.
        level: one of :data:`BINDING` or :data:`ADVISED`.
        text: what, in our words.
        tests: modules of tests in this repository that prove it (of lmatrix), ``()`` for none.
        other: why it is not for a server to fulfil; ``""`` when it is.
        open: why nothing proves it; ``""`` when something does.
    """

    id: str
    level: str
    text: str
    tests: tuple[str, ...] = ()
    other: str = ""
    open: str = ""

    @property
    def is_binding(self) -> bool:
        """Whether a target that fails it does not conform."""
        return self.level in BINDING


@attrs.frozen(slots=True)
class Section:
    """A section of the I-D.

    Attributes:
        id: its anchor, without ``int-``; where it has none, a name of ours.
        title: its heading.
        requirements: in the order of the text.
    """

    id: str
    title: str
    requirements: tuple[Requirement, ...]


@cache
def sections() -> tuple[Section, ...]:
    """All sections that ask for something, in the order of the I-D."""
    found: list[Section] = []
    for file in sorted(_DIRECTORY.glob("*.toml")):
        with file.open("rb") as stream:
            found += [_section(name, table) for name, table in tomllib.load(stream).items()]
    return tuple(found)


@cache
def requirements() -> Mapping[str, Requirement]:
    """All requirements, by ID."""
    return {one.id: one for section in sections() for one in section.requirements}


def _section(name: str, table: Mapping[str, object]) -> Section:
    rows = table["requirements"]
    assert isinstance(rows, list)
    return Section(name, str(table["title"]), tuple(_requirement(name, row) for row in rows))


def _requirement(section: str, row: Sequence[str]) -> Requirement:
    name, level, text, *rest = row
    if level not in (*BINDING, *ADVISED):
        raise ValueError(f"{section}/{name}: unknown level {level}")
    one = Requirement(f"{section}/{name}", level, text)
    if not rest:
        return one
    kind, value = rest
    if kind == "tests":
        return attrs.evolve(one, tests=tuple(value.split()))
    if kind not in ("other", "open"):
        raise ValueError(f"{section}/{name}: unknown kind of proof {kind}")
    return attrs.evolve(one, other=value) if kind == "other" else attrs.evolve(one, open=value)

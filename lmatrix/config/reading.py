"""Reading YAML so that every complaint names the line, the key and what was expected there.

Owns: the walk from YAML nodes (which know their line) to typed values. A *reader* is a function from a :class:`Value`
to a typed value; readers compose (:func:`list_of`, :func:`mapping_of`, :func:`section_of`). A :class:`Section` hands
its keys to readers and complains about those that nobody asked for.

Invariants:

* All problems of a file are reported together, in the order of their lines; nothing read from a file with a problem is
  ever handed out (see :func:`read_document`).
* The file is only read. Duplicate keys, unknown keys and wrong types are problems, never ignored.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

import attrs
import yaml

from lmatrix.errors import LMatrixError

T = TypeVar("T")

_TAG = "tag:yaml.org,2002:"
_KINDS = {"str": "text", "int": "a whole number", "float": "a number", "bool": "true or false", "null": "nothing"}


@attrs.frozen(slots=True)
class Problem:
    """One thing that is wrong in a configuration file.

    Attributes:
        line: 1-based line in the file.
        key: dotted path of the key, such as ``"federation.peers"``; empty for the file as a whole.
        message: what was expected, and what was found.
    """

    line: int
    key: str
    message: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.key}: {self.message}" if self.key else f"line {self.line}: {self.message}"


class ConfigError(LMatrixError):
    """A configuration file that cannot be used.

    Args:
        file_name: the file, as the reader of the message should know it.
        problems: at least one, ascending by line.
    """

    def __init__(self, file_name: str, problems: Iterable[Problem]) -> None:
        self.file_name = file_name
        self.problems = tuple(sorted(problems, key=lambda problem: problem.line))
        super().__init__("\n".join(f"{file_name}: {problem}" for problem in self.problems))


class _Wrong(Exception):
    """A reader could not read its value. Never leaves this module."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


@attrs.frozen(slots=True)
class _Document:
    directory: Path
    problems: list[Problem] = attrs.field(factory=list)


@attrs.frozen(slots=True)
class Value:
    """One YAML value with its place.

    Attributes:
        node: the YAML node.
        key: dotted path of the key it belongs to.
    """

    node: yaml.Node
    key: str
    _document: _Document

    @property
    def line(self) -> int:
        """1-based."""
        return int(self.node.start_mark.line) + 1

    @property
    def directory(self) -> Path:
        """The directory against which relative paths are resolved: that of the configuration file."""
        return self._document.directory

    def wrong(self, expected: str) -> NoReturn:
        """Give up on this value: the problem names what was ``expected``, and what is there instead."""
        raise _Wrong(Problem(self.line, self.key, f"expected {expected}, found {_found(self.node)}"))

    def scalar(self, kind: str) -> str | None:
        """The literal text, when this is a YAML scalar of ``kind`` (``"str"``, ``"int"``, …), else ``None``."""
        if isinstance(self.node, yaml.ScalarNode) and self.node.tag == _TAG + kind:
            return str(self.node.value)
        return None

    def is_null(self) -> bool:
        return self.scalar("null") is not None

    def items(self, expected: str) -> list[Value]:
        """The values of a list."""
        if not isinstance(self.node, yaml.SequenceNode):
            self.wrong(expected)
        return [Value(node, f"{self.key}[{index}]", self._document) for index, node in enumerate(self.node.value)]

    def pairs(self, expected: str) -> list[tuple[Value, Value]]:
        """Keys and values of a mapping; a duplicate key is a problem."""
        if not isinstance(self.node, yaml.MappingNode):
            self.wrong(expected)
        pairs: list[tuple[Value, Value]] = []
        lines: dict[str, int] = {}
        for key_node, value_node in self.node.value:
            key = Value(key_node, self.key, self._document)
            name = str(key_node.value)
            inner = f"{self.key}.{name}" if self.key else name
            if not isinstance(key_node, yaml.ScalarNode):
                key.wrong("a plain key")
            if name in lines:
                self._document.problems.append(Problem(key.line, inner, f"already given on line {lines[name]}"))
                continue
            lines[name] = key.line
            pairs.append((Value(key_node, inner, self._document), Value(value_node, inner, self._document)))
        return pairs

    def section(self) -> Section:
        """This value as a mapping whose keys are known beforehand."""
        pairs = self.pairs("a section of `key: value` lines")
        return Section(self, {str(key.node.value): (key, value) for key, value in pairs}, self._document)


Reader = Callable[[Value], T]


class Section:
    """A mapping whose keys are known beforehand.

    ``required`` and ``optional`` note a problem and go on, so that one run shows all of them; what they return then is
    meaningless, and is thrown away with the rest by :func:`read_document`. Check across keys only while :attr:`sound`.
    """

    def __init__(self, value: Value, entries: dict[str, tuple[Value, Value]], document: _Document) -> None:
        self._value = value
        self._entries = entries
        self._document = document
        self._known: list[str] = []
        self._problems_before = len(document.problems)

    @property
    def sound(self) -> bool:
        """Whether no problem has been noted in this section so far."""
        return len(self._document.problems) == self._problems_before

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def required(self, key: str, reader: Reader[T]) -> T:
        """The value of ``key``, which must be there."""
        self._known.append(key)
        found = self._present(key)
        if found is None:
            self.problem(key, "is missing")
            return cast(T, None)
        return self._read(found, reader, cast(T, None))

    def optional(self, key: str, default: T, reader: Reader[T]) -> T:
        """The value of ``key``, or ``default`` where it is absent or empty."""
        self._known.append(key)
        found = self._present(key)
        return default if found is None else self._read(found, reader, default)

    def subsection(self, key: str, read: Callable[[Section], T]) -> T:
        """The section under ``key``; an absent one is read as an empty one, so that its defaults are in one place."""
        self._known.append(key)
        found = self._present(key)
        if found is None:
            mark = self._value.node.start_mark
            empty = yaml.MappingNode(_TAG + "map", [], mark, mark)
            found = Value(empty, self._path(key), self._document)
        return self._read(found, section_of(read), cast(T, None))

    def problem(self, key: str, message: str) -> None:
        """Note that ``key`` (or its absence) is wrong; the message is a sentence without a subject."""
        entry = self._entries.get(key)
        line = entry[0].line if entry else self._value.line
        self._document.problems.append(Problem(line, self._path(key), message))

    def finish(self) -> None:
        """Complain about keys that nobody asked for."""
        for name, (key, _) in self._entries.items():
            if name in self._known:
                continue
            near = difflib.get_close_matches(name, self._known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else "known here: " + ", ".join(sorted(self._known))
            self._document.problems.append(Problem(key.line, key.key, f"unknown key; {hint}"))

    def _present(self, key: str) -> Value | None:
        entry = self._entries.get(key)
        return None if entry is None or entry[1].is_null() else entry[1]

    def _path(self, key: str) -> str:
        return f"{self._value.key}.{key}" if self._value.key else key

    def _read(self, value: Value, reader: Reader[T], instead: T) -> T:
        try:
            return reader(value)
        except _Wrong as wrong:
            self._document.problems.append(wrong.problem)
            return instead


def section_of(read: Callable[[Section], T]) -> Reader[T]:
    """A reader of a section: ``read`` asks for its keys, then unknown ones are complained about."""

    def reader(value: Value) -> T:
        section = value.section()
        result = read(section)
        section.finish()
        return result

    return reader


def list_of(reader: Reader[T], expected: str, *, at_least: int = 0) -> Reader[tuple[T, ...]]:
    """A reader of a list of ``expected`` with ``at_least`` so many entries."""

    def read(value: Value) -> tuple[T, ...]:
        items = value.items(f"a list of {expected}")
        if len(items) < at_least:
            raise _Wrong(Problem(value.line, value.key, f"expected at least {at_least} of: {expected}"))
        return tuple(reader(item) for item in items)

    return read


def mapping_of(key_reader: Reader[str], reader: Reader[T], expected: str) -> Reader[dict[str, T]]:
    """A reader of a mapping whose keys are the administrator's own."""

    def read(value: Value) -> dict[str, T]:
        return {key_reader(key): reader(inner) for key, inner in value.pairs(expected)}

    return read


def mapping_as_it_is(value: Value) -> dict[str, Any]:
    """A reader of a section that is somebody else's to understand: plain YAML values, keys are text."""
    value.section()  # complains about duplicate keys
    constructor = yaml.constructor.SafeConstructor()
    try:
        found = constructor.construct_document(value.node)
    except yaml.constructor.ConstructorError as error:
        raise _Wrong(Problem(value.line, value.key, f"cannot be read: {error.problem}")) from error
    if not all(isinstance(key, str) for key in found):
        value.wrong("a section whose keys are text")
    return cast(dict[str, Any], found)


def text(value: Value) -> str:
    """A reader of non-empty text."""
    found = value.scalar("str")
    if not found:
        value.wrong("text")
    return found


def checked_text(check: Callable[[str], object], expected: str) -> Reader[str]:
    """A reader of text that ``check`` accepts; it refuses by raising :class:`~lmatrix.errors.LMatrixError`."""

    def read(value: Value) -> str:
        # A name such as 1.2 is a number to YAML, and still a name to whoever wrote it.
        found = value.scalar("str") or value.scalar("int") or value.scalar("float")
        if not found:
            value.wrong(expected)
        try:
            check(found)
        except LMatrixError as refused:
            raise _Wrong(Problem(value.line, value.key, f"expected {expected}: {refused}")) from refused
        return found

    return read


def boolean(value: Value) -> bool:
    """A reader of true or false."""
    found = value.scalar("bool")
    if found is None:
        value.wrong("true or false")
    return found.lower() in ("true", "yes", "on")


def whole(least: int, most: int, what: str = "a whole number") -> Reader[int]:
    """A reader of an integer in ``least`` … ``most``, both inclusive."""
    expected = f"{what} from {least} to {most}"

    def read(value: Value) -> int:
        found = value.scalar("int")
        if found is None or not found.isascii() or not found.removeprefix("-").isdigit():
            value.wrong(expected)
        number = int(found)
        if not least <= number <= most:
            value.wrong(expected)
        return number

    return read


def number(above: float, most: float, what: str = "a number") -> Reader[float]:
    """A reader of a number greater than ``above`` and at most ``most``."""
    expected = f"{what} above {above:g} and up to {most:g}"

    def read(value: Value) -> float:
        found = value.scalar("float") or value.scalar("int")
        try:
            result = float(found) if found is not None else above
        except ValueError:
            value.wrong(expected)
        if not above < result <= most:
            value.wrong(expected)
        return result

    return read


def choice(*allowed: str) -> Reader[str]:
    """A reader of one of a few words."""
    expected = "one of " + ", ".join(allowed) if len(allowed) > 1 else repr(allowed[0])

    def read(value: Value) -> str:
        found = text(value) if value.scalar("str") else value.wrong(expected)
        if found not in allowed:
            near = difflib.get_close_matches(found, allowed, n=1, cutoff=0.5)
            value.wrong(expected + (f" (did you mean {near[0]}?)" if near else ""))
        return found

    return read


def path(value: Value) -> Path:
    """A reader of a file's path, relative to the directory of the configuration file."""
    found = value.scalar("str")
    if not found:
        value.wrong("a path")
    return value.directory / Path(found).expanduser()


def read_document(content: str, file_name: str, directory: Path, read: Callable[[Section], T]) -> T:
    """Parse YAML and read its top-level mapping.

    Args:
        content: the file's text.
        file_name: for messages.
        directory: base of relative paths.
        read: asks for the top level's keys.

    Raises:
        ConfigError: if there is any problem, with all of them.
    """
    try:
        node = yaml.compose(content, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message = f"not YAML: {error.problem or error.context}"
        raise ConfigError(file_name, [Problem(mark.line + 1 if mark else 1, "", message)]) from error
    except yaml.YAMLError as error:
        raise ConfigError(file_name, [Problem(1, "", f"not YAML: {error}")]) from error
    if node is None:
        raise ConfigError(file_name, [Problem(1, "", "the file is empty")])
    document = _Document(directory)
    try:
        result = section_of(read)(Value(node, "", document))
    except _Wrong as wrong:
        document.problems.append(wrong.problem)
    if document.problems:
        raise ConfigError(file_name, document.problems)
    return result


def _found(node: yaml.Node) -> str:
    if isinstance(node, yaml.MappingNode):
        return "a section"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    shown = str(node.value)
    kind = str(node.tag).removeprefix(_TAG)
    if kind == "null":
        return "nothing"
    what = _KINDS.get(kind, f"a value of type {kind}")
    return f"{what} {shown[:60]!r}"

"""Reading YAML: every complaint names its line, its key and what was expected."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from lmatrix.config.reading import (
    ConfigError,
    Section,
    boolean,
    choice,
    list_of,
    mapping_of,
    number,
    path,
    read_document,
    section_of,
    text,
    whole,
)


def read_everything(section: Section) -> dict[str, object]:
    def inner(inner_section: Section) -> object:
        return inner_section.optional("flag", False, boolean)

    return {
        "name": section.required("name", text),
        "port": section.optional("port", 1, whole(1, 9)),
        "rate": section.optional("rate", 1.0, number(0, 10)),
        "colour": section.optional("colour", "red", choice("red", "green")),
        "names": section.optional("names", (), list_of(text, "names", at_least=1)),
        "table": section.optional("table", {}, mapping_of(text, section_of(inner), "names")),
        "file": section.optional("file", None, path),
        "inner": section.subsection("inner", inner),
    }


def read(content: str) -> dict[str, object]:
    return read_document(content, "x.yaml", Path("/etc/there"), read_everything)


class GoodDocuments(SynchronousTestCase):
    def test_values(self) -> None:
        """Every kind of value arrives with its type; relative paths start at the file's directory."""
        found = read(
            "name: n\nport: 3\nrate: 2\ncolour: green\nnames: [a, b]\n"
            "table: {k: {flag: true}}\nfile: sub/f\ninner: {flag: yes}\n"
        )
        self.assertEqual(
            found,
            {
                "name": "n",
                "port": 3,
                "rate": 2.0,
                "colour": "green",
                "names": ("a", "b"),
                "table": {"k": True},
                "file": Path("/etc/there/sub/f"),
                "inner": True,
            },
        )

    def test_defaults(self) -> None:
        """Absent keys, empty keys and absent sections get their defaults."""
        found = read("name: n\nport:\ninner:\n")
        self.assertEqual(found["port"], 1)
        self.assertEqual(found["inner"], False)
        self.assertEqual(found["names"], ())


class Problems(SynchronousTestCase):
    def problems(self, content: str) -> list[str]:
        error = self.assertRaises(ConfigError, read, content)
        return [str(problem) for problem in error.problems]

    def test_unknown_key_names_the_nearest_known_one(self) -> None:
        """A mistyped key is refused, with its line and the key that was probably meant."""
        self.assertEqual(self.problems("name: n\nprot: 3\n"), ["line 2: prot: unknown key; did you mean 'port'?"])

    def test_unknown_key_unlike_any_known_one(self) -> None:
        """When no key is near, the known ones are listed."""
        (problem,) = self.problems("name: n\ninner:\n  zzzzzz: 3\n")
        self.assertEqual(problem, "line 3: inner.zzzzzz: unknown key; known here: flag")

    def test_all_problems_at_once(self) -> None:
        """One run shows every problem, in the order of lines."""
        found = self.problems("port: many\nrate: -1\ncolour: gren\nnames: []\ninner: 7\n")
        self.assertEqual(
            found,
            [
                "line 1: name: is missing",
                "line 1: port: expected a whole number from 1 to 9, found text 'many'",
                "line 2: rate: expected a number above 0 and up to 10, found a whole number '-1'",
                "line 3: colour: expected one of red, green (did you mean green?), found text 'gren'",
                "line 4: names: expected at least 1 of: names",
                "line 5: inner: expected a section of `key: value` lines, found a whole number '7'",
            ],
        )

    def test_duplicate_key(self) -> None:
        """YAML would keep the last one silently."""
        self.assertEqual(self.problems("name: a\nname: b\n"), ["line 2: name: already given on line 1"])

    def test_wrong_types(self) -> None:
        """Each reader refuses other types, and says what it wanted and what it found."""
        for content, expected in [
            ("name: [a]", "expected text, found a list"),
            ("name: ''", "expected text, found text ''"),
            ("name: n\nport: true", "expected a whole number from 1 to 9, found true or false 'true'"),
            ("name: n\nport: 10", "expected a whole number from 1 to 9, found a whole number '10'"),
            ("name: n\nport: 0x3", "expected a whole number from 1 to 9, found a whole number '0x3'"),
            ("name: n\nrate: .nan", "expected a number above 0 and up to 10, found a number '.nan'"),
            ("name: n\nnames: a", "expected a list of names, found text 'a'"),
            ("name: n\nnames: [a, 2]", "expected text, found a whole number '2'"),
            ("name: n\ntable: [a]", "expected names, found a list"),
            ("name: n\ntable: {[a]: {}}", "expected a plain key, found a list"),
            ("name: n\ninner: {flag: 1}", "expected true or false, found a whole number '1'"),
            ("name: n\nfile: {a: b}", "expected a path, found a section"),
            ("name: !!python/name:os.system x", "expected text, found a value of type python/name:os.system 'x'"),
        ]:
            (problem,) = self.problems(content)
            self.assertTrue(problem.endswith(expected), f"{content!r}: {problem!r}")

    def test_not_a_mapping(self) -> None:
        """A file without keys is a problem of the file, not a crash."""
        for content, expected in [
            ("", "line 1: the file is empty"),
            ("# nothing\n", "line 1: the file is empty"),
            ("- a\n", "line 1: expected a section of `key: value` lines, found a list"),
        ]:
            self.assertEqual(self.problems(content), [expected])

    def test_not_yaml(self) -> None:
        """A syntax error names its line."""
        (problem,) = self.problems("name: n\nport: [1\ninner: {}\n")
        self.assertTrue(problem.startswith("line 3: not YAML: "), problem)

    def test_message_names_the_file(self) -> None:
        """The error's text is what a person sees: file, line, key."""
        error = self.assertRaises(ConfigError, read, "name: n\nrate: a\n")
        self.assertTrue(str(error).startswith("x.yaml: line 2: rate: "), str(error))

    @given(st.text(max_size=60))
    def test_any_text_is_read_or_refused(self, content: str) -> None:
        """Whatever the file holds, the answer is a configuration or a ConfigError, and every problem has a line."""
        try:
            read("name: n\n" + content)
        except ConfigError as error:
            self.assertTrue(all(problem.line >= 1 for problem in error.problems))

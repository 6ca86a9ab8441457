"""Whether the tables have every MUST and SHOULD of the Internet-Draft: they are counted, section by section.

Owns: :func:`differences`. The text itself is not part of this repository: ``python -m tests.conformance.completeness
draft-ralston-mimi-linearized-matrix.md`` compares with it.
"""

from __future__ import annotations

import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from tests.conformance.requirements import sections

_KEYWORD = re.compile(r"\b(MUST NOT|MUST|SHOULD NOT|SHOULD|SHALL|REQUIRED)\b")
_HEADING = re.compile(r"#+ (.*?)(?: \{#.*\})?$")


def differences(text: str) -> Iterator[str]:
    """Where the tables and the text have different numbers of key words; one line for each section and word."""
    asked: dict[str, Counter[str]] = defaultdict(Counter)
    # A key word may stand on two lines.
    parts = re.split(r"(?m)^(#+ .*)$", text.partition("--- middle")[2])
    for heading, body in zip(parts[1::2], parts[2::2], strict=True):
        match = _HEADING.match(heading)
        assert match is not None
        asked[match[1].replace("`", "")].update(_KEYWORD.findall(" ".join(body.split())))
    tables = {section.title: Counter(one.level for one in section.requirements) for section in sections()}
    for title in sorted(asked.keys() | tables.keys()):
        for word in ("MUST", "MUST NOT", "SHOULD", "SHOULD NOT", "SHALL", "REQUIRED"):
            wanted, found = asked[title][word], tables.get(title, Counter())[word]
            if wanted != found:
                yield f"{title}: {wanted} {word} in the text, {found} in the tables"


if __name__ == "__main__":
    different = list(differences(Path(sys.argv[1]).read_text(encoding="utf-8")))
    print("\n".join(different) or "every one of them is there")
    sys.exit(bool(different))

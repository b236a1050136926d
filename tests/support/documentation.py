"""The blocks of the documentation, and how tests run those of Python."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple

from .programs import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

_FENCE = re.compile(r"^```(.*)$", re.MULTILINE)


class Block(NamedTuple):
    """A block of Python on a page."""

    page: Path
    line: int
    source: str

    @property
    def is_program(self) -> bool:
        """Whether it imports what it uses. Otherwise it is a fragment."""
        return bool(re.search(r"^(import|from) ", self.source, re.MULTILINE))

    def code(self, source: str) -> CodeType:
        """Compile it with the line numbers of its page, without the future import of this module."""
        return compile("\n" * self.line + source, self.page, "exec", dont_inherit=True)

    def run(self) -> dict[str, Any]:
        """Run it as a module; what it defines."""
        namespace: dict[str, Any] = {"__name__": "documentation"}
        exec(self.code(self.source), namespace)
        return namespace


def fences(page: Path) -> Iterator[tuple[str, int, str]]:
    """The blocks of a page: language, line of the fence, and content."""
    text = page.read_text()
    marks = list(_FENCE.finditer(text))
    assert len(marks) % 2 == 0, f"a block of {page.name} does not end"
    for begin, end in zip(marks[::2], marks[1::2], strict=True):
        assert end[1] == "", f"a block of {page.name} has no language, or another stands in it"
        yield begin[1].strip(), text.count("\n", 0, begin.start()) + 1, text[begin.end() + 1 : end.start()]


BLOCKS = [Block(page, line, source) for page in PAGES for kind, line, source in fences(page) if kind == "python"]
PROGRAMS = [block for block in BLOCKS if block.is_program]
FRAGMENTS = [block for block in BLOCKS if not block.is_program]


def name_of(block: Block) -> str:
    """The page and the line of a block, as the name of its test."""
    return f"{block.page.name}:{block.line}"


def block_with(text: str) -> Block:
    """The only program that contains a text."""
    (found,) = (block for block in PROGRAMS if text in block.source)
    return found


def indented_block_with(page: str, text: str) -> str:
    """The only indented block of a page, such as a configuration, that contains a text."""
    content = (ROOT / "docs" / f"{page}.md").read_text()
    (found,) = (block for block in re.findall(r"(?:^(?:    .*)?\n)+", content, re.MULTILINE) if text in block)
    return str(found)


def replaced(text: str, **changes: str) -> str:
    """A text with other values, each of which occurs in it."""
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    return text

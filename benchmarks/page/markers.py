"""Replaces the tables of a page, which are between markers, and leaves the rest of the page as it is."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path

from benchmarks.catalogue import PROJECT

PAGE = PROJECT / "docs" / "performance.md"
BLOCK = re.compile(r"(<!-- benchmarks: (\w+) -->\n).*?(?=<!-- end -->)", re.DOTALL)


def add_page(parser: argparse.ArgumentParser) -> None:
    """Add the option for the page, which is docs/performance.md by default."""
    parser.add_argument("--page", type=Path, default=PAGE, metavar="FILE", help="the page with the markers")


def check_page(parser: argparse.ArgumentParser, page: Path) -> None:
    if not page.is_file():
        parser.error(f"there is no page {str(page)!r}")


def replace(page: Path, blocks: Mapping[str, str]) -> None:
    """Write blocks into the file of a page."""
    page.write_text(rendered(page.read_text(), blocks))


def rendered(page: str, blocks: Mapping[str, str]) -> str:
    """Replace the blocks of a page. Those of other commands are not changed.

    Raises:
        ValueError: a block has no marker on the page.
    """
    missing = blocks.keys() - names(page)
    if missing:
        raise ValueError(f"the page has no marker for {', '.join(sorted(missing))}")

    def replaced(match: re.Match[str]) -> str:
        return f"{match[1]}\n{blocks[match[2]]}\n\n" if match[2] in blocks else match[0]

    return BLOCK.sub(replaced, page)


def names(page: str) -> list[str]:
    """Return the names of the markers of a page."""
    return [match[2] for match in BLOCK.finditer(page)]

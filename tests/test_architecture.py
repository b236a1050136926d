"""The calls in docs/architecture.md exist under their names."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.support.programs import ROOT

PACKAGE = ROOT / "humphrey_trio"


def section() -> str:
    """The text of the calls of each operation."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    return page[page.index("The calls of each operation") : page.index("Reasons for this design")]


#: Such as ``_decoder:Decoder.next``: a module, and the name of something in it.
CALLS = sorted(set(re.findall(r"`(_\w+:[\w.]+)`", section())))
#: Such as ``Transport.send_now``: a class, and one of its methods.
METHODS = sorted(set(re.findall(r"`([A-Z]\w+\.\w+)`", section())))


def names(tree: ast.AST) -> Iterator[str]:
    """The names of the functions and classes of a module. Those of methods also with the name of their class."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        if isinstance(node, ast.ClassDef):
            yield from (f"{node.name}.{name.name}" for name in node.body if hasattr(name, "name"))


@cache
def names_of(file: Path) -> frozenset[str]:
    return frozenset(names(ast.parse(file.read_text())))


def test_section_has_calls() -> None:
    """The section is found, and lists the calls in this form."""
    assert len(CALLS) > 40
    assert "Transport.send_now" in METHODS


@pytest.mark.parametrize("call", CALLS)
def test_calls_exist(call: str) -> None:
    """Each ``module:function`` is in exactly one module of this name."""
    module, _, name = call.partition(":")
    assert sum(name in names_of(file) for file in PACKAGE.rglob(f"{module}.py")) == 1


@pytest.mark.parametrize("method", METHODS)
def test_methods_exist(method: str) -> None:
    """Each ``Class.method`` is in some module."""
    assert any(method in names_of(file) for file in PACKAGE.rglob("*.py"))

"""The test suite itself: helpers of several test modules are in ``tests.support``, and tests use public names."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.programs import ROOT

TESTS = ROOT / "tests"
MODULES = sorted(TESTS.glob("test_*.py"))
SUPPORT = sorted((TESTS / "support").glob("*.py"))

#: Underscore names of other objects that are used all the same, by file, with the reason.
FOREIGN_NAMES = {
    ("faults.py", "_core"): "trio has no public way to seed its scheduler",
    ("faults.py", "_run"): "trio has no public way to seed its scheduler",
    ("faults.py", "_r"): "trio has no public way to seed its scheduler",
    ("faults.py", "_ALLOW_DETERMINISTIC_SCHEDULING"): "trio has no public way to seed its scheduler",
    ("test_tls_handshake.py", "_msg_callback"): "ssl has no public way to look at the messages of TLS",
    ("test_tls_handshake.py", "_TLSMessageType"): "ssl has no public way to look at the messages of TLS",
    ("test_tls_key_updates.py", "_msg_callback"): "ssl has no public way to look at the messages of TLS",
    ("test_tls_key_updates.py", "_TLSMessageType"): "ssl has no public way to look at the messages of TLS",
    ("test_topic_concurrency.py", "_streams"): "no public call holds the turn of a broadcast",
    ("test_wire_properties.py", "_Decompress"): "zlib has no public name for this type",
}
#: Public methods of named tuples and functions of ``os``, in spite of their names.
PUBLIC_UNDERSCORES = {"_fields", "_replace", "_exit"}


def imported(file: Path) -> Iterator[str]:
    """The modules and names that a module imports, relative ones without their dots."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" if node.module else alias.name for alias in node.names)


def foreign_names(file: Path) -> Iterator[str]:
    """The underscore names that a module uses of anything but ``self``, ``cls`` and ``super()``."""
    for node in ast.walk(ast.parse(file.read_text())):
        if (
            isinstance(node, ast.Attribute)
            and node.attr.startswith("_")
            and not node.attr.startswith("__")
            and node.attr not in PUBLIC_UNDERSCORES
            and ast.unparse(node.value) not in ("self", "cls", "super()")
        ):
            yield node.attr


@pytest.mark.parametrize("file", [*MODULES, *SUPPORT], ids=lambda file: file.stem)
def test_no_module_imports_a_test_module(file: Path) -> None:
    """Test modules import from ``tests.support`` and ``tests.simulation``, and not from each other."""
    parts = {part for name in imported(file) for part in name.split(".")}
    assert parts.isdisjoint(module.stem for module in MODULES)


def test_underscore_names_stay_in_their_class() -> None:
    """No test uses an underscore name of another object, except those that are listed with their reasons."""
    assert {(file.name, name) for file in TESTS.rglob("*.py") for name in foreign_names(file)} == set(
        FOREIGN_NAMES
    )


@pytest.mark.parametrize("file", SUPPORT, ids=lambda file: file.stem)
def test_support_is_documented(file: Path) -> None:
    """Each module of the support has a docstring, and so has each of its public functions and classes."""
    tree = ast.parse(file.read_text())
    assert ast.get_docstring(tree)
    public = [
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
    ]
    assert [node.name for node in public if not ast.get_docstring(node)] == []

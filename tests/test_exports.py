"""The public surface: which modules there are, what they hand on, and that each name is documented."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import pytest

import humphrey_trio

PUBLIC = (
    "humphrey_trio",
    *("humphrey_trio.handlers", "humphrey_trio.http", "humphrey_trio.layers", "humphrey_trio.monitor"),
    "humphrey_trio.testing",
    "humphrey_trio.websocket",
)

any_module = pytest.mark.parametrize("module", [importlib.import_module(name) for name in PUBLIC], ids=PUBLIC)


def tree(module: ModuleType) -> ast.Module:
    assert module.__file__ is not None
    return ast.parse(Path(module.__file__).read_text())


def public_objects() -> dict[str, Any]:
    return {
        name: getattr(module, name) for module in map(importlib.import_module, PUBLIC) for name in module.__all__
    }


def is_ours(cls: type) -> bool:
    return cls.__module__.partition(".")[0] == "humphrey_trio"


def test_public_modules() -> None:
    """Exactly these modules have no underscore, neither in their own names nor in their packages'."""
    found = {module.name for module in pkgutil.walk_packages(humphrey_trio.__path__, "humphrey_trio.")}
    assert {name for name in found if "._" not in name} | {"humphrey_trio"} == set(PUBLIC)


@any_module
def test_public_modules_only_hand_on(module: ModuleType) -> None:
    """A public module is a docstring, imports of the form ``X as X``, and ``__all__``: constants first, sorted."""
    docstring, *imports, exports = tree(module).body
    assert isinstance(docstring, ast.Expr)
    assert module.__doc__
    names: list[str] = []
    for node in imports:
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            assert alias.asname == alias.name
            names.append(alias.name)
    assert isinstance(exports, ast.Assign)
    assert ast.unparse(exports.targets[0]) == "__all__"
    assert ast.literal_eval(exports.value) == sorted(names, key=lambda name: (not name.isupper(), name))


def test_a_name_is_one_thing() -> None:
    """A name means the same in every module, and what the package itself hands on one of its modules has, too."""
    root, *others = map(importlib.import_module, PUBLIC)
    for module in others:
        for name in set(module.__all__) & set(root.__all__):
            assert getattr(module, name) is getattr(root, name)
    assert set(root.__all__) <= {name for module in others for name in module.__all__}


@pytest.mark.parametrize("name", sorted(public_objects()))
def test_every_name_is_documented(name: str) -> None:
    """Each public class and function has a docstring, anything else a comment that begins with ``#:``."""
    thing = public_objects()[name]
    if isinstance(thing, (type, FunctionType)):
        assert thing.__doc__
        assert not thing.__doc__.startswith(f"{name}(")  # what dataclasses and named tuples make for themselves
    else:
        assert re.search(rf"^#: .*\n(?:#.*\n)*{name}\b.* = ", source_of(name), re.MULTILINE)


def source_of(name: str) -> str:
    """The source of the room from which a public name comes."""
    for public in map(importlib.import_module, PUBLIC):
        for node in tree(public).body:
            if isinstance(node, ast.ImportFrom) and any(alias.name == name for alias in node.names):
                return inspect.getsource(importlib.import_module(f"humphrey_trio.{node.module}"))
    raise AssertionError(f"{name} comes from nowhere")


def members() -> Iterator[tuple[type, str, object]]:
    """The public methods, properties and fields of the public classes, with the class where they are defined."""
    public = {thing for thing in public_objects().values() if isinstance(thing, type) and is_ours(thing)}
    for cls in sorted(
        {base for thing in public for base in thing.__mro__ if is_ours(base)}, key=lambda c: c.__name__
    ):
        for name, member in vars(cls).items():
            if not name.startswith("_"):
                yield cls, name, member


@pytest.mark.parametrize(
    ("cls", "name", "member"), [pytest.param(*found, id=f"{found[0].__name__}.{found[1]}") for found in members()]
)
def test_every_member_is_documented(cls: type, name: str, member: object) -> None:
    """Each public method and property has a docstring; a field stands in the docstring of its class."""
    function = member.__func__ if isinstance(member, (classmethod, staticmethod)) else member
    if isinstance(function, (FunctionType, property)):
        assert function.__doc__
    elif not issubclass(cls, str):  # the members of an enumeration speak for themselves
        assert cls.__doc__ is not None
        assert re.search(rf"^ +{name}: ", cls.__doc__, re.MULTILINE)

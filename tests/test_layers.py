"""The floors: imports inside the package go down only, and each foreign library stays in its room."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from importlib.util import resolve_name

import pytest
from helpers import ROOT

PACKAGE = "humphrey_trio"

# An import goes to a lower floor, or to a room further left on the same floor.
FLOORS = (
    ("_failures", "_krauss", "_quoting", "_runs", "_state"),
    (
        *("_http._address", "_http._headers", "_http._limits", "_http._drain", "_http._method", "_http._status"),
        *("_http._origins", "_http._statistics", "_http._tls_info", "_http._request", "_http._response"),
        *(
            "_websocket._limits",
            "_websocket._compression",
            "_websocket._heartbeat",
            "_websocket._message",
            "_websocket._errors",
            "_websocket._policies",
            "_websocket._counters",
            "_websocket._close_record",
            "_websocket._statistics",
        ),
    ),
    (
        "_server._pacing",
        "_server._transport",
        "_server._direct",
        *("_server._client_hello", "_server._ssl_errors", "_server._tls", "_server._certificate"),
        "_server._codec",
        "_websocket._mask",
        "_websocket._deflate",
        "_websocket._codec",
        "_websocket._drop_index",
        "_websocket._send_queue",
        "_websocket._liveness",
        "_websocket._phase",
        "_websocket._deadlines",
    ),
    (
        *("_server._lingering", "_server._connection", "_server._unix_socket", "_server._listen"),
        "_server._server",
        *(
            "_websocket._handshake",
            "_websocket._admission",
            "_websocket._graceful_end",
            "_websocket._outbox",
            "_websocket._inbox",
            "_websocket._connection",
            "_websocket._reports",
            "_websocket._connection_task",
            "_websocket._stream",
            "_websocket._opening",
            "_websocket._upgrade",
            "_websocket._routes",
            "_websocket._serve_upgrade",
        ),
    ),
    (
        "_route",
        "_app",
        *(
            "_websocket._topics",
            "_websocket._broadcaster",
            "_websocket._stream_tasks",
            "_websocket._handlers",
            "_websocket._sessions",
            "_websocket._read_ahead",
            "_websocket._session",
            "_websocket._async_stream",
            "_websocket._async_app",
        ),
        "_memory_stream",
        "_testing",
    ),
    ("__init__", "http", "websocket", "testing"),
)
ROOMS = tuple(room for floor in FLOORS for room in floor)
DOORS = FLOORS[-1]
# Python loads these before what is in them, so they are empty.
HALLS = ("_http.__init__", "_server.__init__", "_websocket.__init__")

# Beside trio, which is everywhere but in the values and in what has no I/O.
FOREIGN = {
    "h11": {"_server._codec"},
    "wsproto": {"_websocket._codec", "_websocket._mask", "_websocket._deflate", "_websocket._handshake"},
    "Crypto": {"_websocket._mask"},
    "typing_extensions": {"_state"},
}
WITHOUT_TRIO = {
    *("_krauss", "_state"),
    *FLOORS[1],
    *("_server._client_hello", "_server._ssl_errors", "_server._certificate"),
    *("_server._codec", "_websocket._mask", "_websocket._deflate", "_websocket._codec"),
    *("_websocket._drop_index", "_websocket._send_queue", "_websocket._liveness"),
    *("_websocket._phase", "_websocket._deadlines"),
}

any_room = pytest.mark.parametrize("room", ROOMS)


@cache
def tree(room: str) -> ast.Module:
    return ast.parse((ROOT / PACKAGE / f"{room.replace('.', '/')}.py").read_text())


def imported_modules(room: str) -> Iterator[str]:
    """The full names of all that a room imports, in functions and for type checking, too."""
    package = f"{PACKAGE}.{room}".rpartition(".")[0]
    for node in ast.walk(tree(room)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = resolve_name("." * node.level + (node.module or ""), package)
            # ``from . import x`` may mean a module; ``from .x import name`` never does here.
            yield from (f"{module}.{alias.name}" for alias in node.names) if node.module is None else (module,)


def imported_rooms(room: str) -> set[str]:
    inside = {name for name in imported_modules(room) if f"{name}.".startswith(f"{PACKAGE}.")}
    return {name.removeprefix(f"{PACKAGE}.") if name != PACKAGE else "__init__" for name in inside}


def imported_libraries(room: str) -> set[str]:
    return {name.partition(".")[0] for name in imported_modules(room)} - {PACKAGE} - sys.stdlib_module_names


def test_every_module_has_its_place() -> None:
    """The rooms of the floors are the modules of the package."""
    files = (ROOT / PACKAGE).rglob("*.py")
    found = {".".join(file.relative_to(ROOT / PACKAGE).with_suffix("").parts) for file in files}
    assert found == {*ROOMS, *HALLS}
    assert len(set(ROOMS)) == len(ROOMS)


@any_room
def test_imports_go_down(room: str) -> None:
    """A room imports only from lower floors, and from rooms to its left."""
    below = ROOMS[: ROOMS.index(room)] if room not in DOORS else ROOMS[: -len(DOORS)]
    assert imported_rooms(room) <= set(below)


@any_room
def test_foreign_libraries_stay_in_their_rooms(room: str) -> None:
    """A room knows only the foreign libraries that are its own."""
    allowed = {library for library, rooms in FOREIGN.items() if room in rooms}
    if room not in WITHOUT_TRIO:
        allowed.add("trio")
    assert imported_libraries(room) <= allowed


@pytest.mark.parametrize("library", FOREIGN)
def test_foreign_libraries_are_used(library: str) -> None:
    """No room is open to a library that it does not use."""
    assert {room for room in ROOMS if library in imported_libraries(room)} == FOREIGN[library]


@any_room
def test_every_room_says_what_it_is_for(room: str) -> None:
    """Each room begins with a docstring."""
    assert ast.get_docstring(tree(room))


@pytest.mark.parametrize("hall", HALLS)
def test_packages_are_empty(hall: str) -> None:
    """A package inside the package has a docstring and nothing else, so loading one room loads no other."""
    (docstring,) = tree(hall).body
    assert ast.get_docstring(tree(hall))
    assert isinstance(docstring, ast.Expr)

"""The layers: imports inside the package go down only, and each foreign library stays in its modules."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from importlib.util import resolve_name

import pytest

from tests.support.programs import ROOT

PACKAGE = "humphrey_trio"

# The folders from the bottom to the top, and the modules of each from left to right. An import goes to a lower
# folder, or to a module further left in the same folder. The folder "" is the package itself.
FOLDERS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("", ("_failures", "_krauss", "_quoting", "_runs", "_state")),
    (
        "_http",
        (
            *("_address", "_headers", "_field_lists", "_limits", "_drain", "_method", "_status", "_origins"),
            *("_statistics", "_tls_info", "_request", "_response"),
        ),
    ),
    (
        "_server",
        (
            *("_clock", "_control", "_fairness", "_transport", "_nonblocking", "_socket", "_direct"),
            *("_client_hello", "_ssl_errors", "_tls_handshake", "_tls_input", "_tls_output", "_tls"),
            *("_certificate", "_request_reader", "_response_writer", "_lingering", "_connection"),
            *("_tls_acceptor", "_unix_socket", "_listen", "_server"),
        ),
    ),
    (
        "_websocket",
        (
            *("_limits", "_compression", "_heartbeat", "_message", "_errors", "_policies"),
            *("_counters", "_close_record", "_statistics"),
        ),
    ),
    (
        "_websocket._protocol",
        ("_close_codes", "_mask", "_frames", "_assembly", "_deflate", "_decoder", "_encoder", "_handshake"),
    ),
    (
        "_websocket._stream",
        (
            *("_drop_index", "_send_queue", "_liveness", "_phase", "_deadlines", "_admission", "_graceful_end"),
            *("_waiting_senders", "_outbox", "_turns", "_inbox", "_connection", "_calls", "_reports"),
            *("_connection_task", "_stream"),
            *("_opening", "_upgrade", "_routes", "_serve_upgrade"),
        ),
    ),
    ("_app", ("_errors", "_routing", "_routes", "_service", "_app")),
    (
        "_websocket._app",
        (
            *("_topics", "_broadcaster", "_stream_tasks", "_handlers", "_sessions", "_read_ahead", "_session"),
            *("_async_stream", "_stream_server", "_async_app"),
        ),
    ),
    ("_testing", ("_http_codec", "_websocket_codec", "_memory_stream", "_clients")),
    ("", ("__init__", "http", "websocket", "testing")),
)


def rooms_of(folder: str, modules: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{folder}.{module}" if folder else module for module in modules)


FLOORS = tuple(rooms_of(*floor) for floor in FOLDERS)
ROOMS = tuple(room for floor in FLOORS for room in floor)
DOORS = FLOORS[-1]
# Python loads these before the modules in their folders, so they contain nothing but a docstring.
HALLS = tuple(f"{folder}.__init__" for folder, _ in FOLDERS if folder)

# Beside trio, which is everywhere except in values and in modules without I/O.
FOREIGN = {
    "h11": {"_server._request_reader", "_testing._http_codec"},
    "wsproto": {
        *("_websocket._protocol._decoder", "_websocket._protocol._frames"),
        *("_websocket._protocol._deflate", "_websocket._protocol._handshake", "_testing._websocket_codec"),
    },
    "bitarray": {"_websocket._protocol._mask"},
    "typing_extensions": {"_state"},
}
WITHOUT_TRIO = {
    *("_krauss", "_quoting", "_state"),
    *rooms_of(*FOLDERS[1]),
    *("_server._control", "_server._fairness", "_server._request_reader", "_server._response_writer"),
    *("_server._client_hello", "_server._ssl_errors", "_server._tls_input", "_server._certificate"),
    *rooms_of(*FOLDERS[3]),
    *rooms_of(*FOLDERS[4]),
    *("_websocket._stream._drop_index", "_websocket._stream._send_queue", "_websocket._stream._liveness"),
    *("_websocket._stream._phase", "_websocket._stream._deadlines"),
    *("_testing._http_codec", "_testing._websocket_codec"),
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


#: Underscore names of other objects that are used all the same, by module, with the reason.
FOREIGN_NAMES = {
    ("_app._routes", "_routes"): "routes_of is the way from the face to its machinery",
    ("_websocket._stream._stream", "_connection"): "connection_of is the way from the face to its machinery",
    ("_websocket._stream._upgrade", "_opening"): "opening_of is the way from the face to its machinery",
    ("_websocket._message", "_data"): "a message compares itself with another",
    ("_http._headers", "_fields"): "a class method or a method makes a value of its own class",
    ("_http._headers", "_wire"): "a class method or a method makes a value of its own class",
    ("_http._headers", "_folded"): "headers compare themselves with others",
    ("_http._response", "_key"): "a response compares itself with another",
    ("_websocket._app._async_app", "_unlink"): "a class method makes an app of its own class",
    (
        "_websocket._app._async_app",
        "_server",
    ): "an internally linked app runs an App on listeners that are open already",
    ("_websocket._protocol._deflate", "_Compress"): "zlib has no public name for this type",
    ("_websocket._protocol._deflate", "_Decompress"): "zlib has no public name for this type",
}


def foreign_names(room: str) -> Iterator[str]:
    """The underscore names that a module uses of anything but ``self``, ``cls`` and ``super()``."""
    for node in ast.walk(tree(room)):
        if (
            isinstance(node, ast.Attribute)
            and node.attr.startswith("_")
            and not node.attr.startswith("__")
            and ast.unparse(node.value) not in ("self", "cls", "super()")
        ):
            yield node.attr


def test_underscore_names_stay_in_their_class() -> None:
    """No module uses an underscore name of another object, except those that are listed with their reasons."""
    assert {(room, name) for room in ROOMS for name in foreign_names(room)} == set(FOREIGN_NAMES)

"""The layers: imports inside the package go down only, and each foreign library stays in its modules."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from importlib.util import resolve_name

import pytest

from tests.support.programs import ROOT

PACKAGE = "humphrey_trio"

# The folders from the bottom to the top, and the modules of each from left to right. An import goes to a lower
# folder, or to a module further left in the same folder. The folder "." is the package itself. A module with "!"
# does no I/O and does not import trio.
LAYOUT = """
.                     _failures _thread_limiters _wildcards! _quoting! _naming! _signatures! _settings! _hints!
                      _trio_runs _until_signal _type_variables!
_watchdog             _steps _suspensions! _stack! _watchdog
_http                 _address! _headers! _events! _exchange! _errors! _field_lists! _limits! _drain! _method!
                      _status! _origins! _fields! _sent_values! _urls! _dates! _cookies! _entity_tags! _conditions!
                      _ranges! _negotiation! _json! _media_types! _proxies! _statistics! _tls_info! _path_params!
                      _parameters! _charset! _part_head! _multipart! _file_body! _new_file _uploaded_file
                      _form! _spool! _form_parser! _body! _conversion!
                      _request_key! _request_head! _request! _location! _response_checks! _response!
                      _when_left! _event_encoding!
_server               _clock _control! _fairness! _file_threads _file_reader _sendfile
                      _transport _nonblocking _socket _direct
                      _client_hello! _ssl_errors! _tls_handshake _tls_input! _tls_output _tls _certificate!
                      _head! _sections! _body_decoder! _h11_head! _fast_head! _request_reader! _response_writer!
                      _lingering _parts _form_reader _stored_body _http_counters! _observers! _recording
                      _departures _connection_condition _interface! _outgoing _request_body _child_task
                      _event_stream _event_log _pieces! _body_sender _response_stream _responses
                      _http_phase! _http_connection
                      _server_tls _unix_socket _listener _given_listener _open_listeners _listening! _overload
                      _slots _accept _server
_websocket            _causes! _limits! _deflate_settings! _heartbeat_settings! _message! _errors! _policies!
                      _counters! _close_record! _statistics!
_websocket._protocol  _close_codes! _mask! _frames! _assembly! _deflate! _decoder! _encoder! _handshake!
_websocket._stream    _drop_order! _send_queue! _liveness! _phase! _deadline_table! _admission _graceful_end
                      _waiting_senders _backlog _outbox _writer_turns _inbox _connection _calls _reports
                      _connection_task _stream _hook_use _opening _upgrade
                      _handler_route _hook_route _layer_gate _serve_upgrade
_layers               _layer! _response_fields! _codings! _cors! _compression _origin_guard! _json_errors!
_asgi                 _errors! _order! _response! _fields! _tls_extension! _scope! _waiter _body_part _answer
                      _http_exchange _websocket_exchange _call _lifespan _host _mount!
_app                  _access _monitor _errors _hosting _handler_checks _patterns! _layer_paths! _layers! _options!
                      _route_table! _routing! _routes _service _servers _app _https_redirect!
_websocket._app       _topics _broadcaster _stream_tasks _failure_log! _handlers _sessions _read_ahead _session
                      _async_stream _stream_server _hosted _async_app
_handlers             _resolver! _tree! _representation! _precompressed! _disposition!
                      _failed_open! _file_answer _directory _files _redirect! _metrics!
_testing              _held_clock _response_reader! _event_decoder! _cookie_jar! _outgoing_request! _redirects!
                      _websocket_codec! _memory_stream _streamed_response! _client_connection _serving
                      _websocket_client _http_client
_cli                  _errors! _arguments! _load _served_app _binds _log! _serve
                      _report! _certificate_facts! _certificate_report! _check
                      _lifeline! _terminal! _file_changes _server_process _reload _serve_reloading _main
.                     __init__ __main__ handlers http layers monitor websocket testing
"""


def parse_layout(layout: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield each folder with the full names of its modules."""
    for folder, names in re.findall(r"^(\S+)(.*(?:\n +.*)*)", layout, re.MULTILINE):
        yield folder, tuple(name if folder == "." else f"{folder}.{name}" for name in names.split())


FOLDERS = tuple(parse_layout(LAYOUT.replace("!", "")))
MODULES = tuple(module for _, modules in FOLDERS for module in modules)
WITHOUT_TRIO = {
    module.removesuffix("!") for _, modules in parse_layout(LAYOUT) for module in modules if module.endswith("!")
}
#: The modules with the public names.
FACES = FOLDERS[-1][1]
# Python loads these before the modules in their folders, so they contain nothing but a docstring.
PACKAGES = tuple(f"{folder}.__init__" for folder, _ in FOLDERS if folder != ".")

# Besides trio.
LIBRARIES = {
    "h11": {"_server._h11_head"},
    "wsproto": {
        *("_websocket._protocol._decoder", "_websocket._protocol._frames"),
        *("_websocket._protocol._deflate", "_websocket._protocol._handshake", "_testing._websocket_codec"),
    },
    "bitarray": {"_websocket._protocol._mask"},
    "multipart": {"_http._multipart"},
    "watchfiles": {"_cli._file_changes"},
    "typing_extensions": {"_type_variables"},
}

each_module = pytest.mark.parametrize("module", MODULES)


@cache
def tree(module: str) -> ast.Module:
    return ast.parse((ROOT / PACKAGE / f"{module.replace('.', '/')}.py").read_text())


def imported_names(module: str) -> Iterator[str]:
    """Yield the full names of what a module imports, also in functions and for type checking."""
    package = f"{PACKAGE}.{module}".rpartition(".")[0]
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = resolve_name("." * node.level + (node.module or ""), package)
            # ``from . import x`` may mean a module; ``from .x import name`` never does here.
            yield from (f"{source}.{alias.name}" for alias in node.names) if node.module is None else (source,)


def imported_modules(module: str) -> set[str]:
    inside = {name for name in imported_names(module) if f"{name}.".startswith(f"{PACKAGE}.")}
    return {name.removeprefix(f"{PACKAGE}.") if name != PACKAGE else "__init__" for name in inside}


def imported_libraries(module: str) -> set[str]:
    return {name.partition(".")[0] for name in imported_names(module)} - {PACKAGE} - sys.stdlib_module_names


def test_every_module_has_its_place() -> None:
    """The layout lists the modules of the package."""
    files = (ROOT / PACKAGE).rglob("*.py")
    found = {".".join(file.relative_to(ROOT / PACKAGE).with_suffix("").parts) for file in files}
    assert found == {*MODULES, *PACKAGES}
    assert len(set(MODULES)) == len(MODULES)


@each_module
def test_imports_go_down(module: str) -> None:
    """A module imports only from lower folders, and from modules to its left."""
    below = MODULES[: -len(FACES)] if module in FACES else MODULES[: MODULES.index(module)]
    assert imported_modules(module) <= set(below)


@each_module
def test_libraries_are_used_only_where_they_belong(module: str) -> None:
    """A module imports only the libraries that are listed for it."""
    allowed = {library for library, modules in LIBRARIES.items() if module in modules}
    if module not in WITHOUT_TRIO:
        allowed.add("trio")
    assert imported_libraries(module) <= allowed


@pytest.mark.parametrize("library", LIBRARIES)
def test_listed_libraries_are_used(library: str) -> None:
    """No module is listed for a library that it does not import."""
    assert {module for module in MODULES if library in imported_libraries(module)} == LIBRARIES[library]


@each_module
def test_every_module_has_a_docstring(module: str) -> None:
    """Each module begins with a docstring."""
    assert ast.get_docstring(tree(module))


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_are_empty(package: str) -> None:
    """A package inside the package has a docstring and nothing else, so loading one module loads no other."""
    (docstring,) = tree(package).body
    assert ast.get_docstring(tree(package))
    assert isinstance(docstring, ast.Expr)


#: Underscore names of other objects that are used all the same, by module, with the reason.
FOREIGN_NAMES = {
    ("_watchdog._stack", "_current_frames"): "sys documents it, in spite of its name",
    ("_until_signal", "_exit"): "os documents it, in spite of its name",
    ("_app._routes", "_routes"): "routes_of is the way from the face to its machinery",
    ("_websocket._stream._stream", "_connection"): "connection_of is the way from the face to its machinery",
    ("_websocket._stream._upgrade", "_opening"): "opening_of is the way from the face to its machinery",
    ("_websocket._message", "_data"): "a message compares itself with another",
    ("_http._headers", "_get_fields"): "headers copy others",
    ("_http._headers", "_names"): "headers copy others",
    ("_http._headers", "_wire"): "headers copy others",
    ("_http._headers", "_folded"): "headers compare themselves with others",
    ("_http._response", "_key"): "a response compares itself with another",
    ("_websocket._app._async_app", "_unlink"): "a class method makes an app of its own class",
    ("_websocket._app._async_app", "_move_into_app"): "http_app_of is the way from the face to its machinery",
    ("_app._app", "_routing"): "routing_of is the way from the face to its machinery",
    ("_app._app", "_servers"): "servers_of is the way from the face to its machinery",
    ("_websocket._protocol._deflate", "_Compress"): "zlib has no public name for this type",
    ("_websocket._protocol._deflate", "_Decompress"): "zlib has no public name for this type",
}


#: Attributes of other objects that a module assigns to, with the reason. Anything else is a method of the object.
FOREIGN_ASSIGNMENTS = {
    ("_asgi._host", "calls.deadline"): "a CancelScope has no method for it",
    ("_asgi._host", "self._calls.deadline"): "a CancelScope has no method for it",
    ("_asgi._host", "self._everything.deadline"): "a CancelScope has no method for it",
    ("_asgi._lifespan", "error.__cause__"): "an exception has no method for it",
    ("_asgi._lifespan", "self._scope.deadline"): "a CancelScope has no method for it",
    ("_failures", "foreign.__cause__"): "an exception has no method for it",
    **{
        ("_cli._certificate_facts", f"client.{name}"): "an SSLContext has no method for it"
        for name in ("check_hostname", "verify_mode", "verify_flags")
    },
    ("_server._certificate", "context.minimum_version"): "an SSLContext has no method for it",
    ("_server._certificate", "context.options"): "an SSLContext has no method for it",
    ("_server._certificate", "context.num_tickets"): "an SSLContext has no method for it",
    ("_server._child_task", "nursery.cancel_scope.shield"): "a CancelScope has no method for it",
    ("_testing._held_clock", "self._clock.autojump_threshold"): "a MockClock has no method for it",
    ("_websocket._app._sessions", "scope.deadline"): "a CancelScope has no method for it",
    ("_websocket._app._stream_server", "scope.deadline"): "a CancelScope has no method for it",
    ("_websocket._stream._serve_upgrade", "self._scope.deadline"): "a CancelScope has no method for it",
    **{
        ("_server._h11_head", f"head.{name}"): "a parser fills in the value that it returns"
        for name in ("host", "close", "content_length", "expects_continue", "wants_websocket")
    },
    **{
        ("_server._fast_head", f"head.{name}"): "a parser fills in the value that it returns"
        for name in ("host", "close", "content_length", "wants_websocket")
    },
    ("_server._http_connection", "counters.requests"): "once for each request, and a call would double its cost",
    ("_server._http_connection", "counters.ended"): "as for requests",
    ("_server._http_connection", "self._counters.bytes_received"): "as for requests",
    ("_server._outgoing", "self._counters.bytes_sent"): "as for requests",
}


def targets(node: ast.AST) -> Iterator[ast.expr]:
    """The expressions that a statement assigns to, or deletes."""
    if isinstance(node, ast.Assign | ast.Delete):
        yield from node.targets
    elif isinstance(node, ast.AugAssign | ast.AnnAssign):
        yield node.target


def foreign_assignments(module: str) -> Iterator[str]:
    """The attributes of anything but ``self`` and ``cls`` that a module assigns to."""
    for statement in ast.walk(tree(module)):
        for target in targets(statement):
            for node in ast.walk(target):
                if (
                    isinstance(node, ast.Attribute)
                    and isinstance(node.ctx, ast.Store | ast.Del)
                    and ast.unparse(node.value) not in ("self", "cls")
                ):
                    yield ast.unparse(node)


def test_objects_change_themselves() -> None:
    """No module assigns to an attribute of another object, except those that are listed with their reasons."""
    found = {(module, name) for module in MODULES for name in foreign_assignments(module)}
    assert found == set(FOREIGN_ASSIGNMENTS)


def foreign_names(module: str) -> Iterator[str]:
    """The underscore names that a module uses of anything but ``self``, ``cls`` and ``super()``."""
    for node in ast.walk(tree(module)):
        if (
            isinstance(node, ast.Attribute)
            and node.attr.startswith("_")
            and not node.attr.startswith("__")
            and ast.unparse(node.value) not in ("self", "cls", "super()")
        ):
            yield node.attr


def test_underscore_names_stay_in_their_class() -> None:
    """No module uses an underscore name of another object, except those that are listed with their reasons."""
    assert {(module, name) for module in MODULES for name in foreign_names(module)} == set(FOREIGN_NAMES)

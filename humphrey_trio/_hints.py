"""Hints for exceptions of Python that do not say what to write instead.

A hint is a note of the exception (``BaseException.add_note``), so it is part of the traceback in the log. The
table has what programs that were written for other frameworks do.
"""

from __future__ import annotations

import re
from contextlib import suppress

from ._failures import only_cause

_MESSAGE = "write message.text for the str, message.bytes for the bytes, or message.data for either"
_COPY = (
    "headers and responses are immutable: return response.with_header(name, value), replace_header or with_cookie,"
    " which are copies"
)
_UPGRADE = (
    "a websocket route gets an Upgrade: write with_websocket_route(pattern, websocket_handler(function)) for a"
    " function of a stream, or call 'stream = await upgrade.accept()'"
)

# The beginning of the type and the message of an exception, and the hint. The first that matches is used.
_HINTS = tuple(
    (re.compile(pattern), hint)
    for pattern, hint in (
        (
            r"TypeError: object \w+ can't be used in 'await' expression|TypeError: '\w+' object can't be awaited",
            "remove 'await' before a call of a plain method. subscribe, unsubscribe, start_soon, set_deadline,"
            " json and form are plain; send, publish, broadcast, ping, close, read and read_form are async",
        ),
        (r"AttributeError: 'Request' object has no attribute 'args'", "write request.query_param('page', int)"),
        (r"AttributeError: 'Request' object has no attribute 'get_json'", "write request.json()"),
        (
            r"AttributeError: 'Request' object has no attribute '(data|get_data)'",
            "write request.content for the bytes of the body, or request.text",
        ),
        (r"AttributeError: 'Request' object has no attribute 'files'", "write request.form().files"),
        (
            r"AttributeError: 'Request' object has no attribute '(state|app)'",
            "the state of the app is an argument of the handler; the values of layers are request[KEY], with a"
            " RequestKey",
        ),
        (
            r"AttributeError: 'Request' object has no attribute 'url'",
            "write request.path and request.query, request.scheme and request.host",
        ),
        (
            r"AttributeError: 'Request' object has no attribute 'params'",
            "write request.query_param('page', int), or request.path_param('id', int)",
        ),
        (
            r"AttributeError: 'Request' object has no attribute 'stream'",
            "add the route with stream=True, and write 'async for piece in request.body'",
        ),
        (
            r"AttributeError: 'Request' object has no attribute 'session'",
            "there are no sessions: write request.cookies and response.with_cookie(SetCookie(name, value))",
        ),
        (
            r"AttributeError: 'WebsocketStream' object has no attribute '(broadcast|publish|subscribe)'",
            "broadcast, publish and subscribe are methods of the AsyncStream of an AsyncWebsocketApp",
        ),
        (
            r"AttributeError: '(WebsocketStream|AsyncStream)' object has no attribute 'accept'",
            "the stream is open already: pass accept= to decide whether it is accepted",
        ),
        (
            r"AttributeError: '(WebsocketStream|AsyncStream)' object has no attribute 'send_",
            "write await stream.send(text), with bytes for a binary message and json.dumps(value) for JSON",
        ),
        (
            r"AttributeError: 'AsyncStream' object has no attribute '(receive|iter_|recv)|"
            r"TypeError: 'AsyncStream' object is not iterable|TypeError: .* got AsyncStream\b",
            "the message handler is called with each message. For a loop of your own, use websocket_handler, whose"
            " stream has receive",
        ),
        (
            r"AttributeError: 'WebsocketStream' object has no attribute '(receive_|iter_|recv)|"
            r"TypeError: 'WebsocketStream' object is not iterable",
            "write 'async for message in stream', or 'message = await stream.receive()'; then message.text,"
            " message.bytes or json.loads(message.text)",
        ),
        (r"AttributeError: 'Message' object has no attribute|TypeError: .*\bMessage\b", _MESSAGE),
        (r"AttributeError: 'Upgrade' object has no attribute|TypeError: .*\bgot Upgrade\b", _UPGRADE),
        (r"AttributeError: 'Response' object has no attribute 'status_code'", "write response.status"),
        (
            r"AttributeError: 'Response' object has no attribute 'data'",
            "write response.content for the bytes, or response.text",
        ),
        (r"TypeError: 'Headers' object does not support item|AttributeError: 'Headers' object has no", _COPY),
        (r"AttributeError: (property '\w+' of )?'Response' object has no|AttributeError: can't set", _COPY),
        (
            r"FrozenInstanceError: |TypeError: super\(type, obj\)",
            "a request is immutable: a layer passes on a copy, request.with_value(KEY, value) or replace(...)",
        ),
        (
            r"RuntimeError: (no running event loop|There is no current event loop)",
            "this program runs on trio, where asyncio does not work: write trio.sleep, a nursery with start_soon"
            " for tasks, trio.to_thread.run_sync for threads, and trio.fail_after for timeouts",
        ),
        (
            r"HTTPException: ",
            "in a handler or a layer, raise HttpError(status, detail): an HTTPException is for the endpoints of a"
            " mounted ASGI app",
        ),
        (
            r"HandshakeError: ",
            "in a handler or a layer, raise HttpError(status, detail): a HandshakeError is for websocket routes",
        ),
    )
)


def add_hint(failure: Exception) -> None:
    """Add a note to an exception that says what to write instead, if there is a hint for it.

    Args:
        failure: the exception of a function of the application, or a group with this exception alone. It gets a
            hint once.
    """
    cause = only_cause(failure)
    with suppress(Exception):  # an exception of the application may have a __str__ that fails
        hint = _hint_for(f"{type(cause).__name__}: {cause}")
        if hint is not None and hint not in getattr(cause, "__notes__", ()):
            cause.add_note(hint)


def _hint_for(text: str) -> str | None:
    return next((f"hint: {hint}" for pattern, hint in _HINTS if pattern.match(text)), None)

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
        (r"AttributeError: 'Message' object has no attribute|TypeError: .*\bMessage\b", _MESSAGE),
        (r"AttributeError: 'Upgrade' object has no attribute|TypeError: .*\bgot Upgrade\b", _UPGRADE),
        (r"TypeError: 'Headers' object does not support item|AttributeError: 'Headers' object has no", _COPY),
        (r"AttributeError: (property '\w+' of )?'Response' object has no|AttributeError: can't set", _COPY),
        (
            r"FrozenInstanceError: |TypeError: super\(type, obj\)",
            "a request is immutable: a layer passes on a copy, request.with_value(KEY, value) or replace(...)",
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

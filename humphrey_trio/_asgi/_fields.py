"""The values in the messages of ASGI apps: checked, and converted to those of this library. It does no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from operator import index
from typing import Any, cast

from .._http._headers import Headers, checked_fields
from ._errors import MessageError

# The server frames the body itself. The specification lets apps send the field, and servers ignore it.
_IGNORED = b"transfer-encoding"
_LENGTH = b"content-length"


def read_start(message: Mapping[str, Any]) -> tuple[int, Headers, int | None]:
    """Return the status, the header fields, and the Content-Length of the start of a response.

    Raises:
        MessageError: one of them is malformed, or the app wants to send trailers.
    """
    if message.get("trailers"):
        raise MessageError("trailers cannot be sent: the scope has no extension 'http.response.trailers'")
    return (read_status(message), *read_headers(message))


def read_status(message: Mapping[str, Any]) -> int:
    """Return the status of the start of a response.

    Raises:
        MessageError: it is missing, or not from 200 to 999.
    """
    status = message.get("status")
    if type(status) is not int:
        try:
            status = index(status)  # type: ignore[arg-type]  # such as http.HTTPStatus
        except TypeError:
            raise _wrong(message, "status", "an int", status) from None
    if not 200 <= status <= 999:
        raise MessageError(f"the 'status' of {message['type']!r} must be from 200 to 999, not {status}")
    return status


def read_headers(message: Mapping[str, Any]) -> tuple[Headers, int | None]:
    """Return the header fields of a message.

    Returns:
        The fields without Content-Length and Transfer-Encoding, and the value of the former.

    Raises:
        MessageError: they are not pairs of bytes, or a name or a value is not allowed.
    """
    length: int | None = None
    pairs: list[tuple[str, str]] = []
    given: Iterable[tuple[bytes, bytes]] = message.get("headers") or ()
    try:
        for name, value in given:
            lower = name.lower()
            if lower == _LENGTH:
                length = _read_length(value, length)
            elif lower != _IGNORED:
                pairs.append((name.decode("latin-1"), value.decode("latin-1")))
    except (TypeError, ValueError, AttributeError):
        # Without the values, which may be secrets.
        wanted = "must be pairs of bytes, such as (b'vary', b'accept')"
        raise MessageError(f"the 'headers' of {message['type']!r} {wanted}") from None
    try:
        return Headers.from_checked(checked_fields(pairs)), length
    except ValueError as exc:
        raise MessageError(f"the 'headers' of {message['type']!r}: {exc}") from None


def _read_length(value: bytes, before: int | None) -> int:
    if not (value.isdigit() and len(value) < 20):
        raise MessageError(f"the Content-Length {value!r} is not a number of bytes")
    length = int(value)
    if before not in (None, length):
        raise MessageError(f"there are two Content-Lengths: {before} and {length}")
    return length


def read_body(message: Mapping[str, Any]) -> bytes:
    """Return the body of a message.

    Raises:
        MessageError: it is not bytes.
    """
    body = message.get("body", b"")
    if type(body) is bytes:
        return body
    if isinstance(body, (bytes, bytearray, memoryview)):
        return bytes(cast("bytes", body))  # a copy, because it may change before it is sent
    raise _wrong(message, "body", "bytes", body)


def read_text(message: Mapping[str, Any], key: str) -> str:
    """Return a str of a message; empty if it is missing or None.

    Raises:
        MessageError: it has another type.
    """
    value = message.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _wrong(message, key, "a str", value)
    return value


def read_code(message: Mapping[str, Any]) -> int:
    """Return the code of a ``websocket.close``; 1000 if it is missing or None.

    Raises:
        MessageError: it is not an int.
    """
    code = message.get("code")
    if code is None:
        return 1000
    if not isinstance(code, int):
        raise _wrong(message, "code", "an int", code)
    return int(code)


def read_data(message: Mapping[str, Any]) -> str | bytes:
    """Return the content of a ``websocket.send``.

    Raises:
        MessageError: not exactly one of ``text`` and ``bytes`` is given, or it has another type.
    """
    text, data = message.get("text"), message.get("bytes")
    if (text is None) == (data is None):
        raise MessageError(f"{message['type']!r} has exactly one of 'text' and 'bytes', and the other one is None")
    if text is not None:
        return read_text(message, "text")
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(cast("bytes", data))
    raise _wrong(message, "bytes", "bytes", data)


def _wrong(message: Mapping[str, Any], key: str, wanted: str, value: object) -> MessageError:
    found = type(value).__name__
    return MessageError(f"the {key!r} of {message['type']!r} must be {wanted}, not {found}")

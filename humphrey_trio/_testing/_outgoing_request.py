"""Requests of a test client: their bodies, their header fields, and their heads as bytes. It does no I/O."""

from __future__ import annotations

import inspect
import re
import secrets
from collections.abc import AsyncIterable, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, TypeAlias, cast
from urllib.parse import urlencode, urlsplit

from .._http._body import IterableBody, Producer, ProducerBody
from .._http._field_lists import tokens
from .._http._fields import Fields, FieldsLike
from .._http._headers import TCHAR, Headers, HeadersLike
from .._http._json import dumps

_METHOD = re.compile(rf"{TCHAR}+")
_TARGET = re.compile(r"[\x21-\x7e]+")
# The beginnings of a target that is a path, or a URL.
_FORMS = ("/", "http://", "https://")
#: The Host field of requests.
HOST = "testserver"

#: The body of a request: whole, or produced while it is sent.
Content: TypeAlias = str | bytes | AsyncIterable[bytes | str] | Producer


class Unset(Enum):
    """The default of ``json``, whose None is a value."""

    UNSET = "not given"


UNSET = Unset.UNSET


@dataclass(frozen=True, slots=True)
class Upload:
    """A file of a form: ``files={"photo": Upload("cat.png", data, "image/png")}``.

    Attributes:
        filename: the name of the file. It is sent as browsers do it.
        content: the content. A str is sent as UTF-8.
        content_type: its media type.

    Raises:
        TypeError: an argument has another type.
    """

    filename: str
    content: str | bytes
    content_type: str = "application/octet-stream"

    def __post_init__(self) -> None:
        if not isinstance(self.filename, str) or not isinstance(self.content, (str, bytes)):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError("write Upload(filename, content): the name is a str, and the content str or bytes")


UploadsLike: TypeAlias = Mapping[str, Upload] | Iterable[tuple[str, Upload]]


@dataclass(frozen=True, slots=True)
class OutgoingRequest:
    """A request that a test client sends.

    Attributes:
        method, target, headers: as for ``HttpClient.request``, with the fields that frame the body.
        content: the body.
    """

    method: str
    target: str
    headers: Headers
    content: bytes | ProducerBody | IterableBody = b""

    def __post_init__(self) -> None:
        if not _METHOD.fullmatch(self.method):
            raise ValueError(f"{self.method!r} is not a method: write a token such as 'GET'")
        if not _TARGET.fullmatch(self.target) or not self._has_form():
            raise ValueError(
                f"{self.target!r} is not a request target: begin it with '/', and percent-encode spaces and"
                " characters outside ASCII, as with urllib.parse.quote and urlencode"
            )

    def _has_form(self) -> bool:
        """Whether the target has one of the four forms (RFC 9112, section 3.2)."""
        return self.method == "CONNECT" or self.target == "*" or self.target.startswith(_FORMS)

    @property
    def is_chunked(self) -> bool:
        """Whether the body is chunked."""
        return "Transfer-Encoding" in self.headers

    @property
    def waits_for_100(self) -> bool:
        """Whether the body must not be sent before a 100 was received (RFC 9110, section 10.1.1)."""
        return self.content != b"" and "100-continue" in tokens(self.headers.get("Expect", ""))

    @property
    def host(self) -> str:
        """The host in lower case, without the port."""
        return (urlsplit(f"//{self.headers.get('Host', '')}").hostname or "").lower()

    @property
    def path(self) -> str:
        """The path, without the query."""
        return urlsplit(self.target).path if "://" in self.target else self.target.partition("?")[0]

    def with_header(self, name: str, value: str) -> OutgoingRequest:
        """Return a copy with one more header field."""
        return replace(self, headers=self.headers.with_header(name, value))

    def head(self) -> bytes:
        """Encode the head."""
        line = f"{self.method} {self.target} HTTP/1.1\r\n".encode("ascii")
        return line + self.headers.to_wire() + b"\r\n"


def make_request(
    method: str,
    target: str,
    headers: Headers,
    content: Content = b"",
    json: object = UNSET,
    form: FieldsLike | None = None,
    files: UploadsLike | None = None,
) -> OutgoingRequest:
    """Create a request.

    Args:
        method, target, headers, content, json, form, files: as for ``HttpClient.request``.

    Raises:
        TypeError: the content has another type, or more than one body is given.
        ValueError: the method, the target or a header field is invalid, or does not fit the content.
    """
    has_form = form is not None or files is not None
    has_content = not isinstance(content, (str, bytes)) or bool(content)
    if has_content + (json is not UNSET) + has_form > 1:
        raise TypeError("a request has one body: pass content, json, or form with files")
    media_type = ""
    if json is not UNSET:
        media_type, content = "application/json", dumps(json)
    elif files is not None:
        media_type, content = _multipart(Fields(form or ()), files)
    elif form is not None:
        media_type, content = "application/x-www-form-urlencoded", urlencode(list(Fields(form))).encode()
    if media_type:
        headers = with_default(headers, "Content-Type", media_type)
    body = _to_body(content)
    return OutgoingRequest(method, target, _framed(headers, body), body)


def with_default(headers: HeadersLike, name: str, value: str) -> Headers:
    """Add a header field, if there is none of its name."""
    given = Headers(headers)
    return given if name in given else given.with_header(name, value)


def _to_body(content: Content) -> bytes | ProducerBody | IterableBody:
    if isinstance(content, str):
        return content.encode()
    if isinstance(content, (bytes, bytearray, memoryview)):
        return bytes(content)
    if isinstance(content, AsyncIterable):
        return IterableBody(cast("Any", content))
    if not callable(content) or inspect.isasyncgenfunction(content):
        raise TypeError(
            f"content is bytes, a str, an async iterable, or async def produce(write), not {_kind(content)}"
        )
    return ProducerBody(content)


def _kind(content: object) -> str:
    """Name what was given as a body, and what to write instead."""
    if inspect.isasyncgenfunction(content):
        return "an async generator function: call it"
    if inspect.iscoroutine(content):
        content.close()  # avoids a RuntimeWarning that it was never awaited
        return "a coroutine: pass the function itself, without calling it"
    return f"{type(content).__name__}: use json= for values, and form= for fields"


def _framed(headers: Headers, body: bytes | ProducerBody | IterableBody) -> Headers:
    """Add the field that frames the body, or check the one that is given."""
    if "Transfer-Encoding" in headers:
        return headers
    if isinstance(body, bytes):
        size = str(len(body))
        if headers.get_all("Content-Length") not in ((), (size,)):
            raise ValueError(
                f"Content-Length must be {size}, or omitted: use memory_connection to send invalid requests"
            )
        return with_default(headers, "Content-Length", size) if body else headers
    if "Content-Length" not in headers:
        return headers.with_header("Transfer-Encoding", "chunked")
    length = headers["Content-Length"]
    if not length.isascii() or not length.isdigit():
        raise ValueError(f"Content-Length must be a number of bytes, not {length!r}")
    return headers


# Forms with files (RFC 7578)...


def _multipart(fields: Fields, files: UploadsLike) -> tuple[str, bytes]:
    """Encode a form as browsers do (HTML standard, section 4.10.22.8). Returns the media type and the body."""
    boundary = secrets.token_hex(16)
    parts: list[bytes] = []
    for name, value in fields:
        parts += _part(boundary, f'name="{_escaped(name)}"', "", value)
    pairs = cast("Mapping[str, Upload]", files).items() if isinstance(files, Mapping) else files
    for name, upload in pairs:
        if not isinstance(upload, Upload):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(
                f"the file of a form is an Upload, not {type(upload).__name__}: write"
                f" files={{{name!r}: Upload('name.txt', content, 'text/plain')}}"
            )
        names = f'name="{_escaped(name)}"; filename="{_escaped(upload.filename)}"'
        parts += _part(boundary, names, f"Content-Type: {upload.content_type}\r\n", upload.content)
    return f"multipart/form-data; boundary={boundary}", b"".join([*parts, f"--{boundary}--\r\n".encode()])


def _part(boundary: str, names: str, fields: str, content: str | bytes) -> list[bytes]:
    head = f"--{boundary}\r\nContent-Disposition: form-data; {names}\r\n{fields}\r\n"
    return [head.encode(), content.encode() if isinstance(content, str) else content, b"\r\n"]


def _escaped(name: str) -> str:
    return name.replace("\r", "%0D").replace("\n", "%0A").replace('"', "%22")

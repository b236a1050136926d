"""A request as a handler gets it: immutable, with its whole body or with a stream of it.

The body is parsed when a handler asks for it.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any, TypedDict, Unpack, cast, overload

from .._quoting import printable, quoted
from .._settings import check_whole
from .._type_variables import Default, T
from ._address import Address
from ._body import BodyStream, Part
from ._charset import decode_content
from ._errors import HttpError, body_too_long
from ._form import Form
from ._form_parser import FormSettings, parse_form
from ._headers import Headers, HeadersLike
from ._json import JsonError, loads_strict
from ._limits import DEFAULT_MAX_FIELDS
from ._path_params import NO_PARAMS
from ._proxies import Forwarded
from ._request_head import RequestHead
from ._request_key import RequestKey
from ._tls_info import TlsInfo

UNKNOWN_ADDRESS = Address("", 0)


_MIB = 1024 * 1024

_NO_VALUES: Mapping[RequestKey[Any], object] = {}

_IS_STREAMED = (
    "this route has stream=True: use `async for piece in request.body` or `await request.read(limit=...)`"
)
_FORM_IS_STREAMED = "this route has stream=True: use `await request.read_form()`, which works on every route"
_IS_WHOLE = "the body of this request is whole: use request.content, or add the route with stream=True"
_HAS_NO_PARTS = "the body of this request is whole: use request.form(), or add the route with stream=True"


class RequestChanges(TypedDict, total=False):
    """What ``Request.replace`` takes."""

    method: str
    path: str
    query: str
    version: str
    headers: HeadersLike
    content: bytes | BodyStream
    address: Address
    tls: TlsInfo | None
    path_params: Mapping[str, str]
    forwarded: Forwarded | None


@dataclass(frozen=True, slots=True, init=False, repr=False)
class Request(RequestHead):
    """One HTTP request.

    Args:
        content: the body: bytes, or for the handler of a route with ``stream=True`` a ``BodyStream``.

    The other arguments are the attributes.

    Attributes:
        method: the method as it was sent. The standard methods are equal to the members of ``Method``.
        path: the request target before the first ``?``, neither percent-decoded nor normalised. ``*`` for
            ``OPTIONS *``.
        query: the request target after the first ``?``; empty if there is none.
        version: ``"HTTP/1.1"`` or ``"HTTP/1.0"``.
        headers: the header fields.
        address: the address of the peer, which may be a proxy. See ``client``.
        tls: the TLS parameters of the connection; None without TLS.
        path_params: the values of the parameters of the route's pattern, percent-decoded as UTF-8. Immutable.
        forwarded: the values that trusted proxies added to the request; None if the app has no
            ``TrustedProxies``.

    Raises:
        TypeError: the content is neither bytes nor a ``BodyStream``, or the headers are not pairs of str.
        ValueError: a header field is invalid.
    """

    method: str
    path: str
    query: str
    version: str
    headers: Headers
    address: Address
    tls: TlsInfo | None
    path_params: Mapping[str, str] = field(hash=False)
    forwarded: Forwarded | None
    _body: bytes | BodyStream
    _host: str | None = field(compare=False)
    _max_fields: int = field(compare=False)
    _values: Mapping[RequestKey[Any], object] = field(hash=False)
    _parsed: dict[str, Any] | None = field(compare=False)

    def __init__(
        self,
        method: str = "GET",
        path: str = "/",
        query: str = "",
        version: str = "HTTP/1.1",
        headers: HeadersLike = (),
        content: bytes | BodyStream = b"",
        address: Address = UNKNOWN_ADDRESS,
        tls: TlsInfo | None = None,
        path_params: Mapping[str, str] = NO_PARAMS,
        *,
        forwarded: Forwarded | None = None,
    ) -> None:
        assign = object.__setattr__
        assign(self, "method", method)
        assign(self, "path", path)
        assign(self, "query", query)
        assign(self, "version", version)
        assign(self, "headers", headers if isinstance(headers, Headers) else Headers(headers))
        assign(self, "address", address)
        assign(self, "tls", tls)
        assign(self, "path_params", path_params)
        assign(self, "forwarded", forwarded)
        assign(self, "_body", content if type(content) is bytes else _checked_body(content))
        assign(self, "_host", None)
        assign(self, "_max_fields", DEFAULT_MAX_FIELDS)
        assign(self, "_values", _NO_VALUES)
        assign(self, "_parsed", None)

    # The whole body...

    @property
    def content(self) -> bytes:
        """The body; empty if there is none.

        Raises:
            RuntimeError: the route has ``stream=True``.
        """
        if isinstance(self._body, bytes):
            return self._body
        raise RuntimeError(_IS_STREAMED)

    @property
    def text(self) -> str:
        """The body as text, in the charset of its Content-Type, and otherwise as UTF-8.

        Raises:
            HttpError: 400 if the body is malformed in its charset, 415 if the charset is not supported.
            RuntimeError: the route has ``stream=True``.
        """
        return decode_content(self.headers.get("Content-Type", ""), self.content, "the body")

    def json(self) -> Any:
        """Parse the body as JSON (RFC 8259), whatever its Content-Type is. It must be UTF-8.

        Returns:
            A new dict, list, str, int, float, bool or None. If a name is repeated in an object, its last value
            counts.

        Raises:
            HttpError: with 400, if the body is not JSON. NaN, Infinity, numbers that are too large, and halves of
                surrogate pairs are not.
            RuntimeError: the route has ``stream=True``.
        """
        try:
            return loads_strict(self.content)
        except JsonError as error:
            raise HttpError(400, f"the body is not valid JSON: {error}") from error

    def form(self) -> Form:
        """Parse the body as a form, urlencoded or ``multipart/form-data``.

        Returns:
            The text fields, with the files as ``form.files``.

        Raises:
            HttpError: 400 if the body is malformed, 413 if it has more than ``Limits.fields``, 415 if it has
                another media type.
            RuntimeError: the route has ``stream=True``; or the body is ``multipart/form-data``, and the extra
                ``forms`` is not installed.
        """
        if not isinstance(self._body, bytes):
            raise RuntimeError(_FORM_IS_STREAMED)
        return self._once("form", self._parse_form)

    # The body as a stream...

    @property
    def body(self) -> BodyStream:
        """The body, for a route with ``stream=True``: ``async for piece in request.body``. It can be read once.

        Raises:
            RuntimeError: the route does not have ``stream=True``.
        """
        if isinstance(self._body, bytes):
            raise RuntimeError(_IS_WHOLE)
        return self._body

    async def read(self, *, limit: int) -> bytes:
        """Read the body, or the rest of it. Works for all routes.

        Args:
            limit: the maximum size in bytes.

        Returns:
            The body. If a part of it was read already, the rest.

        Raises:
            HttpError: 413, if it is longer.
            TypeError, ValueError: the limit is not a whole number, or negative.
        """
        check_whole("limit", limit, 0)
        body = self._body
        if not isinstance(body, bytes):
            return await body.read(limit)
        if len(body) > limit:
            raise body_too_long(limit)
        return body

    async def read_form(
        self,
        *,
        spool: int = _MIB,
        max_text: int = _MIB,
        max_file: int | None = None,
        directory: str | os.PathLike[str] | None = None,
    ) -> Form:
        """Read the body as a form. Works for all routes.

        On a route with ``stream=True``, the form is parsed while the body arrives. Files that do not fit into
        memory are written to a temporary file without a name, in worker threads. It is closed after the response
        was sent, and when the handler fails or is cancelled. On other routes, all files are in memory, as the
        body is.

        Args:
            spool: the greatest number of bytes of all files together that are kept in memory. A file that is
                larger than what is left of it is spooled to disk.
            max_text: the greatest number of bytes of the text fields together, and of the heads of parts.
            max_file: the greatest number of bytes of each file. None for no other limit than ``max_body`` of the
                route, which is one for the whole form.
            directory: an existing directory for the temporary file; None for that of ``tempfile.gettempdir()``.

        Returns:
            The text fields, with the files as ``form.files``. A second call returns the same.

        Raises:
            HttpError: 400 if the body is malformed, 413 if it has more than ``Limits.fields``, more text or a
                larger file, 415 if it has another media type. On routes with ``stream=True`` also the errors of
                ``body``.
            OSError: the temporary file cannot be written.
            RuntimeError: the body was read otherwise, or a call has failed before; or the body is
                ``multipart/form-data``, and the extra ``forms`` is not installed.
            ValueError: an argument is negative.
        """
        largest = inf if max_file is None else max_file
        settings = FormSettings(self._max_fields, max_text, spool, directory, largest)
        body, content_type = self._body, self.headers.get("Content-Type", "")
        if isinstance(body, bytes):
            return self._once("read_form", lambda: parse_form(content_type, body, settings))
        return await body.form(content_type, settings)

    def parts(self) -> AsyncIterator[Part]:
        """Iterate over the parts of a ``multipart/form-data`` body as it arrives, on ``stream=True`` routes.

        Returns:
            An async iterator: ``async for part in request.parts()``. It raises ``HttpError``: 400 if the body is
            malformed, 413 if there are more parts than ``Limits.fields``.

        Raises:
            HttpError: 415 if the body has another media type, 400 if it has no valid boundary.
            RuntimeError: the route does not have ``stream=True``; or the extra ``forms`` is not installed.
        """
        body = self._body
        if isinstance(body, bytes):
            raise RuntimeError(_HAS_NO_PARTS)
        return body.parts(self.headers.get("Content-Type", ""), self._max_fields)

    # Values of layers, and copies...

    def with_value(self, key: RequestKey[T], value: T) -> Request:
        """Return a copy with a value for the handler and for the layers around it.

        Args:
            key: see ``RequestKey``. An earlier value of this key is replaced.
            value: any object. It is not copied.

        Raises:
            TypeError: the key is not a ``RequestKey``.
        """
        return received_request(
            self.method,
            self.path,
            self.query,
            self.version,
            self.headers,
            self._body,
            self.address,
            self.tls,
            self.path_params,
            self._host,
            self._max_fields,
            self.forwarded,
            {**self._values, _checked_key(key): value},
        )

    def __getitem__(self, key: RequestKey[T]) -> T:
        try:
            return cast("T", self._values[_checked_key(key)])
        except KeyError:
            raise KeyError(
                f"no layer has set {key!r} with request.with_value: use request.get(key, default)"
            ) from None

    def __contains__(self, key: RequestKey[Any]) -> bool:
        return _checked_key(key) in self._values

    @overload
    def get(self, key: RequestKey[T]) -> T | None: ...
    @overload
    def get(self, key: RequestKey[T], default: Default) -> T | Default: ...
    def get(self, key: RequestKey[Any], default: object = None) -> object:
        """Return the value of a key that a layer has set, or a default.

        Args:
            key: as for ``with_value``.
            default: returned if no layer has set it.

        Raises:
            TypeError: the key is not a ``RequestKey``.
        """
        return self._values.get(_checked_key(key), default)

    def replace(self, **changes: Unpack[RequestChanges]) -> Request:
        """Return a copy with other attributes: ``request.replace(path="/")``. The values of layers are kept.

        Args:
            changes: arguments of the constructor, by their names.

        Raises:
            TypeError, ValueError: as for the constructor.
        """
        arguments: RequestChanges = {
            "method": self.method,
            "path": self.path,
            "query": self.query,
            "version": self.version,
            "headers": self.headers,
            "content": self._body,
            "address": self.address,
            "tls": self.tls,
            "path_params": self.path_params,
            "forwarded": self.forwarded,
            **changes,
        }
        changed = Request(**arguments)
        assign = object.__setattr__
        assign(changed, "_max_fields", self._max_fields)
        assign(changed, "_values", self._values)
        if changed.headers.get("Host") == self.headers.get("Host"):
            assign(changed, "_host", self._host)
        return changed

    def __repr__(self) -> str:
        target = "?".join([self.path, self.query]) if self.query else self.path
        size = f"{len(self._body)} bytes" if isinstance(self._body, bytes) else "streamed"
        return f"<Request {printable(self.method)} {quoted(target)}, {size}>"

    def _parse_form(self) -> Form:
        return parse_form(self.headers.get("Content-Type", ""), self.content, FormSettings(self._max_fields))


def _checked_body(content: object) -> bytes | BodyStream:
    """Check the content of a request that was not received. A buffer that may change is copied."""
    if isinstance(content, (bytes, bytearray)):
        return bytes(content)
    if hasattr(content, "__aiter__") and hasattr(content, "read"):
        return cast("BodyStream", content)
    raise TypeError(
        f"the content of a Request is bytes or a BodyStream, not {type(content).__name__}: encode a str"
    )


def _checked_key(key: RequestKey[T]) -> RequestKey[T]:
    if not isinstance(key, RequestKey):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(
            f"the values of a request have keys of the type RequestKey, not {type(key).__name__}:"
            " use request.headers for header fields, and request.query_param for parameters"
        )
    return key


class _Draft(RequestHead):
    """A request under construction: it has the attributes of a ``Request``, and they can be assigned."""

    __slots__ = Request.__slots__

    method: str
    version: str
    _body: bytes | BodyStream
    _values: Mapping[RequestKey[Any], object]

    @classmethod
    def finished(
        cls,
        method: str,
        path: str,
        query: str,
        version: str,
        headers: Headers,
        content: bytes | BodyStream,
        address: Address,
        tls: TlsInfo | None,
        path_params: Mapping[str, str],
        host: str | None = None,
        max_fields: int = DEFAULT_MAX_FIELDS,
        forwarded: Forwarded | None = None,
        values: Mapping[RequestKey[Any], object] = _NO_VALUES,
    ) -> Request:
        """Construct a ``Request`` from its attributes, as the server does for each one that it receives.

        The constructor of a frozen class assigns each attribute by a call of ``object.__setattr__``, which takes 1
        us in total. This function assigns them to an object of another class with the same slots, and then changes
        its class, which takes 0.2 us.

        Args:
            host: the authority that was asked for, in lower case; None if it is that of the Host field.
            max_fields: ``Limits.fields``.
            values: the values of layers. The mapping must not change.
        """
        self = cls()
        self.method = method
        self.path = path
        self.query = query
        self.version = version
        self.headers = headers
        self.address = address
        self.tls = tls
        self.path_params = path_params
        self.forwarded = forwarded
        self._body = content
        self._host = host
        self._max_fields = max_fields
        self._values = values
        self._parsed = None
        self.__class__ = Request  # type: ignore[assignment]
        return cast("Request", self)


received_request = _Draft.finished

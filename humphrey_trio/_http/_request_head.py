"""What the head of a request tells, derived from its attributes when it is first used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast, overload

from .._quoting import quoted
from .._type_variables import Default, T
from ._address import Address
from ._conversion import convert_text
from ._cookies import parse_cookies
from ._errors import HttpError
from ._fields import Fields
from ._headers import Headers
from ._proxies import Forwarded
from ._sent_values import SentFields, missing
from ._tls_info import TlsInfo
from ._urls import TooManyFieldsError, parse_query

_REQUIRED: Any = object()


class RequestHead:
    """The part of ``Request`` that depends on its head only. ``Request`` has the attributes."""

    __slots__ = ()

    path: str
    query: str
    headers: Headers
    address: Address
    tls: TlsInfo | None
    path_params: Mapping[str, str]
    forwarded: Forwarded | None
    _host: str | None  # None if it is that of the Host field
    _max_fields: int
    _parsed: dict[str, Any] | None  # what was parsed on demand, by name

    @property
    def uri(self) -> str:
        """The same as ``path``: the name in Humphrey."""
        return self.path

    @property
    def host(self) -> str:
        """The host that was asked for, with its port if the client gave one, in lower case; empty if unknown.

        It is that of the request target or of the Host field (RFC 9112, section 3.2.2), or what a trusted proxy
        tells.
        """
        if self.forwarded is not None and self.forwarded.host is not None:
            return self.forwarded.host.lower()
        return self.headers.get("Host", "").lower() if self._host is None else self._host

    @property
    def scheme(self) -> str:
        """``"https"`` or ``"http"``: how the client asked, as a trusted proxy tells, or else by ``tls``."""
        if self.forwarded is not None and self.forwarded.scheme is not None:
            return self.forwarded.scheme
        return "http" if self.tls is None else "https"

    @property
    def client(self) -> Address:
        """The address of the client: that of the peer, unless a trusted proxy tells another one."""
        return self.address if self.forwarded is None else self.forwarded.client

    # Parameters and header fields...

    @overload
    def path_param(self, name: str) -> str: ...
    @overload
    def path_param(self, name: str, convert: Callable[[str], T]) -> T: ...
    def path_param(self, name: str, convert: Callable[[str], object] = str) -> object:
        """Return the value of a parameter of the route's pattern: ``request.path_param("id", int)``.

        Args:
            name: the name in the pattern, such as ``id`` for ``/items/{id}``.
            convert: called with the value. With ``int``, only the digits 0 to 9 are a number: no sign, no space.

        Returns:
            The result of ``convert``; without it, the value.

        Raises:
            HttpError: with 404, if ``convert`` raises a ``ValueError``, an ``ArithmeticError`` or a
                ``LookupError``. If the handler does not catch it, the client gets the 404.
            KeyError: the pattern has no parameter of this name.
            TypeError: ``convert`` is ``bool``.
        """
        value = self.path_params.get(name)
        if value is None:
            names = ", ".join(map(repr, self.path_params)) or "no parameters"
            raise KeyError(f"the pattern of this route has no parameter {name!r}: it has {names}")
        try:
            if convert is int and value.startswith("-"):
                raise ValueError("a number in a path has no sign")
            return convert_text(value, convert)
        except ValueError as exc:
            raise HttpError(404, f"{quoted(value)} is not valid as {name!r}") from exc

    @property
    def query_params(self) -> Fields:
        """The parameters of the query (WHATWG URL, section 5.1), decoded. A name may occur several times.

        ``query_params[name]`` is an ``HttpError`` with 400, which is also a ``KeyError``, if there is none.

        Raises:
            HttpError: with 400, if there are more than ``Limits.fields``.
        """
        return self._once("query", self._parse_query)

    @overload
    def query_param(self, name: str) -> str: ...
    @overload
    def query_param(self, name: str, *, default: Default) -> str | Default: ...
    @overload
    def query_param(self, name: str, convert: Callable[[str], T]) -> T: ...
    @overload
    def query_param(self, name: str, convert: Callable[[str], T], *, default: Default) -> T | Default: ...
    def query_param(
        self, name: str, convert: Callable[[str], object] = str, *, default: object = _REQUIRED
    ) -> object:
        """Return the first value of a parameter of the query: ``request.query_param("page", int, default=1)``.

        Args:
            name: the name of the parameter, in its letter case.
            convert: called with the value. With ``int``, only the digits 0 to 9, with an optional minus in front,
                are a number; with ``float``, only a finite decimal number.
            default: returned if the query has no such parameter. Without it, the parameter is required.

        Returns:
            The result of ``convert``; without it, the value.

        Raises:
            HttpError: with 400, if a required parameter is missing, if ``convert`` raises a ``ValueError``, an
                ``ArithmeticError`` or a ``LookupError``, or as for ``query_params``. If the handler does not catch
                it, the client gets the 400.
            TypeError: ``convert`` is ``bool``.
        """
        value = self.query_params.get(name)
        if value is None:
            if default is _REQUIRED:
                raise missing("query", "parameter", name)
            return default
        try:
            return convert_text(value, convert)
        except ValueError as exc:
            raise HttpError(400, f"{quoted(value)} is not valid as {name!r}") from exc

    @property
    def cookies(self) -> Fields:
        """The cookies that the client sent, by name. Their values are not decoded.

        ``cookies[name]`` is an ``HttpError`` with 400, which is also a ``KeyError``, if there is none.
        """
        return self._once("cookies", self._parse_cookies)

    @property
    def last_event_id(self) -> str:
        """The id of the last event that the client got before it connected again; empty if there is none.

        See ``Response.events``. The value of the Last-Event-ID field is UTF-8 (HTML standard, section 9.2.4).
        """
        return self.headers.get("Last-Event-ID", "").encode("latin-1").decode("utf-8", "replace")

    def _parse_query(self) -> Fields:
        try:
            fields = parse_query(self.query, max_fields=self._max_fields)
        except TooManyFieldsError as error:
            raise HttpError(400, f"the query is too long: {error}") from None
        return SentFields(fields, "query", "parameter")

    def _parse_cookies(self) -> Fields:
        return SentFields(parse_cookies(self.headers.get_all("Cookie")), "request", "cookie")

    def _once(self, name: str, parse: Callable[[], T]) -> T:
        """Return what was parsed under a name, or parse it now."""
        parsed = self._parsed
        if parsed is None:
            parsed = {}
            object.__setattr__(self, "_parsed", parsed)
        if name not in parsed:
            parsed[name] = parse()
        return cast("T", parsed[name])

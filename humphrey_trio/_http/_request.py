"""A request as a handler gets it: immutable, with its whole body."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar, cast, overload

from .._quoting import quoted
from ._address import Address
from ._body import BodyStream
from ._errors import HttpError
from ._headers import Headers
from ._path_params import NO_PARAMS
from ._tls_info import TlsInfo

UNKNOWN_ADDRESS = Address("", 0)

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request.

    Attributes:
        method: the method as it was sent. The standard methods are equal to the members of ``Method``.
        path: the request target before the first ``?``, neither percent-decoded nor normalised. ``*`` for
            ``OPTIONS *``.
        query: the request target after the first ``?``; empty if there is none.
        version: ``"HTTP/1.1"`` or ``"HTTP/1.0"``.
        headers: the header fields.
        content: the body; empty if there is none.
        address: the address of the peer.
        tls: the TLS parameters of the connection; None without TLS.
        path_params: the values of the parameters of the route's pattern, percent-decoded as UTF-8. Immutable.
    """

    method: str = "GET"
    path: str = "/"
    query: str = ""
    version: str = "HTTP/1.1"
    headers: Headers = field(default_factory=Headers)
    content: bytes | BodyStream = b""
    address: Address = UNKNOWN_ADDRESS
    tls: TlsInfo | None = None
    path_params: Mapping[str, str] = field(default=NO_PARAMS, hash=False)

    @property
    def body(self) -> BodyStream:
        """The body, on routes with ``stream=True``."""
        if isinstance(self.content, bytes):
            raise RuntimeError("the body of this request is whole: use request.content")
        return self.content

    @property
    def uri(self) -> str:
        """The same as ``path``: the name in Humphrey."""
        return self.path

    @overload
    def path_param(self, name: str) -> str: ...
    @overload
    def path_param(self, name: str, convert: Callable[[str], _T]) -> _T: ...
    def path_param(self, name: str, convert: Callable[[str], object] = str) -> object:
        """Return the value of a parameter of the route's pattern: ``request.path_param("id", int)``.

        Args:
            name: the name in the pattern, such as ``id`` for ``/items/{id}``.
            convert: called with the value. With ``int``, only the digits 0 to 9 are a number: no sign, no space.

        Returns:
            The result of ``convert``; without it, the value.

        Raises:
            HttpError: with 404, if ``convert`` raises a ``ValueError`` or an ``ArithmeticError``. If the handler
                does not catch it, the client gets the 404.
            KeyError: the pattern has no parameter of this name.
        """
        value = self.path_params.get(name)
        if value is None:
            names = ", ".join(map(repr, self.path_params)) or "no parameters"
            raise KeyError(f"the pattern of this route has no parameter {name!r}: it has {names}")
        try:
            return _convert(value, convert)
        except (ValueError, ArithmeticError) as exc:
            raise HttpError(404, f"{quoted(value)} is not valid as {name!r}") from exc


def _convert(value: str, convert: Callable[[str], object]) -> object:
    # int itself accepts signs, white space, underscores, and the digits of other scripts.
    if convert is int and not (value.isascii() and value.isdigit()):
        raise ValueError("not a number")
    return convert(value)


class _Draft:
    """A request under construction: it has the attributes of a ``Request``, and they can be assigned."""

    __slots__ = Request.__slots__

    method: str
    path: str
    query: str
    version: str
    headers: Headers
    content: bytes | BodyStream
    address: Address
    tls: TlsInfo | None
    path_params: Mapping[str, str]


def received_request(
    method: str,
    path: str,
    query: str,
    version: str,
    headers: Headers,
    content: bytes | BodyStream,
    address: Address,
    tls: TlsInfo | None,
    path_params: Mapping[str, str],
) -> Request:
    """Construct a ``Request`` from its attributes, as the server does for each one that it receives.

    The constructor of a frozen dataclass assigns each attribute by a call of ``object.__setattr__``, which takes
    1 us in total. This function assigns them to an object of another class with the same slots, and then changes
    its class, which takes 0.2 us.
    """
    draft = _Draft()
    draft.method = method
    draft.path = path
    draft.query = query
    draft.version = version
    draft.headers = headers
    draft.content = content
    draft.address = address
    draft.tls = tls
    draft.path_params = path_params
    draft.__class__ = Request  # type: ignore[assignment]
    return cast("Request", draft)

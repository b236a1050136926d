"""CORS: which pages of other origins may call the app from a browser (Fetch standard, section 3.3).

The layer adds header fields and answers preflight requests. It refuses no request: browsers enforce the decision.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from .._http._headers import TOKEN, Headers
from .._http._method import check_case
from .._http._origins import ANY_ORIGIN, Origins
from .._http._request import Request
from .._http._response import Response
from .._type_variables import State
from ._layer import CallNext
from ._response_fields import replace_fields, with_vary

_ANY = "*"
_REQUESTED_METHOD = "Access-Control-Request-Method"
_REQUESTED_HEADERS = "Access-Control-Request-Headers"
# The fields of a response that is not a preflight (Fetch, section 3.3.3). Those of the handler are removed: two
# Access-Control-Allow-Origin fields are refused by browsers, and a refused origin must not get any.
#: They are also kept when an error response takes the place of a stream that has failed.
CORS_FIELDS = ("Access-Control-Allow-Origin", "Access-Control-Allow-Credentials", "Access-Control-Expose-Headers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cors:
    """What pages of other origins may do, for ``cors``. Nothing is allowed by default.

    Each setting that is a collection takes one str or several. They are stored as tuples.

    Attributes:
        origins: the origins that may read responses, such as ``https://example.com``. Hosts may have wildcards,
            ``https://*.example.com``, and ports as well, ``http://localhost:*``. ``"*"`` allows every origin.
        methods: the methods that may be used beside GET, HEAD and POST, which browsers always allow. ``"*"``
            allows every method. Letter case is significant.
        headers: the request header fields that may be set beside the safelisted ones (Fetch, section 2.2.2). A
            JSON body needs ``Content-Type``. ``"*"`` allows every field, Authorization included.
        expose: the response header fields that pages may read beside the safelisted ones. ``"*"`` allows every
            field.
        credentials: whether pages may send cookies and HTTP authentication, and read the responses.
        max_age: seconds for which a browser may cache the answer to a preflight request. None for the default of
            browsers, 5 seconds. Chromium limits it to 2 hours, Firefox to 24 hours.

    Raises:
        ValueError: an origin is malformed, a method or a field name is not a token, a standard method is not in
            upper case, ``max_age`` is negative, or ``credentials`` is combined with an ``"*"`` that browsers
            refuse then.
        TypeError: a setting has the wrong type.
    """

    origins: str | Iterable[str] = ()
    methods: str | Iterable[str] = ()
    headers: str | Iterable[str] = ()
    expose: str | Iterable[str] = ()
    credentials: bool = False
    max_age: int | None = None

    def __post_init__(self) -> None:
        for name in ("origins", "methods", "headers", "expose"):
            object.__setattr__(self, name, _collection(name, getattr(self, name)))
        Origins(self.origins)
        for name, example in (("methods", "PUT"), ("headers", "Content-Type"), ("expose", "ETag")):
            _check_tokens(name, getattr(self, name), example)
        for method in self.methods:
            check_case(method)
        _check_max_age(self.max_age)
        if self.credentials:
            self._check_credentials()

    @classmethod
    def wildcard(cls) -> Cors:
        """Allow every origin, method and request header field, without credentials.

        Returns:
            The settings.
        """
        return cls(origins=_ANY, methods=_ANY, headers=_ANY)

    def with_wildcard_origin(self) -> Cors:
        """Return a copy that allows every origin."""
        return replace(self, origins=_ANY)

    def with_wildcard_methods(self) -> Cors:
        """Return a copy that allows every method."""
        return replace(self, methods=_ANY)

    def with_wildcard_headers(self) -> Cors:
        """Return a copy that allows every request header field."""
        return replace(self, headers=_ANY)

    def with_origin(self, origin: str) -> Cors:
        """Return a copy that allows one more origin.

        Args:
            origin: the origin, as for ``origins``.

        Returns:
            The copy. It is equal to this object if every origin is allowed.

        Raises:
            ValueError, TypeError: as for the constructor.
        """
        return replace(self, origins=(*self.origins, origin))

    def with_method(self, method: str) -> Cors:
        """Return a copy that allows one more method.

        Args:
            method: the method, as for ``methods``.

        Returns:
            The copy. It is equal to this object if every method is allowed.

        Raises:
            ValueError, TypeError: as for the constructor.
        """
        return replace(self, methods=(*self.methods, method))

    def with_header(self, name: str) -> Cors:
        """Return a copy that allows one more request header field.

        Args:
            name: the name of the field, as for ``headers``.

        Returns:
            The copy. It is equal to this object if every field is allowed.

        Raises:
            ValueError, TypeError: as for the constructor.
        """
        return replace(self, headers=(*self.headers, name))

    def _check_credentials(self) -> None:
        """Refuse what browsers refuse with credentials (Fetch, sections 3.3.5 and 4.9)."""
        if _ANY in self.origins:
            raise ValueError(
                "Cors(credentials=True) with every origin is refused by browsers, and any page could use the"
                " accounts of its visitors: list the origins, such as 'https://*.example.com'"
            )
        if _ANY in self.expose:
            raise ValueError(
                "Cors(credentials=True, expose='*') exposes nothing, because browsers take '*' for the name of a"
                " field: list the names of the fields"
            )


def cors(settings: Cors) -> CorsLayer:
    """Create a layer that lets pages of other origins call the app (CORS).

    Preflight requests are answered with 204 by the layer. All other requests get to the handler, those of refused
    origins too: without the header fields, the browser hides the response from the page. The fields are added to
    error responses as well.

    If two such layers match a request, the outer one decides: it answers preflight requests, and it replaces the
    fields of the inner one and those of the handler.

    Args:
        settings: the rules.

    Returns:
        The layer, for ``with_layer``.

    Raises:
        TypeError: the settings are not a ``Cors``.
    """
    return CorsLayer(settings)


class CorsLayer:
    """The layer of ``cors``."""

    def __init__(self, settings: Cors) -> None:
        if not isinstance(settings, Cors):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"write cors(Cors(origins=...)), not cors({type(settings).__name__})")
        self._settings = settings
        self._any_origin = ANY_ORIGIN in settings.origins
        self._origins = Origins(settings.origins)
        self._expose = ", ".join(settings.expose)
        self._max_age = "" if settings.max_age is None else str(settings.max_age)

    def __repr__(self) -> str:
        return f"cors({self._settings!r})"

    async def __call__(self, request: Request, state: State, call_next: CallNext) -> Response:
        if _is_preflight(request):
            return self._answer_preflight(request)
        response = replace_fields(await call_next(request), CORS_FIELDS, self._actual_fields(request))
        return response if self._any_origin else with_vary(response, "Origin")

    def _actual_fields(self, request: Request) -> list[tuple[str, str]]:
        """Create the fields of a response that is not a preflight (Fetch, section 3.3.3)."""
        fields = self._origin_fields(request)
        if fields and self._expose:
            fields.append(("Access-Control-Expose-Headers", self._expose))
        return fields

    def _answer_preflight(self, request: Request) -> Response:
        """Answer a CORS-preflight request (Fetch, sections 3.3.3 and 4.8)."""
        fields = self._origin_fields(request)
        if fields:
            fields += [
                *_list_field("Access-Control-Allow-Methods", self._allowed_methods(request)),
                *_list_field("Access-Control-Allow-Headers", self._allowed_headers(request)),
                *_list_field("Access-Control-Max-Age", self._max_age),
            ]
        response = Response(204, headers=fields)
        return with_vary(response, *self._preflight_vary())

    def _origin_fields(self, request: Request) -> list[tuple[str, str]]:
        """Create the fields that allow the origin of the request; none if it is not allowed."""
        if self._any_origin:
            return [("Access-Control-Allow-Origin", _ANY)]
        given = request.headers.get_all("Origin")
        if len(given) != 1 or not self._origins.matches(given[0]):
            return []
        fields = [("Access-Control-Allow-Origin", given[0])]
        if self._settings.credentials:
            fields.append(("Access-Control-Allow-Credentials", "true"))
        return fields

    def _allowed_methods(self, request: Request) -> str:
        if _ANY not in self._settings.methods:
            return ", ".join(self._settings.methods)
        # With credentials, "*" is the name of a method (Fetch, section 4.8), so the requested one is named.
        return _requested(request.headers, _REQUESTED_METHOD) if self._settings.credentials else _ANY

    def _allowed_headers(self, request: Request) -> str:
        if _ANY not in self._settings.headers:
            return ", ".join(self._settings.headers)
        # "*" does not include Authorization (Fetch, section 4.8).
        return (
            _requested(request.headers, _REQUESTED_HEADERS) if self._settings.credentials else "*, Authorization"
        )

    def _preflight_vary(self) -> Iterable[str]:
        """Name the fields on which the answer to a preflight request depends."""
        if not self._any_origin:
            yield "Origin"
        if self._settings.credentials and _ANY in self._settings.methods:
            yield _REQUESTED_METHOD
        if self._settings.credentials and _ANY in self._settings.headers:
            yield _REQUESTED_HEADERS


def _is_preflight(request: Request) -> bool:
    """Whether it is a CORS-preflight request (Fetch, section 3.3.2)."""
    return request.method == "OPTIONS" and "Origin" in request.headers and _REQUESTED_METHOD in request.headers


def _requested(headers: Headers, name: str) -> str:
    """Return the methods or field names of a preflight request, to allow them; empty if they are malformed."""
    names = [token.strip(" \t") for value in headers.get_all(name) for token in value.split(",")]
    return ", ".join(names) if all(map(TOKEN.fullmatch, names)) else ""


def _list_field(name: str, value: str) -> list[tuple[str, str]]:
    return [(name, value)] if value else []


# -------------------------------------------------------------------------------------------- settings


def _collection(name: str, value: str | Iterable[str]) -> tuple[str, ...]:
    """Return the members of a setting once each, in order; only ``*`` if it is one of them."""
    if isinstance(value, bytes) or not isinstance(value, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"Cors({name}=...) is a str or several, not {type(value).__name__}")
    members = (value,) if isinstance(value, str) else tuple(dict.fromkeys(value))
    return (_ANY,) if _ANY in members else members


def _check_tokens(name: str, members: tuple[str, ...], example: str) -> None:
    for member in members:
        if not isinstance(member, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"Cors({name}=...) takes names such as {example!r}, not {type(member).__name__}")
        if not TOKEN.fullmatch(member):
            raise ValueError(
                f"{member!r} in Cors({name}=...) is not a name: write {example!r}, or several in a list"
            )


def _check_max_age(max_age: int | None) -> None:
    if max_age is None:
        return
    if not isinstance(max_age, int) or isinstance(max_age, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"Cors(max_age=...) is a whole number of seconds, not {max_age!r}")
    if max_age < 0:
        raise ValueError(f"Cors(max_age=...) must be at least 0, which disables the cache, not {max_age}")

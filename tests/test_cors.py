"""CORS: the fields for allowed and refused origins, preflight requests, and settings (Fetch, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from humphrey_trio.http import Headers, Method, Request, Response
from humphrey_trio.layers import Cors, cors

PAGE = "https://app.example.com"
OTHER = "https://evil.example"


def request_from(origin: str | None, method: str = "GET", **fields: str) -> Request:
    named = {} if origin is None else {"Origin": origin}
    return Request(
        method, headers=Headers(named | {name.replace("_", "-"): text for name, text in fields.items()})
    )


def preflight(origin: str = PAGE, method: str = "PUT", headers: str | None = None) -> Request:
    fields = {"Access_Control_Request_Method": method}
    if headers is not None:
        fields["Access_Control_Request_Headers"] = headers
    return request_from(origin, "OPTIONS", **fields)


class Handler:
    """A handler that counts its calls."""

    def __init__(self, response: Response | None = None) -> None:
        self.calls = 0
        self.response = response or Response(200, "hello", [("ETag", '"1"')])

    async def __call__(self, request: Request) -> Response:
        self.calls += 1
        return self.response


async def fields_of(settings: Cors, request: Request, response: Response | None = None) -> dict[str, str]:
    """The fields of CORS and Vary of a response, each of which must be there once."""
    answer = await cors(settings)(request, None, Handler(response))
    names = [name.lower() for name, _ in answer.headers]
    found = {name: value for name, value in answer.headers if name.lower().startswith(("access-", "vary"))}
    assert all(names.count(name.lower()) == 1 for name in found)
    return {name.removeprefix("Access-Control-"): value for name, value in found.items()}


LISTED = Cors(origins=["https://*.example.com", "http://localhost:*"], expose=["ETag", "X-Total"])
ACTUAL: list[tuple[Cors, Request, dict[str, str]]] = [
    # Nothing is allowed by default.
    (Cors(), request_from(PAGE), {"Vary": "Origin"}),
    # A listed origin is echoed, and the answer depends on it, also without an Origin (Fetch, section 3.3.7).
    (
        LISTED,
        request_from(PAGE),
        {"Allow-Origin": PAGE, "Expose-Headers": "ETag, X-Total", "Vary": "Origin"},
    ),
    (
        LISTED,
        request_from("http://localhost:5173", "POST"),
        {"Allow-Origin": "http://localhost:5173", "Expose-Headers": "ETag, X-Total", "Vary": "Origin"},
    ),
    (LISTED, request_from(OTHER), {"Vary": "Origin"}),
    (LISTED, request_from("https://example.com"), {"Vary": "Origin"}),
    (LISTED, request_from("http://app.example.com"), {"Vary": "Origin"}),
    (LISTED, request_from("https://app.example.com.evil.example"), {"Vary": "Origin"}),
    (LISTED, request_from("null"), {"Vary": "Origin"}),
    (LISTED, request_from(""), {"Vary": "Origin"}),
    (LISTED, request_from(None), {"Vary": "Origin"}),
    (Cors(origins="null"), request_from("null"), {"Allow-Origin": "null", "Vary": "Origin"}),
    # Every origin: the answer does not depend on it.
    (Cors(origins="*"), request_from(OTHER), {"Allow-Origin": "*"}),
    (Cors(origins="*"), request_from(None), {"Allow-Origin": "*"}),
    (Cors(origins=[PAGE, "*"]), request_from(OTHER), {"Allow-Origin": "*"}),
    (Cors.wildcard(), request_from(OTHER, "PUT"), {"Allow-Origin": "*"}),
    (Cors(origins="*", expose="*"), request_from(OTHER), {"Allow-Origin": "*", "Expose-Headers": "*"}),
    # Credentials (Fetch, section 3.3.5).
    (
        Cors(origins=PAGE, credentials=True),
        request_from(PAGE),
        {"Allow-Origin": PAGE, "Allow-Credentials": "true", "Vary": "Origin"},
    ),
    (Cors(origins=PAGE, credentials=True), request_from(OTHER), {"Vary": "Origin"}),
    # The fields of preflight requests are only in their answers.
    (Cors(origins="*", methods="*", headers="*", max_age=5), request_from(OTHER), {"Allow-Origin": "*"}),
    # OPTIONS without the requested method, or without an origin, is not a preflight request.
    (LISTED, request_from(OTHER, "OPTIONS"), {"Vary": "Origin"}),
    (LISTED, request_from(None, "OPTIONS", Access_Control_Request_Method="PUT"), {"Vary": "Origin"}),
]


@pytest.mark.parametrize(("settings", "request_", "expected"), ACTUAL)
async def test_actual_requests(settings: Cors, request_: Request, expected: dict[str, str]) -> None:
    """Each request gets to the handler, and the response has the fields of its origin."""
    handler = Handler()
    response = await cors(settings)(request_, None, handler)
    assert (handler.calls, response.status, response.text) == (1, 200, "hello")
    assert response.headers["ETag"] == '"1"'
    assert await fields_of(settings, request_) == expected


PREFLIGHTS: list[tuple[Cors, Request, dict[str, str]]] = [
    (LISTED, preflight(), {"Allow-Origin": PAGE, "Vary": "Origin"}),
    (LISTED, preflight(OTHER), {"Vary": "Origin"}),
    (
        Cors(origins=PAGE, methods=["PUT", Method.DELETE], headers=["Content-Type", "X-Token"], max_age=600),
        preflight(headers="content-type"),
        {
            "Allow-Origin": PAGE,
            "Allow-Methods": "PUT, DELETE",
            "Allow-Headers": "Content-Type, X-Token",
            "Max-Age": "600",
            "Vary": "Origin",
        },
    ),
    (Cors(origins=PAGE, methods="PUT", max_age=0), preflight(OTHER), {"Vary": "Origin"}),
    (
        Cors(origins="*", methods="PUT", max_age=0),
        preflight(),
        {"Allow-Origin": "*", "Allow-Methods": "PUT", "Max-Age": "0"},
    ),
    # "*" does not include Authorization (Fetch, section 4.8).
    (
        Cors.wildcard(),
        preflight(headers="authorization,x-a"),
        {"Allow-Origin": "*", "Allow-Methods": "*", "Allow-Headers": "*, Authorization"},
    ),
    # With credentials, "*" means itself, so the answer repeats what was asked for.
    (
        Cors(origins=PAGE, methods="*", headers="*", credentials=True),
        preflight(method="PATCH", headers="authorization,x-a"),
        {
            "Allow-Origin": PAGE,
            "Allow-Credentials": "true",
            "Allow-Methods": "PATCH",
            "Allow-Headers": "authorization, x-a",
            "Vary": "Origin, Access-Control-Request-Method, Access-Control-Request-Headers",
        },
    ),
    (
        Cors(origins=PAGE, methods="*", headers="*", credentials=True),
        preflight(method="a b", headers="x y"),
        {
            "Allow-Origin": PAGE,
            "Allow-Credentials": "true",
            "Vary": "Origin, Access-Control-Request-Method, Access-Control-Request-Headers",
        },
    ),
    # Exposed fields are not for preflight requests.
    (Cors(origins="*", expose="ETag"), preflight(), {"Allow-Origin": "*"}),
]


@pytest.mark.parametrize(("settings", "request_", "expected"), PREFLIGHTS)
async def test_preflight_requests(settings: Cors, request_: Request, expected: dict[str, str]) -> None:
    """The layer answers a preflight request with 204, and no handler is called."""
    handler = Handler()
    response = await cors(settings)(request_, None, handler)
    assert (handler.calls, response.status, response.content) == (0, 204, b"")
    assert await fields_of(settings, request_) == expected


async def test_two_origins_are_none() -> None:
    """A request with two Origin fields, which no browser sends, is of no allowed origin."""
    request = Request(headers=Headers([("Origin", PAGE), ("Origin", PAGE)]))
    assert await fields_of(LISTED, request) == {"Vary": "Origin"}


VARY: list[tuple[Sequence[str], tuple[str, ...]]] = [
    ((), ("Origin",)),
    (("Accept",), ("Accept", "Origin")),
    (("Accept, origin",), ("Accept, origin",)),
    (("Accept", "ORIGIN"), ("Accept", "ORIGIN")),
    (("*",), ("*",)),
]


@pytest.mark.parametrize(("given", "expected"), VARY)
async def test_vary_is_kept(given: Sequence[str], expected: tuple[str, ...]) -> None:
    """Origin is added to the Vary of the handler, once."""
    handler = Handler(Response(200, "", [("Vary", value) for value in given]))
    response = await cors(LISTED)(request_from(PAGE), None, handler)
    assert response.headers.get_all("Vary") == expected


@pytest.mark.parametrize("origin", [PAGE, OTHER])
async def test_the_layer_replaces_the_fields_of_the_handler(origin: str) -> None:
    """Fields of the handler, or of a layer inside, never contradict the layer."""
    own = [("access-control-allow-origin", OTHER), ("Access-Control-Allow-Credentials", "true")]
    response = await cors(LISTED)(request_from(origin), None, Handler(Response(200, "text", own)))
    assert response.headers.get_all("Access-Control-Allow-Origin") == ((PAGE,) if origin == PAGE else ())
    assert "Access-Control-Allow-Credentials" not in response.headers
    assert (response.text, response.content_type) == ("text", "text/plain; charset=utf-8")


async def test_the_outer_layer_decides() -> None:
    """Of two layers that match, the outer one answers preflight requests and writes the fields."""
    outer, inner = cors(Cors(origins=PAGE)), cors(Cors.wildcard())

    async def call_next(request: Request) -> Response:
        return await inner(request, None, Handler())

    assert (await outer(preflight(OTHER), None, call_next)).headers == Headers({"Vary": "Origin"})
    response = await outer(request_from(PAGE), None, call_next)
    assert response.headers.get_all("Access-Control-Allow-Origin") == (PAGE,)


# -------------------------------------------------------------------------------------------- settings


def test_names_of_humphrey() -> None:
    """The methods of Humphrey give copies with one more permission; what is allowed already stays."""
    built = Cors().with_origin(PAGE).with_method(Method.PUT).with_method("DELETE").with_header("X-Token")
    assert built == Cors(origins=PAGE, methods=["PUT", "DELETE"], headers="X-Token")
    everything = Cors().with_wildcard_origin().with_wildcard_methods().with_wildcard_headers()
    assert everything == Cors.wildcard() == Cors(origins="*", methods="*", headers="*")
    assert everything.with_origin(PAGE).with_method("PUT").with_header("X-Token") == everything
    assert Cors() == Cors()


def test_settings_are_values() -> None:
    """Settings are stored as tuples without repetition, can be hashed, and cannot be changed."""
    settings = Cors(origins=(origin for origin in (PAGE, PAGE)), methods=["PUT"], max_age=5)
    assert (settings.origins, settings.methods, settings.headers) == ((PAGE,), ("PUT",), ())
    assert hash(settings) == hash(Cors(origins=[PAGE], methods="PUT", max_age=5))
    with pytest.raises(AttributeError):
        settings.credentials = True  # type: ignore[misc]


REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"origins": "*", "credentials": True}, ValueError, r"list the origins, such as 'https://\*\.example\.com'"),
    ({"origins": PAGE, "expose": "*", "credentials": True}, ValueError, "list the names of the fields"),
    ({"origins": "example.com"}, ValueError, "write a scheme and a host"),
    ({"origins": [PAGE, "https://example.com/"]}, ValueError, "write 'https://example.com'"),
    ({"origins": b"*"}, TypeError, r"Cors\(origins=\.\.\.\) is a str or several, not bytes"),
    ({"origins": [b"https://a"]}, TypeError, "an origin must be a str"),
    ({"methods": None}, TypeError, r"Cors\(methods=\.\.\.\) is a str or several, not NoneType"),
    ({"methods": "PUT, DELETE"}, ValueError, "write 'PUT', or several in a list"),
    ({"methods": ["PUT", ""]}, ValueError, "'' in Cors"),
    ({"headers": [1]}, TypeError, "takes names such as 'Content-Type', not int"),
    ({"headers": "X-Token:"}, ValueError, "write 'Content-Type', or several in a list"),
    ({"expose": "a b"}, ValueError, "write 'ETag', or several in a list"),
    ({"max_age": -1}, ValueError, "must be at least 0, which disables the cache, not -1"),
    ({"max_age": 1.5}, TypeError, r"is a whole number of seconds, not 1\.5"),
    ({"max_age": True}, TypeError, "is a whole number of seconds, not True"),
]


@pytest.mark.parametrize(("settings", "kind", "message"), REFUSED)
def test_wrong_settings(settings: dict[str, Any], kind: type[Exception], message: str) -> None:
    """Settings that browsers would refuse raise when they are made, and the message says what to write."""
    with pytest.raises(kind, match=message):
        Cors(**settings)


def test_credentials_cannot_become_wildcards() -> None:
    """The methods of Humphrey check as the constructor does."""
    with pytest.raises(ValueError, match="list the origins"):
        Cors(origins=PAGE, credentials=True).with_wildcard_origin()


def test_the_layer_takes_settings() -> None:
    """Something else than settings is refused when the layer is made, and the layer shows its settings."""
    wrong: Any = "*"
    with pytest.raises(TypeError, match=r"write cors\(Cors\(origins=\.\.\.\)\), not cors\(str\)"):
        cors(wrong)
    assert repr(cors(Cors(origins=PAGE))).startswith(f"cors(Cors(origins=('{PAGE}',)")

"""The default error responses: their format by Accept, and that nothing of a peer is interpreted."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from typing import Any

import pytest

from humphrey_trio import App, HandshakeError, HttpError, Request, Response, WebsocketStream, websocket_handler
from humphrey_trio.http import default_error_handler
from humphrey_trio.layers import CallNext, json_errors
from humphrey_trio.testing import http_client, websocket_client

PLAIN, HTML, PROBLEM = "text/plain; charset=utf-8", "text/html; charset=utf-8", "application/problem+json"
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


def page_for(*accept: str, status: int = 404, detail: str = "") -> Response:
    request = Request(headers=[("Accept", value) for value in accept])
    page = default_error_handler(status, request, HttpError(status, detail) if detail else None)
    assert isinstance(page, Response)
    return page


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ([], PLAIN),
        ([""], PLAIN),
        (["*/*"], PLAIN),
        (["text/*"], PLAIN),
        (["image/png"], PLAIN),
        ([BROWSER], HTML),
        (["text/html"], HTML),
        (["text/html, text/plain;q=0.5"], HTML),
        (["text/plain, text/html"], PLAIN),
        (["application/problem+json"], PROBLEM),
        (["application/json"], PROBLEM),
        (["application/json, text/plain;q=0.9, */*;q=0.1"], PROBLEM),
        (["application/json, text/plain, */*"], PLAIN),
        (["application/*"], PROBLEM),
        (["text/html;q=0.5", "application/json"], PROBLEM),
        (["text/html;q=0"], PLAIN),
    ],
)
def test_the_format_by_accept(accept: Sequence[str], expected: str) -> None:
    """It is plain text unless the client prefers HTML or JSON. Caches learn that it depends on Accept."""
    page = page_for(*accept)
    assert (page.status, page.headers["Content-Type"], page.headers["Vary"]) == (404, expected, "Accept")


def test_a_request_that_could_not_be_read() -> None:
    """Without a request, the response is plain text."""
    page = default_error_handler(400, None, None)
    assert isinstance(page, Response)
    assert (page.text, page.content_type, len(page.headers)) == ("400 Bad Request\n", PLAIN, 0)


@pytest.mark.parametrize(
    ("status", "detail", "text", "problem"),
    [
        (404, "", "404 Not Found\n", {"title": "Not Found", "status": 404}),
        (409, "taken", "409 Conflict: taken\n", {"title": "Conflict", "status": 409, "detail": "taken"}),
        (599, "", "599\n", {"status": 599}),
    ],
)
def test_the_contents(status: int, detail: str, text: str, problem: dict[str, Any]) -> None:
    """Each format has the status, its phrase if it has one, and the detail if there is one (RFC 9457)."""
    assert page_for(status=status, detail=detail).text == text
    assert page_for("application/json", status=status, detail=detail).text == json.dumps(
        problem, separators=(",", ":")
    )
    page = page_for("text/html", status=status, detail=detail).text
    title, _, rest = text.strip().partition(": ")
    assert f"<title>{title}</title><h1>{title}</h1>" in page
    assert (f"<p>{rest}</p>" in page) == bool(rest)


HOSTILE = "<script>alert(1)</script>&\"'\r\n\x1b[31m\u202e"


@pytest.mark.parametrize("accept", ["text/plain", "text/html", "application/json"])
def test_a_hostile_detail(accept: str) -> None:
    """Text of a peer in a detail cannot be a tag, a line or a control sequence."""
    page = page_for(accept, detail=HOSTILE)
    text = page.text.removesuffix("\n")
    assert text.isprintable()
    shown = json.loads(text)["detail"] if accept == "application/json" else html.unescape(text)
    assert "<script>alert(1)</script>" in shown
    if accept == "text/html":
        assert "<script" not in text
    else:
        assert "html" not in page.content_type


@pytest.mark.parametrize("exception", [None, ValueError("a secret"), KeyError("a secret")])
@pytest.mark.parametrize("accept", ["text/plain", "text/html", "application/json"])
def test_secrets_are_not_shown(accept: str, exception: Exception | None) -> None:
    """The message of an exception that is not meant for clients is in no format."""
    page = default_error_handler(500, Request(headers={"Accept": accept}), exception)
    assert isinstance(page, Response)
    assert "secret" not in page.text
    assert "Internal Server Error" in page.text


async def test_pages_on_a_connection() -> None:
    """Errors of routing and of handlers have the format that the client prefers, with the fields of the error."""

    def refuse(request: Request) -> Response:
        raise HttpError(503, "later", headers={"Retry-After": "7"})

    app = App().with_stateless_route("/refuse", refuse).with_stateless_route("/get", refuse, methods=("GET",))
    async with http_client(app) as client:
        headers = {"Accept": "application/json"}
        missing = await client.get("/missing", headers=headers)
        refused = await client.get("/refuse", headers=headers)
        wrong = await client.post("/get", headers={"Accept": BROWSER})
    assert json.loads(missing.content) == {"title": "Not Found", "status": 404}
    assert json.loads(refused.content) == {"title": "Service Unavailable", "status": 503, "detail": "later"}
    assert (refused.headers["Retry-After"], refused.headers["Content-Type"]) == ("7", PROBLEM)
    assert (wrong.status, wrong.headers["Allow"], wrong.headers["Content-Type"]) == (
        405,
        "GET, HEAD, OPTIONS",
        HTML,
    )


async def test_errors_of_an_api_in_json() -> None:
    """Behind ``json_errors``, clients without a preference get JSON for every error, and browsers HTML."""

    def fail(request: Request) -> Response:
        raise HttpError(409, "taken")

    async def closed(request: Request, state: None, call_next: CallNext) -> Response:
        raise HttpError(403, "closed")

    app = (
        App()
        .with_layer(json_errors(), path="/api/*")
        .with_layer(closed, path="*/closed")
        .with_stateless_route("/api/items", fail, methods=("GET",), max_body=1)
        .with_websocket_route("/api/socket", websocket_handler(_never))
    )
    async with http_client(app, headers={"Accept": "*/*"}) as client:
        for method, path, status in (
            ("GET", "/api/items", 409),
            ("POST", "/api/items", 405),
            ("GET", "/api/others", 404),
            ("GET", "/api/closed", 403),
            ("GET", "/api/socket", 426),
        ):
            page = await client.request(method, path)
            assert (page.status, page.content_type, page.parse_json()["status"]) == (status, PROBLEM, status)
        assert (await client.get("/api/items", content="xx")).content_type == PROBLEM
        assert (await client.get("/api/items", headers={"Accept": BROWSER})).content_type == HTML
        assert (await client.get("/api/items", headers={"Accept": "text/plain"})).content_type == PLAIN
        assert (await client.get("/api/items", headers={"Accept": "image/png"})).content_type == PROBLEM
        assert (await client.get("/other")).content_type == PLAIN
        assert (await client.get("/closed")).content_type == PLAIN
    assert repr(json_errors()) == "json_errors()"


async def test_errors_always_in_json() -> None:
    """Behind ``json_errors(always=True)``, browsers get JSON, too."""
    app = App().with_layer(json_errors(always=True), path="/api/*")
    async with http_client(app) as client:
        for accept in (BROWSER, "text/plain", "image/png", "*/*"):
            assert (await client.get("/api/none", headers={"Accept": accept})).content_type == PROBLEM
        assert (await client.get("/none", headers={"Accept": BROWSER})).content_type == HTML
    assert repr(json_errors(always=True)) == "json_errors(always=True)"
    wrong: Any = "/api/*"
    with pytest.raises(TypeError, match=r"write json_errors\(always=True\)"):
        json_errors(always=wrong)


async def test_a_refused_upgrade_of_an_api() -> None:
    """The refusal of a WebSocket is JSON as well."""
    route = websocket_handler(_never, origins="https://example.com")
    app = App().with_layer(json_errors(), path="/api/*").with_websocket_route("/api/socket", route)
    with pytest.raises(HandshakeError) as refused:
        async with websocket_client(app, "/api/socket", headers={"Origin": "https://foe.example"}):
            pass
    assert refused.value.response is not None
    assert refused.value.response.parse_json()["title"] == "Forbidden"


async def _never(stream: WebsocketStream, state: None) -> None:
    raise AssertionError("the client was accepted")

"""The cookies and the redirects of the HTTP client of ``humphrey_trio.testing``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from urllib.parse import unquote

import pytest
import trio
import trio.testing

from humphrey_trio import App, Request, Response, SetCookie
from humphrey_trio.http import Fields, SameSite
from humphrey_trio.testing import ResponseError, http_client


def setting(request: Request) -> Response:
    """Set the cookies of the query, and show those that were sent."""
    response = Response(200, request.headers.get("Cookie", ""))
    for value in filter(None, unquote(request.query).split("&")):
        response = response.with_header("Set-Cookie", value)
    return response


APP = App().with_stateless_route("*", setting)


async def test_cookies_are_kept() -> None:
    """A cookie of a response is sent with later requests, until it is replaced or deleted."""
    async with http_client(APP) as client:
        assert (await client.get("/?a=1&b=2")).text == ""
        assert (await client.get("/?a=3")).text == "a=1; b=2"
        assert client.cookies == Fields([("a", "3"), ("b", "2")])
        assert (await client.get(f"/?{SetCookie.deleted('b').to_header().replace(' ', '')}")).text == "a=3; b=2"
        assert client.cookies == Fields([("a", "3")])
        client.clear_cookies()
        assert (await client.get("/")).text == ""


async def test_cookies_of_the_test() -> None:
    """A test can set and delete a cookie. A Cookie field of a request is sent instead of them."""
    async with http_client(APP, host="Example.com:81") as client:
        client.set_cookie(SetCookie("a", "1", domain="example.com", secure=True, same_site=SameSite.STRICT))
        assert (await client.get("/")).text == "a=1"
        assert (await client.get("/", headers={"Cookie": "b=2"})).text == "b=2"
        client.set_cookie(SetCookie.deleted("a", domain="example.com"))
        assert (await client.get("/")).text == ""
        with pytest.raises(TypeError, match=r"set_cookie takes a SetCookie\('name', 'value'\), not str"):
            client.set_cookie("a=1")  # type: ignore[arg-type]


PAST = "Thu,%2001%20Jan%201970%2000:00:00%20GMT"


@pytest.mark.parametrize("attribute", ["Max-Age=60", f"max-age=60;Expires={PAST}", f"Expires={PAST};Max-Age=60"])
async def test_max_age(attribute: str, autojump_clock: trio.testing.MockClock) -> None:
    """Max-Age is counted in the time of trio, and takes precedence over Expires."""
    async with http_client(APP) as client:
        await client.get(f"/?a=1;{attribute}")
        await trio.sleep(59)
        assert (await client.get("/")).text == "a=1"
        await trio.sleep(2)
        assert (await client.get("/")).text == ""
        assert len(client.cookies) == 0


@pytest.mark.parametrize("attribute", ["Max-Age=0", "Max-Age=-1", f"Expires={PAST}", f"Max-Age=x;Expires={PAST}"])
async def test_deletion(attribute: str) -> None:
    """A cookie that has expired when it is set deletes the one before."""
    async with http_client(APP) as client:
        await client.get("/?a=1")
        assert len(client.cookies) == 1
        await client.get(f"/?a=2;{attribute}")
        assert len(client.cookies) == 0


@pytest.mark.parametrize("attribute", ["Max-Age=x", "Max-Age", "Expires=soon", "Other=1", ""])
async def test_cookies_without_an_end(attribute: str, autojump_clock: trio.testing.MockClock) -> None:
    """A cookie without a valid time stays until the client is closed."""
    async with http_client(APP) as client:
        await client.get(f"/?a=1;{attribute}")
        await trio.sleep(10**9)
        assert "a" in client.cookies


async def test_expires(autojump_clock: trio.testing.MockClock) -> None:
    """A date is compared with the clock of the machine when the cookie is set. After that, trio's time counts."""
    async with http_client(APP) as client:
        client.set_cookie(SetCookie("a", "1", expires=datetime.now(UTC) + timedelta(seconds=60)))
        await trio.sleep(50)
        assert "a" in client.cookies
        await trio.sleep(11)
        assert "a" not in client.cookies


@pytest.mark.parametrize(
    ("field", "at", "got_by", "not_by"),
    [
        ("a=1", "/x/y", ["/x", "/x/", "/x/z", "/x?/"], ["/", "/xy"]),
        ("a=1", "/x", ["/", "/y"], []),
        ("a=1;Path=/x", "/", ["/x", "/x/y"], ["/", "/xy"]),
        ("a=1;path=/x/", "/", ["/x/", "/x/y"], ["/x"]),
        ("a=1;Path=x", "/y/z", ["/y"], ["/x"]),
        ("a=1;Path=/y;Path=/x", "/", ["/x"], ["/y"]),
    ],
)
async def test_paths(field: str, at: str, got_by: list[str], not_by: list[str]) -> None:
    """A cookie is sent to its path and below it. The default is the directory of the request."""
    async with http_client(APP) as client:
        await client.get(f"{at}?{field}")
        for path in got_by:
            assert (await client.get(path)).text == "a=1"
        for path in not_by:
            assert (await client.get(path)).text == ""


async def test_longer_paths_are_first() -> None:
    """Cookies with a longer path are sent first, and then those that were set first."""
    async with http_client(APP) as client:
        await client.get("/?a=1&b=2;Path=/x&a=3;Path=/x/y&c=4;Path=/x")
        await client.get("/?a=5")
        assert (await client.get("/x/y")).text == "a=3; b=2; c=4; a=5"


@pytest.mark.parametrize(
    ("field", "hosts"),
    [
        ("a=1", ["b.example"]),
        ("a=1;Domain=b.example", ["b.example", "x.b.example"]),
        ("a=1;Domain=.Example", ["b.example", "x.b.example", "other.example"]),
        ("a=1;Domain=", ["b.example"]),
        ("a=1;Domain=x.b.example", []),
        ("a=1;Domain=other", []),
    ],
)
async def test_hosts(field: str, hosts: list[str]) -> None:
    """A cookie is sent to its host, or to its domain and the hosts below it. Foreign domains are ignored."""
    async with http_client(APP) as client:
        await client.get(f"/?{field}", headers={"Host": "b.example:80"})
        sent = [
            host
            for host in ("b.example", "x.b.example", "other.example", "example.com")
            if (await client.get("/", headers={"Host": host})).text
        ]
        assert sent == hosts


@pytest.mark.parametrize("field", ["a", "=1", ";", ";a=1"])
async def test_malformed_cookies(field: str) -> None:
    """A malformed cookie is ignored, as in browsers."""
    async with http_client(APP) as client:
        await client.get(f"/?{field}")
        assert len(client.cookies) == 0


# Redirects...


def leading(request: Request) -> Response:
    """Redirect /302?to to this place with the status of the path, and show other requests."""
    status = request.path[1:4]
    if status.isdigit():
        to = unquote(request.query)
        return Response(int(status), headers=[("Location", to)] if to else ())
    kind = request.headers.get("Content-Type", "-")
    return Response(200, f"{request.method} {request.path}?{request.query} {kind} {request.text}")


LEADING = App().with_stateless_route("*", leading)


async def test_redirects_are_responses() -> None:
    """A redirect is not followed unless the test asks for it."""
    async with http_client(LEADING) as client:
        assert (await client.get("/302?/x")).status == 302
        assert (await client.get("/302?/x", follow_redirects=True)).text == "GET /x? - "
        assert (await client.get("/x", follow_redirects=True)).status == 200


@pytest.mark.parametrize(
    ("method", "status", "expected"),
    [
        ("POST", 301, "GET /x? - "),
        ("POST", 302, "GET /x? - "),
        ("PUT", 302, "PUT /x? application/json 1"),
        ("PUT", 303, "GET /x? - "),
        ("POST", 307, "POST /x? application/json 1"),
        ("POST", 308, "POST /x? application/json 1"),
    ],
)
async def test_methods_of_redirects(method: str, status: int, expected: str) -> None:
    """303, and 301 and 302 after a POST, continue with GET. The others repeat the request with its body."""
    async with http_client(LEADING) as client:
        assert (await client.request(method, f"/{status}?/x", json=1, follow_redirects=True)).text == expected
        assert (await client.head("/303?/x", follow_redirects=True)).content == b""


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("y?a=b", "GET /y?a=b - "),
        ("../y%23fragment", "GET /y? - "),
        ("http://TESTSERVER/y", "GET /y? - "),
        ("//testserver", "GET /? - "),
        ("/302?/302?/y", "GET /y? - "),
    ],
)
async def test_locations(location: str, expected: str) -> None:
    """A Location is relative to the request, and may be a URL of the same server."""
    async with http_client(LEADING) as client:
        response = await client.get(f"/302?{location}", follow_redirects=True)
    assert response.text == expected


@pytest.mark.parametrize(
    ("location", "error"),
    [
        (
            "https://testserver/",
            "a redirect leads to 'https://testserver/', but this client is one of 'http://test",
        ),
        ("//other/", "leads to '//other/'"),
        ("", "a 302 has no Location"),
    ],
)
async def test_redirects_that_cannot_be_followed(location: str, error: str) -> None:
    """A redirect to another server is an error that says where it leads."""
    async with http_client(LEADING) as client:
        with pytest.raises(ResponseError, match=error):
            await client.get(f"/302?{location}", follow_redirects=True)


async def test_loops() -> None:
    """A loop of redirects ends with an error."""
    app = App().with_stateless_route("/", lambda _: Response.redirect("/"))
    async with http_client(app) as client:
        with pytest.raises(ResponseError, match="more than 20 redirects"):
            await client.get("/", follow_redirects=True)


async def test_streams_are_sent_once() -> None:
    """A streamed body cannot be repeated, which is an error that says what to do."""

    async def body() -> AsyncIterator[bytes]:
        yield b"a"

    async with http_client(LEADING) as client:
        response = await client.post("/303?/x", content=body(), follow_redirects=True)
        assert response.text == "GET /x? - "
        with pytest.raises(RuntimeError, match="asks for the streamed body again: pass it as bytes"):
            await client.post("/307?/x", content=body(), follow_redirects=True)


async def test_cookies_of_redirects() -> None:
    """A cookie of a redirect is sent with the request that follows it."""

    def login(request: Request) -> Response:
        return Response.redirect("/", status=303).with_cookie(SetCookie("user", request.form()["name"]))

    app = App().with_stateless_route("/login", login).with_stateless_route("/", setting)
    async with http_client(app) as client:
        assert (await client.post("/login", form={"name": "ann"}, follow_redirects=True)).text == "user=ann"

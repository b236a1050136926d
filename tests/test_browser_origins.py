"""A browser enforces origins: CORS, cookies by site, and the cross-origin guard.

Ports make different origins of one site. The hosts 127.0.0.1 and localhost are different sites.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest

from humphrey_trio import App, HttpError, Request, Response, SameSite, SetCookie
from humphrey_trio.http import Address
from humphrey_trio.layers import Cors, cors, cross_origin_guard
from tests.support.browser import Browser, ScriptError, needs_chromium
from tests.support.http_clients import serving
from tests.support.visits import Visits, page

pytestmark = needs_chromium

LOAD = """
    const response = await fetch(url, options)
    return [response.status, await response.text(), Object.fromEntries(response.headers)]
"""


def hello(request: Request) -> Response:
    return Response(200, f"hello {request.cookies.get('user')}", {"X-Total": "7", "X-Other": "8"})


def refuse(request: Request) -> Response:
    raise HttpError(409, "the name is taken")


def fail(request: Request) -> Response:
    raise ValueError("oops")


def log_in(request: Request) -> Response:
    return Response.empty(204).with_cookie(SetCookie("user", "ann"))


class Api(NamedTuple):
    """An API for the pages of one origin, and what it saw.

    Attributes:
        url: without a slash at its end.
        allowed, refused: the URLs of pages.
    """

    url: str
    allowed: str
    refused: str
    visits: Visits


@asynccontextmanager
async def api(**settings: Any) -> AsyncGenerator[Api]:
    async with serving(App().with_stateless_route("/", page), "127.0.0.1:0", "127.0.0.1:0") as (one, other):
        visits = Visits()
        allowed = Cors(origins=f"http://{one}", expose=["X-Total"], **settings)
        app = (
            App()
            .with_layer(visits)
            .with_layer(cors(allowed))
            .with_stateless_route("/hello", hello, methods=("GET", "POST", "PUT"), max_body=10)
            .with_stateless_route("/refuses", refuse)
            .with_stateless_route("/fails", fail)
            .with_stateless_route("/log-in", log_in, methods=("POST",))
        )
        async with serving(app) as (address,):
            yield Api(f"http://{address}", f"http://{one}/", f"http://{other}/", visits)


async def test_page_of_an_allowed_origin(browser: Browser) -> None:
    """It reads the response without a preflight request, and only those fields that are exposed."""
    async with api() as server, browser.profile() as profile:
        tab = await profile.open(server.allowed)
        status, text, headers = await tab.run(LOAD, url=f"{server.url}/hello", options={})
        assert (status, text) == (200, "hello None")
        assert headers["x-total"] == "7"
        assert "x-other" not in headers
        assert server.visits.of("/hello") == [("GET", 200)]


async def test_page_of_a_refused_origin(browser: Browser) -> None:
    """It cannot read a response. A request that needs a preflight request does not get to the handler."""
    put = {"method": "PUT", "headers": {"X-Token": "1"}}
    async with api(methods="PUT", headers="X-Token") as server, browser.profile() as profile:
        tab = await profile.open(server.refused)
        for options in ({}, put):
            with pytest.raises(ScriptError, match="Failed to fetch"):
                await tab.run(LOAD, url=f"{server.url}/hello", options=options)
        assert server.visits.of("/hello") == [("GET", 200), ("OPTIONS", 204)]


async def test_preflight_request(browser: Browser) -> None:
    """A method and a field that are allowed need one preflight request, which the browser keeps."""
    put = {"method": "PUT", "headers": {"X-Token": "1"}, "body": "text"}
    settings = {"methods": ["PUT"], "headers": ["X-Token"], "max_age": 60}
    async with api(**settings) as server, browser.profile() as profile:
        tab = await profile.open(server.allowed)
        for _ in range(2):
            status, text, _ = await tab.run(LOAD, url=f"{server.url}/hello", options=put)
            assert (status, text) == (200, "hello None")
        assert server.visits.of("/hello") == [("OPTIONS", 204), ("PUT", 200), ("PUT", 200)]
        assert server.visits.last("/hello").headers["X-Token"] == "1"
        for options in ({"method": "DELETE"}, {"headers": {"X-Other": "1"}}):
            with pytest.raises(ScriptError, match="Failed to fetch"):
                await tab.run(LOAD, url=f"{server.url}/hello", options=options)
        assert server.visits.of("/hello")[3:] == [("OPTIONS", 204), ("OPTIONS", 204)]


@pytest.mark.parametrize("allowed", [True, False])
async def test_credentials(browser: Browser, allowed: bool) -> None:
    """A page gets the response to a request with cookies if the API allows credentials."""
    options = {"method": "PUT", "credentials": "include", "headers": {"X-Token": "1"}}
    settings = {"methods": ["PUT"], "headers": ["X-Token"], "credentials": allowed}
    async with api(**settings) as server, browser.profile() as profile:
        tab = await profile.open(server.allowed)
        await tab.run(
            'await fetch(url, {method: "POST", mode: "no-cors", credentials: "include"})',
            url=f"{server.url}/log-in",
        )
        if allowed:
            assert (await tab.run(LOAD, url=f"{server.url}/hello", options=options))[1] == "hello ann"
        else:
            with pytest.raises(ScriptError, match="Failed to fetch"):
                await tab.run(LOAD, url=f"{server.url}/hello", options=options)


async def test_errors_of_an_api(browser: Browser, caplog: pytest.LogCaptureFixture) -> None:
    """The page reads error responses of handlers, routes and limits as it reads others."""
    post = {"method": "POST", "body": "more than ten bytes"}
    async with api() as server, browser.profile() as profile:
        tab = await profile.open(server.allowed)

        async def load(path: str, options: object) -> tuple[int, str]:
            status, text, _ = await tab.run(LOAD, url=server.url + path, options=options)
            return status, text.strip()

        assert await load("/refuses", {}) == (409, "409 Conflict: the name is taken")
        assert (await load("/fails", {}))[0] == 500
        assert (await load("/nowhere", {}))[0] == 404
        assert (await load("/log-in", {}))[0] == 405
        assert (await load("/hello", post))[0] == 413


class Shop:
    """An app that is protected by the guard, and what was paid."""

    def __init__(self) -> None:
        self.visits = Visits()
        self.paid: list[str] = []
        self.app = (
            App()
            .with_layer(self.visits)
            .with_layer(cross_origin_guard())
            .with_stateless_route("/", page)
            .with_stateless_route("/pay", self._pay, methods=("POST",))
        )

    def _pay(self, request: Request) -> Response:
        self.paid.append(request.form()["amount"])
        return Response.redirect("/", status=303)


SUBMIT = """
    document.body.innerHTML = `<form method="post"><input name="amount" value="5"></form>`
    document.forms[0].action = url
    document.forms[0].submit()
"""


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_form_of_another_origin(browser: Browser, host: str, caplog: pytest.LogCaptureFixture) -> None:
    """A form from another origin is refused, of the same site or not, and one of the own origin is accepted."""
    shop = Shop()
    async with (
        serving(App().with_stateless_route("/", page)) as (other,),
        serving(shop.app) as (own,),
        browser.profile() as profile,
    ):
        tab = await profile.open(f"http://{host}:{other.port}/")
        async with tab.loads():
            await tab.run(SUBMIT, url=f"http://{own}/pay")
        assert shop.visits.of("/pay") == [("POST", 403)]
        assert shop.paid == []
        await tab.go(f"http://{own}/")
        async with tab.loads():
            await tab.run(SUBMIT, url="/pay")
        assert shop.visits.of("/pay") == [("POST", 403), ("POST", 303)]
        assert shop.paid == ["5"]
        assert await tab.run("return location.pathname") == "/"


# ------------------------------------------------------------------------------------------------ cookies


def set_cookies(request: Request) -> Response:
    return (
        page(request)
        .with_cookie(SetCookie("hidden", "1", http_only=True))
        .with_cookie(SetCookie("strict", "2", same_site=SameSite.STRICT))
        .with_cookie(SetCookie("lax", "3", same_site=SameSite.LAX, max_age=3600))
        .with_cookie(SetCookie("anywhere", "4", same_site=SameSite.NONE, secure=True))
        .with_cookie(SetCookie("deep", "5", path="/set/deep"))
        .with_cookie(SetCookie("__Host-id", "6", secure=True))
    )


def delete_cookies(request: Request) -> Response:
    response = Response.empty(204).with_cookie(SetCookie.deleted("deep", "/set/deep"))
    for name in ("hidden", "strict", "lax", "anywhere", "__Host-id"):
        response = response.with_cookie(SetCookie.deleted(name))
    return response


def show_cookies(request: Request) -> Response:
    return Response.json(dict(request.cookies))


@asynccontextmanager
async def cookie_server() -> AsyncGenerator[Address]:
    app = (
        App()
        .with_layer(cors(Cors(origins="http://localhost:*", credentials=True)))
        .with_stateless_route("/set", set_cookies)
        .with_stateless_route("/delete", delete_cookies, methods=("POST",))
        .with_stateless_route("/*", show_cookies)
    )
    async with serving(app) as (address,):
        yield address


SENT = "return await (await fetch(url, {credentials: 'include'})).json()"
OF_A_SCRIPT = "return document.cookie.split('; ').sort()"


async def test_cookies_of_a_page(browser: Browser) -> None:
    """The browser keeps each cookie, sends it below its path, hides it from scripts, and deletes it."""
    async with cookie_server() as address, browser.profile() as profile:
        tab = await profile.open(f"http://{address}/set")
        everywhere = {"hidden": "1", "strict": "2", "lax": "3", "anywhere": "4", "__Host-id": "6"}
        assert await tab.run(SENT, url="/cookies") == everywhere
        assert await tab.run(SENT, url="/set/deep/x") == everywhere | {"deep": "5"}
        assert await tab.run(OF_A_SCRIPT) == ["__Host-id=6", "anywhere=4", "lax=3", "strict=2"]
        await tab.run("await fetch('/delete', {method: 'POST'})")
        assert await tab.run(SENT, url="/set/deep/x") == {}
        assert await tab.run(OF_A_SCRIPT) == [""]


async def test_cookies_of_another_site(browser: Browser) -> None:
    """A script of another site sends no cookie with LAX or STRICT, and a link from there sends those with LAX.

    Whether the script sends one with NONE depends on the settings of the browser for cookies of other sites.
    """
    async with cookie_server() as address, browser.profile() as profile:
        await profile.open(f"http://{address}/set")
        tab = await profile.open(f"http://localhost:{address.port}/elsewhere")
        assert set(await tab.run(SENT, url=f"http://{address}/cookies")) <= {"anywhere"}
        async with tab.loads():
            await tab.run("location = url", url=f"http://{address}/cookies")
        shown = await tab.run("return JSON.parse(document.body.innerText)")
        assert set(shown) >= {"lax", "anywhere"}
        assert "strict" not in shown

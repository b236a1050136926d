"""A browser fetches: compressed responses, errors, and pages that leave during a long poll."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import trio

from humphrey_trio import App, HttpError, Request, Response
from humphrey_trio.layers import CallNext, compression
from tests.support.browser import Browser, Page, ScriptError, needs_chromium
from tests.support.http_clients import serving
from tests.support.visits import page

pytestmark = needs_chromium

TEXT = "".join(f"{number}: Grüße, 你好\n" for number in range(10_000))


def article(_: Request) -> Response:
    return Response(200, TEXT, {"ETag": '"v1"'})


def streamed_article(_: Request) -> Response:
    async def pieces() -> AsyncIterator[str]:
        for start in range(0, len(TEXT), 1000):
            yield TEXT[start : start + 1000]

    return Response.stream(pieces(), headers={"Content-Type": "text/plain; charset=utf-8"})


async def one_coding(request: Request, state: Any, call_next: CallNext) -> Response:
    """A layer that leaves one of the codings of the browser, which the query names."""
    assert request.query in request.headers["Accept-Encoding"].split(", ")
    headers = request.headers.without_header("Accept-Encoding").with_header("Accept-Encoding", request.query)
    return await call_next(request.replace(headers=headers))


@pytest.mark.parametrize("path", ["/article", "/streamed"])
@pytest.mark.parametrize("coding", ["gzip", "br", "zstd"])
async def test_page_reads_compressed_responses(browser: Browser, coding: str, path: str) -> None:
    """A page gets the text of a response in each coding that the browser accepts."""
    app = (
        App()
        .with_layer(one_coding, path=path)
        .with_layer(compression())
        .with_stateless_route("/", page)
        .with_stateless_route("/article", article)
        .with_stateless_route("/streamed", streamed_article)
    )
    async with serving(app) as (address,), browser.profile() as profile:
        tab = await profile.open(f"http://{address}/")
        found = await tab.run(
            """
            const response = await fetch(url)
            const text = await response.text()
            const [timing] = performance.getEntriesByName(response.url)
            return [response.headers.get("Content-Encoding"), text, timing.encodedBodySize]
            """,
            url=f"{path}?{coding}",
        )
        assert found[:2] == [coding, TEXT]
        assert 0 < found[2] < len(TEXT.encode()) / 2


async def test_page_reads_streamed_pieces_at_once(browser: Browser) -> None:
    """Each piece of a compressed response gets to the page before the next one is produced."""
    go_on, pieces = trio.open_memory_channel[str](0)

    def live(_: Request) -> Response:
        return Response.stream(aiter(pieces), headers={"Content-Type": "text/plain"})

    app = App().with_layer(compression()).with_stateless_route("/", page).with_stateless_route("/live", live)
    async with serving(app) as (address,), browser.profile() as profile, go_on:
        tab = await profile.open(f"http://{address}/")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(go_on.send, "one")
            coding = await tab.run(
                """
                const response = await fetch("/live")
                const reader = response.body.pipeThrough(new TextDecoderStream()).getReader()
                globalThis.next = () => reader.read()
                return response.headers.get("Content-Encoding")
                """
            )
            assert coding == "zstd"
            assert await tab.run("return await next()") == {"done": False, "value": "one"}
            for piece in ("two", "three"):
                await go_on.send(piece)
                assert await tab.run("return await next()") == {"done": False, "value": piece}
            await go_on.aclose()
            assert await tab.run("return (await next()).done")


async def test_page_sees_an_incomplete_stream(browser: Browser, caplog: pytest.LogCaptureFixture) -> None:
    """A body that fails after its first piece is an error for the page, and not a short body."""
    was_read = trio.Event()

    async def fails() -> AsyncIterator[str]:
        yield "a piece"
        await was_read.wait()
        raise ValueError("oops")

    app = App().with_stateless_route("/", page).with_stateless_route("/fails", lambda _: Response.stream(fails()))
    async with serving(app) as (address,), browser.profile() as profile:
        tab = await profile.open(f"http://{address}/")
        await tab.run(
            """
            const reader = (await fetch("/fails")).body.getReader()
            await reader.read()
            globalThis.next = () => reader.read()
            """
        )
        was_read.set()
        with pytest.raises(ScriptError, match="TypeError: network error"):
            await tab.run("return await next()")
    assert "oops" in caplog.text


async def test_page_reads_error_responses(browser: Browser, caplog: pytest.LogCaptureFixture) -> None:
    """A page gets the status and the problem of an error response in JSON."""

    def refuse(_: Request) -> Response:
        raise HttpError(409, "the name is taken")

    def fail(_: Request) -> Response:
        raise ValueError("a secret")

    app = (
        App()
        .with_stateless_route("/", page)
        .with_stateless_route("/refuses", refuse)
        .with_stateless_route("/fails", fail)
        .with_stateless_route("/only-post", page, methods=("POST",))
    )
    async with serving(app) as (address,), browser.profile() as profile:
        tab = await profile.open(f"http://{address}/")
        problems = await tab.run(
            """
            const load = async path => {
                const response = await fetch(path, {headers: {Accept: "application/json"}})
                const problem = await response.json()
                return [response.status, problem.status, problem.detail]
            }
            return await Promise.all(["/refuses", "/fails", "/only-post", "/nowhere"].map(load))
            """
        )
    assert [problem[:2] for problem in problems] == [[409, 409], [500, 500], [405, 405], [404, 404]]
    assert problems[0][2] == "the name is taken"
    assert "a secret" not in str(problems)


class LongPoll:
    """A handler that waits until its client leaves."""

    def __init__(self) -> None:
        self.begun = trio.Event()
        self.left = math.nan
        self.cancelled = trio.Event()

    async def __call__(self, request: Request) -> Response:
        self.begun.set()
        try:
            await trio.sleep_forever()
        finally:
            self.left = trio.current_time()
            self.cancelled.set()


async def abort(tab: Page) -> None:
    await tab.run("controller.abort()")


async def go_elsewhere(tab: Page) -> None:
    """Go elsewhere, from a page that then aborts its requests.

    Without that, Chromium continues them for a minute, because the user may go back to the page.
    """
    await tab.run('addEventListener("pagehide", () => controller.abort())')
    await tab.go("about:blank")


@pytest.mark.parametrize("leave", [abort, go_elsewhere, Page.close, Page.reload])
async def test_long_poll_ends_with_its_page(browser: Browser, leave: Callable[[Page], Awaitable[None]]) -> None:
    """A handler is cancelled soon after its page has aborted, gone elsewhere, been closed or been reloaded."""
    poll = LongPoll()
    app = App().with_stateless_route("/", page).with_stateless_route("/poll", poll)
    async with serving(app) as (address,), browser.profile() as profile:
        tab = await profile.open(f"http://{address}/")
        await tab.run(
            """
            globalThis.controller = new AbortController()
            fetch("/poll", {signal: controller.signal}).catch(() => {})
            """
        )
        await poll.begun.wait()
        begun = trio.current_time()
        await leave(tab)
        await poll.cancelled.wait()
        assert poll.left - begun < 5

"""A browser reads server-sent events: their fields, reconnections, and the end of the server."""

from __future__ import annotations

import trio

from humphrey_trio import App, HttpError, Request, Response
from humphrey_trio.http import EventSender
from humphrey_trio.layers import Cors, compression, cors
from tests.support.browser import Browser, Page, needs_chromium
from tests.support.http_clients import serving
from tests.support.visits import Visits, page

pytestmark = needs_chromium

# The page records events, and the state after each error. "reached" waits for a number of them, or of one type.
LISTEN = """
    globalThis.seen = []
    const waiting = new Set()
    const add = (...what) => { seen.push(what); for (const look of waiting) look() }
    globalThis.reached = (number, only) => new Promise(resolve => {
        const look = () => {
            const found = seen.filter(([type]) => only === undefined || type === only)
            if (found.length >= number) { waiting.delete(look); resolve(found) }
        }
        waiting.add(look)
        look()
    })
    globalThis.source = new EventSource(url)
    const states = ["connecting", "open", "closed"]
    source.onmessage = event => add(event.type, event.data, event.lastEventId)
    source.addEventListener("tick", event => add(event.type, event.data, event.lastEventId))
    source.onerror = () => add("error", states[source.readyState])
"""
REACHED = "return await reached(number)"


async def listening(browser_page: Page, path: str = "/events") -> None:
    await browser_page.run(LISTEN, url=path)


async def test_fields_of_events(browser: Browser) -> None:
    """The page gets the data with its line ends, the type, and the last id."""

    async def produce(events: EventSender) -> None:
        await events.send("one\ntwo\r\n\r\nGrüße, 你好 \U0001f984")
        await events.send(" leading: space", event="tick", id="é-1")
        await events.send("", id="2")
        await events.send("data: not a field\nid: 9")
        await events.send("the last", id="")
        await trio.sleep_forever()

    app = (
        App()
        .with_layer(compression())
        .with_stateless_route("/", page)
        .with_stateless_route("/events", lambda _: Response.events(produce))
    )
    async with serving(app) as (address,), browser.profile() as profile:
        tab = await profile.open(f"http://{address}/")
        await listening(tab)
        assert await tab.run(REACHED, number=5) == [
            ["message", "one\ntwo\n\nGrüße, 你好 \U0001f984", ""],
            ["tick", " leading: space", "é-1"],
            ["message", "", "2"],
            ["message", "data: not a field\nid: 9", "2"],
            ["message", "the last", ""],
        ]


class Clock:
    """Events with the numbers after the last one that the browser has. Each response ends after two of them."""

    def __init__(self, retry: int) -> None:
        self.retry = retry
        self.asked: list[tuple[float, str]] = []
        self.ended: list[float] = []

    def __call__(self, request: Request) -> Response:
        self.asked.append((trio.current_time(), request.last_event_id))
        number = int(request.last_event_id or 0)
        if number >= 4:
            return Response.empty(204)

        async def produce(events: EventSender) -> None:
            for offset in (1, 2):
                await events.send(str(number + offset), id=str(number + offset), retry=self.retry)
            self.ended.append(trio.current_time())

        return Response.events(produce)


async def test_browser_reconnects(browser: Browser) -> None:
    """After the end of a response, the browser waits as retry says, sends the last id, and stops at a 204."""
    clock = Clock(retry=300)
    app = App().with_stateless_route("/", page).with_stateless_route("/events", clock)
    async with serving(app) as (address,), browser.profile() as profile:
        tab = await profile.open(f"http://{address}/")
        await listening(tab)
        assert await tab.run(REACHED, number=7) == [
            ["message", "1", "1"],
            ["message", "2", "2"],
            ["error", "connecting"],
            ["message", "3", "3"],
            ["message", "4", "4"],
            ["error", "connecting"],
            ["error", "closed"],
        ]
    assert [last for _, last in clock.asked] == ["", "2", "4"]
    waits = [asked - ended for (asked, _), ended in zip(clock.asked[1:], clock.ended, strict=True)]
    # Without "retry", Chromium waits for three seconds.
    assert all(0.29 < wait < 2.9 for wait in waits)


async def test_an_id_before_the_first_event(browser: Browser) -> None:
    """A browser sends an id that came without an event, and shows no event for it."""
    asked: list[str] = []

    def events(request: Request) -> Response:
        asked.append(request.last_event_id)

        async def produce(events: EventSender) -> None:
            if len(asked) == 1:
                await events.send_id("7")
            else:
                await events.send("the first")
                await trio.sleep_forever()

        return Response.events(produce)

    app = App().with_stateless_route("/", page).with_stateless_route("/events", events)
    async with serving(app) as (address,), browser.profile() as profile:
        tab = await profile.open(f"http://{address}/")
        await listening(tab)
        assert await tab.run(REACHED, number=2) == [["error", "connecting"], ["message", "the first", "7"]]
    assert asked == ["", "7"]


async def test_events_that_are_refused(browser: Browser) -> None:
    """The browser does not reconnect after an error response, also if the producer has failed before an event."""

    async def refuse(events: EventSender) -> None:
        raise HttpError(403, "not yours")

    visits = Visits()
    app = (
        App()
        .with_layer(visits)
        .with_stateless_route("/", page)
        .with_stateless_route("/events", lambda _: Response.events(refuse))
    )
    async with serving(app) as (address,), browser.profile() as profile:
        tab = await profile.open(f"http://{address}/")
        for path in ("/events", "/nowhere"):
            await listening(tab, path)
            assert await tab.run(REACHED, number=1) == [["error", "closed"]]
            assert len(visits.of(path)) == 1


async def test_events_of_another_origin(browser: Browser) -> None:
    """A page of another origin gets events if CORS allows it, and an error otherwise."""

    async def produce(events: EventSender) -> None:
        await events.send("hello")
        await trio.sleep_forever()

    pages = App().with_stateless_route("/", page)
    async with serving(pages, "127.0.0.1:0", "127.0.0.1:0") as (allowed, refused):
        app = (
            App()
            .with_layer(cors(Cors(origins=f"http://{allowed}")))
            .with_stateless_route("/events", lambda _: Response.events(produce))
        )
        async with serving(app) as (address,), browser.profile() as profile:
            for origin, expected in ((allowed, ["message", "hello", ""]), (refused, ["error", "closed"])):
                tab = await profile.open(f"http://{origin}/")
                await listening(tab, f"http://{address}/events")
                assert await tab.run(REACHED, number=1) == [expected]


class News:
    """Events without an end, and how many producers are running."""

    def __init__(self) -> None:
        self.running = 0
        self.last: list[str] = []
        self.ended = trio.Event()

    def __call__(self, request: Request) -> Response:
        self.last.append(request.last_event_id)
        return Response.events(self._produce)

    async def _produce(self, events: EventSender) -> None:
        self.running += 1
        try:
            await events.send("news", id=f"id {len(self.last)}", retry=100)
            await trio.sleep_forever()
        finally:
            self.running -= 1
            self.ended.set()


async def test_server_is_restarted(browser: Browser) -> None:
    """A graceful shutdown ends the events at once, and the browser continues with the next server."""
    news, shutdown = News(), trio.Event()

    def site() -> App:
        return App().with_stateless_route("/", page).with_stateless_route("/events", news)

    async with browser.profile() as profile:
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                address = (await nursery.start(site().with_shutdown(shutdown).run, "127.0.0.1:0"))[0]
                tab = await profile.open(f"http://{address}/")
                await listening(tab)
                assert await tab.run(REACHED, number=1) == [["message", "news", "id 1"]]
                begun = trio.current_time()
                shutdown.set()
        # Its run has returned. The browser has a second to close an idle connection.
        assert trio.current_time() - begun < 10
        assert news.running == 0
        async with serving(site(), str(address)):
            # The browser may have tried to reconnect several times.
            seen = await tab.run('return await reached(2, "message")')
            assert seen == [["message", "news", "id 1"], ["message", "news", "id 2"]]
            assert news.last == ["", "id 1"]


async def test_page_leaves_events(browser: Browser) -> None:
    """The producer is cancelled soon after the page has closed its source."""
    news = News()
    app = App().with_stateless_route("/", page).with_stateless_route("/events", news)
    async with serving(app) as (address,), browser.profile() as profile:
        tab = await profile.open(f"http://{address}/")
        await listening(tab)
        await tab.run(REACHED, number=1)
        begun = trio.current_time()
        await tab.run("source.close()")
        await news.ended.wait()
        assert trio.current_time() - begun < 5

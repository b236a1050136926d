"""A ticker by server-sent events, and a page that shows it.

python examples/events.py [PORT]

A browser that was disconnected connects again, and gets the events that it has missed.
"""

from __future__ import annotations

import re
import sys
from collections import deque
from collections.abc import Iterator

import trio

from humphrey_trio import App, Request, Response
from humphrey_trio.http import EventSender

INTERVAL = 0.5  # seconds
KEPT = 1000
PAGE = """<!doctype html>
<meta charset="utf-8">
<title>Ticker</title>
<h1>...</h1>
<script>
  const source = new EventSource("/events")
  const heading = document.querySelector("h1")
  source.addEventListener("tick", event => { heading.textContent = event.data })
  source.onerror = () => { heading.textContent = "..." }
</script>
"""


class Ticker:
    """Counts, and keeps the last events for clients that connect again."""

    def __init__(self) -> None:
        self.last = 0
        self._events: deque[tuple[int, str]] = deque(maxlen=KEPT)
        self._changed = trio.Event()

    async def run(self) -> None:
        while True:
            await trio.sleep(INTERVAL)
            self.last += 1
            self._events.append((self.last, f"tick {self.last}"))
            self._changed.set()
            self._changed = trio.Event()

    async def wait(self) -> None:
        """Wait for the next event."""
        await self._changed.wait()

    def since(self, number: int) -> Iterator[tuple[int, str]]:
        """The events after a number."""
        return iter([event for event in self._events if event[0] > number])

    def number_of(self, last_event_id: str) -> int:
        """The last event that a client has: the latest one, if it was not connected before."""
        known = re.fullmatch("[0-9]{1,18}", last_event_id)
        return min(int(last_event_id), self.last) if known else self.last


def page(request: Request, state: Ticker) -> Response:
    return Response.html(PAGE)


def events(request: Request, state: Ticker) -> Response:
    async def produce(events: EventSender) -> None:
        sent = state.number_of(request.last_event_id)
        while True:
            for number, text in state.since(sent):
                await events.send(text, event="tick", id=str(number))
                sent = number
            if sent == state.last:
                await state.wait()

    return Response.events(produce)


async def main(port: int) -> None:
    ticker = Ticker()
    app = App(ticker).with_route("/", page, methods=("GET",)).with_route("/events", events, methods=("GET",))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ticker.run)
        (address,) = await nursery.start(app.run, f"127.0.0.1:{port}")
        print(f"the page is at http://{address}/", flush=True)


if __name__ == "__main__":
    status = 0
    try:
        trio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 8080)
    except* KeyboardInterrupt:
        status = 130  # the exit status of shells for SIGINT
    sys.exit(status)

"""A ticker by server-sent events, and a page that shows it.

python examples/events.py [PORT]

A browser that was disconnected connects again, and gets the events that it has missed.
"""

from __future__ import annotations

import itertools
import sys

import trio

from humphrey_trio import App, Request, Response
from humphrey_trio.http import EventLog

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


async def tick(log: EventLog) -> None:
    for number in itertools.count(1):
        await trio.sleep(INTERVAL)
        log.append(f"tick {number}", event="tick")


def page(request: Request, log: EventLog) -> Response:
    return Response.html(PAGE)


def events(request: Request, log: EventLog) -> Response:
    return Response.events(log.follow(request.last_event_id))


async def main(port: int) -> None:
    log = EventLog(KEPT)
    app = App(log).with_route("/", page, methods=("GET",)).with_route("/events", events, methods=("GET",))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tick, log)
        (address,) = await nursery.start(app.run, f"127.0.0.1:{port}")
        print(f"the page is at http://{address}/", flush=True)


if __name__ == "__main__":
    status = 0
    try:
        trio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 8080)
    except* KeyboardInterrupt:
        status = 130  # the exit status of shells for SIGINT
    sys.exit(status)

"""What the page shows: its sections, and the servers and scenarios of each. Only these are measured for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks import catalogue, plan, scenarios
from benchmarks.catalogue import Server
from benchmarks.plan import Entry
from benchmarks.scenarios import Scenario

OURS = (catalogue.OURS, catalogue.OURS_FAST)


@dataclass(frozen=True)
class Section:
    """A table of the page.

    Attributes:
        name: its name in options and in the marker on the page.
        rows: the names of the scenarios.
        peers: the names of the other servers. Each is measured on the scenarios that it can do.
        key: the figure of a `Result` that the table shows.
        unit: the unit of the table.
        divisor: the figure is divided by this number.
    """

    name: str
    rows: tuple[str, ...]
    peers: tuple[str, ...]
    key: str = "cpu_us"
    unit: str = "us"
    divisor: float = 1.0

    def scenarios(self) -> list[Scenario]:
        return [scenarios.BY_NAME[name] for name in self.rows]

    def peers_of(self, scenario: Scenario) -> list[Server]:
        """Return the other servers that can do the work of a scenario, whether they are installed or not."""
        peers = [catalogue.BY_NAME[name] for name in self.peers]
        return [server for server in peers if plan.is_suitable(server, scenario)]

    def entries(self) -> Iterator[Entry]:
        ours = [catalogue.BY_NAME[name] for name in OURS]
        for scenario in self.scenarios():
            yield Entry(scenario, [*ours, *self.peers_of(scenario)])


_BOTH = ("aiohttp", "uvicorn-fast", "hypercorn-trio")
_WEBSOCKETS = ("picows", "websockets-asyncio", "websockets-trio", "trio-websocket")

SECTIONS = (
    Section(
        "http",
        ("get-64", "browser-64", "json-64", "browser-json-64", "post-16k", "get-new"),
        ("aiohttp", "uvicorn-fast", "uvicorn-h11", "hypercorn-trio"),
    ),
    Section(
        "websockets",
        ("echo-64", "echo-64k", "echo-1m", "open-close", "broadcast-1000"),
        (*_BOTH, *_WEBSOCKETS),
    ),
    Section(
        "tls",
        ("tls-get-64", "tls-get-new", "tls-get-resumed", "tls-echo-64", "tls-broadcast-500"),
        (*_BOTH, *_WEBSOCKETS),
    ),
    Section(
        "memory",
        ("idle-http", "idle-ws", "tls-idle-ws"),
        (*_BOTH, *_WEBSOCKETS),
        key="value",
        unit="KB",
        divisor=1000.0,
    ),
    Section(
        "asgi",
        ("asgi-get-64", "asgi-starlette-64", "asgi-fastapi-64", "asgi-post-16k", "asgi-echo-64"),
        ("uvicorn-fast", "uvicorn-h11", "hypercorn-trio"),
    ),
    Section("files", ("file-1", "file-8"), ("nginx", "aiohttp", "starlette")),
)
BY_NAME = {section.name: section for section in SECTIONS}

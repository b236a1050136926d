"""The scenarios: the work of each, and the unit of its figure."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.payload import FILE_BYTES

HIGHER, LOWER = "higher", "lower"


@dataclass(frozen=True)
class Work:
    """The work of the load generator.

    Attributes:
        mode: the name of a function of `load.py`.
        protocol: ``http``, ``ws``, or ``file`` for downloads over HTTP.
        connections: the number of connections.
        depth: the number of pipelined requests or messages.
        size: the size of a body or a message, in bytes.
        binary: whether messages are binary.
        tls: whether the connections use TLS.
        resumed: whether they resume the TLS session of an earlier connection.
        path: the path of a GET.
        browser: whether a GET has the fields that a browser sends.
        app: the ASGI app that the server serves: ``bare``, or the name of a framework. Without it, the server
            serves its own program.
    """

    mode: str
    protocol: str
    connections: int
    depth: int = 1
    size: int = 0
    binary: bool = False
    tls: bool = False
    resumed: bool = False
    path: str = "/"
    browser: bool = False
    app: str = ""


@dataclass(frozen=True)
class Scenario:
    """A scenario.

    Attributes:
        name: its name in options.
        title: its title in tables and in the chart.
        work: what the load generator does.
        unit: the unit of the figure.
        better: whether a higher or a lower figure is better.
        ours_only: whether other servers are measured only if `--servers` names them.
        charted: whether it is in the chart.
        most_rounds: the highest number of rounds. Memory varies less than times.
    """

    name: str
    title: str
    work: Work
    unit: str
    better: str = HIGHER
    ours_only: bool = False
    charted: bool = False
    most_rounds: int = 1000

    @property
    def phases(self) -> int:
        """The number of measured windows."""
        return 2 if self.ours_only else 1

    def duration(self, seconds: float, warmup: float) -> float:
        """Estimate the seconds of one measurement, including the start of the server."""
        return 1.0 + (warmup + seconds) * self.phases + self.work.connections * 0.001


SCENARIOS = (
    Scenario("get-1", "GET, 1 connection", Work("closed_loop", "http", 1), "req/s"),
    Scenario("get-64", "GET, 64 connections", Work("closed_loop", "http", 64), "req/s", charted=True),
    Scenario(
        "browser-64",
        "GET with a head of 522 bytes, 64 connections",
        Work("closed_loop", "http", 64, browser=True),
        "req/s",
    ),
    Scenario(
        "json-64",
        "GET of 1 kB of JSON, 64 connections",
        Work("closed_loop", "http", 64, path="/json"),
        "req/s",
        charted=True,
    ),
    Scenario(
        "browser-json-64",
        "GET of 1 kB of JSON with a head of 522 bytes, 64 connections",
        Work("closed_loop", "http", 64, path="/json", browser=True),
        "req/s",
    ),
    Scenario("get-200", "GET, 200 connections", Work("closed_loop", "http", 200), "req/s"),
    Scenario(
        "get-pipelined",
        "GET, 16 connections, 16 pipelined",
        Work("closed_loop", "http", 16, depth=16),
        "req/s",
    ),
    Scenario(
        "post-16k",
        "POST 16 KiB, 16 connections",
        Work("closed_loop", "http", 16, size=2**14),
        "req/s",
        charted=True,
    ),
    Scenario(
        "get-new",
        "GET, a new connection per request",
        Work("new_connections", "http", 16),
        "conn/s",
        charted=True,
    ),
    Scenario(
        "connect-200",
        "200 new clients, until the last is served",
        Work("connect_at_once", "http", 200),
        "ms",
        LOWER,
        charted=True,
    ),
    Scenario(
        "idle-http",
        "Memory per idle HTTP connection",
        Work("idle", "http", 2000),
        "bytes",
        LOWER,
        most_rounds=2,
    ),
    Scenario(
        "file-1",
        "File of 100 MB, 1 connection, per MB",
        Work("downloads", "file", 1, size=FILE_BYTES),
        "MB/s",
    ),
    Scenario(
        "file-8",
        "File of 100 MB, 8 connections, per MB",
        Work("downloads", "file", 8, size=FILE_BYTES),
        "MB/s",
        charted=True,
    ),
    Scenario("echo-1", "Echo 32 B, 1 connection", Work("closed_loop", "ws", 1, size=32), "msg/s"),
    Scenario(
        "echo-64", "Echo 32 B, 64 connections", Work("closed_loop", "ws", 64, size=32), "msg/s", charted=True
    ),
    Scenario("echo-200", "Echo 32 B, 200 connections", Work("closed_loop", "ws", 200, size=32), "msg/s"),
    Scenario(
        "echo-pipelined",
        "Echo 32 B, 16 connections, 16 pipelined",
        Work("closed_loop", "ws", 16, depth=16, size=32),
        "msg/s",
    ),
    Scenario(
        "echo-64k",
        "Echo 64 KiB, 8 connections",
        Work("closed_loop", "ws", 8, size=2**16, binary=True),
        "msg/s",
        charted=True,
    ),
    Scenario(
        "echo-1m",
        "Echo 1 MiB, 2 connections",
        Work("closed_loop", "ws", 2, size=2**20, binary=True),
        "msg/s",
        charted=True,
    ),
    Scenario(
        "open-close", "Open and close a WebSocket", Work("new_connections", "ws", 16), "conn/s", charted=True
    ),
    Scenario(
        "broadcast-100",
        "Broadcast 128 B to 100, per delivery",
        Work("broadcasts", "ws", 100, size=128),
        "deliv/s",
    ),
    Scenario(
        "broadcast-1000",
        "Broadcast 128 B to 1,000, per delivery",
        Work("broadcasts", "ws", 1000, size=128),
        "deliv/s",
        charted=True,
    ),
    Scenario(
        "idle-ws",
        "Memory per idle WebSocket",
        Work("idle", "ws", 2000),
        "bytes",
        LOWER,
        charted=True,
        most_rounds=2,
    ),
    Scenario(
        "tls-get-64",
        "GET over TLS, 64 connections",
        Work("closed_loop", "http", 64, tls=True),
        "req/s",
        charted=True,
    ),
    Scenario(
        "tls-get-new",
        "GET over TLS, a new connection per request",
        Work("new_connections", "http", 16, tls=True),
        "conn/s",
    ),
    Scenario(
        "tls-get-resumed",
        "GET over TLS, a new connection with a resumed session per request",
        Work("new_connections", "http", 16, tls=True, resumed=True),
        "conn/s",
    ),
    Scenario(
        "tls-echo-64",
        "Echo 32 B over TLS, 64 connections",
        Work("closed_loop", "ws", 64, size=32, tls=True),
        "msg/s",
    ),
    Scenario(
        "tls-broadcast-500",
        "Broadcast 128 B to 500 over TLS, per delivery",
        Work("broadcasts", "ws", 500, size=128, tls=True),
        "deliv/s",
    ),
    Scenario(
        "tls-idle-ws",
        "Memory per idle WebSocket over TLS",
        Work("idle", "ws", 500, tls=True),
        "bytes",
        LOWER,
        most_rounds=2,
    ),
    Scenario(
        "asgi-get-64",
        "GET of a bare ASGI app, 64 connections",
        Work("closed_loop", "http", 64, app="bare"),
        "req/s",
    ),
    Scenario(
        "asgi-starlette-64",
        "GET of a Starlette app, 64 connections",
        Work("closed_loop", "http", 64, app="starlette"),
        "req/s",
    ),
    Scenario(
        "asgi-fastapi-64",
        "GET of a FastAPI app, 64 connections",
        Work("closed_loop", "http", 64, app="fastapi"),
        "req/s",
    ),
    Scenario(
        "asgi-post-16k",
        "POST 16 KiB to a bare ASGI app, 16 connections",
        Work("closed_loop", "http", 16, size=2**14, app="bare"),
        "req/s",
    ),
    Scenario(
        "asgi-echo-64",
        "Echo 32 B of a bare ASGI app, 64 connections",
        Work("closed_loop", "ws", 64, size=32, app="bare"),
        "msg/s",
    ),
    Scenario(
        "fairness-get",
        "50 clients: p99 of a GET with a flooding client, divided by p99 without it",
        Work("flood", "http", 50),
        "times",
        LOWER,
        ours_only=True,
    ),
    Scenario(
        "fairness-echo",
        "50 clients: p99 of an echo with a flooding client, divided by p99 without it",
        Work("flood", "ws", 50, size=32),
        "times",
        LOWER,
        ours_only=True,
    ),
    Scenario(
        "scaling-echo",
        "CPU per echo with 10,000 open connections, divided by that with 64",
        Work("idle_connections", "ws", 10_000, size=32),
        "times",
        LOWER,
        ours_only=True,
    ),
    Scenario(
        "scaling-broadcast",
        "50 clients: p99 of an echo during broadcasts to 10,000, divided by p99 without them",
        Work("during_broadcasts", "ws", 10_000, size=128),
        "times",
        LOWER,
        ours_only=True,
    ),
)
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}


def chosen(names: list[str]) -> list[Scenario]:
    """Return the scenarios with these names. `http`, `ws`, `file`, `tls`, `asgi`, `ours`, `all` select groups."""
    return [scenario for scenario in SCENARIOS if any(_is_named(scenario, name) for name in names)]


def _is_named(scenario: Scenario, name: str) -> bool:
    if name == "ours":
        return scenario.ours_only
    return name in ("all", scenario.name) or (name == _kind(scenario.work) and not scenario.ours_only)


def _kind(work: Work) -> str:
    if work.app:
        return "asgi"
    return "tls" if work.tls else work.protocol

"""The attackers, the suites to which they belong, and the process that runs one of them.

An attacker is a coroutine that gets one connection. When the connection has ended, the coroutine is called again
with the next one.
"""

from __future__ import annotations

import gc
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from benchmarks import catalogue
from benchmarks.attackers import excessive, malicious
from benchmarks.attackers.connection import Connection, Ended
from benchmarks.catalogue import Server
from benchmarks.load import BACKGROUND_NICE, POLL_SECONDS, WELL_BEHAVED
from benchmarks.scenarios import Work

ATTACKED = Server("humphrey-trio", "humphrey_trio_attacked", ("humphrey_trio", "trio", "h11", "wsproto"))


@dataclass(frozen=True)
class Suite:
    """What attackers have in common.

    Attributes:
        name: its name in options, and in the marker on the page.
        work: that of the well-behaved clients.
        servers: the servers that are attacked.
    """

    name: str
    work: Work
    servers: tuple[Server, ...]


MALICIOUS = Suite("malicious", Work("with_attacker", "ws", WELL_BEHAVED, size=32), (ATTACKED,))
EXCESSIVE = Suite(
    "excessive",
    Work("with_attacker", "http", WELL_BEHAVED),
    tuple(catalogue.BY_NAME[name] for name in (catalogue.OURS, "aiohttp", "uvicorn-fast")),
)
SUITES = (MALICIOUS, EXCESSIVE)


@dataclass(frozen=True)
class Attacker:
    """A coroutine that attacks, and how to run it.

    Attributes:
        attack: what it does with one connection.
        suite: the suite to which it belongs.
        connections: how many connections are open at the same time.
        reads: False for a small receive buffer.
        stays: whether its connections stay open. Then all of them are opened before the measured time.
        files: whether it downloads the large file.
        nice: the priority of its process. The timed clients, which share its core, have 0.
        least_seconds: the shortest measurement in which the server cuts it off.
    """

    attack: Callable[[Connection], Awaitable[None]]
    suite: Suite = MALICIOUS
    connections: int = 1
    reads: bool = True
    stays: bool = False
    files: bool = False
    nice: int = BACKGROUND_NICE
    least_seconds: float = 0.0

    @property
    def name(self) -> str:
        return self.attack.__name__.replace("_", "-")

    @property
    def about(self) -> str:
        return self.attack.__doc__ or ""

    def servers(self) -> list[Server]:
        """Return the servers that can be attacked in this way, whether they are installed or not."""
        return [server for server in self.suite.servers if not self.files or catalogue.FILE in server.protocols]


ATTACKERS = (
    Attacker(malicious.bomb),
    Attacker(malicious.fragments),
    Attacker(malicious.pings, reads=False, least_seconds=4.0),
    Attacker(malicious.half_open, connections=200, least_seconds=4.0),
    Attacker(malicious.resets, connections=4),
    Attacker(malicious.trickle, connections=200, least_seconds=4.0),
    Attacker(malicious.echoes, reads=False, least_seconds=4.0),
    Attacker(malicious.allowed_fragments, reads=False),
    Attacker(malicious.allowed_inflation),
    Attacker(malicious.incompressible),
    Attacker(malicious.busy_core),
    Attacker(excessive.slow_reader, EXCESSIVE, reads=False, stays=True, files=True),
    Attacker(excessive.slow_readers, EXCESSIVE, connections=100, reads=False, stays=True, files=True),
    Attacker(excessive.idle, EXCESSIVE, connections=10_000, stays=True),
    Attacker(excessive.slow_heads, EXCESSIVE, connections=1000, stays=True),
    Attacker(excessive.slow_bodies, EXCESSIVE, connections=1000, stays=True),
    Attacker(excessive.get_flood, EXCESSIVE, stays=True),
    Attacker(excessive.echo_flood, EXCESSIVE, stays=True),
    Attacker(excessive.long_flood, EXCESSIVE, stays=True, nice=0),
)
BY_NAME = {attacker.name: attacker for attacker in ATTACKERS}


def chosen(names: list[str]) -> list[str]:
    """Replace each name of a suite by the names of its attackers. Other names are not changed."""
    suites = {suite.name: [one.name for one in ATTACKERS if one.suite is suite] for suite in SUITES}
    return [name for given in names for name in suites.get(given, [given])]


class Attack:
    """Runs an attacker against a server.

    Attributes:
        counts: what was sent, by kind.
        endings: the number of connections by the way in which they ended.
    """

    def __init__(self, attacker: Attacker, port: int) -> None:
        self._attacker = attacker
        self._port = port
        self.counts: Counter[str] = Counter()
        self.endings: Counter[str] = Counter()

    def run(self, stopped: Callable[[], bool]) -> None:
        """Attack until `stopped` returns True."""
        gc.enable()  # the parent process has disabled it
        trio.run(self._run, stopped)

    async def _run(self, stopped: Callable[[], bool]) -> None:
        async with trio.open_nursery() as nursery:
            for slot in range(self._attacker.connections):
                nursery.start_soon(self._attack_repeatedly, slot)
            while not stopped():  # noqa: ASYNC110  (a signal handler sets it)
                await trio.sleep(POLL_SECONDS)
            nursery.cancel_scope.cancel()

    async def _attack_repeatedly(self, slot: int) -> None:
        for number in itertools.count():
            connection = Connection(self._port, slot, number, self.counts, self._attacker.reads)
            ending = "open"  # if the attack is stopped first
            try:
                await self._attacker.attack(connection)
            except Ended as end:
                ending = str(end)
            finally:
                self.endings[ending] += 1
                connection.close()

"""One run: builds the pair and its clients, plays a script in virtual time, and checks the journal."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from math import inf

import trio
import trio.testing

from humphrey_trio.http import Address
from humphrey_trio.testing import MemoryStream

from ..support.steps import at_step
from .clients import SimulatedClient
from .faults import ProgressWatch, seeded
from .handlers import Handlers
from .http_handlers import HttpHandlers
from .journal import Journal
from .logs import logging_to, warnings_to
from .model import check
from .pair import make_pair
from .script import Act, ClientPlan, Script, busy_seconds
from .streams import connection
from .times import SWEEP_SECONDS

#: Seconds of virtual time after which the scripts of the clients are stopped.
SCRIPT_SECONDS = 15.0
#: Seconds from the end of a client to the end of its connection: all deadlines, without the time of handlers.
SETTLE_SECONDS = 20.0
#: Seconds of virtual time in which a run ends, without the time of handlers.
RUN_SECONDS = 120.0


@dataclass(frozen=True)
class Outcome:
    """The result of a run.

    Attributes:
        violations: the violations of the model; empty for a good run.
        journal: the observations.
        steps, most_steps: the steps of the scheduler, in total and at one time.
    """

    violations: list[str]
    journal: Journal
    steps: int
    most_steps: int


def run(script: Script) -> Outcome:
    """Play a script."""
    journal, watch = Journal(), ProgressWatch()
    clock = trio.testing.MockClock(autojump_threshold=0)
    with seeded(script.seed), logging_to(journal), warnings_to(journal):
        try:
            trio.run(_Stage(script, journal, watch).play, clock=clock, instruments=[watch])
        except Exception as exc:
            journal.faults.append(f"the run raised {_leaves(exc)}")
    if watch.stuck:
        journal.faults.append(f"work without progress: {watch.stuck}")
    return Outcome([*journal.faults, *check(script, journal)], journal, watch.steps, watch.most)


def _leaves(exc: BaseException) -> str:
    if isinstance(exc, BaseExceptionGroup):
        return ", ".join(_leaves(each) for each in exc.exceptions)
    frames = []
    traceback = exc.__traceback__
    while traceback is not None:
        frames.append(f"{traceback.tb_frame.f_code.co_qualname}:{traceback.tb_lineno}")
        traceback = traceback.tb_next
    return f"{exc!r} in {' > '.join(frames[-3:])}"


class _Stage:
    """A linked pair, its clients, and the actions outside of both."""

    def __init__(self, script: Script, journal: Journal, watch: ProgressWatch) -> None:
        self._script = script
        self._journal = journal
        self._watch = watch
        self._handlers = Handlers(script, journal)
        self._clients: list[SimulatedClient] = []
        names = ("http",) if script.setup.hosted else ("http", "websocket")
        self._scopes = {name: trio.CancelScope() for name in names}
        self._ended: dict[str, trio.Event] = {}
        self._instruments = ExitStack()
        self._serving = 0  # connections
        self._busy = busy_seconds(script)

    async def play(self) -> None:
        """Play the script."""
        before = trio.lowlevel.current_statistics().tasks_living
        with trio.CancelScope() as everything, self._instruments:
            self._watch.scope = everything
            await self._play()
        left = trio.lowlevel.current_statistics()
        if left.tasks_living != before:
            self._journal.faults.append(f"{left.tasks_living - before} tasks are left")
        if left.seconds_to_next_deadline != inf:
            self._journal.faults.append("a cancel scope with a deadline is left")

    async def _play(self) -> None:
        self._shutdown = trio.Event()
        self._world_over = trio.Event()
        self._app, self._websocket_app = make_pair(
            self._script.setup, self._handlers, HttpHandlers(self._journal, self._script.seed), self._shutdown
        )
        self._handlers.sender = self._websocket_app.sender()
        async with trio.open_nursery() as nursery:
            watchdog = await nursery.start(self._watch_time)
            self._nursery = nursery
            if not self._script.setup.hosted:
                await nursery.start(self._run_app, "websocket", self._websocket_app.run)
            http = partial(self._app.run, "127.0.0.1:0") if self._script.setup.running else self._host_streams
            await nursery.start(self._run_app, "http", http)
            async with trio.open_nursery() as playing:
                for plan in self._script.clients:
                    playing.start_soon(self._play_client, plan)
                playing.start_soon(self._play_world)
                playing.start_soon(self._end)
            await self._settle()
            for scope in self._scopes.values():
                scope.cancel()
            for ended in self._ended.values():
                await ended.wait()
            watchdog.cancel()
        self._journal.statistics = self._websocket_app.statistics()
        self._journal.http_statistics = self._app.statistics()

    # The pair.

    async def _run_app(
        self, name: str, function: Callable[..., Awaitable[object]], *, task_status: trio.TaskStatus[None]
    ) -> None:
        self._ended[name] = trio.Event()
        try:
            with self._scopes[name]:
                async with trio.open_nursery() as nursery:
                    await nursery.start(function)
                    task_status.started()
        finally:
            self._note(name, "ended")
            self._ended[name].set()

    def _note(self, name: str, what: str) -> None:
        """Record an event of an app, and of the one that it runs."""
        self._journal.note(f"{name} {what}")
        if self._script.setup.hosted:
            self._journal.note(f"websocket {what}")

    async def _host_streams(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Serve each stream alone, instead of running the HTTP app."""
        async with trio.open_nursery() as self._hosting:
            task_status.started()
            await trio.sleep_forever()

    # Clients.

    async def _play_client(self, plan: ClientPlan) -> None:
        client = SimulatedClient(plan, self._journal, self._handlers, self._script.seed)
        self._clients.append(client)
        await trio.sleep(plan.at)
        ours, theirs, served = connection(plan)
        client.life.server = theirs
        if self._ended["http"].is_set():
            theirs.close()
        else:
            tasks = self._nursery if self._script.setup.running else self._hosting
            tasks.start_soon(self._serve, plan, theirs, served)
        await client.run(ours)

    async def _serve(self, plan: ClientPlan, theirs: MemoryStream, served: trio.abc.Stream) -> None:
        self._serving += 1
        try:
            await self._app.serve_stream(served, peer=Address(plan.name, 1))
        finally:
            self._serving -= 1
            self._journal.happened["last served"] = trio.current_time()
            if not theirs.closed:
                self._journal.faults.append(f"the transport of {plan.name} is open after serve_stream")

    # Actions outside of clients and handlers.

    async def _play_world(self) -> None:
        for act in self._script.world:
            await trio.sleep(act.after)
            await getattr(self, f"_do_{act.verb}")(act)
        self._world_over.set()

    async def _do_broadcast(self, act: Act) -> None:
        for _ in range(act.count):
            await self._handlers.broadcast(act)

    async def _do_publish(self, act: Act) -> None:
        await self._handlers.publish(act)

    async def _do_send_by_id(self, act: Act) -> None:
        await self._handlers.send_by_id(act)

    async def _do_look(self, act: Act) -> None:
        """Compare the statistics of the app with the journal."""
        await trio.testing.wait_all_tasks_blocked()
        statistics, sessions = self._websocket_app.statistics(), self._journal.sessions.values()
        found = (statistics.handlers_running, statistics.tasks_running)
        known = (sum(s.running for s in sessions), sum(s.tasks for s in sessions))
        if found != known:
            self._journal.faults.append(f"handlers and tasks running: {known}, but statistics have {found}")
        for session in sessions:
            if not session.stream.closed and trio.current_time() > session.deadline + SWEEP_SECONDS:
                self._journal.faults.append(f"{session.client}: is open, though its deadline has passed")
        setup = self._script.setup
        if statistics.connections > (setup.max_streams or inf):
            self._journal.faults.append(
                f"{statistics.connections} streams are served, max_connections={setup.max_streams}"
            )
        open_now = self._app.statistics().connections
        if open_now > (setup.max_connections or inf):
            self._journal.faults.append(
                f"{open_now} connections are open, max_connections={setup.max_connections}"
            )
        sure = {
            topic: sum(topic in s.topics and not s.stream.closed for s in sessions)
            for topic in {topic for s in sessions for topic in s.topics}
        }
        if any(statistics.subscribers.get(topic, 0) < count for topic, count in sure.items()):
            self._journal.faults.append(f"subscribers: {sure}, but statistics have {dict(statistics.subscribers)}")

    async def _do_drain(self, act: Act) -> None:
        self._journal.note("drain")
        self._shutdown.set()

    async def _do_cancel_http(self, act: Act) -> None:
        self._cancel_at(act.step, "http")

    async def _do_cancel_websocket(self, act: Act) -> None:
        self._cancel_at(act.step, "websocket")

    async def _do_cancel_both(self, act: Act) -> None:
        self._cancel_at(act.step, "http", "websocket")

    def _cancel_at(self, step: int, *names: str) -> None:
        def cancel() -> None:
            self._cancel(*names)

        self._instruments.enter_context(at_step(step + 1, cancel))

    def _cancel(self, *names: str) -> None:
        for name in names:
            if name in self._scopes:
                self._note(name, "cancelled")
                self._scopes[name].cancel()

    # The end.

    async def _end(self) -> None:
        """When all scripts are over, end the run as the setup says."""
        with trio.move_on_after(SCRIPT_SECONDS):
            await trio.sleep(max((plan.at for plan in self._script.clients), default=0.0))
            await self._world_over.wait()
            for client in self._clients:
                await client.over.wait()
        await trio.sleep(self._script.setup.rest)
        await self._do_look(Act(verb="look"))
        ending = self._script.setup.ending
        if ending == "leave":
            for client in self._clients:
                client.leaving.set()
        elif ending == "drain":
            await self._do_drain(Act(verb="drain"))
        else:
            self._cancel(*(("http", "websocket") if ending == "both" else (ending,)))
            if ending == "websocket":
                # The streams of the app end. The clients close those that the HTTP app still has: all, if it runs
                # the WebSocket app.
                for client in self._clients:
                    client.leaving.set()

    async def _settle(self) -> None:
        """Wait until nothing is left of the connections of the ended clients."""
        give_up = trio.current_time() + SETTLE_SECONDS + self._busy
        while trio.current_time() < give_up:
            if not any(self._left()):
                return
            await trio.sleep(0.25)
        self._journal.faults.append(f"connections, streams and waiting streams that are left: {self._left()}")

    def _left(self) -> tuple[int, int, int]:
        statistics = self._websocket_app.statistics()
        waiting = statistics.handlers_running + statistics.waiting_in_hook
        return self._serving, statistics.connections, waiting

    async def _watch_time(self, *, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        with trio.CancelScope() as scope:
            task_status.started(scope)
            await trio.sleep(RUN_SECONDS + self._busy)
            names = ", ".join(sorted(task.name for task in _tasks_in(self._nursery)))
            self._journal.faults.append(f"the run has not ended in time: {names}")
            self._watch.scope.cancel()  # type: ignore[union-attr]


def _tasks_in(nursery: trio.Nursery) -> Generator[trio.lowlevel.Task]:
    for task in nursery.child_tasks:
        yield task
        for inner in task.child_nurseries:
            yield from _tasks_in(inner)

"""One run: builds the pair and its clients, plays a script in virtual time, and checks the journal."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from math import inf

import trio
import trio.testing

from humphrey_trio import (
    App,
    AsyncWebsocketApp,
    Deflate,
    Drain,
    Heartbeat,
    Request,
    Response,
    Timeouts,
    WhenLeft,
    async_websocket_handler,
)
from humphrey_trio.http import Address
from humphrey_trio.testing import MemoryStream
from humphrey_trio.websocket import Accept

from ..support.steps import at_step
from .clients import MAX_MESSAGE_SIZE, SimulatedClient
from .faults import ProgressWatch, seeded
from .handlers import Handlers
from .journal import Journal, Session
from .model import SWEEP_SECONDS, check
from .script import Act, ClientPlan, Script, Setup, busy_seconds
from .streams import connection

#: Short timeouts, so that deadlines pass in a run.
TIMEOUTS = Timeouts(header=3, body=3, idle=5, write=3, close=2, linger=3, linger_idle=1.5, disconnect=0.5, drain=8)
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
    with seeded(script.seed), _logging_to(journal):
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


@contextmanager
def _logging_to(journal: Journal) -> Generator[None]:
    logger, handler = logging.getLogger("humphrey_trio"), _Recorder(journal)
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


class _Recorder(logging.Handler):
    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self._journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        self._journal.log.append(record)
        if hasattr(record, "close_record"):
            self._journal.records[record.stream_id].append(record.close_record)  # type: ignore[attr-defined]


class _Stage:
    """A linked pair, its clients, and the actions outside of both."""

    def __init__(self, script: Script, journal: Journal, watch: ProgressWatch) -> None:
        self._script = script
        self._journal = journal
        self._watch = watch
        self._handlers = Handlers(script, journal)
        self._clients: list[SimulatedClient] = []
        self._scopes = {"http": trio.CancelScope(), "websocket": trio.CancelScope()}
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
        self._websocket_app = self._make_websocket_app()
        self._app = self._make_app()
        self._handlers.sender = self._websocket_app.sender()
        async with trio.open_nursery() as nursery:
            watchdog = await nursery.start(self._watch_time)
            self._nursery = nursery
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

    # The pair.

    def _make_websocket_app(self) -> AsyncWebsocketApp[None, Session]:
        setup = self._script.setup
        app = AsyncWebsocketApp.new_unlinked(
            stream_state=self._handlers.take,
            max_connections=setup.max_streams,
            concurrency=setup.concurrency,
            when_left=WhenLeft.FINISH if setup.finish else WhenLeft.CANCEL,
            timeouts=TIMEOUTS,
            max_message_size=MAX_MESSAGE_SIZE,
            max_outbox_bytes=setup.max_outbox_bytes,
            max_outbox_messages=setup.max_outbox_messages,
            max_read_ahead=setup.max_read_ahead,
        )
        if setup.heartbeat:
            app.with_heartbeat(Heartbeat(interval=0.6, timeout=1))
        return (
            app.with_connect_handler(self._handlers.connect)
            .with_message_handler(self._handlers.message)
            .with_disconnect_handler(self._handlers.disconnect)
            .with_shutdown(self._shutdown, _drain(setup))
        )

    def _make_app(self) -> App:
        setup = self._script.setup
        deflate = None
        if setup.deflate:
            deflate = Deflate(server_context_takeover=setup.deflate == "context", min_size=20, memory_level=1)
        route = async_websocket_handler(self._websocket_app.connect_hook(), deflate=deflate, accept=_accept)
        return (
            App(timeouts=TIMEOUTS, max_connections=setup.max_connections if setup.running else None)
            .with_stateless_route("/", lambda _: Response(200, "hello"))
            .with_websocket_route("/ws", route)
            .with_shutdown(self._shutdown, _drain(setup))
        )

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
            self._journal.note(f"{name} ended")
            self._ended[name].set()

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
            for name in names:
                self._journal.note(f"{name} cancelled")
                self._scopes[name].cancel()

        self._instruments.enter_context(at_step(step + 1, cancel))

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
            for name in ("http", "websocket") if ending == "both" else (ending,):
                self._journal.note(f"{name} cancelled")
                self._scopes[name].cancel()
            if ending == "websocket":
                # The streams of the app end. The clients close those that the HTTP app still has.
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
        return self._serving, statistics.connections, statistics.handlers_running + statistics.waiting_in_hook

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


def _drain(setup: Setup) -> Drain:
    return Drain(code=1012, spread=setup.spread, patience=setup.patience)


async def _accept(request: Request, state: object) -> Accept | Response:
    denied = request.headers.get("Authorization", "") == "no"
    return Response(401, "no") if denied else Accept()

"""The application: handlers perform the actions that a script has for their client or message."""

from __future__ import annotations

import random
from collections.abc import Generator
from contextlib import contextmanager
from math import inf

import trio

from humphrey_trio import (
    AsyncSender,
    AsyncStream,
    ConnectionClosed,
    KeepLatest,
    Message,
    WebsocketStream,
    WhenFull,
)

from ..support.steps import at_step
from .exchanges import ScriptedError
from .journal import Journal, Sending, Session
from .padding import padding
from .script import Act, Script

Stream = AsyncStream[Session]


class Handlers:
    """The handlers of an app, for one run."""

    def __init__(self, script: Script, journal: Journal) -> None:
        self._script = script
        self._plans = {plan.name: plan for plan in script.clients}
        self._journal = journal
        self._padding = random.Random(script.seed)
        self._expected: dict[str, tuple[Message, tuple[Act, ...]]] = {}
        self.sender: AsyncSender | None = None

    def expect(self, name: str, message: Message, acts: tuple[Act, ...]) -> None:
        """Register a message that a client is about to send, and the actions of its handler."""
        self._expected[name] = message, acts

    def take(self, stream: WebsocketStream) -> Session:
        """The app's ``stream_state``."""
        session = Session(stream.request.query, stream, self._journal.now())
        if stream.id in self._journal.sessions:
            session.faults.append("its stream was taken twice")
        self._journal.sessions[stream.id] = session
        return session

    # The three handlers.

    async def connect(self, stream: Stream, state: None) -> None:
        session = stream.state
        session.connected.append(self._journal.now())
        with self._running(session):
            session.connect_failed = True
            try:
                await self._perform(self._plans[session.client].on_connect, stream)
                session.connect_failed = False
            finally:
                session.connect_ended = self._journal.now()

    async def message(self, stream: Stream, message: Message, state: None) -> None:
        session, name = stream.state, message.bytes.partition(b"|")[0].decode()
        session.handled.append(name)
        drained_by = self._journal.happened.get("drain", inf) + self._script.setup.spread
        if trio.current_time() > drained_by:
            session.faults.append("a handler began after the drain had closed its stream")
        if session.connect_ended > self._journal.now():
            session.faults.append("a message was handled before the connect handler ended")
        sent, acts = self._expected[name]
        if message != sent:
            session.faults.append(f"{name!r} is not what was sent")
        with self._running(session):
            await self._perform(acts, stream)

    async def disconnect(self, stream: Stream, state: None) -> None:
        session = stream.state
        if session.running or session.tasks:
            session.faults.append(f"disconnected during {session.running} handlers and {session.tasks} tasks")
        if stream.close_record is None:
            session.faults.append("disconnected without a close record")
        session.disconnected.append(self._journal.now())
        with self._running(session):
            await self._perform(self._plans[session.client].on_disconnect, stream)

    @contextmanager
    def _running(self, session: Session) -> Generator[None]:
        session.running += 1
        session.most_running = max(session.most_running, session.running)
        try:
            yield
        finally:
            session.running -= 1

    # Actions.

    async def _perform(self, acts: tuple[Act, ...], stream: Stream) -> None:
        for act in acts:
            if act.after:
                await trio.sleep(act.after)
            await getattr(self, f"_do_{act.verb}")(act, stream)

    async def _do_send(self, act: Act, stream: Stream) -> None:
        for _ in range(act.count):
            await self.send(act, stream)

    async def _do_broadcast(self, act: Act, stream: Stream) -> None:
        for _ in range(act.count):
            await self.broadcast(act, stream)

    async def _do_publish(self, act: Act, stream: Stream) -> None:
        await self.publish(act, stream)

    async def _do_send_by_id(self, act: Act, stream: Stream) -> None:
        await self.send_by_id(act)

    async def _do_subscribe(self, act: Act, stream: Stream) -> None:
        stream.subscribe(act.topic)
        stream.state.topics.setdefault(act.topic, self._journal.now())

    async def _do_unsubscribe(self, act: Act, stream: Stream) -> None:
        stream.state.topics.pop(act.topic, None)
        stream.unsubscribe(act.topic)

    async def _do_ping(self, act: Act, stream: Stream) -> None:
        await stream.ping(b"from a handler")

    async def _do_close(self, act: Act, stream: Stream) -> None:
        await stream.close(act.code, "scripted")

    async def _do_deadline(self, act: Act, stream: Stream) -> None:
        stream.set_deadline(act.seconds, act.code, "deadline")
        stream.state.deadline = trio.current_time() + act.seconds

    async def _do_sleep(self, act: Act, stream: Stream) -> None:
        """Sleep, and record a fault if a handler that should be cancelled goes on."""
        session, looks = stream.state, 0
        for _ in range(round(act.seconds / 0.1)):
            await trio.sleep(0.1)
            looks += self._should_be_cancelled(stream)
            if looks > 1:
                session.faults.append("a handler goes on after its client has disconnected")
            if stream.statistics().read_ahead > self._script.setup.max_read_ahead:
                session.faults.append("more was read ahead than max_read_ahead")

    def _should_be_cancelled(self, stream: Stream) -> bool:
        record = stream.close_record
        left = record is not None and record.initiator == "client" and not stream.state.disconnected
        return left and not self._script.setup.finish

    async def _do_shield(self, act: Act, stream: Stream) -> None:
        stream.state.shielded += act.seconds
        with trio.CancelScope(shield=True):
            await trio.sleep(act.seconds)

    async def _do_fail(self, act: Act, stream: Stream) -> None:
        raise ScriptedError

    async def _do_task(self, act: Act, stream: Stream) -> None:
        stream.start_soon(self._task, act.inner, stream)

    async def _task(self, acts: tuple[Act, ...], stream: Stream) -> None:
        session = stream.state
        if session.disconnected:
            session.faults.append("a task began after the disconnect handler")
        session.tasks += 1
        try:
            await self._perform(acts, stream)
        finally:
            session.tasks -= 1

    async def _do_nursery(self, act: Act, stream: Stream) -> None:
        async with trio.open_nursery() as nursery:
            for branch in act.inner:
                nursery.start_soon(self._perform, branch.inner, stream)

    async def _do_limited(self, act: Act, stream: Stream) -> None:
        with trio.CancelScope() as scope, at_step(act.step, scope.cancel, trio.lowlevel.current_task()):
            await self._perform(act.inner, stream)

    # Recorded sending, without a stream if it is outside of handlers.

    async def send(self, act: Act, stream: Stream) -> None:
        sending = self._journal.begin("send", stream.id)
        with self._noting(sending):
            await stream.send(self._message(sending, act), compress=act.compress)
            sending.sure = {stream.id}

    async def broadcast(self, act: Act, stream: Stream | None = None) -> None:
        sending = self._journal.begin("broadcast", None, act.policy)
        opened = self._journal.open_sessions()
        with self._noting(sending):
            message, policy = self._message(sending, act), policy_of(act)
            if stream is None:
                assert self.sender is not None
                await self.sender.broadcast(message, compress=act.compress, when_full=policy)
            else:
                await stream.broadcast(message, compress=act.compress, when_full=policy)
            sending.sure = {number for number, _ in opened & self._journal.open_sessions()}

    async def publish(self, act: Act, stream: Stream | None = None) -> None:
        sending = self._journal.begin("publish", None, act.policy)
        opened = self._journal.open_sessions(act.topic)
        with self._noting(sending):
            message, policy = self._message(sending, act), policy_of(act)
            if stream is None:
                assert self.sender is not None
                await self.sender.publish(act.topic, message, compress=act.compress, when_full=policy)
            else:
                await stream.publish(act.topic, message, compress=act.compress, when_full=policy)
            sending.sure = {number for number, _ in opened & self._journal.open_sessions(act.topic)}

    async def send_by_id(self, act: Act) -> None:
        """Send to a client by the id of its stream."""
        number = max((n for n, s in self._journal.sessions.items() if s.client == act.target), default=-1)
        sending = self._journal.begin("send", number)
        assert self.sender is not None
        with self._noting(sending):
            if await self.sender.send(number, self._message(sending, act), compress=act.compress):
                sending.sure = {number}
            else:
                sending.outcome = "unknown"

    @contextmanager
    def _noting(self, sending: Sending) -> Generator[None]:
        try:
            yield
            if sending.outcome == "cancelled":
                sending.outcome = "ok"
        except ConnectionClosed:
            sending.outcome = "closed"
            raise
        finally:
            sending.returned = self._journal.now()
            sending.seconds = trio.current_time() - sending.began_at

    def _message(self, sending: Sending, act: Act) -> str | bytes:
        text = f"{sending.token}|{padding(self._padding, act.size)}"
        sending.data = text.encode() if act.binary else text
        return sending.data


def policy_of(act: Act) -> WhenFull | KeepLatest:
    """The policy of an action."""
    if act.policy.startswith("key-"):
        return KeepLatest(act.policy)
    return {"close": WhenFull.CLOSE, "newest": WhenFull.DROP_NEWEST, "oldest": WhenFull.DROP_OLDEST}[act.policy]

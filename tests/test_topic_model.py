"""Topics: random commands of many clients, compared with a model."""

from __future__ import annotations

import contextlib
import logging
import random
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from humphrey_trio import AsyncStream, AsyncWebsocketApp, ConnectionClosed, Message, WebsocketStream
from humphrey_trio._websocket._app import _broadcaster
from tests.support.apps import linked, served_in_memory
from tests.support.clients import RawClient
from tests.support.wire import TEXT, client_frame, close_frame
from tests.support.wires import Wire, on_wires

#: The topic of broadcasts. Every client is subscribed to it while it is connected.
EVERYTHING = "*"


@dataclass(frozen=True)
class Publication:
    """A publication, the clients that have to receive it, and the clients that may.

    Both sets are equal if no client has subscribed, unsubscribed or disconnected during the publication.
    """

    topic: str
    due: set[str]
    allowed: set[str]


class Model:
    """Which client receives what: clients that are subscribed during the whole publication must receive it.

    The number of a publication is its text.
    """

    def __init__(self) -> None:
        self.publications: list[Publication] = []
        self._subscribed: defaultdict[str, set[str]] = defaultdict(set)
        self._leaving: set[str] = set()
        self._cut: set[str] = set()
        self._under_way: list[Publication] = []

    def subscribe(self, client: str, topic: str) -> None:
        self._subscribed[topic].add(client)
        for publication in self._under_way:
            if publication.topic == topic:
                publication.allowed.add(client)

    def unsubscribe(self, client: str, topic: str) -> None:
        self._subscribed[topic].discard(client)
        for publication in self._under_way:
            if publication.topic == topic:
                publication.due.discard(client)

    def leave(self, client: str, *, cut: bool = False) -> None:
        """A client begins to disconnect: it may miss what follows, and if it is cut off, also earlier messages."""
        self._leaving.add(client)
        if cut:
            self._cut.add(client)
        for publication in self._under_way:
            publication.due.discard(client)

    def forget(self, client: str) -> None:
        """A client has disconnected: it gets nothing any more."""
        for clients in self._subscribed.values():
            clients.discard(client)

    @contextlib.contextmanager
    def publication(self, topic: str) -> Generator[str]:
        """Publish in the block. Yields the text."""
        clients = self._subscribed[topic]
        publication = Publication(topic, clients - self._leaving, set(clients))
        self.publications.append(publication)
        self._under_way.append(publication)
        try:
            yield str(len(self.publications) - 1)
        except BaseException:
            publication.due.clear()  # it has reached some of them
            raise
        finally:
            self._under_way.remove(publication)

    def subscribers(self) -> dict[str, int]:
        return {
            topic: len(clients) for topic, clients in self._subscribed.items() if clients and topic != EVERYTHING
        }

    def topics(self, client: str) -> set[str]:
        return {topic for topic, clients in self._subscribed.items() if client in clients and topic != EVERYTHING}

    def check(self, received: Mapping[str, Iterable[str]]) -> None:
        """Compare the model with the messages that the clients received."""
        due, allowed = ({client: set[int]() for client in received} for _ in range(2))
        for number, publication in enumerate(self.publications):
            for client in publication.due:
                due[client].add(number)
            for client in publication.allowed:
                allowed[client].add(number)
        for client, texts in received.items():
            got = [int(text) for text in texts]
            assert all(earlier < later for earlier, later in pairwise(got)), (client, got)
            assert allowed[client].issuperset(got), (client, set(got) - allowed[client])
            missing = due[client].difference(got)
            if client in self._cut:
                missing = {number for number in missing if got and number < got[-1]}
            assert not missing, (client, missing)


class ModelledApp:
    """An app whose clients send commands: subscribe, publish, close and so on. A model follows them."""

    def __init__(self, **options: Any) -> None:
        self.model = Model()
        self.streams: dict[str, AsyncStream[str]] = {}
        self.app: AsyncWebsocketApp[None, str] = (
            AsyncWebsocketApp.new_unlinked(stream_state=self._join, **options)
            .with_connect_handler(self._connect)
            .with_message_handler(self._message)
            .with_disconnect_handler(self._disconnect)
        )

    def _join(self, stream: WebsocketStream) -> str:
        self.model.subscribe(stream.request.query, EVERYTHING)
        return stream.request.query

    async def _connect(self, stream: AsyncStream[str], state: None) -> None:
        self.streams[stream.state] = stream

    async def _message(self, stream: AsyncStream[str], message: Message, state: None) -> None:
        verb, topic = (message.text or "").split()
        await self.do(stream, verb, topic)

    async def _disconnect(self, stream: AsyncStream[str], state: None) -> None:
        assert stream.topics == self.model.topics(stream.state)
        self.model.forget(stream.state)
        del self.streams[stream.state]

    async def do(self, stream: AsyncStream[str], verb: str, topic: str) -> None:
        """Execute one command, given by the client or from outside."""
        model, client = self.model, stream.state
        match verb:
            case "subscribe":
                with contextlib.suppress(ConnectionClosed):
                    stream.subscribe(topic)
                    model.subscribe(client, topic)
            case "unsubscribe":
                stream.unsubscribe(topic)
                model.unsubscribe(client, topic)
            case "publish":
                with model.publication(topic) as text:
                    await stream.publish(topic, text)
            case "broadcast":
                with model.publication(EVERYTHING) as text:
                    await stream.broadcast(text)
            case "close":
                await stream.close(4000)
            case "fail":
                raise RuntimeError("on purpose")

    def check_subscriptions(self) -> None:
        """Compare the subscriptions with the model. No command may be running."""
        assert self.app.statistics().subscribers == self.model.subscribers()
        for name, stream in self.streams.items():
            assert stream.topics == self.model.topics(name)


def command(verb: str, topic: object = EVERYTHING) -> bytes:
    """The frame of a command."""
    return client_frame(TEXT, f"{verb} {topic}".encode())


@pytest.fixture
def quiet_log(caplog: pytest.LogCaptureFixture) -> Generator[None]:
    """Handlers fail hundreds of times. Tracebacks are not logged, because they would cost most of the time."""
    caplog.set_level(logging.CRITICAL, logger="humphrey_trio.websocket")
    return


CLIENTS, TOPICS = 1000, 200


class Traffic:
    """1,000 clients on wires that send random commands.

    Args:
        modelled: the app.
        connect: connects a client.
        seed: the seed of the random choices.
        settled: whether all commands are done when a client disconnects.

    Attributes:
        wires: the connections by name, including those that have ended.
    """

    def __init__(
        self, modelled: ModelledApp, connect: Callable[[str, Wire], None], seed: int, *, settled: bool
    ) -> None:
        self._modelled = modelled
        self._connect_wire = connect
        self.random = random.Random(seed)
        self._settled = settled
        self.wires: dict[str, Wire] = {}
        self.connected: list[str] = []

    def connect(self) -> None:
        """Connect a client. Sometimes it subscribes before any other command."""
        name = str(len(self.wires))
        wire = self.wires[name] = Wire(self.random.choice((None, None, None, 0, 3)))
        self.connected.append(name)
        self._connect_wire(name, wire)

    def send_command(self, verb: str) -> None:
        """Let a client send a command."""
        self.wires[self._any_client()].feed(command(verb, self.topic()))

    def topic(self) -> str:
        """A random topic. Some are more popular than others."""
        return str(int(TOPICS * self.random.random() ** 2))

    def disconnect(self, way: str) -> None:
        """Disconnect a client."""
        name = self._any_client()
        self.connected.remove(name)
        wire, cut = self.wires[name], way in ("reset", "end")
        self._modelled.model.leave(name, cut=cut and not self._settled)
        if cut:
            (wire.reset if way == "reset" else wire.end)()
        elif way == "Close":
            wire.close_with()
        else:  # the application and the client close at the same time
            wire.close_with(command(way))

    async def from_outside(self, verb: str) -> None:
        """Execute a command outside of handlers."""
        model, sender, topic = self._modelled.model, self._modelled.app.sender(), self.topic()
        match verb:
            case "publish":
                with model.publication(topic) as text:
                    await sender.publish(topic, text)
            case "broadcast":
                with model.publication(EVERYTHING) as text:
                    await sender.broadcast(text)
            case _:
                if (stream := self._modelled.streams.get(self._any_client())) is not None:
                    await self._modelled.do(stream, verb, topic)

    def _any_client(self) -> str:
        return self.random.choice(self.connected)

    def check(self) -> None:
        """Compare the messages of all clients with the model."""
        self._modelled.model.check({name: wire.texts() for name, wire in self.wires.items()})


@asynccontextmanager
async def traffic(seed: int, *, settled: bool, **options: Any) -> AsyncGenerator[tuple[ModelledApp, Traffic]]:
    """Run traffic, and check that nothing is left at the end."""
    modelled = ModelledApp(**options)
    async with linked(modelled.app) as app, on_wires(app) as connect:
        run = Traffic(modelled, connect, seed, settled=settled)
        for _ in range(CLIENTS):
            run.connect()
        await trio.testing.wait_all_tasks_blocked()
        assert modelled.app.statistics().connections == len(modelled.streams) == CLIENTS
        yield modelled, run
        run.check()
        while run.connected:
            run.disconnect("Close")
        await trio.testing.wait_all_tasks_blocked()
        run.check()
        assert modelled.app.statistics().connections == 0
        assert modelled.app.statistics().subscribers == {}
        await trio.sleep(2)  # the closing handshakes end
        assert all(wire.closed for wire in run.wires.values())


DISCONNECTS = ("Close", "Close", "reset", "end", "close", "fail")


@pytest.mark.usefixtures("quiet_log")
@pytest.mark.parametrize("seed", range(3))
async def test_topics_agree_with_a_model(seed: int, autojump_clock: trio.testing.MockClock) -> None:
    """1,000 clients, 200 topics, random commands one by one: all clients get exactly what the model says."""
    async with traffic(seed, settled=True) as (modelled, run):
        for step in range(3000):
            chance = run.random.random()
            verb = run.random.choices(("subscribe", "unsubscribe", "publish"), (5, 2, 3))[0]
            if chance < 0.02:
                run.disconnect(run.random.choice(DISCONNECTS))
                run.connect()
            elif chance < 0.03:
                verb = "broadcast"
            if chance >= 0.02:
                if chance < 0.5:
                    await run.from_outside(verb)
                else:
                    run.send_command(verb)
            await trio.testing.wait_all_tasks_blocked()
            if step % 300 == 0:
                modelled.check_subscriptions()
                await trio.sleep(0.3)  # the sweeps see nothing to do
        modelled.check_subscriptions()
        publications = modelled.model.publications
        assert all(one.due == one.allowed for one in publications)
        # There were enough publications for the test to mean something.
        assert len(publications) > 600
        assert sum(len(one.due) for one in publications if one.topic != EVERYTHING) > 5000


@pytest.mark.usefixtures("quiet_log")
@pytest.mark.parametrize(("seed", "concurrency"), [(10, 1), (11, 4)])
async def test_topics_agree_with_a_model_concurrently(
    seed: int, concurrency: int, autojump_clock: trio.testing.MockClock
) -> None:
    """With hundreds of concurrent commands, clients get all that they must and nothing that they must not."""
    async with (
        traffic(seed, settled=False, concurrency=concurrency) as (modelled, run),
        trio.open_nursery() as nursery,
    ):
        for _ in range(16):
            for _ in range(150):
                chance = run.random.random()
                verb = run.random.choices(("subscribe", "unsubscribe", "publish"), (5, 2, 3))[0]
                if chance < 0.03:
                    run.disconnect(run.random.choice(DISCONNECTS))
                    run.connect()
                    continue
                if chance < 0.05:
                    verb = "broadcast"
                if chance < 0.4:
                    nursery.start_soon(run.from_outside, verb)
                else:
                    run.send_command(verb)
                if chance > 0.95:
                    await trio.lowlevel.checkpoint()
            await trio.testing.wait_all_tasks_blocked()
            modelled.check_subscriptions()
            await trio.sleep(0.3)
        publications = modelled.model.publications
        assert len(publications) > 500
        # A few publications ran while clients subscribed or disconnected.
        doubts = sum(len(one.allowed - one.due) for one in publications)
        assert 0 < doubts < sum(len(one.due) for one in publications) / 10


#: Commands of clients; "settle" waits until the commands before are done.
VERBS = ("subscribe", "unsubscribe", "publish", "broadcast", "close", "fail", "Close", "end", "settle")


COMMANDS = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from(VERBS[:4]) | st.sampled_from(VERBS), st.sampled_from("abc")),
    max_size=30,
)


@pytest.mark.usefixtures("quiet_log")
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(commands=COMMANDS, turn=st.integers(1, 4), concurrency=st.integers(1, 2))
def test_topics_agree_with_a_model_for_any_commands(
    commands: list[tuple[int, str, str]], turn: int, concurrency: int
) -> None:
    """Whatever commands four clients send, and wherever a publication yields, the model holds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_broadcaster, "_TURN", turn)
        trio.run(run_commands, commands, concurrency, clock=trio.testing.MockClock(autojump_threshold=0))


async def run_commands(commands: list[tuple[int, str, str]], concurrency: int) -> None:
    modelled = ModelledApp(concurrency=concurrency)
    async with linked(modelled.app) as app, served_in_memory(app) as connect:
        clients = [await RawClient(connect()).open(f"/?{number}") for number in range(4)]
        await trio.testing.wait_all_tasks_blocked()
        connected = set(range(4))
        for number, verb, topic in commands:
            client = clients[number]
            if verb == "settle":
                await trio.testing.wait_all_tasks_blocked()
                modelled.check_subscriptions()
            elif number not in connected:
                continue
            elif verb in ("subscribe", "unsubscribe", "publish", "broadcast"):
                await client.send(command(verb, topic))
            else:
                connected.discard(number)
                modelled.model.leave(str(number), cut=verb == "end")
                if verb == "end":
                    assert isinstance(client.stream, trio.StapledStream)
                    await client.stream.send_eof()
                else:
                    await client.send((b"" if verb == "Close" else command(verb)) + close_frame(1000))
        await trio.testing.wait_all_tasks_blocked()
        modelled.check_subscriptions()
        for number in connected:
            modelled.model.leave(str(number))
            await clients[number].send(close_frame(1000))
        rests = [await client.rest() for client in clients]
        modelled.model.check(
            {
                str(number): [payload.decode() for opcode, payload in rest if opcode == TEXT]
                for number, rest in enumerate(rests)
            }
        )
        await trio.testing.wait_all_tasks_blocked()
        assert modelled.app.statistics().connections == 0
        assert modelled.app.statistics().subscribers == {}

"""What was observed in one run, in the order of a logical clock. The model judges it afterwards."""

from __future__ import annotations

import itertools
from collections import defaultdict
from dataclasses import dataclass, field
from math import inf
from typing import Any

import trio

from humphrey_trio import WebsocketStream
from humphrey_trio.testing import MemoryStream
from humphrey_trio.websocket import AppStatistics, CloseRecord

from .script import ClientPlan


@dataclass
class Sending:
    """One call that sends a message.

    Attributes:
        token: what the message begins with; no other has it.
        data: the whole message.
        kind: send, broadcast or publish.
        stream: to which it was sent; None for many.
        policy: of a broadcast.
        called, returned: when; ``returned`` is infinite if it did not.
        outcome: ok, closed, cancelled, or unknown for a whisper that found no stream.
        seconds: of virtual time that the call took.
        sure: the streams that are open clients for the whole call, and subscribed to a publication's topic.
    """

    token: str
    kind: str
    stream: int | None
    policy: str
    called: int
    data: str | bytes = ""
    returned: float = inf
    outcome: str = "cancelled"
    sure: set[int] = field(default_factory=set)
    began_at: float = field(default_factory=trio.current_time)
    seconds: float = 0.0


@dataclass
class Session:
    """One stream of the app, as its ``stream_state`` and its handlers see it.

    Attributes:
        taken: when the app took the stream; from then on it gets broadcasts.
        connected, disconnected: when these handlers began.
        handled: the messages whose handlers began, in order.
        running, most_running: its handlers at this moment, and at most.
        tasks: its tasks at this moment.
        connect_failed: whether its connect handler raised, so that no message is handled.
        shielded: seconds that its script has slept in a shield.
        deadline: virtual time at which its stream has to be closed.
        topics: to which it is subscribed, and since when.
    """

    client: str
    stream: WebsocketStream
    taken: int
    connected: list[int] = field(default_factory=list)
    disconnected: list[int] = field(default_factory=list)
    connect_ended: float = inf
    handled: list[str] = field(default_factory=list)
    running: int = 0
    most_running: int = 0
    tasks: int = 0
    connect_failed: bool = False
    shielded: float = 0.0
    deadline: float = inf
    topics: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


@dataclass
class ClientLife:
    """One client, as it sees itself.

    Attributes:
        statuses: of its upgrades, in order; 0 where the connection ended instead.
        said: the messages that it sent whole, in order.
        began: those that it began to send.
        received: the tokens of the messages that it received, in order.
        frame_bytes, sent_bytes: bytes behind the handshake.
        close: code and reason of the server's Close frame.
        said_close: the code of its own Close frame.
        rude: what it did that a client should not do, so that less is promised to it.
        ended: eof, reset, or patience if the server did not end in time behind both Close frames; else open.
        mute: whether it does not say Close any more.
        connected_at, closed_at: virtual time of its connection, and of the server's Close frame.
    """

    plan: ClientPlan
    statuses: list[int] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    began: list[str] = field(default_factory=list)
    received: list[str] = field(default_factory=list)
    frame_bytes: int = 0
    sent_bytes: int = 0
    close: tuple[int, str] | None = None
    said_close: int | None = None
    rude: list[str] = field(default_factory=list)
    ended: str = "open"
    mute: bool = False
    connected_at: float = inf
    closed_at: float = inf
    faults: list[str] = field(default_factory=list)
    server: MemoryStream | None = None

    @property
    def is_rude(self) -> bool:
        """Whether it did not do its part, or its transport did not."""
        return bool(self.rude or self.plan.break_at)


class Journal:
    """Everything that was observed."""

    def __init__(self) -> None:
        self._clock = itertools.count(1)
        self._tokens = itertools.count()
        self.sendings: dict[str, Sending] = {}
        self.sessions: dict[int, Session] = {}
        self.clients: dict[str, ClientLife] = {}
        self.log: list[Any] = []  # logging.LogRecord
        self.records: dict[int, list[CloseRecord]] = defaultdict(list)
        self.happened: dict[str, float] = {}  # cancellations, the drain, and ends of apps
        self.statistics: AppStatistics | None = None  # at the end
        self.faults: list[str] = []

    def now(self) -> int:
        """The next moment of the logical clock."""
        return next(self._clock)

    def note(self, what: str) -> None:
        """Something happened around the pair, for the first time."""
        self.happened.setdefault(what, trio.current_time())

    def open_sessions(self, topic: str | None = None) -> set[tuple[int, int]]:
        """The ids of the streams that are open and subscribed to a topic, and since when they are."""
        return {
            (number, 0 if topic is None else session.topics[topic])
            for number, session in self.sessions.items()
            if not session.stream.closed and (topic is None or topic in session.topics)
        }

    def begin(self, kind: str, stream: int | None, policy: str = "close") -> Sending:
        """A message is about to be sent."""
        sending = Sending(f"m{next(self._tokens)}", kind, stream, policy, self.now())
        self.sendings[sending.token] = sending
        return sending

"""The observations of one run, in the order of a logical clock. The model checks them afterwards."""

from __future__ import annotations

import itertools
from collections import defaultdict
from dataclasses import dataclass, field
from math import inf
from typing import Any

import trio

from humphrey_trio import WebsocketStream
from humphrey_trio.http import HttpStatistics
from humphrey_trio.testing import MemoryStream
from humphrey_trio.websocket import AppStatistics, CloseRecord

from .exchanges import Exchange
from .script import ClientPlan


@dataclass
class Sending:
    """One call that sends a message.

    Attributes:
        token: the unique beginning of the message.
        data: the whole message.
        kind: send, broadcast or publish.
        stream: the id of the receiving stream, or None for many.
        policy: the policy of a broadcast.
        called, returned: logical times; ``returned`` is infinite if the call has not returned.
        outcome: ok, closed, cancelled, or unknown for a ``send`` by id that found no stream.
        seconds: the virtual time that the call took.
        sure: the streams that are open during the whole call, and subscribed to a publication's topic.
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
        taken: when the app took the stream. From then on it receives broadcasts.
        connected, disconnected: when these handlers began.
        handled: the messages whose handlers began, in order.
        running, most_running: the number of its running handlers, and the maximum.
        tasks: the number of its running tasks.
        connect_failed: whether its connect handler raised, so that no message is handled.
        shielded: the seconds that its script has slept in a shield.
        deadline: the virtual time at which its stream has to be closed.
        topics: the subscribed topics, with the logical times of the subscriptions.
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
        statuses: the status of each upgrade, in order; 0 if the connection ended.
        sent: the messages that it sent completely, in order.
        began: the messages that it began to send.
        received: the tokens of the messages that it received, in order.
        frame_bytes, sent_bytes: the received and sent bytes after the handshake.
        close: the code and reason of the server's Close frame.
        sent_close: the code of its own Close frame.
        misbehaviour: its actions that a client should not do. The model promises less to such a client.
        ended: eof, reset, patience if the server did not end in time after both Close frames, or open.
        mute: whether it sends no Close frame any more.
        left_at: the virtual time at which it left: an end of file, a reset or a close.
        exchanges: its HTTP requests, in order.
        upgrade_fields: the header fields of each response to an upgrade.
        http_sent, http_received: the bytes that it sent and received before the upgrades.
        misses_end: whether the connection did not end in time after the last response.
        connected_at, closed_at, ended_at: the virtual times of its connection, of the server's Close frame, and of
            the end.
    """

    plan: ClientPlan
    statuses: list[int] = field(default_factory=list)
    sent: list[str] = field(default_factory=list)
    began: list[str] = field(default_factory=list)
    received: list[str] = field(default_factory=list)
    frame_bytes: int = 0
    sent_bytes: int = 0
    close: tuple[int, str] | None = None
    sent_close: int | None = None
    misbehaviour: list[str] = field(default_factory=list)
    ended: str = "open"
    mute: bool = False
    connected_at: float = inf
    closed_at: float = inf
    ended_at: float = inf
    faults: list[str] = field(default_factory=list)
    server: MemoryStream | None = None
    left_at: float = inf
    exchanges: list[Exchange] = field(default_factory=list)
    upgrade_fields: list[dict[str, str]] = field(default_factory=list)
    http_sent: int = 0
    http_received: int = 0
    misses_end: bool = False

    @property
    def misbehaves(self) -> bool:
        """Whether the client misbehaves, or its transport breaks."""
        return bool(self.misbehaviour or self.plan.break_at)


class Journal:
    """All observations."""

    def __init__(self) -> None:
        self._clock = itertools.count(1)
        self._tokens = itertools.count()
        self.sendings: dict[str, Sending] = {}
        self.sessions: dict[int, Session] = {}
        self.clients: dict[str, ClientLife] = {}
        self.exchanges: dict[str, Exchange] = {}
        self.log: list[Any] = []  # logging.LogRecord
        self.records: dict[int, list[CloseRecord]] = defaultdict(list)
        self.happened: dict[str, float] = {}  # the times of cancellations, the drain, and the ends of apps
        self.statistics: AppStatistics | None = None  # at the end
        self.http_statistics: HttpStatistics | None = None  # at the end
        self.warnings: list[str] = []
        self.faults: list[str] = []

    def now(self) -> int:
        """The next moment of the logical clock."""
        return next(self._clock)

    def note(self, what: str) -> None:
        """Record the time of the first occurrence of an event."""
        self.happened.setdefault(what, trio.current_time())

    def open_sessions(self, topic: str | None = None) -> set[tuple[int, int]]:
        """The ids of the open streams that are subscribed to a topic, with the times of the subscriptions."""
        return {
            (number, 0 if topic is None else session.topics[topic])
            for number, session in self.sessions.items()
            if not session.stream.closed and (topic is None or topic in session.topics)
        }

    def begin(self, kind: str, stream: int | None, policy: str = "close") -> Sending:
        """Record the beginning of a call that sends a message."""
        sending = Sending(f"m{next(self._tokens)}", kind, stream, policy, self.now())
        self.sendings[sending.token] = sending
        return sending

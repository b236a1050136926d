"""The script of one run, as plain values: the pair's settings, its clients, and actions with faults among them.

A script without any of its actions is still valid, so that a failing one can be shortened.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Act:
    """One action of a client, of a handler, or outside of both.

    Attributes:
        verb: the name of the action. ``clients``, ``handlers`` and ``runner`` have a method ``_do_...`` for each.
        after: seconds to wait before.
        inner: the actions of the message's handler, of a task, or of a nursery's branch.
        size: bytes of padding in a message.
        count: the number of repetitions.
        pieces: the number of fragments of a message.
        drip: the number of bytes that are sent at once; 0 for all.
        binary: whether a message is binary instead of text.
        compress: False sends the message uncompressed.
        policy: ``when_full`` of a broadcast: close, newest, oldest, or ``key-`` and a key.
        topic: the topic of a subscription or publication.
        target: the name of the receiving client.
        code: a close code.
        seconds: the duration of the action.
        step: the step of the scheduler at which a cancellation occurs.
    """

    verb: str
    after: float = 0.0
    inner: tuple[Act, ...] = ()
    size: int = 0
    count: int = 1
    pieces: int = 1
    drip: int = 0
    binary: bool = False
    compress: bool = True
    policy: str = "close"
    topic: str = ""
    target: str = ""
    code: int = 1000
    seconds: float = 0.0
    step: int = 0

    def __str__(self) -> str:
        options = list(_changes(self, "verb", "inner"))
        text = self.verb + (f"({', '.join(options)})" if options else "")
        return f"{text} [{'; '.join(map(str, self.inner))}]" if self.inner else text


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One HTTP request of a client, and the work of the server for it.

    Attributes:
        after: seconds to wait before it is sent.
        early: whether it is sent without waiting for the responses to earlier requests.
        method, version, close: of the request. ``close`` sends ``Connection: close``.
        route: whole (the body is read before the handler), stream (the handler reads it), plain (not async),
            missing (no such path), method (not allowed), or bad (a malformed head).
        finish: whether the route has ``WhenLeft.FINISH``.
        framing: of the body: nothing for none, length, chunked, or malformed for an invalid chunk.
        size, pieces, drip: bytes of the body, the number of its chunks, and the bytes that are sent at once.
        expect: whether the client waits for a 100 before it sends the body.
        layer: the action of the inner layer: nothing to pass the request on, slow, answer, before, after or error.
        acts: the actions of the handler.
        answer: what the handler returns: bytes, empty, closing, wrong (no response), producer, generator, events.
        length: of a streamed response: nothing, right, more or less.
        body: the actions of the producer or generator.
        then: what the client does when it has sent the request: nothing, eof, reset, leave or stall. Or cut (send
            half of the request and an end of file) or hold (wait in the middle of the request).
        seconds: how long it waits before that, or stalls, or holds.
    """

    after: float = 0.0
    early: bool = False
    method: str = "GET"
    version: str = "1.1"
    close: bool = False
    route: str = "whole"
    finish: bool = False
    framing: str = ""
    size: int = 0
    pieces: int = 1
    drip: int = 0
    expect: bool = False
    layer: str = ""
    acts: tuple[Act, ...] = ()
    answer: str = "bytes"
    length: str = ""
    body: tuple[Act, ...] = ()
    then: str = ""
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"request({', '.join(_changes(self, 'acts', 'body'))})"


@dataclass(frozen=True, kw_only=True)
class ClientPlan:
    """One client.

    Attributes:
        name: a name that is unique in the script.
        at: seconds after the start at which it connects.
        stream: the server's end: direct, foreign, or closing (foreign, and not able to half-close).
        buffer: the size in bytes of each direction's buffer.
        asks: the HTTP requests that it sends first.
        attempts: the upgrades that it requests afterwards on the same connection, one after the other, until one
            is accepted: good, path, origin, denied (by ``accept``), plain for a GET, or silent for nothing at all.
            A layer refuses answered, crashed and regretted; without layers they are good.
        together: whether it sends all attempts at once.
        handshake_drip: the number of bytes of a request that are sent at once; 0 for all.
        deflate: the compression that it offers: nothing, context, or fresh for no context takeover.
        max_send, max_receive: the maximum number of bytes of a call of the server; None for all.
        break_at: the call of the server at which the connection breaks; 0 for never.
        on_connect, on_disconnect: the actions of the connect and the disconnect handler.
        acts: the actions of the client.
    """

    name: str
    at: float = 0.0
    stream: str = "direct"
    buffer: int = 64 * 1024
    asks: tuple[Ask, ...] = ()
    attempts: tuple[str, ...] = ("good",)
    together: bool = False
    handshake_drip: int = 0
    deflate: str = ""
    max_send: int | None = None
    max_receive: int | None = None
    break_at: int = 0
    on_connect: tuple[Act, ...] = ()
    on_disconnect: tuple[Act, ...] = ()
    acts: tuple[Act, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Setup:
    """The pair's settings. The end is what happens after the last action.

    Attributes:
        running: whether the HTTP app runs, or serves each stream alone.
        hosted: whether the HTTP app runs the WebSocket app (``with_websocket_app``), or each runs by itself.
        fast: whether the fast parser reads the heads of requests.
        layers: whether the HTTP app has its two layers.
        rest: seconds between the last action and the end.
        ending: leave (all clients close), drain, or the cancelled app: http, websocket or both.
    """

    running: bool = False
    hosted: bool = False
    fast: bool = False
    layers: bool = False
    deflate: str = ""
    concurrency: int = 1
    finish: bool = False
    max_streams: int | None = None
    max_connections: int | None = None
    max_outbox_bytes: int = 1024 * 1024
    max_outbox_messages: int = 4096
    max_read_ahead: int = 16
    heartbeat: bool = False
    spread: float = 0.0
    patience: float = 1.0
    rest: float = 0.1
    ending: str = "leave"


@dataclass(frozen=True, kw_only=True)
class Script:
    """A whole run.

    Attributes:
        seed: the seed of the scheduler's order, and of the random numbers of the library.
        world: the actions outside of clients and handlers: broadcasts, cancellations, a drain.
    """

    seed: int
    setup: Setup = field(default_factory=Setup)
    clients: tuple[ClientPlan, ...] = ()
    world: tuple[Act, ...] = ()

    def __str__(self) -> str:
        lines = [f"script (seed {self.seed}): {', '.join(_changes(self.setup)) or 'defaults'}"]
        for plan in self.clients:
            options = _changes(plan, "name", "asks", "on_connect", "on_disconnect", "acts")
            lines.append(f"  client {plan.name}: {', '.join(options) or 'defaults'}")
            for ask in plan.asks:
                lines.append(f"    {ask}")
                lines += [f"      handler: {act}" for act in ask.acts]
                lines += [f"      body: {act}" for act in ask.body]
            lines += [f"    on connect: {act}" for act in plan.on_connect]
            lines += [f"    {act}" for act in plan.acts]
            lines += [f"    on disconnect: {act}" for act in plan.on_disconnect]
        lines += [f"  world: {act}" for act in self.world]
        return "\n".join(lines)


def busy_seconds(script: Script) -> float:
    """The total duration in seconds of all handlers of a script."""
    acts = [act for plan in script.clients for act in (*plan.on_connect, *plan.acts, *plan.on_disconnect)]
    asks = [ask for plan in script.clients for ask in plan.asks]
    return sum(map(_busy_seconds, acts)) + sum(_asking_seconds(ask) for ask in asks)


def _asking_seconds(ask: Ask) -> float:
    return ask.after + ask.seconds + sum(map(_busy_seconds, (*ask.acts, *ask.body)))


def _busy_seconds(act: Act) -> float:
    return act.count * (act.after + act.seconds + sum(map(_busy_seconds, act.inner)))


def _changes(value: Any, *without: str) -> Iterator[str]:
    """The fields that differ from their defaults."""
    for each in fields(value):
        if each.name not in without and (found := getattr(value, each.name)) != each.default:
            yield f"{each.name}={found!r}"

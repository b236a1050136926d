"""Generates the script of a seed. The same seed gives the same script."""

from __future__ import annotations

import random

from .http_generate import LARGEST, AskGenerator
from .script import Act, ClientPlan, Script, Setup

_POLICIES = ("close", "newest", "oldest", "key-a", "key-b")
_TOPICS = ("news", "sport")
_REFUSED, _REFUSED_BY_LAYERS = ("path", "origin", "denied", "plain"), ("answered", "crashed", "regretted")
_BUFFER = 64 * 1024
_CODES = (1000, 1001, 1008, 3000, 4999)


def generate(seed: int) -> Script:
    """The script of a seed."""
    return _Generator(seed).script(seed)


class _Generator:
    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._names = tuple(f"c{number}" for number in range(self._random.choice((1, 2, 2, 3, 3, 4, 6))))
        # Most runs have few kinds of faults, so that the strict checks apply to the others.
        self._misbehaving = self._chance(0.5)
        self._broken = self._chance(0.25)
        self._failing = self._chance(0.4)
        self._asks = AskGenerator(self._random, failing=self._failing, misbehaving=self._misbehaving)
        self._layers = self._chance(0.5)
        # Most runs have both protocols.
        self._http, self._websocket = self._random.choice(((0.5, 0.7), (0.5, 0.7), (0.9, 0.1), (0.0, 1.0)))
        self._sizes = self._random.choice(((0, 10, 60), (0, 100, 1500), (10, 1000, 9000, 40000)))

    def script(self, seed: int) -> Script:
        return Script(
            seed=seed,
            setup=self._setup(),
            clients=tuple(self._client(name) for name in self._names),
            world=self._world(),
        )

    def _setup(self) -> Setup:
        pick = self._random.choice
        tight = self._chance(0.5)
        return Setup(
            running=self._chance(0.4),
            hosted=self._chance(0.35),
            fast=self._chance(0.5),
            layers=self._layers,
            deflate=pick(("", "context", "context", "fresh")),
            concurrency=pick((1, 1, 1, 2, 3)),
            finish=self._chance(0.4),
            max_streams=pick((None, None, None, 1, 2)),
            max_connections=pick((None, None, None, 1, 3)),
            max_outbox_bytes=pick((100, 1000, 5000)) if tight else 1024 * 1024,
            max_outbox_messages=pick((1, 2, 5, 4096)) if tight else 4096,
            max_read_ahead=pick((1, 2, 16)),
            heartbeat=self._chance(0.3),
            spread=pick((0.0, 0.0, 1.5)),
            patience=pick((0.0, 0.3, 1.0)),
            rest=pick((0.1, 0.1, 2.5)),
            ending=pick(("leave", "leave", "drain", "drain", "both", "http", "websocket")),
        )

    # Clients.

    def _client(self, name: str) -> ClientPlan:
        pick = self._random.choice
        short = self._chance(0.3)
        buffer = pick((200, 1000, 4096)) + self._sizes[-1] // 10 if self._chance(0.5) else _BUFFER
        asks = self._asks.asks() if self._chance(self._http) else ()
        largest = LARGEST if asks else self._sizes[-1]
        few = tuple(max(least, largest // 40) for least in (1, 7, 100))  # bounds the steps of a run
        return ClientPlan(
            name=name,
            at=pick((0.0, 0.0, 0.0, 0.3, 1.1)),
            stream=pick(("direct", "direct", "direct", "foreign", "closing")),
            buffer=buffer,
            asks=asks,
            attempts=self._attempts() if not asks or self._chance(self._websocket) else (),
            together=buffer == _BUFFER and self._chance(0.4),  # it sends all of them before it reads
            handshake_drip=pick((0, 0, 0, 40)),
            deflate=pick(("", "context", "context", "fresh")),
            max_send=pick(few) if short else None,
            max_receive=pick(few) if short and self._chance(0.5) else None,
            break_at=self._random.randint(1, 40) if self._broken and self._chance(0.5) else 0,
            on_connect=self._handling(self._random.randint(0, 3)) if self._chance(0.7) else (),
            on_disconnect=self._handling(1) if self._chance(0.3) else (),
            acts=self._client_acts(),
        )

    def _attempts(self) -> tuple[str, ...]:
        before = self._random.choices(
            _REFUSED + (_REFUSED_BY_LAYERS if self._layers else ()), k=self._random.choice((0, 0, 0, 1, 2))
        )
        return (*before, "silent" if self._chance(0.05) else "good")

    def _client_acts(self) -> tuple[Act, ...]:
        acts = [self._client_act() for _ in range(self._random.randint(1, 8))]
        if self._misbehaving and self._chance(0.5):
            verb = self._random.choice(("eof", "reset", "leave", "bad", "cut", "stall", "stall", "mute"))
            seconds = self._random.choice((0.5, 4.5))
            place = self._random.randint(0, len(acts))
            acts.insert(place, Act(verb=verb, after=self._after(), seconds=seconds, code=self._bad_code()))
            if verb == "stall" and self._chance(0.7):
                acts.insert(place, self._flood())
        elif self._chance(0.3):
            acts.append(Act(verb="close", after=self._after(), code=self._random.choice((*_CODES, 1005))))
        return tuple(acts)

    def _client_act(self) -> Act:
        if self._chance(0.15):
            return Act(verb="ping", after=self._after())
        return Act(
            verb="message",
            after=self._after(),
            size=self._size(),
            pieces=self._random.choice((1, 1, 1, 2, 4)),
            drip=self._random.choice((0, 0, 0, 0, 3, 50)),
            binary=self._chance(0.3),
            count=self._random.choice((1, 1, 1, 3, 10)),
            inner=self._handling(self._random.randint(0, 3)),
        )

    def _flood(self) -> Act:
        """Request more bytes than the buffer holds."""
        size = self._sizes[-1]
        return Act(verb="message", inner=(Act(verb="send", size=size, count=70 if size < 10_000 else 5),))

    def _bad_code(self) -> int:
        return self._random.choice((1002, 1007, 1009))

    # Handlers.

    def _handling(self, count: int, depth: int = 0) -> tuple[Act, ...]:
        return tuple(self._handler_act(depth) for _ in range(count))

    def _handler_act(self, depth: int) -> Act:
        verbs = ["send"] * 8 + ["broadcast"] * 6 + ["publish"] * 2 + ["subscribe"] * 3 + ["unsubscribe", "ping"]
        verbs += ["sleep"] * 4 + ["shield", "send_by_id", "close", "deadline"]
        verbs += ["fail"] * 2 if self._failing else []
        verbs += ["task"] * 2 + ["nursery"] * 2 + ["limited"] * 2 if depth < 2 else []
        verb = self._random.choice(verbs)
        inner: tuple[Act, ...] = ()
        if verb == "nursery":
            branches = range(self._random.randint(1, 3))
            inner = tuple(Act(verb="branch", inner=self._handling(2, depth + 1)) for _ in branches)
        elif verb in ("task", "limited"):
            inner = self._handling(self._random.randint(1, 3), depth + 1)
        return Act(
            verb=verb,
            after=self._random.choice((0.0, 0.0, 0.0, 0.05)),
            inner=inner,
            size=(size := self._size()),
            count=self._random.choice((1, 1, 2, 5, 70 if size < 100 else 4))
            if verb in ("send", "broadcast")
            else 1,
            binary=self._chance(0.2),
            compress=not self._chance(0.2),
            policy=self._random.choice(_POLICIES),
            topic=self._random.choice(_TOPICS),
            target=self._random.choice(self._names),
            code=self._random.choice(_CODES),
            seconds=self._random.choice((0.1, 0.4, 0.6, 1.5)),
            step=self._random.randint(1, 12),
        )

    # Outside of clients and handlers.

    def _world(self) -> tuple[Act, ...]:
        acts = [self._world_act() for _ in range(self._random.randint(0, 5))]
        if self._chance(0.25):
            acts.append(
                Act(
                    verb=self._random.choice(("cancel_http", "cancel_websocket", "cancel_both", "drain")),
                    after=self._after(),
                    step=self._random.randint(0, 150),
                )
            )
        return tuple(acts)

    def _world_act(self) -> Act:
        return Act(
            verb=self._random.choice(("broadcast", "broadcast", "publish", "send_by_id", "look", "look")),
            after=self._random.choice((0.0, 0.01, 0.3, 0.8)),
            size=self._size(),
            count=self._random.choice((1, 2, 20)),
            policy=self._random.choice(_POLICIES),
            topic=self._random.choice(_TOPICS),
            target=self._random.choice(self._names),
        )

    # Values.

    def _after(self) -> float:
        return self._random.choice((0.0, 0.0, 0.0, 0.0, 0.02, 0.3, 0.7))

    def _size(self) -> int:
        return self._random.choice(self._sizes)

    def _chance(self, share: float) -> bool:
        return self._random.random() < share

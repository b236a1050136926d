"""Generates the HTTP requests of a client."""

from __future__ import annotations

import random

from .http_handlers import MAX_BODY
from .script import Act, Ask

_STREAMED = ("producer",) * 10 + ("generator",) * 6 + ("events",) * 5
_ANSWERS = ("bytes",) * 8 + ("empty",) * 2 + ("closing",) + _STREAMED
_MISBEHAVIOUR = ("eof", "reset", "leave", "leave", "leave", "stall", "cut", "hold", "hold")

#: The maximum number of bytes of a request body.
LARGEST = MAX_BODY + 10_000


class AskGenerator:
    """Generates HTTP requests.

    Args:
        source: the random numbers.
        failing: whether handlers and layers fail.
        misbehaving: whether the clients misbehave.
    """

    def __init__(self, source: random.Random, *, failing: bool, misbehaving: bool) -> None:
        self._random = source
        self._failing = failing
        self._misbehaving = misbehaving
        self._sizes = source.choice(((0, 10, 60), (0, 100, 2000), (10, 3000, 40_000)))

    def asks(self) -> tuple[Ask, ...]:
        """The requests of one client."""
        early = self._random.choice((0.0, 0.3, 0.9))
        count = self._random.choice((1, 1, 2, 3, 5, 8))
        last = count - 1 if self._misbehaving and self._chance(0.6) else -1
        return tuple(self._ask(early, misbehaves=number == last) for number in range(count))

    def _ask(self, early: float, *, misbehaves: bool) -> Ask:
        pick = self._random.choice
        framing = self._framing()
        then = pick(_MISBEHAVIOUR) if misbehaves else ""
        route = self._route(framing)
        slow = misbehaves or self._chance(0.1)
        answer = self._answer(streamed=misbehaves and self._chance(0.5))
        return Ask(
            after=pick((0.0, 0.0, 0.0, 0.02, 0.3)),
            early=self._chance(early),
            method=self._method(framing, is_whole=route != "bad" and then not in ("cut", "hold")),
            version="1.0" if framing in ("", "length") and self._chance(0.08) else "1.1",
            close=self._chance(0.05),
            route=route,
            finish=self._chance(0.4),
            framing=framing,
            size=self._size() if framing else 0,
            pieces=pick((1, 1, 3, 10)),
            drip=pick((0, 0, 0, 7, 50)),
            expect=bool(framing) and self._chance(0.15),
            layer=self._layer(),
            acts=self._acts(slow=slow),
            answer=answer,
            length=pick(("", "", "", "right", "right", *(("more", "less") if self._failing else ()))),
            body=self._body(self._random.randint(0, 4), slow=slow) + self._silence(answer),
            then=then,
            seconds=self._seconds(then),
        )

    def _answer(self, *, streamed: bool) -> str:
        if streamed:
            return self._random.choice(_STREAMED)
        answers = (*_ANSWERS, "wrong", "wrong") if self._failing else _ANSWERS
        return self._random.choice(answers)

    def _silence(self, answer: str) -> tuple[Act, ...]:
        """Events often wait for the next one for a long time."""
        return (Act(verb="sleep", seconds=3.0),) if answer == "events" and self._chance(0.2) else ()

    def _framing(self) -> str:
        framing: str = self._random.choice(("", "", "length", "chunked"))
        return "malformed" if framing and self._misbehaving and self._chance(0.15) else framing

    def _size(self) -> int:
        return LARGEST if self._chance(0.05) else self._random.choice(self._sizes)

    def _method(self, framing: str, *, is_whole: bool) -> str:
        if framing:
            return "POST"
        return "HEAD" if is_whole and self._chance(0.1) else "GET"

    def _route(self, framing: str) -> str:
        if self._chance(0.02):
            return "bad"
        routes: tuple[str, ...] = ("whole",) * 4 + ("stream",) * (8 if framing else 3) + ("plain",) * 3
        if self._chance(0.3):
            routes = (*routes, "missing", "method")
        return self._random.choice(routes)

    def _seconds(self, then: str) -> float:
        if not then:
            return 0.0
        choices = {"stall": (0.1, 0.6, 4.5), "hold": (0.6, 4.5)}
        return self._random.choice(choices.get(then, (0.0, 0.05, 0.4)))

    def _layer(self) -> str:
        if not self._chance(0.4):
            return ""
        actions: tuple[str, ...] = ("slow", "slow", "answer")
        if self._failing:
            actions = (*actions, "before", "after", "error")
        return self._random.choice(actions)

    # Actions.

    def _acts(self, *, slow: bool) -> tuple[Act, ...]:
        acts = [self._read() for _ in range(self._random.choice((0, 1, 1, 2)))]
        if self._chance(0.15):
            acts.insert(0, Act(verb="limited", step=self._random.randint(1, 8), inner=(self._read(),)))
        if slow or self._chance(0.2):
            acts.append(self._wait(slow=slow))
        if self._failing and self._chance(0.15):
            acts.append(Act(verb=self._random.choice(("fail", "error"))))
        return tuple(acts)

    def _body(self, count: int, *, slow: bool, depth: int = 0) -> tuple[Act, ...]:
        acts = [self._body_act(slow=slow, depth=depth) for _ in range(count)]
        if slow and not depth and self._chance(0.6):
            acts.append(self._wait(slow=slow))
        return tuple(acts)

    def _body_act(self, *, slow: bool, depth: int) -> Act:
        verbs = ["write"] * 6 + ["read", "sleep"]
        verbs += ["nursery", "limited"] if depth < 2 else []
        verbs += ["fail", "error"] if self._failing and self._chance(0.5) else []
        verb = self._random.choice(verbs)
        if verb == "read":
            return self._read()
        if verb == "sleep":
            return self._wait(slow=slow)
        nested = verb in ("nursery", "limited")
        return Act(
            verb=verb,
            after=self._random.choice((0.0, 0.0, 0.0, 0.03)),
            size=self._random.choice(self._sizes),
            count=self._random.choice((1, 1, 2, 5)) if verb == "write" else 1,
            inner=self._body(self._random.randint(1, 3), slow=slow, depth=depth + 1) if nested else (),
            step=self._random.randint(1, 12),
        )

    def _read(self) -> Act:
        return Act(verb="read", count=self._random.choice((0, 0, 1, 3)))

    def _wait(self, *, slow: bool) -> Act:
        verb = "shield" if self._chance(0.1) else "sleep"
        return Act(verb=verb, seconds=self._random.choice((0.4, 1.5, 1.5) if slow else (0.02, 0.06, 0.1)))

    def _chance(self, share: float) -> bool:
        return self._random.random() < share

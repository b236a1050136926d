"""Settings of the wrong type, or out of range, are refused when they are passed, all of them in the same words."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from math import inf, nan
from typing import Any

import pytest

from humphrey_trio import (
    App,
    AsyncWebsocketApp,
    Deflate,
    Drain,
    Heartbeat,
    Limits,
    Response,
    Timeouts,
    async_websocket_handler,
    websocket_handler,
)
from humphrey_trio.layers import compression


async def handle(stream: Any, state: Any) -> None:
    pass


def route(**options: Any) -> object:
    return App().with_stateless_route("/", lambda request: Response(200), **options)


def hook_route(**options: Any) -> object:
    return async_websocket_handler(AsyncWebsocketApp.new_unlinked().connect_hook(), **options)


unlinked: Any = AsyncWebsocketApp.new_unlinked
STREAM_OPTIONS = ("max_message_size", "max_fragments", "max_outbox_bytes", "max_outbox_messages", "max_read_ahead")


def fields_of(kind: Any, *without: str) -> list[tuple[Any, str]]:
    return [(kind, field.name) for field in dataclasses.fields(kind) if field.name not in without]


BOOLS = [(Deflate, "server_context_takeover"), (Deflate, "client_context_takeover"), (route, "stream")]
WHOLE: list[tuple[Any, str]] = [
    *fields_of(Limits),
    *fields_of(Deflate, "server_context_takeover", "client_context_takeover"),
    *((partial(websocket_handler, handle), name) for name in STREAM_OPTIONS),
    *((AsyncWebsocketApp, name) for name in (*STREAM_OPTIONS, "max_connections", "concurrency")),
    *((unlinked, name) for name in (*STREAM_OPTIONS, "max_connections", "concurrency")),
    (App, "max_connections"),
    (route, "max_body"),
    (compression, "minimum"),
]
SECONDS: list[tuple[Any, str]] = [
    *fields_of(Timeouts),
    *fields_of(Heartbeat),
    *fields_of(Drain, "code"),
    (hook_route, "place_timeout"),
    (hook_route, "take_timeout"),
]
OBJECTS: list[tuple[Any, str, str]] = [
    (App, "limits", "Limits"),
    (App, "timeouts", "Timeouts"),
    (App, "proxies", "TrustedProxies"),
    (AsyncWebsocketApp, "timeouts", "Timeouts"),
    (unlinked, "timeouts", "Timeouts"),
    (AsyncWebsocketApp, "deflate", "Deflate"),
    (partial(websocket_handler, handle), "deflate", "Deflate"),
    (hook_route, "deflate", "Deflate"),
]


@pytest.mark.parametrize(("make", "name"), WHOLE)
@pytest.mark.parametrize("value", ["5", 5.0, True, b"5", [5]], ids=repr)
def test_whole_numbers(make: Callable[..., object], name: str, value: object) -> None:
    """A setting that is a whole number takes no str, float or bool. The error has the name and the value."""
    with pytest.raises(TypeError, match=rf"{name}.* must be a whole number, not ") as refused:
        make(**{name: value})
    assert repr(value) in str(refused.value)


@pytest.mark.parametrize(("make", "name"), WHOLE)
def test_ranges(make: Callable[..., object], name: str) -> None:
    """A whole number that is too small is a ValueError with the name and the range."""
    with pytest.raises(ValueError, match=rf"{name}.* must be (at least|from) \d"):
        make(**{name: -1})


@pytest.mark.parametrize(("make", "name"), SECONDS)
@pytest.mark.parametrize("value", ["5", "5s", [5], True], ids=repr)
def test_seconds(make: Callable[..., object], name: str, value: object) -> None:
    """A setting that is a number of seconds takes no str and no bool."""
    with pytest.raises(TypeError, match=rf"{name}.* must be a (finite )?number of seconds"):
        make(**{name: value})


@pytest.mark.parametrize(("make", "name"), SECONDS)
@pytest.mark.parametrize("value", [-1, nan, -inf])
def test_ranges_of_seconds(make: Callable[..., object], name: str, value: float) -> None:
    """Negative times and NaN are a ValueError."""
    with pytest.raises(ValueError, match=rf"{name}.* must be a (finite )?number of seconds"):
        make(**{name: value})


@pytest.mark.parametrize(("make", "name"), BOOLS)
@pytest.mark.parametrize("value", ["no", 0, None], ids=repr)
def test_bools(make: Callable[..., object], name: str, value: object) -> None:
    """A setting that is True or False takes nothing else."""
    with pytest.raises(TypeError, match=rf"{name}.* must be True or False, not "):
        make(**{name: value})


@pytest.mark.parametrize(("make", "name", "kind"), OBJECTS)
@pytest.mark.parametrize("value", [{"a": 1}, 5, True, "x"], ids=repr)
def test_objects(make: Callable[..., object], name: str, kind: str, value: object) -> None:
    """A setting that is an object takes no dict or number. The error says what to write."""
    with pytest.raises(
        TypeError, match=rf"{name} is a {kind}.*, not {type(value).__name__}: write {name}={kind}\("
    ):
        make(**{name: value})


def test_classes_are_no_settings() -> None:
    """A class in place of an object of it is named as a class."""
    with pytest.raises(TypeError, match=r"limits is a Limits, not the class Limits: write limits=Limits\("):
        App(limits=Limits)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("size", "advice"),
    [
        ("2MB", "write 2 * 1000 * 1000"),
        ("2 MiB", "write 2 * 1024 * 1024"),
        ("64kb", "write 64 * 1000"),
        ("4096", "write 4096"),
        ("many", "not 'many'"),
        ("5kk", "not '5kk'"),
    ],
)
def test_sizes(size: Any, advice: str) -> None:
    """A size with a unit is a TypeError that has the number."""
    with pytest.raises(TypeError) as refused:
        Limits(body=size)
    assert str(refused.value).endswith(advice)


def test_unknown_limits_of_streams() -> None:
    """An unknown limit is a TypeError that has a similar name, or all."""
    make: Any = partial(websocket_handler, handle)
    with pytest.raises(TypeError, match=r"a stream has no option max_size: did you mean max_message_size\?"):
        make(max_size=5)
    with pytest.raises(TypeError, match="a stream has no option xyz: there are max_fragments, max_message_size, "):
        make(xyz=5)


def test_zero_is_allowed_where_it_means_something() -> None:
    """No body, no compression threshold, no time to spread."""
    assert (Limits(body=0).body, Deflate(min_size=0).min_size, Drain(spread=0).spread) == (0, 0, 0)
    route(max_body=0)

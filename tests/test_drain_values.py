"""Arguments of a drain: what ``Drain``, ``Timeouts.drain`` and ``with_shutdown`` accept."""

from __future__ import annotations

import threading
from collections.abc import Callable
from math import inf, nan
from typing import Any

import pytest
import trio
import trio.testing

from humphrey_trio import App, AsyncWebsocketApp
from humphrey_trio._http._drain import hard_stop_after
from humphrey_trio.http import Drain, Timeouts


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            ("code", code)
            for code in (0, 1000, 1002, 1005, 1006, 1011, 1015, 2999, 5000, 3000.5, 1001.0, "1001", None)
        ),
        *((name, value) for name in ("spread", "retry_after", "patience") for value in (-0.1, inf, nan, "1")),
        *((name, None) for name in ("spread", "patience")),
    ],
)
def test_drain_refuses_invalid_values(name: str, value: Any) -> None:
    """``Drain`` refuses invalid close codes and times with an error that names the field."""
    with pytest.raises((ValueError, TypeError), match=rf"^Drain\({name}="):
        Drain(**{name: value})


@pytest.mark.parametrize(
    ("seconds", "reason", "field"),
    [(None, "", "1"), (0, "retry-after=0", "1"), (2.5, "retry-after=2.5", "3"), (90, "retry-after=90", "90")],
)
@pytest.mark.parametrize("code", [1001, 1012, 1013, 3000, 4999])
def test_drain_reason_and_retry_after(code: int, seconds: float | None, reason: str, field: str) -> None:
    """``Drain.reason`` has ``retry_after`` as given; the Retry-After field has it in whole seconds."""
    drain = Drain(code=code, retry_after=seconds)
    assert (drain.code, drain.reason, drain.retry_after_field) == (code, reason, field)


@pytest.mark.parametrize("seconds", [0, -1, nan])
def test_drain_timeout_is_above_zero(seconds: float) -> None:
    """``Timeouts(drain=...)`` refuses values that are not above zero, and accepts infinity."""
    with pytest.raises(ValueError, match=r"^Timeouts\(drain="):
        Timeouts(drain=seconds)
    assert Timeouts(drain=inf).drain == inf


@pytest.mark.parametrize("make", [App, AsyncWebsocketApp, AsyncWebsocketApp.new_unlinked])
def test_drain_spread_is_shorter_than_the_deadline(make: Callable[..., App | AsyncWebsocketApp]) -> None:
    """Both apps refuse a drain whose spread does not fit into ``Timeouts.drain``."""
    app = make(timeouts=Timeouts(drain=10))
    with pytest.raises(ValueError, match=r"spread=10.*drain=10"):
        app.with_shutdown(trio.Event(), Drain(spread=10))
    assert app.with_shutdown(trio.Event(), Drain(spread=8)) is app


@pytest.mark.parametrize("make", [App, AsyncWebsocketApp, AsyncWebsocketApp.new_unlinked])
def test_shutdown_refuses_a_threading_event(make: Callable[..., App | AsyncWebsocketApp]) -> None:
    """Both apps refuse an event whose ``wait`` would block the thread."""
    event: Any = threading.Event()
    with pytest.raises(TypeError, match=r"takes a trio\.Event, not Event"):
        make().with_shutdown(event)


def test_hard_stop_takes_half_of_the_drain_at_most() -> None:
    """The time that is reserved for the hard stop is at most half of ``Timeouts.drain``."""
    assert hard_stop_after(Timeouts(drain=30), 1.0) == 29
    assert hard_stop_after(Timeouts(drain=0.5), 1.0) == 0.25
    assert hard_stop_after(Timeouts(drain=inf, disconnect=inf), inf) == inf


@pytest.mark.parametrize("drain", [None, 5])
@pytest.mark.parametrize("make", [App, AsyncWebsocketApp])
def test_shutdown_refuses_what_is_not_a_drain(make: Callable[..., App | AsyncWebsocketApp], drain: Any) -> None:
    """``with_shutdown`` refuses an argument that is not a ``Drain``."""
    with pytest.raises(TypeError, match="takes a Drain"):
        make().with_shutdown(trio.Event(), drain)

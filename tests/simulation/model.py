"""The specification of a linked pair, as checks of the journal of a run.

Each check is a function of the script and the journal that yields violations. A check promises as much as the
library does: it promises less to a client that misbehaves, whose transport broke, or whose app was cancelled,
and nothing less to the others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator

import trio

from humphrey_trio import ConnectionClosed
from humphrey_trio.http import HttpError

from .exchanges import ScriptedError
from .http_model import HTTP_CHECKS
from .journal import Journal
from .script import Script
from .times import DRAIN_SECONDS, STOP_SECONDS
from .websocket_model import WEBSOCKET_CHECKS

Check = Callable[[Script, Journal], Iterable[str]]


def check(script: Script, journal: Journal) -> list[str]:
    """All violations, in the order of the checks."""
    return [violation for each in CHECKS for violation in each(script, journal)]


def records_are_logged_once(script: Script, journal: Journal) -> Iterator[str]:
    """Each opened stream is logged once, when its connection has ended."""
    for number, session in journal.sessions.items():
        if len(journal.records[number]) != 1:
            yield f"{session.client}: its end was logged {len(journal.records[number])} times"
    opened = sum(101 in life.statuses for life in journal.clients.values())
    if len(journal.records) < opened:
        yield f"{opened} streams were opened, {len(journal.records)} ends were logged"


def nothing_else_is_logged(script: Script, journal: Journal) -> Iterator[str]:
    """Errors in the log are those that the script raised."""
    for record in journal.log:
        if record.levelno < logging.ERROR:
            continue
        error = None if record.exc_info is None else record.exc_info[1]
        if not _is_scripted(error):
            yield f"logged: {record.getMessage()}: {error!r}"


def _is_scripted(error: BaseException | None) -> bool:
    if isinstance(error, BaseExceptionGroup):
        rest = error.split(trio.BrokenResourceError)[1]  # beside another failure: the client has left as well
        return rest is not None and all(_is_scripted(each) for each in rest.exceptions)
    if isinstance(error, (TypeError, ValueError)):  # of an answer that the script makes wrong
        return str(error).startswith(("a handler must return a Response", "the body of this response"))
    if isinstance(error, RuntimeError):  # of two branches that read
        return str(error).startswith("another task is reading the body")
    return isinstance(error, (ScriptedError, ConnectionClosed, HttpError))


def totals_add_up(script: Script, journal: Journal) -> Iterator[str]:
    """At the end the app has nothing left, and its totals are those of its streams."""
    statistics = journal.statistics
    if statistics is None:
        return
    left = (
        statistics.connections,
        statistics.handlers_running,
        statistics.tasks_running,
        statistics.waiting_in_hook,
        statistics.waiting_for_hook,
    )
    if (
        any(left)
        or statistics.queued_messages
        or statistics.queued_bytes
        or statistics.read_ahead
        or statistics.subscribers
    ):
        yield f"at the end the app still has: {statistics}"
    sessions = journal.sessions.values()
    for name in ("dropped", "unhandled"):
        total = sum(getattr(session.stream.statistics(), name) for session in sessions)
        if getattr(statistics, name) != total:
            yield f"{name}: {total} of all streams, but {getattr(statistics, name)} of the app"
    for name in ("slow_closes", "send_waits", "read_pauses"):
        total = sum(getattr(session.stream.statistics(), name) for session in sessions)
        if getattr(statistics, name) < total:
            yield f"{name}: {total} of all streams, but {getattr(statistics, name)} of the app"


def apps_end_in_time(script: Script, journal: Journal) -> Iterator[str]:
    """A drain and a hard stop end by their deadlines, whatever clients and handlers do."""
    shielded = sum(session.shielded for session in journal.sessions.values())
    shielded += sum(exchange.shielded for exchange in journal.exchanges.values())
    for name in ("http", "websocket"):
        # Without a run, there is a server for each connection, and the last of them ends before the script.
        is_run = name != "http" or script.setup.running
        ended = journal.happened.get(f"{name} ended" if is_run else "last served", 0.0)
        for cause, seconds in (("drain", DRAIN_SECONDS), (f"{name} cancelled", STOP_SECONDS)):
            began = journal.happened.get(cause)
            if began is not None and ended - began > seconds + shielded:
                yield f"{name} ended {ended - began:.2f} s after {cause!r}"


CHECKS: tuple[Check, ...] = (
    *WEBSOCKET_CHECKS,
    *HTTP_CHECKS,
    records_are_logged_once,
    nothing_else_is_logged,
    totals_add_up,
    apps_end_in_time,
)

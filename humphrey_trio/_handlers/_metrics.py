"""A handler that shows the statistics of applications in the text format of Prometheus, version 0.0.4.

Only what ``statistics()`` has is shown. Topics are counted, and not named: their number has no limit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from .._http._request import Request
from .._http._response import Response
from .._http._statistics import HttpStatistics
from .._websocket._statistics import AppStatistics

_HEADERS = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
_LABEL_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


class HasStatistics(Protocol):
    """An ``App`` or an ``AsyncWebsocketApp``."""

    def statistics(self) -> HttpStatistics | AppStatistics:
        """Return the current statistics."""
        ...


_Statistics = TypeVar("_Statistics", HttpStatistics, AppStatistics)
_Labels: TypeAlias = "dict[str, str]"
#: The values of a metric of one application, each with its labels.
_Values: TypeAlias = Iterable[tuple[_Labels, int]]


@dataclass(frozen=True, slots=True)
class _Metric(Generic[_Statistics]):
    """One metric. ``read`` returns its values of one application."""

    name: str
    kind: str
    help: str
    read: Callable[[_Statistics], _Values]


def _of(name: str, kind: str, help_: str, read: Callable[[_Statistics], int]) -> _Metric[_Statistics]:
    """Return a metric with one value, without labels of its own."""
    return _Metric(name, kind, help_, lambda statistics: [({}, read(statistics))])


def _gauge(name: str, help_: str, read: Callable[[_Statistics], int]) -> _Metric[_Statistics]:
    return _of(name, "gauge", help_, read)


def _counter(name: str, help_: str, read: Callable[[_Statistics], int]) -> _Metric[_Statistics]:
    return _of(name, "counter", help_, read)


def _by_code(statistics: HttpStatistics) -> _Values:
    return [({"code": code}, number) for code, number in statistics.responses.items()]


_HTTP: tuple[_Metric[HttpStatistics], ...] = (
    _gauge("http_connections", "Open connections.", lambda s: s.connections),
    _gauge("http_connections_lingering", "Connections that wait for the client to close.", lambda s: s.lingering),
    _counter("http_connections_accepted_total", "Accepted connections.", lambda s: s.accepted),
    _counter("http_connections_denied_total", "Connections that the condition refused.", lambda s: s.denied),
    _counter(
        "http_connections_lingering_cut_total",
        "Lingering connections that were closed early to make room.",
        lambda s: s.lingering_cut,
    ),
    _gauge("http_requests_in_flight", "Requests without a complete response.", lambda s: s.in_flight),
    _counter("http_requests_received_total", "Requests whose head was read.", lambda s: s.requests),
    _Metric("http_requests_total", "counter", "Answered requests, by status class of the response.", _by_code),
    _counter("http_received_bytes_total", "Received bytes, without WebSocket frames.", lambda s: s.bytes_received),
    _counter("http_sent_bytes_total", "Sent bytes, without WebSocket frames.", lambda s: s.bytes_sent),
    _counter(
        "monitor_events_dropped_total",
        "Monitor events that were dropped because the channel was full.",
        lambda s: s.events_dropped,
    ),
)

_WEBSOCKET: tuple[_Metric[AppStatistics], ...] = (
    _gauge("websocket_connections", "Streams that are served.", lambda s: s.connections),
    _gauge("websocket_hook_streams", "Streams that wait in the hook.", lambda s: s.waiting_in_hook),
    _gauge("websocket_hook_upgrades", "Upgrades that wait for the hook.", lambda s: s.waiting_for_hook),
    _gauge("websocket_handlers_running", "Running handlers.", lambda s: s.handlers_running),
    _gauge("websocket_tasks_running", "Running tasks of streams.", lambda s: s.tasks_running),
    _gauge("websocket_queued_messages", "Messages that wait to be sent.", lambda s: s.queued_messages),
    _gauge("websocket_queued_bytes", "Bytes that wait to be sent.", lambda s: s.queued_bytes),
    _gauge("websocket_read_ahead_messages", "Messages that wait for a handler.", lambda s: s.read_ahead),
    _gauge("websocket_topics", "Topics with subscribers.", lambda s: len(s.subscribers)),
    _gauge("websocket_subscriptions", "Subscriptions, of all topics.", lambda s: sum(s.subscribers.values())),
    _counter("websocket_dropped_messages_total", "Messages dropped before they were sent.", lambda s: s.dropped),
    _counter(
        "websocket_unhandled_messages_total", "Received messages that were not handled.", lambda s: s.unhandled
    ),
    _counter("websocket_slow_closes_total", "Streams closed because of a slow client.", lambda s: s.slow_closes),
    _counter("websocket_send_waits_total", "Sends that waited for room in an outbox.", lambda s: s.send_waits),
    _counter("websocket_read_pauses_total", "Pauses of reading ahead.", lambda s: s.read_pauses),
)


def serve_metrics(*apps: HasStatistics, **named: HasStatistics) -> Callable[[Request, object], Response]:
    """Make a handler for ``with_route`` that shows statistics to Prometheus.

    The names of the metrics of an ``App`` begin with ``humphrey_trio_http_``, and those of an
    ``AsyncWebsocketApp`` with ``humphrey_trio_websocket_``; docs/logging.md lists them. Each request takes time
    proportional to the number of WebSockets.

    Args:
        apps: at most one ``App`` and one ``AsyncWebsocketApp``. Their values have no label ``app``.
        named: further apps. Their values have the label ``app`` with the name of the argument.

    Returns:
        The handler. Its response has the text format of Prometheus, version 0.0.4.

    Raises:
        TypeError: an argument is neither an ``App`` nor an ``AsyncWebsocketApp``.
        ValueError: there is no app, or two of ``apps`` are of the same kind.
    """
    labelled: list[tuple[_Labels, HasStatistics]] = [({}, app) for app in apps]
    labelled += [({"app": name}, app) for name, app in named.items()]
    _check(labelled)

    def show(request: Request, state: object) -> Response:
        return Response(200, "".join(_lines(labelled)), _HEADERS)

    return show


def _check(labelled: list[tuple[_Labels, HasStatistics]]) -> None:
    if not labelled:
        raise ValueError("pass the apps whose statistics are shown: serve_metrics(app)")
    kinds = [_kind_of(app) for _, app in labelled]
    unnamed = [kind for kind, (labels, _) in zip(kinds, labelled, strict=True) if not labels]
    if len(set(unnamed)) < len(unnamed):
        raise ValueError("two apps of the same kind need names: serve_metrics(site=app, admin=other_app)")


def _kind_of(app: HasStatistics) -> type[HttpStatistics | AppStatistics]:
    statistics = getattr(app, "statistics", None)
    kind: type[Any] = type(statistics()) if callable(statistics) else type(None)
    if kind not in (HttpStatistics, AppStatistics):
        raise TypeError(f"serve_metrics takes an App or an AsyncWebsocketApp, not {type(app).__name__}")
    return kind


def _lines(labelled: Iterable[tuple[_Labels, HasStatistics]]) -> Iterator[str]:
    """Yield the lines: the metrics in the order of the tables, and their values in the order of the apps."""
    each = [(labels, app.statistics()) for labels, app in labelled]
    yield from _metrics(_HTTP, [(labels, one) for labels, one in each if isinstance(one, HttpStatistics)])
    yield from _metrics(_WEBSOCKET, [(labels, one) for labels, one in each if isinstance(one, AppStatistics)])


def _metrics(metrics: Iterable[_Metric[_Statistics]], each: list[tuple[_Labels, _Statistics]]) -> Iterator[str]:
    for metric in metrics if each else ():
        name = f"humphrey_trio_{metric.name}"
        yield f"# HELP {name} {metric.help}\n# TYPE {name} {metric.kind}\n"
        for labels, statistics in each:
            for own, value in metric.read(statistics):
                yield f"{name}{_label_text(labels | own)} {value}\n"


def _label_text(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    pairs = ",".join([f'{name}="{value.translate(_LABEL_ESCAPES)}"' for name, value in labels.items()])
    return f"{{{pairs}}}"

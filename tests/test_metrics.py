"""Metrics: what the handler shows is valid in the text format of Prometheus, and is what ``statistics()`` has."""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import pytest

from humphrey_trio import App, AsyncWebsocketApp, Response
from humphrey_trio._handlers._metrics import serve_metrics
from humphrey_trio._server._http_counters import HttpCounters
from humphrey_trio.http import HttpStatistics, Request
from humphrey_trio.websocket import AppStatistics

# The grammar of the text format 0.0.4 (https://prometheus.io/docs/instrumenting/exposition_formats/).
NAME = "[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"'
HELP = re.compile(rf"# HELP ({NAME}) ((?:[^\\\n]|\\[\\n])+)")
TYPE = re.compile(rf"# TYPE ({NAME}) (counter|gauge)")
SAMPLE = re.compile(rf"({NAME})(?:\{{({LABEL}(?:,{LABEL})*)\}})? ([0-9]+)")
ESCAPES = {r"\\": "\\", r"\"": '"', r"\n": "\n"}


class Sample(NamedTuple):
    """One value of a metric."""

    name: str
    labels: tuple[tuple[str, str], ...]
    value: int


@dataclass
class Exposition:
    """A parsed exposition: the types of the metrics, in order, and all samples, in order."""

    types: dict[str, str]
    samples: list[Sample]

    def value(self, name: str, **labels: str) -> int:
        """The one value of a metric with these labels."""
        (found,) = (one.value for one in self.samples if one.name == name and dict(one.labels) == labels)
        return found


def parse(text: str) -> Exposition:
    """Parse an exposition: each metric is HELP, TYPE and its samples, together, and no sample comes twice."""
    assert text.endswith("\n")
    found = Exposition({}, [])
    helped = ""
    for line in text.removesuffix("\n").split("\n"):
        if (told := HELP.fullmatch(line)) is not None:
            helped = told[1]
            assert helped not in found.types
        elif (typed := TYPE.fullmatch(line)) is not None:
            assert typed[1] == helped
            found.types[helped] = typed[2]
        else:
            sample = SAMPLE.fullmatch(line)
            assert sample is not None, line
            assert sample[1] == helped
            found.samples.append(Sample(helped, labels_of(sample[2] or ""), int(sample[7])))
    keys = [sample[:2] for sample in found.samples]
    assert len(set(keys)) == len(keys)
    assert {sample.name for sample in found.samples} == set(found.types)
    return found


def labels_of(text: str) -> tuple[tuple[str, str], ...]:
    unescaped = [
        (name, re.sub(r"\\.", lambda found: ESCAPES[found[0]], value)) for name, value in re.findall(LABEL, text)
    ]
    assert len({name for name, _ in unescaped}) == len(unescaped)
    return tuple(unescaped)


class Site:
    """An app that has done what a test says."""

    def __init__(self, **counts: int) -> None:
        self.counters = HttpCounters()
        self.counts = {"connections": 0, "lingering": 0, "lingering_cut": 0} | counts

    def statistics(self) -> HttpStatistics:
        return self.counters.statistics(**self.counts)


class Chat:
    """A WebSocket app of which each figure is another one."""

    def __init__(self, subscribers: dict[Hashable, int] | None = None) -> None:
        self.subscribers = subscribers or {}

    def statistics(self) -> AppStatistics:
        numbers: dict[str, Any] = {one.name: index for index, one in enumerate(fields(AppStatistics))}
        return AppStatistics(**numbers | {"subscribers": self.subscribers})


def shown(*apps: Any, **named: Any) -> Exposition:
    """What the handler shows of some apps."""
    response = serve_metrics(*apps, **named)(Request(), None)
    assert response.status == 200
    assert response.content_type == "text/plain; version=0.0.4; charset=utf-8"
    return parse(response.text)


async def test_a_route() -> None:
    """The handler is one of ``with_route``, and shows the app that it belongs to."""
    app = App()
    app.with_route("/metrics", serve_metrics(app, AsyncWebsocketApp.new_unlinked()))
    response = await app.handle(Request(path="/metrics"))
    exposition = parse(response.text)
    assert exposition.value("humphrey_trio_http_connections") == 0
    assert exposition.value("humphrey_trio_websocket_connections") == 0


def test_http_values() -> None:
    """Every figure of an App is shown, under a name with its unit, and ``_total`` if it only grows."""
    site = Site(connections=3, lingering=1, lingering_cut=2, events_dropped=5)
    counters = site.counters
    counters.accepted, counters.denied, counters.bytes_received, counters.bytes_sent = 7, 4, 1000, 2**40
    for status in (101, 200, 204, 304, 404, 503, 999):
        counters.requests += 1
        counters.statuses[status] += 1
        counters.ended += status != 999
    exposition = shown(site)
    assert {(one.name.removeprefix("humphrey_trio_"), one.labels): one.value for one in exposition.samples} == {
        ("http_connections", ()): 3,
        ("http_connections_lingering", ()): 1,
        ("http_connections_accepted_total", ()): 7,
        ("http_connections_denied_total", ()): 4,
        ("http_connections_lingering_cut_total", ()): 2,
        ("http_requests_in_flight", ()): 1,
        ("http_requests_received_total", ()): 7,
        ("http_requests_total", (("code", "1xx"),)): 1,
        ("http_requests_total", (("code", "2xx"),)): 2,
        ("http_requests_total", (("code", "3xx"),)): 1,
        ("http_requests_total", (("code", "4xx"),)): 1,
        ("http_requests_total", (("code", "5xx"),)): 2,
        ("http_received_bytes_total", ()): 1000,
        ("http_sent_bytes_total", ()): 2**40,
        ("monitor_events_dropped_total", ()): 5,
    }


def test_websocket_values() -> None:
    """Every figure of an AsyncWebsocketApp is shown. Topics are counted and not named."""
    exposition = shown(Chat({"secret topic": 2, ("room", 1): 3}))
    values = {one.value for one in exposition.samples if "topics" not in one.name and "subscr" not in one.name}
    assert values == {*range(len(fields(AppStatistics)))} - {8}
    assert exposition.value("humphrey_trio_websocket_topics") == 2
    assert exposition.value("humphrey_trio_websocket_subscriptions") == 5


def test_conventions() -> None:
    """Counters end with ``_total``, and only they; bytes are in the name; every name has the prefix."""
    exposition = shown(Site(), Chat())
    for name, kind in exposition.types.items():
        assert name.startswith("humphrey_trio_")
        assert name.endswith("_total") == (kind == "counter")


def test_several_apps() -> None:
    """Apps that were passed by name have a label, and the values of one metric are together."""
    exposition = shown(Site(connections=1), Chat(), admin=Site(connections=2), chat=Chat())
    assert exposition.value("humphrey_trio_http_connections") == 1
    assert exposition.value("humphrey_trio_http_connections", app="admin") == 2
    assert exposition.value("humphrey_trio_http_requests_total", app="admin", code="2xx") == 0
    assert exposition.value("humphrey_trio_websocket_connections", app="chat") == 0


def test_the_order_is_always_the_same() -> None:
    """Two calls give the same text."""
    handler = serve_metrics(Site(), Chat(), b=Site(), a=Site())
    assert handler(Request(), None) == handler(Request(), None)


def test_labels_are_escaped() -> None:
    """A name of an app may contain any character."""
    name = 'a "quoted" \\ name\nin two lines \u00e9'
    assert shown(**{name: Site()}).value("humphrey_trio_http_connections", app=name) == 0


def test_values_are_current() -> None:
    """Each request shows the figures of its moment."""
    site = Site()
    handler = serve_metrics(site)
    for number in range(3):
        text = handler(Request(), None).text
        assert parse(text).value("humphrey_trio_http_connections_accepted_total") == number
        site.counters.accepted += 1


@pytest.mark.parametrize(
    ("apps", "named", "error"),
    [
        ((), {}, ValueError),
        ((Site(), Site()), {}, ValueError),
        ((Site(), Chat(), Chat()), {"x": Site()}, ValueError),
        ((Response(200),), {}, TypeError),
        ((), {"app": None}, TypeError),
    ],
)
def test_wrong_arguments(apps: tuple[Any, ...], named: dict[str, Any], error: type[Exception]) -> None:
    """No app, what is no app, and two of a kind without names are errors at once."""
    with pytest.raises(error, match=r"serve_metrics"):
        serve_metrics(*apps, **named)


def test_as_dict() -> None:
    """``HttpStatistics.as_dict`` has every attribute by name, in values that JSON has."""
    site = Site(connections=1)
    site.counters.statuses[404] += 1
    named = site.statistics().as_dict()
    assert named.keys() == {one.name for one in fields(HttpStatistics)}
    assert named["connections"] == 1
    assert named["responses"] == {"1xx": 0, "2xx": 0, "3xx": 0, "4xx": 1, "5xx": 0}


def test_statistics_do_not_change() -> None:
    """Statistics are those of one moment: later responses are not in them."""
    site = Site()
    before = site.statistics()
    site.counters.statuses[200] += 1
    assert before.responses["2xx"] == 0
    assert site.statistics().responses["2xx"] == 1

"""The access log: one line for each response in one format, with fields; and the lines about listeners."""

from __future__ import annotations

import logging
import re
from typing import Any

import pytest
import trio

from humphrey_trio import App, AsyncWebsocketApp
from humphrey_trio._app._access import AccessLog
from humphrey_trio._http._exchange import Exchange
from humphrey_trio._server._http_counters import HttpCounters
from humphrey_trio._server._listening import log_listening
from humphrey_trio._server._observers import Observers
from humphrey_trio.http import Address, Headers, Request
from tests.support import ANY_PORT

LOGGER = "humphrey_trio.access"
CLIENT = Address("192.0.2.1", 50000)
REQUEST = Request("GET", "/items/1", "token=secret", headers=Headers([("User-Agent", "curl/8.5")]))
HOSTILE = 'a" 200 0 "\\\r\n192.0.2.9 forged\x1b[31m\u202e'

#: The format of a line, as docs/logging.md has it.
LINE = re.compile(
    r'(?P<client>\S+) "(?P<method>\S+) (?P<path>(?:[^"\\]|\\.)*)" (?P<status>\d{3}) (?P<bytes>\d+)'
    r' (?P<seconds>\d+\.\d{6}) "(?P<user_agent>(?:[^"\\]|\\.)*)"'
)
FIELDS = {
    *("client", "method", "path", "status", "bytes", "seconds"),
    *("user_agent", "query_length", "tls", "route"),
}


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "humphrey_trio")
    return caplog


def recorded(log: pytest.LogCaptureFixture, exchange: Exchange) -> logging.LogRecord:
    """The log record of a response."""
    AccessLog().record(exchange)
    (record,) = log.records
    assert (record.name, record.levelno) == (LOGGER, logging.INFO)
    return record


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name in FIELDS}


def test_a_line(log: pytest.LogCaptureFixture) -> None:
    """A line has the client, the request line, the status, the bytes, the seconds and the user agent."""
    record = recorded(log, Exchange(REQUEST, 200, 1234, 0.0004567, CLIENT, tls=True, route="/items/{id}"))
    assert record.getMessage() == '192.0.2.1:50000 "GET /items/1" 200 1234 0.000457 "curl/8.5"'
    assert fields_of(record) == {
        "client": "192.0.2.1:50000",
        "method": "GET",
        "path": "/items/1",
        "status": 200,
        "bytes": 1234,
        "seconds": 0.0004567,
        "user_agent": "curl/8.5",
        "query_length": 12,
        "tls": True,
        "route": "/items/{id}",
    }


def test_the_query_is_not_logged(log: pytest.LogCaptureFixture) -> None:
    """The query, which may contain secrets, is neither in the line nor in the fields."""
    record = recorded(log, Exchange(REQUEST, 200, 0, 0, CLIENT))
    assert "secret" not in record.getMessage()
    assert not [value for value in vars(record).values() if "secret" in str(value)]


def test_a_request_that_could_not_be_read(log: pytest.LogCaptureFixture) -> None:
    """A response to an invalid request has ``-`` for what is unknown of the request."""
    record = recorded(log, Exchange(None, 400, 57, 0, Address("::1", 5)))
    assert record.getMessage() == '[::1]:5 "- -" 400 57 0.000000 "-"'
    fields = fields_of(record)
    assert (fields["method"], fields["path"], fields["user_agent"], fields["query_length"]) == ("-", "-", "-", 0)
    assert fields.keys() == FIELDS


def test_an_upgrade_without_a_user_agent(log: pytest.LogCaptureFixture) -> None:
    """A 101 is a line like any other, and a missing user agent is ``-``."""
    record = recorded(log, Exchange(Request(path="/ws"), 101, 0, 0.5, Address("unix:")))
    assert record.getMessage() == 'unix: "GET /ws" 101 0 0.500000 "-"'


@pytest.mark.parametrize(
    "request_",
    [
        Request(f"GET{HOSTILE}", "/"),
        Request("GET", f"/{HOSTILE}"),
        Request("GET", "/", headers=Headers([("User-Agent", 'x" 200 0 "\\ \x80\x9b31m')])),
    ],
    ids=["method", "path", "user agent"],
)
def test_text_of_a_client_is_escaped(log: pytest.LogCaptureFixture, request_: Request) -> None:
    """Whatever a request contains, the line is one printable line that has exactly one meaning."""
    record = recorded(log, Exchange(request_, 200, 7, 0, CLIENT))
    assert record.getMessage().isprintable()
    for value in fields_of(record).values():
        assert str(value).isprintable()
    if " " not in request_.method:
        found = LINE.fullmatch(record.getMessage())
        assert found is not None
        assert (found["client"], found["status"], found["bytes"]) == (str(CLIENT), "200", "7")
        assert found["path"] == record.__dict__["path"]


@pytest.mark.parametrize("size", [501, 100_000])
def test_long_text_is_cut(log: pytest.LogCaptureFixture, size: int) -> None:
    """A long path and a long user agent are cut after 500 characters."""
    request = Request(path="/" * size, headers=Headers([("User-Agent", "x" * size)]))
    fields = fields_of(recorded(log, Exchange(request, 200, 0, 0, CLIENT)))
    assert fields["path"] == "/" * 500 + "..."
    assert fields["user_agent"] == "x" * 500 + "..."


def test_a_line_has_its_format(log: pytest.LogCaptureFixture) -> None:
    """The documented regular expression matches each kind of line."""
    for exchange in (
        Exchange(REQUEST, 200, 1234, 12.5, CLIENT),
        Exchange(None, 431, 0, 0, Address("::1", 5)),
        Exchange(Request(path="/a b"), 999, 10**12, 100000, Address("unix:")),
    ):
        AccessLog().record(exchange)
    assert all(LINE.fullmatch(line) for line in log.messages)


def test_enabled_follows_the_level(caplog: pytest.LogCaptureFixture) -> None:
    """The log is enabled if its logger is enabled for INFO, and otherwise nothing is recorded for a connection."""
    observers = Observers(HttpCounters(), AccessLog())
    caplog.set_level(logging.WARNING, LOGGER)
    assert observers.recorders() == ()
    caplog.set_level(logging.INFO, LOGGER)
    assert observers.recorders() == (observers.access_log,)


@pytest.mark.parametrize(
    ("address", "tls", "url"),
    [
        (Address("127.0.0.1", 8080), False, "http://127.0.0.1:8080"),
        (Address("::1", 443), True, "https://[::1]:443"),
        (Address("unix:/run/app.sock"), False, "unix:/run/app.sock"),
        (Address("unix:/run/app.sock"), True, "unix:/run/app.sock (TLS)"),
        (Address("unix:/run/a\nb"), False, "unix:/run/a\\nb"),
    ],
)
def test_listening(log: pytest.LogCaptureFixture, address: Address, tls: bool, url: str) -> None:
    """Each address that an app listens on has a line, with a URL that can be opened."""
    log_listening([address, address], tls=tls)
    assert [(record.name, record.levelno) for record in log.records] == [("humphrey_trio.http", logging.INFO)] * 2
    assert log.messages == [f"listening on {url}"] * 2


async def test_a_websocket_app_tells_where_it_listens(
    log: pytest.LogCaptureFixture, nursery: trio.Nursery
) -> None:
    """The URL of an internally linked WebSocket app is that of a WebSocket."""
    (address,) = await nursery.start(AsyncWebsocketApp().with_address(ANY_PORT).run)
    assert log.messages == [f"listening on ws://{address}"]
    nursery.cancel_scope.cancel()


async def test_an_app_tells_where_it_listens(log: pytest.LogCaptureFixture, nursery: trio.Nursery) -> None:
    """``run`` logs each address with its port, before ``nursery.start`` returns."""
    addresses = await nursery.start(App().run, ANY_PORT, ANY_PORT)
    assert log.messages == [f"listening on http://{address}" for address in addresses]
    nursery.cancel_scope.cancel()

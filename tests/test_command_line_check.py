"""``--check``: the report, and its warnings about what does not fit together."""

from __future__ import annotations

import datetime
import resource
import ssl
from math import inf
from pathlib import Path
from typing import Any

import pytest
import trustme

from humphrey_trio import App, AsyncWebsocketApp, SubApp, WebsocketStream, websocket_handler
from humphrey_trio._cli._certificate_facts import read_certificate
from humphrey_trio._cli._check import RESERVE, report_about
from humphrey_trio.http import Address, Timeouts, TrustedProxies
from tests.support.command_line import serving

LOOPBACK, PUBLIC, UNIX = Address("127.0.0.1", 8080), Address("0.0.0.0", 80), Address("unix:/run/site.sock")


@pytest.fixture(autouse=True)
def descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process has 1024 file descriptors."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))


def lines(app: App[Any], *addresses: Address) -> list[str]:
    """The lines of the report about an app."""
    return str(report_about(app, "site:app", addresses or (LOOPBACK,))).splitlines()


def warnings(app: App[Any], *addresses: Address) -> list[str]:
    """The warnings about an app."""
    return report_about(app, "site:app", addresses or (LOOPBACK,)).warnings


def test_the_report() -> None:
    """The report has the addresses, limits, timeouts, file descriptors and proxies that are in force."""
    report = lines(App(max_connections=500, timeouts=Timeouts(idle=5)), LOOPBACK, Address("::1", 1))
    assert report[:3] == [
        "app          site:app",
        "address      http://127.0.0.1:8080",
        "address      http://[::1]:1",
    ]
    assert "limits       head 16,384, request_line 8,192, headers 100, body 1,048,576, fields 1,000" in report[3]
    assert "idle 5, write 30.0" in report[4]
    assert report[5:7] == [
        "connections  max_connections=500; file descriptors: 1,024 (RLIMIT_NOFILE)",
        "proxies      none is trusted",
    ]
    assert report[-1] == "no warnings"


@pytest.mark.parametrize(
    ("maximum", "said"),
    [
        (1024 - RESERVE - 1, None),
        (1024 - RESERVE, "max_connections=960 with 64 other files needs 1,025 file descriptors"),
        (
            1024 - RESERVE,
            "RLIMIT_NOFILE is 1,024: raise it (LimitNOFILE=1025 in systemd, ulimit -n 1025)",
        ),
        (1024 - RESERVE, "or set max_connections=959"),
    ],
)
def test_file_descriptors(maximum: int, said: str | None) -> None:
    """Too few file descriptors for ``max_connections`` are a warning that says what to set."""
    found = warnings(App(max_connections=maximum))
    assert (found == []) if said is None else (said in found[0])


def test_no_maximum() -> None:
    """Without ``max_connections``, a note says how many connections fit."""
    report = lines(App())
    assert any("accepting pauses when about 959 connections are open" in line for line in report)
    assert report[-1] == "no warnings"


def test_descriptors_without_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a limit of file descriptors, any ``max_connections`` fits."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert warnings(App(max_connections=10**9)) == []


@pytest.mark.parametrize(
    ("proxies", "address", "said"),
    [
        (None, LOOPBACK, None),
        (None, PUBLIC, None),
        (None, UNIX, "over a Unix socket, the client of each request is 'unix:'"),
        (TrustedProxies("10.0.0.0/8"), UNIX, "pass proxies=TrustedProxies('unix')"),
        (TrustedProxies("unix"), UNIX, None),
        (TrustedProxies("127.0.0.1"), LOOPBACK, None),
        (TrustedProxies("0.0.0.0/0"), PUBLIC, "the trusted proxies include every address"),
        (TrustedProxies("::/0"), PUBLIC, "the trusted proxies include every address"),
    ],
)
def test_proxies(proxies: TrustedProxies | None, address: Address, said: str | None) -> None:
    """Proxies that do not fit the addresses, or that are everyone, are a warning."""
    found = warnings(App(proxies=proxies), address)
    assert (found == []) if said is None else (said in found[0])


async def own_stream(stream: WebsocketStream, state: None) -> None:
    pass


async def own_route(upgrade: Any, state: None) -> None:
    await upgrade.accept()


def test_origins() -> None:
    """The report has the origins of each websocket route, and every site is a warning."""
    app = App().with_websocket_app("/hook", AsyncWebsocketApp.new_unlinked(), origins="https://site.example")
    app.with_websocket_route("/own", own_route).with_websocket_route("/same", websocket_handler(own_stream))
    sub_app = SubApp[None]().with_websocket_route("/any", websocket_handler(own_stream, origins="*"))
    app.with_host("*.site.example", sub_app)
    report = [line for line in lines(app) if line.startswith("websocket")]
    assert report == [
        "websocket    /any of *.site.example: pages of *",
        "websocket    /hook: pages of https://site.example",
        "websocket    /own: the route itself decides about origins",
        "websocket    /same: pages of the same host",
    ]
    (found,) = warnings(app)
    assert found.startswith("pages of every site may connect to /any of *.site.example")


def test_timeouts() -> None:
    """Infinite timeouts are a warning, and a drain that is longer than systemd waits is a note."""
    (found,) = warnings(App(timeouts=Timeouts(header=inf, idle=inf)))
    assert found.startswith("Timeouts(header, idle) are infinite")
    assert any("note: Timeouts.drain is 90 s" in line for line in lines(App(timeouts=Timeouts(drain=90))))


def test_without_tls() -> None:
    """Without TLS, an address for other machines is a note."""
    noted = [any("there is no TLS" in line for line in lines(App(), one)) for one in (LOOPBACK, UNIX, PUBLIC)]
    assert noted == [False, False, True]


# ----------------------------------------------------------------------------------------- certificates

DAY = datetime.timedelta(days=1)


def app_with_certificate(folder: Path, *names: str, **options: Any) -> App:
    certificate = trustme.CA().issue_cert(*names, **options)
    cert, key = folder / "cert.pem", folder / "key.pem"
    certificate.cert_chain_pems[0].write_to_path(str(cert))
    certificate.private_key_pem.write_to_path(str(key))
    return App().with_cert(cert, key)


def in_days(days: float) -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC) + days * DAY


def test_a_certificate(tmp_path: Path) -> None:
    """The report has the names of the certificate and its last day, and the URLs are those of HTTPS."""
    end = in_days(60)
    app = app_with_certificate(tmp_path, "site.example", "*.site.example", "192.0.2.1", not_after=end)
    report = lines(app, PUBLIC)
    assert report[1] == "address      https://0.0.0.0:80"
    assert report[2] == (
        "certificate  for site.example, *.site.example, 192.0.2.1,"
        f" valid until {end:%Y-%m-%d}; the key belongs to it"
    )
    assert report[-1] == "no warnings"


@pytest.mark.parametrize(
    ("begin", "end", "said"),
    [
        (-10, 20, None),
        (-10, 3, "the certificate expires in 3 days"),
        (-10, -1, "the certificate has expired on "),
        (2, 60, "the certificate is not valid before "),
    ],
)
def test_the_validity_of_a_certificate(begin: float, end: float, said: str | None, tmp_path: Path) -> None:
    """A certificate that is not valid now, or not for long, is a warning."""
    app = app_with_certificate(tmp_path, "a", not_before=in_days(begin), not_after=in_days(end))
    found = warnings(app)
    assert (found == []) if said is None else (said in found[0])


def test_a_certificate_without_names(tmp_path: Path) -> None:
    """A certificate without a subjectAltName is a warning."""
    (found,) = warnings(app_with_certificate(tmp_path, common_name="site.example"))
    assert found.startswith("the certificate has no names (subjectAltName)")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_server_that_wants_client_certificates(version: ssl.TLSVersion) -> None:
    """The certificate is read without a certificate of the client, or the report says that it cannot be read."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("site.example").configure_cert(context)
    context.verify_mode = ssl.CERT_REQUIRED
    context.maximum_version = version
    app = App().with_cert(context)
    if version is ssl.TLSVersion.TLSv1_3:
        assert read_certificate(context).names == ("site.example",)
        assert warnings(app) == []
    else:
        (found,) = warnings(app)
        assert found.startswith("the certificate cannot be read as a client does")


def test_a_context_without_a_certificate() -> None:
    """An ``SSLContext`` that has loaded no certificate is a warning."""
    (found,) = warnings(App().with_cert(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)))
    assert found.startswith("the certificate cannot be read as a client does")


# ----------------------------------------------------------------------------------- the command line


@pytest.mark.parametrize(
    ("arguments", "status", "last"),
    [((), 0, "no warnings"), (("--bind", "unix:site.sock"), 1, "warning: over a Unix socket")],
)
def test_the_status(arguments: tuple[str, ...], status: int, last: str, tmp_path: Path) -> None:
    """The command prints the report and does not listen. Its status is 0 without warnings, and 1 with some."""
    with serving(tmp_path, "site1:with_state", "--check", *arguments) as server:
        found, output = server.finish()
    assert found == status, output
    assert output.splitlines()[-1].startswith(last)
    assert output.splitlines()[:3] == ["begin", "end", "app          site1:with_state"]
    assert "listening" not in output
    assert not (tmp_path / "site.sock").exists()

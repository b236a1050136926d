"""``--check``: report the settings in force for an app, and those that do not fit together. It does not listen."""

from __future__ import annotations

import dataclasses
import os
import resource
from collections.abc import Sequence
from contextlib import ExitStack
from ipaddress import ip_address
from math import inf, isinf
from typing import Any, Protocol, runtime_checkable

from .._app._app import App, routing_of, servers_of
from .._app._servers import Servers
from .._http._address import UNIX_PREFIX, Address
from .._http._limits import Timeouts
from .._http._origins import ANY_ORIGIN, SAME_HOST
from .._quoting import printable
from .._server._given_listener import address_of, close_given
from .._server._listening import url_of
from ._arguments import Options
from ._binds import listen_targets
from ._certificate_report import report_certificate
from ._report import Report
from ._serve import use_certificate
from ._served_app import open_app

#: File descriptors beside those of connections: listeners, standard streams, logs, files that are being sent, and
#: the connections of the application to other services.
RESERVE = 64
# Addresses for documentation (RFC 5737, RFC 3849). Proxies that include one of them include every address.
_EXAMPLES = (Address("192.0.2.1"), Address("2001:db8::1"))
# The default of TimeoutStopSec in systemd, after which a service is killed.
_KILLED_AFTER = 90.0


@runtime_checkable
class _HasOrigins(Protocol):
    """A websocket route with the patterns of its origins."""

    origins: tuple[str, ...]


async def check(found: object, options: Options) -> Report:
    """Report about an app. A factory is called, and its context manager is opened and closed.

    Args:
        found: the object that was loaded.
        options: the arguments of the command line.

    Raises:
        UsageError: the object is not an app, or an option cannot be used.
    """
    with ExitStack() as opened:
        targets = listen_targets(options.binds, options.unix_mode, os.environ)
        for target in targets:
            opened.callback(close_given, target)
        async with open_app(found, options.target) as app:
            use_certificate(app, options)
            return report_about(app, options.target, [address_of(target) for target in targets])


def report_about(app: App[Any], name: str, addresses: Sequence[Address]) -> Report:
    """Report about an app.

    Args:
        app: the app.
        name: ``module:name``.
        addresses: the addresses on which it would listen.
    """
    report, servers = Report(), servers_of(app)
    report.fact("app", name)
    tls = servers.certificate is not None
    for address in addresses:
        report.fact("address", url_of(address, tls=tls, scheme=servers.scheme))
    if servers.certificate is not None:
        report_certificate(servers.certificate.context, report)
    elif any(_is_public(address) for address in addresses):
        report.note("there is no TLS: what is sent over the network can be read and changed")
    report.fact("limits", _listed(servers.limits, "bytes, except for headers and fields"))
    report.fact("timeouts", _listed(servers.timeouts, "seconds"))
    _report_timeouts(servers.timeouts, report)
    _report_connections(servers.max_connections, len(addresses), report)
    _report_proxies(servers, addresses, report)
    _report_origins(app, report)
    return report


def _listed(values: Any, unit: str) -> str:
    listed = ", ".join(f"{name} {value:,}" for name, value in dataclasses.asdict(values).items())
    return f"{listed} ({unit})"


def _is_public(address: Address) -> bool:
    """Whether clients of other machines can connect to an address."""
    if address.host.startswith(UNIX_PREFIX) or address.host == "localhost":
        return False
    try:
        return not ip_address(address.host).is_loopback
    except ValueError:
        return True


def _report_timeouts(timeouts: Timeouts, report: Report) -> None:
    endless = [name for name, value in dataclasses.asdict(timeouts).items() if isinf(value)]
    if endless:
        report.warn(f"Timeouts({', '.join(endless)}) are infinite: a client can keep a connection for any time")
    if _KILLED_AFTER <= timeouts.drain < inf:
        report.note(
            f"Timeouts.drain is {timeouts.drain:g} s, and systemd kills a service after {_KILLED_AFTER:g} s:"
            " set its TimeoutStopSec"
        )


def _report_connections(maximum: int | None, listeners: int, report: Report) -> None:
    """Compare the maximum number of connections with the file descriptors of the process."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        report.fact("connections", f"at most {maximum}, file descriptors without limit (RLIMIT_NOFILE)")
        return
    report.fact("connections", f"max_connections={maximum}; file descriptors: {soft:,} (RLIMIT_NOFILE)")
    room = soft - RESERVE - listeners
    if maximum is None:
        report.note(
            f"without max_connections, accepting pauses when about {max(room, 0):,} connections are open, and"
            " handlers cannot open files"
        )
    elif maximum > room:
        needed = maximum + RESERVE + listeners
        report.warn(
            f"max_connections={maximum} with {RESERVE} other files needs {needed:,} file descriptors, and"
            f" RLIMIT_NOFILE is {soft:,}: raise it (LimitNOFILE={needed} in systemd, ulimit -n {needed}),"
            f" or set max_connections={max(room, 1)}"
        )


def _report_proxies(servers: Servers, addresses: Sequence[Address], report: Report) -> None:
    """Compare the proxies that are trusted with the addresses."""
    proxies = servers.proxies
    report.fact("proxies", "none is trusted" if proxies is None else repr(proxies))
    unix = any(address.host.startswith(UNIX_PREFIX) for address in addresses)
    if unix and (proxies is None or not proxies.trusts(Address(UNIX_PREFIX))):
        report.warn(
            "over a Unix socket, the client of each request is 'unix:', and its scheme is not known:"
            " pass proxies=TrustedProxies('unix') to the App for the proxy in front"
        )
    if proxies is not None and any(proxies.trusts(address) for address in _EXAMPLES):
        report.warn("the trusted proxies include every address: each client can pretend to be any other")
    if proxies is None and not unix:
        report.note("a proxy in front would be the client of all requests: then pass proxies=TrustedProxies(...)")


def _report_origins(app: App[Any], report: Report) -> None:
    for host, route in routing_of(app).websocket_routes():
        pattern = printable(route.text)
        at = pattern if host == "*" else f"{pattern} of {printable(host)}"
        if not isinstance(route.handler, _HasOrigins):
            report.fact("websocket", f"{at}: the route itself decides about origins")
            continue
        sites = ["the same host" if origin == SAME_HOST else origin for origin in route.handler.origins]
        report.fact("websocket", f"{at}: pages of {', '.join(sites) or 'no host'}")
        if ANY_ORIGIN in sites:
            report.warn(f"pages of every site may connect to {at}, with the cookies of users: name the sites")

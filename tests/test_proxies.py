"""Trusted proxies: which entry of the forwarding fields is the client, and which are not trusted."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from humphrey_trio._http._proxies import Forwarded, TrustedProxies
from humphrey_trio.http import Address, Headers
from tests.support.growth import assert_linear, made_before

PROXY = Address("10.0.0.1", 40000)
STRANGER = Address("203.0.113.9", 50000)
X_PROXIES = TrustedProxies("10.0.0.0/8", "2001:db8:1::/48", "unix")
PROXIES = TrustedProxies("10.0.0.0/8", "2001:db8:1::/48", "unix", header="forwarded")


def x_forwarded(*values: str, **others: str) -> Headers:
    fields = [("X-Forwarded-For", value) for value in values]
    return Headers([*fields, *((f"X-Forwarded-{name.title()}", value) for name, value in others.items())])


def forwarded(*values: str) -> Headers:
    return Headers([("Forwarded", value) for value in values])


X_CLIENTS = [
    # The right-most entry that is not a trusted proxy.
    (["192.0.2.1"], Address("192.0.2.1")),
    (["192.0.2.1, 10.0.0.2"], Address("192.0.2.1")),
    (["192.0.2.1,10.0.0.2\t,  10.0.0.3"], Address("192.0.2.1")),
    (["1.1.1.1, 192.0.2.1, 10.0.0.2"], Address("192.0.2.1")),
    (["10.0.0.9, 192.0.2.1"], Address("192.0.2.1")),
    (["192.0.2.1, 2001:db8:1::5"], Address("192.0.2.1")),
    # Several lines are one list (RFC 9110, section 5.3).
    (["1.1.1.1", "192.0.2.1"], Address("192.0.2.1")),
    (["192.0.2.1", "10.0.0.2"], Address("192.0.2.1")),
    # All are trusted: the left-most one.
    (["10.0.0.3, 10.0.0.2"], Address("10.0.0.3")),
    # Empty members are ignored (RFC 9110, section 5.6.1.2).
    (["192.0.2.1, , 10.0.0.2,"], Address("192.0.2.1")),
    ([""], PROXY),
    ([","], PROXY),
    ([], PROXY),
    # Ports and brackets.
    (["192.0.2.1:4711"], Address("192.0.2.1", 4711)),
    (["2001:db8::1"], Address("2001:db8::1")),
    (["[2001:db8::1]"], Address("2001:db8::1")),
    (["[2001:db8::1]:4711"], Address("2001:db8::1", 4711)),
    (["192.0.2.1:4711, [2001:db8:1::5]:80"], Address("192.0.2.1", 4711)),
    # One address is one text.
    (["2001:DB8:0::1"], Address("2001:db8::1")),
    (["::ffff:192.0.2.1"], Address("192.0.2.1")),
    (["192.0.2.1, ::ffff:10.0.0.2"], Address("192.0.2.1")),
    # Of a proxy behind a Unix socket, as nginx writes it.
    (["192.0.2.1, unix:"], Address("192.0.2.1")),
    # Garbage ends the search at the proxy that wrote it.
    (["unknown"], PROXY),
    (["192.0.2.1, unknown"], PROXY),
    (["192.0.2.1, unknown, 10.0.0.2"], Address("10.0.0.2")),
    (["192.0.2.1, localhost"], PROXY),
    (["192.0.2.1, 10.0.0"], PROXY),
    (["192.0.2.1, 10.0.0.02"], PROXY),
    (["192.0.2.1, 10.0.0.2:port"], PROXY),
    (["192.0.2.1, 10.0.0.2:65536"], PROXY),
    (["192.0.2.1, 10.0.0.2:-1"], PROXY),
    (["192.0.2.1, [10.0.0.2]"], PROXY),
    (["192.0.2.1, [2001:db8:1::5"], PROXY),
    (["192.0.2.1, 2001:db8:1::5]"], PROXY),
    (["192.0.2.1, fe80::1%eth0"], PROXY),
    (['192.0.2.1, "10.0.0.2"'], PROXY),
    (["192.0.2.1, 10.0.0.2 10.0.0.3"], PROXY),
    (["192.0.2.1, " + "1" * 1000], PROXY),
]


@pytest.mark.parametrize(("values", "client"), X_CLIENTS)
def test_x_forwarded_for(values: list[str], client: Address) -> None:
    """The client is the right-most entry of X-Forwarded-For that is not a trusted proxy."""
    assert X_PROXIES.resolve(PROXY, x_forwarded(*values)).client == client


CLIENTS = [
    # The examples of RFC 7239, sections 4 and 6.
    (["for=192.0.2.43"], Address("192.0.2.43")),
    (['For="[2001:db8:cafe::17]:4711"'], Address("2001:db8:cafe::17", 4711)),
    (["for=192.0.2.60;proto=http;by=203.0.113.43"], Address("192.0.2.60")),
    (["for=192.0.2.43, for=198.51.100.17"], Address("198.51.100.17")),
    (['for="_gazonk"'], PROXY),
    (["for=unknown"], PROXY),
    (["for=_hidden, for=_SEVKISEK"], PROXY),
    (['for=192.0.2.43,for="[2001:db8:cafe::17]",for=unknown'], PROXY),
    (['for="192.0.2.43:47011"'], Address("192.0.2.43", 47011)),
    (['for="192.0.2.43:_port"'], Address("192.0.2.43")),
    (
        ["for=192.0.2.43", "for=198.51.100.17;by=203.0.113.60;proto=http;host=example.com"],
        Address("198.51.100.17"),
    ),
    # Beyond trusted proxies, also on other lines.
    (["for=192.0.2.1, for=10.0.0.2"], Address("192.0.2.1")),
    (["for=192.0.2.1", 'for="[2001:db8:1::5]:80", for=10.0.0.2'], Address("192.0.2.1")),
    (["for=10.0.0.3, for=10.0.0.2"], Address("10.0.0.3")),
    # Without quotation marks, which is not allowed, but common.
    (["for=[2001:db8::1]:4711"], Address("2001:db8::1", 4711)),
    (["for=192.0.2.1:4711"], Address("192.0.2.1", 4711)),
    # White space, empty members and parameters, letter case.
    ([", for=192.0.2.1 ;; proto=http , ,"], Address("192.0.2.1")),
    (['FOR="192.0.2.1" ,\tfor=10.0.0.2'], Address("192.0.2.1")),
    # Escapes and separators in quotation marks.
    (['for="192.0.2.\\1"'], Address("192.0.2.1")),
    (['for=192.0.2.1;x="a, for=1.1.1.1"'], Address("192.0.2.1")),
    (['for=192.0.2.1;x="a\\", for=1.1.1.1"'], Address("192.0.2.1")),
    # No address.
    (["proto=https"], PROXY),
    (["for="], PROXY),
    (['for=""'], PROXY),
    (["for=localhost"], PROXY),
    ([""], PROXY),
    ([], PROXY),
    # A malformed line is one entry without an address.
    (["for=192.0.2.1, for"], PROXY),
    (["for=192.0.2.1, =10.0.0.2"], PROXY),
    (["for=192.0.2.1;for=10.0.0.2"], PROXY),
    (["for=192.0.2.1, f(r=10.0.0.2"], PROXY),
    (["for=192.0.2.1 for=10.0.0.2"], PROXY),
    (['for="192.0.2.1'], PROXY),
    (['for="192.0.2.1\\"'], PROXY),
    (['for="192.0.2.1"1'], PROXY),
    (['for="1.1.1.1', "for=192.0.2.1"], Address("192.0.2.1")),
    (['for="1.1.1.1', "for=10.0.0.2"], Address("10.0.0.2")),
]


@pytest.mark.parametrize(("values", "client"), CLIENTS)
def test_forwarded(values: list[str], client: Address) -> None:
    """The client is the right-most element of Forwarded that is not a trusted proxy (RFC 7239)."""
    assert PROXIES.resolve(PROXY, forwarded(*values)).client == client


HEADS = [
    (X_PROXIES, x_forwarded("192.0.2.1", proto="https", host="example.com:8443"), ("https", "example.com:8443")),
    (X_PROXIES, x_forwarded(proto="https"), ("https", None)),
    (X_PROXIES, x_forwarded("unknown", proto="https"), ("https", None)),
    (X_PROXIES, x_forwarded("192.0.2.1", proto="HTTPS"), ("https", None)),
    (X_PROXIES, x_forwarded("192.0.2.1", proto="wss", host="[::1]"), ("https", "[::1]")),
    (X_PROXIES, x_forwarded("192.0.2.1", proto="ws"), ("http", None)),
    (
        X_PROXIES,
        x_forwarded("192.0.2.1", proto="http, https", host="evil.example, a.example"),
        ("https", "a.example"),
    ),
    (X_PROXIES, x_forwarded("192.0.2.1", proto="gopher", host="a b"), (None, None)),
    (X_PROXIES, x_forwarded("192.0.2.1", host="a/b"), (None, None)),
    (X_PROXIES, x_forwarded("192.0.2.1", host="a@b"), (None, None)),
    (X_PROXIES, x_forwarded("192.0.2.1", host="a:100000"), (None, None)),
    (X_PROXIES, forwarded("for=192.0.2.1;proto=https"), (None, None)),
    (PROXIES, x_forwarded("192.0.2.1", proto="https", host="example.com"), (None, None)),
    (PROXIES, forwarded("for=192.0.2.1;proto=https;host=example.com"), ("https", "example.com")),
    (PROXIES, forwarded('for=192.0.2.1;Proto=HTTPS;host="example.com:8443"'), ("https", "example.com:8443")),
    # What the proxy next to the client wrote counts most, and what the client wrote not at all.
    (
        PROXIES,
        forwarded("for=192.0.2.1;proto=https;host=a.example, for=10.0.0.2;proto=http"),
        ("https", "a.example"),
    ),
    (PROXIES, forwarded("for=192.0.2.1, for=10.0.0.2;proto=https"), ("https", None)),
    (PROXIES, forwarded("for=1.1.1.1;proto=https;host=evil.example, for=192.0.2.1"), (None, None)),
    (PROXIES, forwarded("for=1.1.1.1;proto=https, for=unknown;proto=http"), ("http", None)),
    (PROXIES, forwarded("proto=https"), ("https", None)),
]


@pytest.mark.parametrize(("proxies", "headers", "expected"), HEADS)
def test_scheme_and_host(
    proxies: TrustedProxies, headers: Headers, expected: tuple[str | None, str | None]
) -> None:
    """The scheme and the host are those of the request that the client made."""
    found = proxies.resolve(PROXY, headers)
    assert (found.scheme, found.host) == expected


PEERS = [
    (Address("10.255.0.1", 1), True),
    (Address("::ffff:10.0.0.1", 1), True),
    (Address("2001:db8:1::9", 1), True),
    (Address("unix:"), True),
    (Address("unix:/run/proxy.sock"), True),
    (STRANGER, False),
    (Address("2001:db8:2::9", 1), False),
    (Address("fe80::1%eth0", 1), False),
    (Address(""), False),
    (Address("proxy.example", 80), False),
]


@pytest.mark.parametrize(("peer", "is_trusted"), PEERS)
def test_only_trusted_peers_count(peer: Address, is_trusted: bool) -> None:
    """The fields of a peer that is not a trusted proxy change nothing."""
    for proxies, headers in (
        (X_PROXIES, x_forwarded("192.0.2.1", proto="https", host="a.example")),
        (PROXIES, forwarded("for=192.0.2.1;proto=https;host=a.example")),
    ):
        expected = Forwarded(Address("192.0.2.1"), "https", "a.example") if is_trusted else Forwarded(peer)
        assert proxies.resolve(peer, headers) == expected


def test_unix_is_trusted_only_if_it_is_named() -> None:
    """Without "unix", a peer on a Unix socket is not trusted, and without networks no address is."""
    headers = x_forwarded("192.0.2.1")
    assert TrustedProxies("10.0.0.0/8").resolve(Address("unix:"), headers).client == Address("unix:")
    assert TrustedProxies("unix").resolve(PROXY, headers).client == PROXY


def test_everyone_can_be_trusted() -> None:
    """With all networks, the client is the left-most entry."""
    proxies = TrustedProxies("0.0.0.0/0", "::/0", header="X-Forwarded-For")
    assert proxies.resolve(STRANGER, x_forwarded("192.0.2.1, 192.0.2.2, ::1")).client == Address("192.0.2.1")


@pytest.mark.parametrize(
    "smuggled", ['for="', 'for=1.1.1.1;x="', "for=1.1.1.1;x=", 'x="\\', "for=1.1.1.1, ", '"', ""]
)
@pytest.mark.parametrize("real", ["for=192.0.2.1", 'for="[2001:db8::2]:80"', 'for="192.0.2.1";by="10.0.0.1:1"'])
def test_a_client_cannot_take_the_place_of_another(smuggled: str, real: str) -> None:
    """A proxy that appends to what the client sent, even in one line, is never made to name another address."""
    allowed = {PROXY, Address("192.0.2.1"), Address("2001:db8::2", 80)}
    assert PROXIES.resolve(PROXY, forwarded(f"{smuggled}, {real}")).client in allowed


@given(sent=st.text('for=1.,;"\\x [:]', max_size=30).map(str.strip))
def test_no_text_of_a_client_names_another_client(sent: str) -> None:
    """Whatever a client sends before the element of the proxy, only the address in that element counts."""
    for proxies, header, entry in (
        (PROXIES, "Forwarded", "for=192.0.2.1"),
        (X_PROXIES, "X-Forwarded-For", "192.0.2.1"),
    ):
        resolved = proxies.resolve(PROXY, Headers([(header, f"{sent}, {entry}")]))
        assert resolved.client in (PROXY, Address("192.0.2.1"))


REFUSED: list[tuple[tuple[Any, ...], dict[str, Any], type[Exception], str]] = [
    ((), {}, ValueError, r"name the proxies, TrustedProxies\('10\.0\.0\.0/8'\), or omit"),
    (("10.0.0.1/8",), {}, ValueError, r"an address, a network such as .* \(10\.0\.0\.1/8 has host bits set\)"),
    (("proxy.example",), {}, ValueError, "'proxy.example' is not a trusted proxy"),
    (("",), {}, ValueError, "'' is not a trusted proxy"),
    (("*",), {}, ValueError, r"would trust everyone: name the proxies, or write '0\.0\.0\.0/0' and '::/0'"),
    ((10,), {}, TypeError, r"a str such as '10\.0\.0\.0/8' or 'unix', not int"),
    ((["10.0.0.0/8"],), {}, TypeError, "not list"),
    (("unix",), {"header": "x-real-ip"}, ValueError, "'x-real-ip' is not supported: use 'x-forwarded-for' or"),
    (("unix",), {"header": None}, ValueError, "use 'x-forwarded-for' or 'forwarded'"),
]


@pytest.mark.parametrize(("proxies", "options", "kind", "message"), REFUSED)
def test_wrong_settings(
    proxies: tuple[Any, ...], options: dict[str, Any], kind: type[Exception], message: str
) -> None:
    """Settings that cannot be meant raise when they are made, and the message says what to write."""
    with pytest.raises(kind, match=message):
        TrustedProxies(*proxies, **options)


def test_its_representation_makes_it_again() -> None:
    """The representation has the proxies and the header."""
    assert repr(TrustedProxies("10.1.2.3", "unix", header="Forwarded")) == (
        "TrustedProxies('unix', '10.1.2.3/32', header='forwarded')"
    )


# ------------------------------------------------------------------------------------------------ work


WORK: dict[str, tuple[TrustedProxies, Callable[[int], Headers]]] = {
    "trusted addresses": (X_PROXIES, lambda size: x_forwarded("10.0.0.2," * size)),
    "commas": (X_PROXIES, lambda size: x_forwarded("," * size)),
    "lines": (X_PROXIES, lambda size: x_forwarded(*["10.0.0.2"] * size)),
    "digits": (X_PROXIES, lambda size: x_forwarded("1" * size)),
    "colons": (X_PROXIES, lambda size: x_forwarded(":" * size)),
    "a long host": (X_PROXIES, lambda size: x_forwarded(host="a." * size)),
    "blanks": (X_PROXIES, lambda size: x_forwarded("a" + " \t" * size + "b")),
    "elements": (PROXIES, lambda size: forwarded("for=10.0.0.2," * size)),
    "lines of elements": (PROXIES, lambda size: forwarded(*["for=10.0.0.2"] * size)),
    "parameters": (PROXIES, lambda size: forwarded(";".join(f"x{number}=1" for number in range(size)))),
    "separators": (PROXIES, lambda size: forwarded(";," * size)),
    "a name": (PROXIES, lambda size: forwarded("a" * size)),
    "an open quotation": (PROXIES, lambda size: forwarded('for="' + "a" * size)),
    "escapes": (PROXIES, lambda size: forwarded('for="' + '\\"' * size)),
    "escapes to the end": (PROXIES, lambda size: forwarded('for="' + '\\"' * size + '"')),
    "quotations": (PROXIES, lambda size: forwarded('for="",' * size + "a")),
    "blanks after a value": (PROXIES, lambda size: forwarded("for=a" + " \t" * size + "b")),
    "blanks in front": (PROXIES, lambda size: forwarded("," + " \t" * size + "(")),
}


@pytest.mark.parametrize("work", WORK)
def test_the_work_is_linear(work: str) -> None:
    """The time for the fields of a request is linear in their size."""
    proxies, make = WORK[work]
    assert_linear(made_before(partial(proxies.resolve, PROXY), make, 4_000), 4_000)

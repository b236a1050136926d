"""Origins: which origins a pattern matches, and which patterns are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from humphrey_trio._http._origins import SAME_HOST, Origins, is_same_host, read_origin
from tests.support.growth import assert_linear

MATCHES = [
    # As they are, in any letter case, with the default port or without it.
    ("https://example.com", "https://example.com"),
    ("HTTPS://Example.COM", "https://example.com"),
    ("https://example.com", "https://EXAMPLE.com"),
    ("https://example.com:443", "https://example.com"),
    ("https://example.com", "https://example.com:443"),
    ("http://example.com:80", "http://example.com"),
    ("http://localhost:08080", "http://localhost:8080"),
    ("https://example.com.", "https://example.com"),
    ("https://example.com", "https://example.com."),
    ("https://a_b.example", "https://a_b.example"),
    ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
    # IPv6, however it is written.
    ("http://[::1]:8080", "http://[::1]:8080"),
    ("http://[0:0:0:0:0:0:0:1]", "http://[::1]"),
    ("http://[2001:DB8::A]", "http://[2001:db8::a]"),
    ("http://[::ffff:1.2.3.4]", "http://[::ffff:102:304]"),
    # Names outside ASCII, as browsers send them.
    ("https://bücher.example", "https://xn--bcher-kva.example"),
    ("https://BÜCHER.example:8443", "https://xn--bcher-kva.example:8443"),
    ("https://*.bücher.example", "https://shop.xn--bcher-kva.example"),
    ("https://xn--bcher-kva.example", "https://xn--bcher-kva.example"),
    ("https://例え.テスト", "https://xn--r8jz45g.xn--zckzah"),
    # A wildcard in the host is any run of characters.
    ("https://*.example.com", "https://a.example.com"),
    ("https://*.example.com", "https://a.b.example.com"),
    ("https://*.example.com", "https://.example.com"),
    ("https://*.example.com:8443", "https://a.example.com:8443"),
    ("https://app-*.example.com", "https://app-17.example.com"),
    ("https://*", "https://example.com"),
    ("https://*", "https://[::1]"),
    # So is one in the place of the port, the default one included.
    ("http://localhost:*", "http://localhost"),
    ("http://localhost:*", "http://localhost:5173"),
    ("http://[::1]:*", "http://[::1]:5173"),
    ("https://*.example.com:*", "https://a.example.com:8443"),
    # Pages that are not from the web.
    ("file://", "file://"),
    ("null", "null"),
    ("chrome-extension://abcdefghijklmnop", "chrome-extension://abcdefghijklmnop"),
    ("chrome-extension://*", "chrome-extension://abcdefghijklmnop"),
    ("capacitor://localhost", "capacitor://localhost"),
    ("app://.", "app://."),
    ("tauri://localhost:*", "tauri://localhost"),
    # Everything.
    ("*", "https://example.com"),
    ("*", "null"),
    ("*", "file://"),
    ("*", "not an origin"),
]


@pytest.mark.parametrize(("pattern", "origin"), MATCHES)
def test_matches(pattern: str, origin: str) -> None:
    """A pattern matches the origins that it means, alone and among others."""
    assert Origins(pattern).matches(origin)
    assert Origins(["https://other.example", pattern, "http://*.other.example:*"]).matches(origin)


MISSES = [
    ("https://example.com", "http://example.com"),
    ("https://example.com", "https://example.com:8443"),
    ("https://example.com:8443", "https://example.com"),
    ("https://example.com", "https://www.example.com"),
    ("https://example.com", "https://example.com.evil.example"),
    ("https://example.com", "null"),
    ("https://example.com", "file://"),
    ("https://*.example.com", "https://example.com"),
    ("https://*.example.com", "https://evilexample.com"),
    ("https://*.example.com", "https://a.example.com.evil.example"),
    ("https://*.example.com", "http://a.example.com"),
    ("https://*.example.com", "https://a.example.com:8443"),
    ("http://localhost:*", "https://localhost:5173"),
    ("http://localhost:*", "http://localhost.evil.example:5173"),
    ("http://localhost:*", "http://127.0.0.1:5173"),
    ("https://*", "null"),
    ("https://*", "file://"),
    ("file://", "null"),
    ("null", "file://"),
    ("file://", "file://host"),
    ("file://", "file:///etc/passwd"),
    ("https://bücher.example", "https://xn--strae-oqa.example"),
]

#: What would match if it were compared as text, or if its parts were mistaken for each other.
SMUGGLED = [
    "https://evil.example/.example.com",
    "https://evil.example?.example.com",
    "https://evil.example#.example.com",
    "https://evil.example\\.example.com",
    "https://evil.example:.example.com",
    "https://evil.example:443.example.com",
    "https://evil.example:443@a.example.com",
    "https://user@a.example.com",
    "https://user:secret@a.example.com",
    "https://a.example.com/",
    "https://a.example.com/path",
    "https://a.example.com:443/",
    "https://a.example.com:+443",
    "https://a.example.com:٤٤٣",
    "https://a.example.com:0x1bb",
    "https://a.example.com:443:443",
    "https://a.example.com:100443",
    "https://a.example.com:65979",  # 443 in sixteen bits
    "https://[evil.example].example.com",
    "https://[::1].example.com",
    "https:// a.example.com",
    " https://a.example.com",
    "https://a.example.com ",
    "https://a.example.com\n",
    "https://a.example.com\r\nX: y",
    "https://a.example.com\x00",
    "https://evil.example, https://a.example.com",
    "https://a.example.com https://evil.example",
    "https://a.example.com,https://evil.example",
    "https:///a.example.com",
    "https:a.example.com",
    "https//a.example.com",
    "://a.example.com",
    "a.example.com",
    "https://%61.example.com",
    "https://ä.example.com",
    "https://\u212a.example.com",  # the Kelvin sign, whose lower case is the letter k
    "https://",
    "https://:443",
    "https://[::1",
    "https://[::1%25eth0]",
    "https://[1::2::3]",
    "",
    "*",
    "https://*:*",
]


@pytest.mark.parametrize(("pattern", "origin"), MISSES)
def test_does_not_match(pattern: str, origin: str) -> None:
    """A pattern matches no origin that differs in scheme, host or port."""
    assert not Origins(pattern).matches(origin)


@pytest.mark.parametrize("origin", SMUGGLED)
def test_malformed_origins_match_nothing(origin: str) -> None:
    """What is not one origin matches no pattern, wherever the wildcards are, and is of no host."""
    assert read_origin(origin) is None
    patterns = ["https://*.example.com", "https://*.example.com:*", "https://*:*", "https://*", "null", "file://"]
    assert not Origins(patterns).matches(origin)
    for host in ("a.example.com", "evil.example", origin, origin.partition("://")[2]):
        assert not is_same_host(origin, host)


def test_no_patterns_match_nothing() -> None:
    """Without a pattern nothing matches."""
    assert not Origins(()).matches("https://example.com")


@pytest.mark.parametrize("pattern", ["https://*.example.com", "https://example.com", "https://[::1]"])
@given(prefix=st.text("ab.:/@[]*-%\\1\x00\xe9", max_size=12), suffix=st.text("ab.:/@[]*?#\\1 ", max_size=6))
def test_a_match_is_below_the_domain(pattern: str, prefix: str, suffix: str) -> None:
    """Whatever is put around a host, a match has the scheme and port of the pattern, and its host at the end."""
    host = pattern.removeprefix("https://").removeprefix("*")
    text = f"https://{prefix}{host}{suffix}"
    if Origins(pattern).matches(text):
        rest = text.removeprefix("https://").removesuffix(":443").removesuffix(":").removesuffix(".")
        assert rest.endswith(host)
        assert not set(rest.removesuffix(host)) & set(":/@[]%\\\x00\xe9?# ")


REFUSED = [
    ("example.com", "write a scheme and a host, 'https://example.com'"),
    ("//example.com", "write a scheme and a host, 'https://example.com'"),
    ("", "write a scheme and a host, 'https://example.com'"),
    ("data:", "or 'null'"),
    ("https:example.com", "write a scheme and a host"),
    ("1https://example.com", "write a scheme and a host"),
    ("https://", "write a host, 'https://example.com'"),
    ("https:///path", "write a host, 'https://example.com'"),
    ("https://:443", "write a host with letters"),
    ("https://example.com/", "write 'https://example.com'"),
    ("https://example.com/path?query", "write 'https://example.com'"),
    ("https://example.com#fragment", "write 'https://example.com'"),
    ("https://user@example.com", "write 'https://example.com'"),
    ("https://user:secret@example.com:8443/", "write 'https://example.com:8443'"),
    ("wss://example.com", "write 'https://example.com'"),
    ("ws://localhost:*", "write 'http://localhost:*'"),
    ("*://example.com", "write both 'http://example.com' and 'https://example.com'"),
    ("http*://example.com", "write both 'http://example.com' and 'https://example.com'"),
    ("file:///", "write 'file://'"),
    ("file://host/path", "write 'file://'"),
    ("https://a.example https://b.example", "write several origins as a list"),
    ("https://a.example, https://b.example", "write several origins as a list"),
    ("https://a.example,https://b.example", "write several origins as a list"),
    ("https://example.com\n", "write several origins as a list"),
    ("https://example.com:", "the port must be a number from 1 to 65535, or '*'"),
    ("https://example.com:0", "the port must be a number from 1 to 65535, or '*'"),
    ("https://example.com:65536", "the port must be a number from 1 to 65535, or '*'"),
    ("https://example.com:44*", "the port must be a number from 1 to 65535, or '*'"),
    ("https://example.com:https", "the port must be a number from 1 to 65535, or '*'"),
    ("https://example.com:٤٤٣", "the port must be a number from 1 to 65535, or '*'"),
    ("https://example.com:²", "the port must be a number from 1 to 65535, or '*'"),
    ("http://::1", "an IPv6 address in brackets"),
    ("http://[::1", "an IPv6 address in brackets"),
    ("http://[::*]", "write an IPv6 address, without a wildcard"),
    ("http://[localhost]", "write an IPv6 address, without a wildcard"),
    ("http://[fe80::1%eth0]", "write an IPv6 address, without a wildcard"),
    ("http://127.1", "'127.0.0.1'"),
    ("http://0x7f000001", "'127.0.0.1'"),
    ("http://127.0.0.01", "'127.0.0.1'"),
    ("http://1.2.3.256", "'127.0.0.1'"),
    ("https://ex%61mple.com", "write a host with letters"),
    ("https://example<>.com", "write a host with letters"),
    # Browsers keep these characters, and the standard library maps them to others or drops them.
    ("https://straße.example", "write 'straße' in its ASCII form"),
    ("https://σίσυφος.example", "in its ASCII form"),
    ("https://نامه\u200c\u0627\u06cc.example", "in its ASCII form"),
    ("https://\uff45xample.com", "in its ASCII form"),
    ("https://a。b", "in its ASCII form"),
    (f"https://{'ü' * 70}.example", "in its ASCII form"),
    ("https://example.*", "would match domains of other owners"),
    ("http://192.168.*", "would match domains of other owners"),
    ("http://local*:8080", "would match domains of other owners"),
    ("https://*ü.example", "is not possible in a label"),
    (SAME_HOST, "pages of the same host need no permission here"),
]


@pytest.mark.parametrize(("pattern", "advice"), REFUSED)
def test_patterns_that_cannot_match_are_refused(pattern: str, advice: str) -> None:
    """A pattern that could never match raises, and the message says what to write."""
    with pytest.raises(ValueError, match="is no origin that a browser sends: ") as refused:
        Origins(["https://good.example", pattern])
    assert advice in str(refused.value)
    assert repr(pattern) in str(refused.value)


def test_an_origin_is_a_str() -> None:
    """Something else in the place of an origin is a TypeError that shows one."""
    origins: Any = [b"https://example.com"]
    with pytest.raises(TypeError, match=r"an origin must be a str such as 'https://example\.com', not bytes"):
        Origins(origins)


# ------------------------------------------------------------------------------------------- work


def slow_host(size: int) -> None:
    Origins("https://*a*a*a*a*b.example").matches(f"https://{'a' * size}.example")


def slow_name(size: int) -> None:
    read_origin(f"https://{'a.' * size}:")


def slow_scheme(size: int) -> None:
    read_origin("a+" * size)


def slow_address(size: int) -> None:
    read_origin(f"https://[{':' * size}]")


def slow_digits(size: int) -> None:
    read_origin(f"https://[{'1' * size}]")


def slow_port(size: int) -> None:
    read_origin(f"https://a:{'1' * size}")


def slow_same_host(size: int) -> None:
    is_same_host(f"http://{'a.' * size}", f"{'a.' * size}:80")


@pytest.mark.parametrize(
    "read", [slow_host, slow_name, slow_scheme, slow_address, slow_digits, slow_port, slow_same_host]
)
def test_the_work_is_linear(read: Callable[[int], None]) -> None:
    """The time for an origin is linear in its length."""
    assert_linear(read, 20_000)

"""Cookies: what is read from clients, and what can be set.

RFC 6265bis, sections 4.1.1, 4.1.3 and 5.6.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from humphrey_trio._http._cookies import Cookie, SameSite, SetCookie, parse_cookies

COOKIES: list[tuple[list[str], list[tuple[str, str]]]] = [
    ([], []),
    ([""], []),
    (["foo=bar; baz=qux"], [("foo", "bar"), ("baz", "qux")]),
    (["a=b;c=d"], [("a", "b"), ("c", "d")]),
    (["a=b=c"], [("a", "b=c")]),
    (["novalue; x=1"], [("x", "1")]),
    (['a="q"'], [("a", '"q"')]),
    (['a="b;c"'], [("a", '"b')]),
    (["  a = b ;"], [("a", "b")]),
    (["\ta\t=\tb c\t"], [("a", "b c")]),
    (["=v"], []),
    (["a="], [("a", "")]),
    ([";;;"], []),
    (["a=1", "b=2"], [("a", "1"), ("b", "2")]),
    (["a=1; a=2", "a=3"], [("a", "1"), ("a", "2"), ("a", "3")]),
    (["A=1; a=2"], [("A", "1"), ("a", "2")]),
    (["a=%41; b=\xe9; c=1,2"], [("a", "%41"), ("b", "\xe9"), ("c", "1,2")]),
    (["a=\xa0"], [("a", "\xa0")]),
    (["$Version=1; a b=c"], [("$Version", "1"), ("a b", "c")]),
]


@pytest.mark.parametrize(("values", "cookies"), COOKIES)
def test_cookies_of_clients(values: list[str], cookies: list[tuple[str, str]]) -> None:
    """Each pair with a name and an equals sign is a cookie, and is not decoded."""
    assert list(parse_cookies(values)) == cookies


def test_first_cookie_of_a_name() -> None:
    """The first cookie of a name is used: user agents send the one with the longest path first."""
    assert parse_cookies(["a=1; a=2"])["a"] == "1"


def test_cookie() -> None:
    """A cookie is sent as a client sends it, and read again."""
    assert Cookie("a", "1").to_header() == "a=1"
    jar = [Cookie("a", "1"), Cookie("b", '"2"'), Cookie("c", "")]
    header = "; ".join(cookie.to_header() for cookie in jar)
    assert [Cookie(*pair) for pair in parse_cookies([header])] == jar


@pytest.mark.parametrize("make", [Cookie, SetCookie])
@pytest.mark.parametrize("name", ["", "n;x", "a=b", "a b", "a\r\n", "\xe9", "a,b", "[a]"])
def test_invalid_names(make: Any, name: str) -> None:
    """A name that is not a token is refused."""
    with pytest.raises(ValueError, match="cookie name"):
        make(name, "v")


@pytest.mark.parametrize("make", [Cookie, SetCookie])
@pytest.mark.parametrize(
    "value",
    ["a;b", "a,b", "a b", "a\r\nSet-Cookie: b=c", '"', '"a', 'a"b', "a\\b", "\xe9", "\u20ac", "\x7f", "\0", "a\n"],
)
def test_invalid_values(make: Any, value: str) -> None:
    """A value that would end the cookie or the field is refused, with what to do instead."""
    with pytest.raises(ValueError, match=r"urllib\.parse\.quote"):
        make("a", value)


@pytest.mark.parametrize("arguments", [(1, "v"), ("n", 1), ("n", b"v"), ("n", None)])
@pytest.mark.parametrize("make", [Cookie, SetCookie])
def test_names_and_values_are_str(make: Any, arguments: Any) -> None:
    """Other types are refused."""
    with pytest.raises(TypeError, match="must be str"):
        make(*arguments)


@pytest.mark.parametrize("make", [Cookie, SetCookie])
def test_the_largest_cookie(make: Any) -> None:
    """Name and value have at most 4096 bytes together."""
    make("name", "v" * 4092)
    with pytest.raises(ValueError, match="4096"):
        make("name", "v" * 4093)


END = datetime(1994, 11, 6, 8, 49, 37, tzinfo=UTC)

FIELDS: list[tuple[SetCookie, str]] = [
    (
        SetCookie(
            "n",
            "v",
            expires=datetime(2021, 8, 8, 15, 43, 35, tzinfo=UTC),
            max_age=1,
            domain="d",
            same_site=SameSite.NONE,
            secure=True,
            http_only=True,
        ),
        "n=v; Expires=Sun, 08 Aug 2021 15:43:35 GMT; Max-Age=1; Domain=d; Path=/; SameSite=None; Secure; HttpOnly",
    ),
    (SetCookie("a", "1"), "a=1; Path=/"),
    (SetCookie("a", "", path=None), "a="),
    (
        SetCookie("X-Example-Cookie", "example-value", max_age=3600, secure=True),
        "X-Example-Cookie=example-value; Max-Age=3600; Path=/; Secure",
    ),
    (
        SetCookie(
            "X-Example-Token",
            "example-token",
            path=None,
            domain="example.com",
            same_site=SameSite.STRICT,
            secure=True,
        ),
        "X-Example-Token=example-token; Domain=example.com; SameSite=Strict; Secure",
    ),
    (
        SetCookie(
            "n",
            "v",
            path="/p",
            domain="d",
            max_age=1,
            expires=END,
            secure=True,
            http_only=True,
            same_site=SameSite.NONE,
            partitioned=True,
        ),
        "n=v; Expires=Sun, 06 Nov 1994 08:49:37 GMT; Max-Age=1; Domain=d; Path=/p; SameSite=None; Secure;"
        " HttpOnly; Partitioned",
    ),
    (SetCookie("a", "1", max_age=0, same_site=SameSite.LAX), "a=1; Max-Age=0; Path=/; SameSite=Lax"),
    (
        SetCookie("a", "1", expires=END.replace(microsecond=999999).astimezone(timezone(timedelta(hours=9)))),
        "a=1; Expires=Sun, 06 Nov 1994 08:49:37 GMT; Path=/",
    ),
    (SetCookie("__Host-a", "1", secure=True), "__Host-a=1; Path=/; Secure"),
    (SetCookie("__Secure-a", "1", secure=True, domain="d.e"), "__Secure-a=1; Domain=d.e; Path=/; Secure"),
]


@pytest.mark.parametrize(("cookie", "field"), FIELDS)
def test_fields(cookie: SetCookie, field: str) -> None:
    """The value of the field, with the attributes in a fixed order."""
    assert cookie.to_header() == field


PAST = "Expires=Thu, 01 Jan 1970 00:00:00 GMT; Max-Age=0"

DELETED: list[tuple[SetCookie, str]] = [
    (SetCookie.deleted("a"), f"a=; {PAST}; Path=/"),
    (SetCookie.deleted("a", "/p", domain="d"), f"a=; {PAST}; Domain=d; Path=/p"),
    (SetCookie.deleted("a", path=None), f"a=; {PAST}"),
    (SetCookie.deleted("__Host-a"), f"__Host-a=; {PAST}; Path=/; Secure"),
    (SetCookie.deleted("__secure-a", "/p"), f"__secure-a=; {PAST}; Path=/p; Secure"),
    (SetCookie.deleted("a", partitioned=True), f"a=; {PAST}; Path=/; Secure; Partitioned"),
]


@pytest.mark.parametrize(("cookie", "field"), DELETED)
def test_deleted(cookie: SetCookie, field: str) -> None:
    """A deleted cookie is in the past, with the attributes that user agents demand of its name."""
    assert cookie.to_header() == field


INVALID: list[tuple[dict[str, Any], str]] = [
    ({"name": "__Host-a"}, "secure=True"),
    ({"name": "__host-a", "secure": True, "path": "/p"}, "path='/'"),
    ({"name": "__Host-a", "secure": True, "path": None}, "path='/'"),
    ({"name": "__Host-a", "secure": True, "domain": "d"}, "no domain"),
    ({"name": "__Secure-a"}, "secure=True"),
    ({"name": "__SECURE-a"}, "secure=True"),
    ({"same_site": SameSite.NONE}, "secure=True"),
    ({"partitioned": True}, "secure=True"),
    ({"path": ""}, "begin it with '/'"),
    ({"path": "p"}, "begin it with '/'"),
    ({"path": "/a;b"}, "encode"),
    ({"path": "/a\r\n"}, "encode"),
    ({"path": "/ "}, "encode"),
    ({"path": "/\xe9"}, "encode"),
    ({"path": "/" + "p" * 1024}, "1024"),
    ({"domain": ""}, "example.com"),
    ({"domain": ".example.com"}, "leading dot"),
    ({"domain": "example.com:80"}, "port"),
    ({"domain": "https://example.com"}, "scheme"),
    ({"domain": "caf\xe9.example"}, "ASCII"),
    ({"domain": "a;b"}, "host"),
    ({"domain": "d" * 1025}, "host"),
    ({"max_age": -1}, "at least 0"),
    ({"expires": datetime(2030, 1, 1)}, "time zone"),
    ({"expires": datetime(1600, 1, 1, tzinfo=UTC)}, "1601"),
]


@pytest.mark.parametrize(("arguments", "advice"), INVALID)
def test_invalid_arguments(arguments: dict[str, Any], advice: str) -> None:
    """A cookie that user agents would ignore is refused, with what to write instead."""
    with pytest.raises(ValueError, match=advice):
        SetCookie(**({"name": "a", "value": "1"} | arguments))


@pytest.mark.parametrize("arguments", [{"max_age": 1.5}, {"same_site": "Lax"}, {"expires": 60}])
def test_wrong_types(arguments: dict[str, Any]) -> None:
    """Seconds are whole, dates are datetimes, and SameSite is an enum; the message names the argument."""
    with pytest.raises(TypeError, match=next(iter(arguments))):
        SetCookie("a", "1", **arguments)


@pytest.mark.parametrize(
    ("same_site", "advice"),
    [
        ("Lax", "SameSite.LAX, not 'Lax'"),
        ("none", "SameSite.NONE, not"),
        (True, "STRICT, SameSite.LAX or SameSite.NONE"),
    ],
)
def test_same_site_as_a_str(same_site: Any, advice: str) -> None:
    """The error for another type names the member of SameSite that was meant."""
    with pytest.raises(TypeError, match=f"same_site must be .*{advice}"):
        SetCookie("a", "1", secure=True, same_site=same_site)


def test_the_name_of_a_deleted_cookie_is_checked() -> None:
    """A name of another type is refused as in the constructor."""
    name: Any = 1
    with pytest.raises(TypeError, match="must be str"):
        SetCookie.deleted(name)


def test_cookies_are_values() -> None:
    """Cookies are equal if their attributes are, and cannot be changed."""
    cookie: Any = SetCookie("a", "1")
    assert cookie == SetCookie("a", "1", path="/")
    assert hash(cookie) == hash(SetCookie("a", "1"))
    assert cookie != SetCookie("a", "1", secure=True)
    with pytest.raises(AttributeError):
        cookie.value = "2"

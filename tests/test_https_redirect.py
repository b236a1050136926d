"""The app that redirects to HTTPS: the same URL with another scheme, and only for hosts of the site."""

from __future__ import annotations

from typing import Any

import pytest

from humphrey_trio import Request, Response
from humphrey_trio.http import Headers, https_redirect

HOSTS = ["example.com", "*.example.com", "[::1]", "192.0.2.1"]


async def answer(host: str | None, path: str = "/", query: str = "", **options: Any) -> Response:
    """What the app answers to a request."""
    headers = Headers([("Host", host)] if host is not None else ())
    return await https_redirect(**options).handle(Request("GET", path, query, headers=headers))


@pytest.mark.parametrize(
    ("host", "path", "query", "location"),
    [
        ("example.com", "/", "", "https://example.com/"),
        ("example.com:80", "/a/b%20c", "x=1&y=?", "https://example.com/a/b%20c?x=1&y=?"),
        ("WWW.Example.COM", "//x//..", "", "https://www.example.com//x//.."),
        ("example.com.", "/", "", "https://example.com./"),
        ("[::1]:8080", "/", "", "https://[::1]/"),
        ("192.0.2.1", "/", "q", "https://192.0.2.1/?q"),
    ],
)
async def test_a_redirect(host: str, path: str, query: str, location: str) -> None:
    """The host, the path and the query are kept, and the port is that of HTTPS."""
    response = await answer(host, path, query, hosts=HOSTS)
    assert response.status == 308
    assert response.headers["Location"] == location


@pytest.mark.parametrize(
    "host",
    [
        *(None, "", "evil.example", "example.com.evil.example", "notexample.com", "example.com@evil.example"),
        *("example.com/", "example.com:99999", "example.com:x", "exa mple.com", "[::1", "[x]"),
        *(
            "evil.example/.example.com",
            "evil.example?.example.com",
            "evil.example#.example.com",
            "\xe9xample.com",
        ),
        *("example.com,evil", "evil.example:80.example.com", "evil.example\\.example.com"),
    ],
)
async def test_other_hosts(host: str | None) -> None:
    """A host that is not one of the site, or is no host at all, gets a 400 without a Location."""
    response = await answer(host, hosts=HOSTS)
    assert response.status == 400
    assert "Location" not in response.headers


async def test_every_host() -> None:
    """Without ``hosts``, every well-formed host is redirected, and garbage gets a 400."""
    assert (await answer("evil.example")).headers["Location"] == "https://evil.example/"
    for garbage in ("", "a/b", "a b", "a@b", "[::1", None):
        assert (await answer(garbage)).status == 400


@pytest.mark.parametrize(
    ("path", "query"), [("*", ""), ("", ""), ("a", ""), ("/\r\nSet-Cookie: a=b", ""), ("/", "\n"), ("/\u00e9", "")]
)
async def test_target_without_a_path_gets_a_400(path: str, query: str) -> None:
    """What is no path, such as that of ``OPTIONS *``, gets a 400."""
    assert (await answer("example.com", path, query, hosts=HOSTS)).status == 400


async def test_port_and_status() -> None:
    """The redirect may go to another port, and have another status."""
    response = await answer("example.com:8080", "/x", hosts=HOSTS, port=8443, status=307)
    assert (response.status, response.headers["Location"]) == (307, "https://example.com:8443/x")
    assert (await answer("[::1]", hosts=HOSTS, port=8443)).headers["Location"] == "https://[::1]:8443/"


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"hosts": "example.com"}, TypeError),
        ({"hosts": []}, ValueError),
        ({"hosts": ["example.com:80"]}, ValueError),
        ({"hosts": ["http://example.com"]}, ValueError),
        ({"hosts": ["example.com/path"]}, ValueError),
        ({"port": 0}, ValueError),
        ({"port": 65536}, ValueError),
        ({"status": 200}, ValueError),
    ],
)
def test_wrong_arguments(options: dict[str, Any], error: type[Exception]) -> None:
    """Wrong arguments are errors when the app is created."""
    with pytest.raises(error):
        https_redirect(**options)

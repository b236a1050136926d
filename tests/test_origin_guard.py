"""The cross-origin guard: which requests pass, by Sec-Fetch-Site, Origin and Host, and what is logged."""

from __future__ import annotations

import logging

import pytest

from humphrey_trio.http import Address, Headers, Request, Response
from humphrey_trio.layers import cross_origin_guard
from tests.support.answers import answered

HOST = "shop.example"


async def handler(request: Request) -> Response:
    return Response(200)


def request_of(method: str, *fields: tuple[str, str]) -> Request:
    return Request(method, "/pay", headers=Headers([("Host", HOST), *fields]), address=Address("192.0.2.1", 5))


async def status_of(request: Request, *allowed: str) -> int:
    return (await answered(cross_origin_guard(allowed_origins=allowed)(request, None, handler))).status


SITE, ORIGIN = "Sec-Fetch-Site", "Origin"
# The cases of Go's TestCrossOriginProtectionSecFetchSite, and more: method, fields, whether it passes.
CASES: list[tuple[str, list[tuple[str, str]], bool]] = [
    ("POST", [(SITE, "same-origin")], True),
    ("POST", [(SITE, "none")], True),
    ("POST", [(SITE, "cross-site")], False),
    ("POST", [(SITE, "same-site")], False),
    ("POST", [(SITE, "something-else")], False),
    ("POST", [(SITE, "same-origin"), (SITE, "cross-site")], False),
    # Sec-Fetch-Site counts more than Origin.
    ("POST", [(SITE, "same-origin"), (ORIGIN, "null")], True),
    ("POST", [(SITE, "cross-site"), (ORIGIN, f"https://{HOST}")], False),
    # Browsers without it send Origin, which is compared with Host.
    ("POST", [], True),
    ("POST", [(ORIGIN, f"https://{HOST}")], True),
    ("POST", [(ORIGIN, f"http://{HOST}")], True),
    ("POST", [(ORIGIN, f"https://{HOST}:443")], True),
    ("POST", [(ORIGIN, f"https://{HOST}:8443")], False),
    ("POST", [(ORIGIN, "https://evil.example")], False),
    ("POST", [(ORIGIN, f"https://{HOST}.evil.example")], False),
    ("POST", [(ORIGIN, "null")], False),
    ("POST", [(ORIGIN, f"https://{HOST}"), (ORIGIN, "https://evil.example")], False),
    ("POST", [(SITE, ""), (ORIGIN, "https://evil.example")], False),
    ("POST", [(SITE, ""), (ORIGIN, f"https://{HOST}")], True),
    # Methods that change nothing pass.
    *[
        (method, [(SITE, "cross-site"), (ORIGIN, "https://evil.example")], True)
        for method in ("GET", "HEAD", "OPTIONS")
    ],
    *[(method, [(SITE, "cross-site")], False) for method in ("PUT", "DELETE", "PATCH", "QUERY", "TRACE", "get")],
]


@pytest.mark.parametrize(("method", "fields", "passes"), CASES)
async def test_unsafe_requests_of_others_are_refused(
    method: str, fields: list[tuple[str, str]], passes: bool
) -> None:
    """Unsafe requests of other origins are refused with 403, and all others get to the handler."""
    assert await status_of(request_of(method, *fields)) == (200 if passes else 403)


ALLOWED = [
    ("https://partner.example", "https://partner.example", True),
    ("https://*.partner.example", "https://a.partner.example", True),
    ("https://partner.example", "http://partner.example", False),
    ("https://partner.example", "https://evil.example", False),
    ("https://partner.example", "", False),
]


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
@pytest.mark.parametrize(("allowed", "origin", "passes"), ALLOWED)
async def test_allowed_origins(site: str, allowed: str, origin: str, passes: bool) -> None:
    """Pages of allowed origins pass, whether the browser sends Sec-Fetch-Site or not."""
    fields = [(ORIGIN, origin)] if origin else []
    assert await status_of(request_of("POST", (SITE, site), *fields), allowed) == (200 if passes else 403)
    if origin:
        assert await status_of(request_of("POST", *fields), allowed) == (200 if passes else 403)


async def test_refusals_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Each refusal is one line at INFO, in which the values of the client are quoted."""
    caplog.set_level(logging.INFO, "humphrey_trio.http")
    await status_of(request_of("POST", (SITE, "cross-site"), (ORIGIN, "https://\x85evil")))
    await status_of(request_of("POST", (SITE, "none")))
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("humphrey_trio.http", "INFO")
    assert record.getMessage() == (
        "refused POST '/pay' of 192.0.2.1:5: Origin 'https://\\x85evil', Sec-Fetch-Site 'cross-site'"
    )
    assert vars(record)["origin"] == "https://\\x85evil"


@pytest.mark.parametrize(
    ("allowed", "message"),
    [("*", "refuses nothing: omit the layer instead"), ("partner.example", "write a scheme and a host")],
)
def test_wrong_settings(allowed: str, message: str) -> None:
    """Origins that cannot be meant raise when the layer is made."""
    with pytest.raises(ValueError, match=message):
        cross_origin_guard(allowed_origins=allowed)

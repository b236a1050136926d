"""Content negotiation: which coding and which media type a client gets.

RFC 9110, sections 12.4.2, 12.5.1 and 12.5.3.
"""

from __future__ import annotations

import pytest

from humphrey_trio._http._negotiation import IDENTITY, choose_coding, choose_media_type

OFFERS = ("zstd", "br", "gzip")

CODINGS: list[tuple[list[str], str | None]] = [
    ([], IDENTITY),
    ([""], IDENTITY),
    (["gzip"], "gzip"),
    (["GZip"], "gzip"),
    (["gzip, deflate, br, zstd"], "zstd"),
    (["gzip, br"], "br"),
    (["gzip", "br"], "br"),
    (["gzip,,br,"], "br"),
    (["gzip;q=1.0, br;q=0.9"], "gzip"),
    (["gzip ;\tq=0.5 , br; Q=0.501"], "br"),
    (["gzip;q=0.001"], "gzip"),
    (["gzip;q=0"], IDENTITY),
    (["gzip;q=0.000, br"], "br"),
    (["x-gzip"], "gzip"),
    (["xgzip"], IDENTITY),
    (["gzipx"], IDENTITY),
    (["deflate"], IDENTITY),
    (["*"], "zstd"),
    (["*;q=0.1"], "zstd"),
    (["*, zstd;q=0"], "br"),
    (["gzip, *;q=0"], "gzip"),
    (["*;q=0"], None),
    (["identity;q=0"], None),
    (["identity;q=0, gzip"], "gzip"),
    (["deflate, identity;q=0"], None),
    (["*;q=0, identity"], IDENTITY),
    (["*;q=0, identity;q=0.001"], IDENTITY),
    (["identity, gzip;q=0.5"], IDENTITY),
    (["identity, gzip"], "gzip"),
    (["identity;q=0.5, gzip;q=0.2, br;q=0.1"], IDENTITY),
    (["gzip;q=0.3, *;q=0.5"], "zstd"),
    (["zstd;q=0.3, br;q=0.3, gzip;q=0.3, *;q=0.5"], IDENTITY),
    (["gzip;q=0, gzip"], "gzip"),
    # malformed members
    (["gzip;q=1.1"], IDENTITY),
    (["gzip;q=-1"], IDENTITY),
    (["gzip;q=0.1234"], IDENTITY),
    (["gzip;q="], IDENTITY),
    (["gzip;q=1e0"], IDENTITY),
    (["gzip;q=.5"], IDENTITY),
    (["gzip;q=0.5.5"], IDENTITY),
    (["gzip;level=1"], IDENTITY),
    (["gzip q=1"], IDENTITY),
    (["g zip, br"], "br"),
    (["gzip;q=1.000"], "gzip"),
    (["gzip;q=1."], "gzip"),
    (["\xa0gzip"], IDENTITY),
]


@pytest.mark.parametrize(("values", "coding"), CODINGS)
def test_codings(values: list[str], coding: str | None) -> None:
    """The weight decides, then the order of the server; what is not listed is not sent."""
    assert choose_coding(values, OFFERS) == coding


@pytest.mark.parametrize("values", [["gzip"], ["*"], []])
def test_a_server_without_codings(values: list[str]) -> None:
    """Without offers there is only identity."""
    assert choose_coding(values, ()) == IDENTITY


TEXT, HTML, PROBLEM = "text/plain", "text/html", "application/problem+json"
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"

TYPES: list[tuple[list[str], str | None]] = [
    ([], TEXT),
    (["*/*"], TEXT),
    ([BROWSER], HTML),
    (["application/problem+json"], PROBLEM),
    (["application/problem+json, */*;q=0.1"], PROBLEM),
    (["Application/Problem+JSON"], PROBLEM),
    (["application/*"], PROBLEM),
    (["application/json", "text/html;q=0.5"], HTML),
    (["text/*;q=0.5, text/html"], HTML),
    (["text/*, text/plain;q=0.5"], HTML),
    (["text/*;q=0, */*"], PROBLEM),
    (["text/plain;q=0, text/*"], HTML),
    (["*/*;q=0"], None),
    (["image/png"], None),
    ([""], None),
    (["text/html;charset=utf-8"], HTML),
    (["text/html;charset=utf-8;q=0.5, application/problem+json;q=0.4"], HTML),
    (["text/html;q=0.4;level=1, application/problem+json;q=0.5"], PROBLEM),
    (["text/html;level=1, text/html;q=0"], None),
    (["text/html;q=0, text/html;level=1"], None),
    (['text/html;a="b,c;q=0", text/plain;q=0.5'], HTML),
    (['text/html;a="\\",text/plain"'], HTML),
    (["text/html ; q=0.5 , application/problem+json"], PROBLEM),
    (["text/html;;q=0.5;, application/problem+json;q=0.4"], HTML),
    (["text/html;q=0.5, text/html"], HTML),
    # malformed members
    (["text, application/problem+json;q=0.1"], PROBLEM),
    (["*/html, application/problem+json"], PROBLEM),
    (["text/html;q=2, application/problem+json;q=0.1"], PROBLEM),
    (['text/html;q="1", application/problem+json;q=0.1'], PROBLEM),
    (["text/html x, application/problem+json"], PROBLEM),
    (["text/html;a, application/problem+json"], PROBLEM),
    (["text/html;a=, application/problem+json"], PROBLEM),
    (['text/html;a="b, application/problem+json'], None),
    (['application/problem+json, text/html;a="b\\'], PROBLEM),
    (["text/ html, application/problem+json"], PROBLEM),
]


@pytest.mark.parametrize(("values", "media_type"), TYPES)
def test_media_types(values: list[str], media_type: str | None) -> None:
    """The most specific range gives the weight, then the order of the server decides."""
    assert choose_media_type(values, (TEXT, HTML, PROBLEM)) == media_type


def test_the_example_of_the_standard() -> None:
    """The weights of RFC 9110, section 12.5.1, as far as types have no parameters."""
    accept = ["text/*;q=0.3, text/html;q=0.7, text/html;level=1, text/html;level=2;q=0.4, */*;q=0.5"]
    ranked = [
        choose_media_type(accept, offers) for offers in (("text/plain", "image/jpeg"), ("image/jpeg", "text/html"))
    ]
    assert ranked == ["image/jpeg", "text/html"]

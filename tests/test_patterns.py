"""Patterns of routes: which paths they match, the values of their parameters, and which patterns are refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from humphrey_trio.http import App, Request, Response, SubApp
from humphrey_trio.testing import http_client


def app_of(pattern: str, seen: list[Request]) -> App[Any]:
    """An app with one route, which keeps its requests."""

    def keep(request: Request) -> Response:
        seen.append(request)
        return Response(200)

    return App().with_stateless_route(pattern, keep)


async def values(pattern: str, path: str) -> Mapping[str, str] | int:
    """The ``path_params`` of a request for a path, or the status of its refusal."""
    seen: list[Request] = []
    response = await app_of(pattern, seen).handle(Request(path=path))
    return dict(seen[0].path_params) if seen else response.status


MATCHES: list[tuple[str, str, dict[str, str]]] = [
    ("/items/{id}", "/items/7", {"id": "7"}),
    ("/items/{id}", "/items/..", {"id": ".."}),
    ("/items/{id}", "/items/*", {"id": "*"}),
    ("/items/{id}", "/items/{id}", {"id": "{id}"}),
    ("/items/{id}/", "/items/7/", {"id": "7"}),
    ("/{a}/{b}", "/x/y", {"a": "x", "b": "y"}),
    ("/{a}/x/{b}", "/x/x/x", {"a": "x", "b": "x"}),
    ("/{id}", "/a\nb", {"id": "a\nb"}),
    ("/{ñ}", "/x", {"ñ": "x"}),
    ("/{class}", "/x", {"class": "x"}),
    # The rest.
    ("/files/{path*}", "/files/a/b/c.txt", {"path": "a/b/c.txt"}),
    ("/files/{path*}", "/files/", {"path": ""}),
    ("/files/{path*}", "/files//", {"path": "/"}),
    ("/files/{path*}", "/files/a\n/b", {"path": "a\n/b"}),
    ("/{path*}", "/", {"path": ""}),
    ("/{user}/{path*}", "/ann/", {"user": "ann", "path": ""}),
    ("/{user}/{path*}", "/ann/a/b", {"user": "ann", "path": "a/b"}),
    # Values are decoded after the path was split.
    ("/{a}/{b}", "/x%2Fy/z", {"a": "x/y", "b": "z"}),
    ("/{name}", "/caf%C3%A9", {"name": "café"}),
    ("/{name}", "/caf%c3%a9", {"name": "café"}),
    ("/{name}", "/a+b", {"name": "a+b"}),
    ("/{name}", "/%2525", {"name": "%25"}),
    ("/{name}", "/%00", {"name": "\0"}),
    ("/{name}", "/%e2%82%ac", {"name": "€"}),
    ("/{path*}", "/a%20b/c%3F", {"path": "a b/c?"}),
    # Literal characters are encoded where they cannot be sent as they are.
    ("/café", "/caf%C3%A9", {}),
    ("/café/{id}", "/caf%C3%A9/1", {"id": "1"}),
    ("/café/*", "/caf%C3%A9/x", {}),
    ("/caf%C3%A9", "/caf%C3%A9", {}),
    ("/a b", "/a%20b", {}),
    ('/<">`^', "/%3C%22%3E%60%5E", {}),
    ("/a#b", "/a%23b", {}),
    ("/%7Bid%7D", "/%7Bid%7D", {}),
    ("/100%", "/100%25", {}),
    ("/100%/{id}", "/100%25/x", {"id": "x"}),
    ("/a|b[c]", "/a|b[c]", {}),
    ("/-._~!$&'()+,;=:@", "/-._~!$&'()+,;=:@", {}),
    ("/a.c/{id}", "/a.c/1", {"id": "1"}),
]


@pytest.mark.parametrize(("pattern", "path", "params"), MATCHES)
async def test_matches(pattern: str, path: str, params: dict[str, str]) -> None:
    """A pattern is compared with the path as it was sent, and then the values are decoded."""
    assert await values(pattern, path) == params


MISSES = [
    ("/items/{id}", "/items/"),
    ("/items/{id}", "/items"),
    ("/items/{id}", "/items/7/"),
    ("/items/{id}", "/items/7/8"),
    ("/items/{id}", "/ITEMS/7"),
    ("/items/{id}", "//items/7"),
    ("/items/{id}/", "/items/7"),
    ("/{a}/{b}", "/x//y"),
    ("/{a}/{b}", "//y"),
    ("/files/{path*}", "/files"),
    ("/{user}/{path*}", "/ann"),
    ("/{user}/{path*}", "//x"),
    ("/a.c/{id}", "/abc/1"),
    ("/a/b", "/a%2Fb"),
    ("/café", "/cafe"),
    ("/%7Bid%7D", "/x"),
    ("/{id}", "*"),
]


@pytest.mark.parametrize(("pattern", "path"), MISSES)
async def test_misses(pattern: str, path: str) -> None:
    """A parameter is one segment that is not empty, and slashes are neither added nor removed."""
    assert await values(pattern, path) == 404


MALFORMED = [
    "%",
    "%4",
    "100%",
    "%zz",
    "%-1",
    "%+5",
    "% 1",
    "%C3%28",
    "%C3",
    "%ff",
    "%ED%A0%80",
    "%C0%AF",
    "%u0041",
]


@pytest.mark.parametrize("value", MALFORMED)
@pytest.mark.parametrize("pattern", ["/x/{value}", "/x/{value*}"])
async def test_a_malformed_value_is_a_400(pattern: str, value: str) -> None:
    """A value that is not percent-encoded UTF-8 is a 400, and no other route is tried."""
    seen: list[Request] = []
    app = app_of(pattern, seen).with_stateless_route("*", lambda _: Response(200))
    assert (await app.handle(Request(path=f"/x/{value}"))).status == 400
    assert seen == []


async def test_only_parameters_are_decoded() -> None:
    """Only the values of parameters are decoded."""
    assert await values("/x/*", "/x/%zz") == {}
    assert await values("*", "/%ff") == {}


REFUSED = {
    "no slash": ("x", "begins with '/' or '*'"),
    "empty": ("", "begins with '/' or '*'"),
    "a parameter first": ("{id}", "begins with '/' or '*'"),
    "a query": ("/search?q={q}", "without the query"),
    "not closed": ("/{id", "unbalanced: write {name}, or %7B and %7D"),
    "not opened": ("/id}", "unbalanced: write {name}, or %7B and %7D"),
    "in the wrong order": ("/}id{", "unbalanced"),
    "nested": ("/{{id}}", "unbalanced"),
    "across segments": ("/{a/b}", "unbalanced"),
    "no name": ("/{}", "letters, digits and underscores"),
    "no name of a rest": ("/{*}", "letters, digits and underscores"),
    "a digit first": ("/{1a}", "letters, digits and underscores"),
    "a space": ("/{ id }", "letters, digits and underscores"),
    "a hyphen": ("/{item-id}", "letters, digits and underscores"),
    "a type": ("/{id:int}", r"write \{id\} and request.path_param\('id', int\)"),
    "a path as a type": ("/{rest:path}", r"\{rest\*\} for the rest"),
    "repeated": ("/{id}/{id}", "repeated"),
    "repeated as a rest": ("/{id}/{id*}", "repeated"),
    "before a literal": ("/{name}.json", "a whole segment"),
    "behind a literal": ("/v{version}", "a whole segment"),
    "side by side": ("/{a}{b}", "a whole segment"),
    "a rest behind a literal": ("/x{path*}", "a whole segment"),
    "a rest before a segment": ("/{path*}/x", "must be the last segment"),
    "a rest before a slash": ("/{path*}/", "must be the last segment"),
    "two rests": ("/{a*}/{b*}", "must be the last segment"),
    "a star in a name": ("/{a*b}", "letters, digits and underscores"),
    "two stars": ("/{a**}", "letters, digits and underscores"),
    "both kinds": ("/*/{id}", r"both '\*' and parameters: write \{name\} or \{name\*\}"),
    "a star in front": ("*/{id}", "both"),
    "a star behind": ("/{id}/*", "both"),
    "a surrogate": ("/\ud800", "surrogate"),
}


@pytest.mark.parametrize(("pattern", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(pattern: str, message: str) -> None:
    """A pattern that cannot work is a ValueError when it is added, which says what to write instead."""

    async def upgrade(*_: object) -> Response:
        return Response(404)

    for routes in (App(), SubApp()):
        for add in (routes.with_route, routes.with_stateless_route, routes.with_path_aware_route):
            with pytest.raises(ValueError, match=message):
                add(pattern, lambda *_: Response(200))
        with pytest.raises(ValueError, match=message):
            routes.with_websocket_route(pattern, upgrade)


async def test_a_path_aware_handler_gets_the_pattern_as_it_was_written() -> None:
    """Percent-encoding and parameters do not change the pattern that a handler gets."""
    app = App().with_path_aware_route("/é/{id}", lambda request, _, pattern: Response(200, pattern))
    assert (await app.handle(Request(path="/%C3%A9/1"))).text == "/é/{id}"


# ----------------------------------------------------------------------------------- against a model

_NAMES = ("a", "b", "c", "d")
_SEGMENTS = st.sampled_from(["", "x", "y", "xx", ".", "é", "a b", "%", "%41", "{}"])
_LITERALS = st.sampled_from(["", "x", "y", "xx", ".", "é", "a b", "%41"])
_PARAMETER = None


@st.composite
def patterns(draw: st.DrawFn) -> tuple[list[str | None], bool]:
    """The segments of a pattern, None for a parameter, and whether the last one is the rest."""
    segments = draw(st.lists(st.one_of(_LITERALS, st.just(_PARAMETER)), min_size=1, max_size=4))
    return segments, segments[-1] is _PARAMETER and draw(st.booleans())


def model(segments: list[str | None], has_rest: bool, path: list[str]) -> list[str] | None:
    """The values of the parameters by the definition, on segments that are not encoded; None for no match."""
    if has_rest:
        path = (
            [*path[: len(segments) - 1], "/".join(path[len(segments) - 1 :])] if len(path) >= len(segments) else []
        )
    if len(path) != len(segments):
        return None
    values = []
    for index, (segment, part) in enumerate(zip(segments, path, strict=True)):
        if segment is _PARAMETER:
            if not part and not (has_rest and index == len(segments) - 1):
                return None
            values.append(part)
        elif segment.replace("%41", "A") != part:
            return None
    return values


@settings(deadline=None)
@given(patterns(), st.lists(_SEGMENTS, min_size=1, max_size=5))
async def test_agrees_with_the_definition(pattern: tuple[list[str | None], bool], path: list[str]) -> None:
    """For any pattern and path, the match and its values are those of a comparison segment by segment."""
    segments, has_rest = pattern
    names = iter(_NAMES)
    parts = [f"{{{next(names)}}}" if segment is _PARAMETER else segment for segment in segments]
    if has_rest:
        parts[-1] = parts[-1].replace("}", "*}")
    # A literal that is already encoded is compared as it was sent, so the client sends the same.
    sent = [segment if segment == "%41" else quote(segment, safe="") for segment in path]
    expected = model(segments, has_rest, ["A" if segment == "%41" else segment for segment in path])

    got = await values("/" + "/".join(parts), "/" + "/".join(sent))
    assert got == (404 if expected is None else dict(zip(_NAMES, expected, strict=False)))


@settings(deadline=None)
@given(st.lists(st.text(min_size=1), min_size=1, max_size=3))
async def test_any_text_arrives(texts: list[str]) -> None:
    """Whatever a client encodes into a segment, the handler gets."""
    seen: list[Request] = []
    app = app_of("/" + "/".join(f"{{v{index}}}" for index in range(len(texts))), seen)
    async with http_client(app) as client:
        await client.get("/" + "/".join(quote(text, safe="") for text in texts))
    assert list(seen[0].path_params.values()) == texts


@settings(deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_characters="{}*?/")))
async def test_any_literal_can_be_requested(text: str) -> None:
    """A route with any characters is reached by a client that encodes what has to be encoded."""
    if "%" in text:
        text = text.replace("%", "%25")
    seen: list[Request] = []
    async with http_client(app_of(f"/{text}", seen)) as client:
        await client.get("/" + quote(text, safe="%:@!$&'()+,;=[]|\\"))
    assert len(seen) == 1

"""Handlers that answer with files: validators, conditions, ranges, encodings, and errors."""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from email.message import Message
from email.parser import BytesParser
from email.policy import compat32
from pathlib import Path
from typing import Any

import pytest
import trio

from humphrey_trio._http._file_body import FileBody
from humphrey_trio._http._media_types import media_type
from humphrey_trio._server._file_reader import send_file_body
from humphrey_trio.handlers import file_response, redirect, serve_dir, serve_file
from humphrey_trio.http import Headers, Request, Response
from tests.support.answers import answered

SMALL = b"0123456789"
LARGE = bytes(range(256)) * 4096  # 1 MiB
#: The time at which the files were modified, in seconds since 1970, and as a date.
MODIFIED = 1_000_000_000
DATE = "Sun, 09 Sep 2001 01:46:40 GMT"
EARLIER, LATER = "Sun, 09 Sep 2001 01:46:39 GMT", "Sun, 09 Sep 2001 01:46:41 GMT"


def write(path: Path, content: bytes, modified: float = MODIFIED) -> None:
    path.write_bytes(content)
    os.utime(path, (modified, modified))


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A directory with a small, a large and an empty file, and one with precompressed files."""
    site = tmp_path / "site"
    site.mkdir()
    write(site / "small.txt", SMALL)
    write(site / "large.bin", LARGE)
    write(site / "empty.txt", b"")
    write(site / "style.css", b"plain")
    for extension in ("gz", "br", "zst"):
        write(site / f"style.css.{extension}", extension.encode())
    return site


async def get(site: Path, path: str, headers: Mapping[str, str] | None = None, **more: Any) -> Response:
    """The response of a directory; arguments of Request beside those of serve_dir."""
    method = more.pop("method", "GET")
    request = Request(method=method, path=path, headers=Headers(headers or {}))
    return await answered(serve_dir(site, **more)(request, None, "/*"))


def body_of(response: Response) -> FileBody | None:
    return getattr(response, "body", None)


async def content_of(response: Response) -> bytes:
    """The content, read as a connection would send it."""
    body = body_of(response)
    if body is None:
        return response.content
    pieces: list[bytes] = []

    async def write(piece: bytes) -> None:
        pieces.append(piece)

    await send_file_body(body, write)
    assert body.file.is_closed
    content = b"".join(pieces)
    assert len(content) == body.length
    return content


def names_of(response: Response) -> set[str]:
    return {name for name, _ in response.headers}


@pytest.fixture(autouse=True)
def _no_descriptor_is_left() -> Iterator[None]:
    """Every test closes what it opens."""
    before = descriptors()
    yield
    assert descriptors() == before


def descriptors() -> set[str]:
    """The regular files and directories that are open in this process."""
    found: set[str] = set()
    for name in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else ():
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
        if target.startswith("/") and "site" in target:
            found.add(target)
    return found


# ----------------------------------------------------------------------------------------------- content


@pytest.mark.parametrize(
    ("path", "content", "content_type"),
    [
        ("/small.txt", SMALL, "text/plain; charset=utf-8"),
        ("/large.bin", LARGE, "application/octet-stream"),
        ("/empty.txt", b"", "text/plain; charset=utf-8"),
    ],
)
async def test_whole_files(site: Path, path: str, content: bytes, content_type: str) -> None:
    """A GET is answered with the whole file, its type, its validators and how to cache it."""
    response = await get(site, path)
    assert await content_of(response) == content
    assert response.status == 200
    expected = {"Content-Type": content_type, "Accept-Ranges": "bytes", "Last-Modified": DATE}
    expected |= {"Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
    assert {name: value for name, value in response.headers if name != "ETag"} == expected
    assert re.fullmatch(r'"[-0-9a-f]+"', response.headers["ETag"])


@pytest.mark.parametrize("size", [64 * 1024, 64 * 1024 + 1])
async def test_small_files_are_read_at_once(site: Path, size: int) -> None:
    """Up to 64 KiB are the content of the response; more is a body of its own."""
    write(site / "file", LARGE[:size])
    response = await get(site, "/file")
    assert (body_of(response) is None) == (size == 64 * 1024)
    assert await content_of(response) == LARGE[:size]


async def test_a_header_is_added(site: Path) -> None:
    """A layer may add a header field to a response with a file."""
    response = (await get(site, "/large.bin")).with_header("X-Added", "yes")
    assert response.headers["X-Added"] == "yes"
    assert await content_of(response) == LARGE


async def test_head(site: Path) -> None:
    """A HEAD gets the fields of the GET, with its length, and no content, whatever its Range (RFC 9110, 14.2)."""
    for path, size in (("/small.txt", len(SMALL)), ("/large.bin", len(LARGE))):
        whole = await get(site, path)
        head = await get(site, path, {"Range": "bytes=0-1"}, method="HEAD")
        assert (head.status, head.content, body_of(head)) == (200, b"", None)
        assert [*head.headers] == [*whole.headers, ("Content-Length", str(size))]
        await content_of(whole)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "get", "QUERY"])
async def test_other_methods(site: Path, method: str) -> None:
    """Any other method is a 405 that names the two (RFC 9110, section 15.5.6), also for what does not exist."""
    single = await answered(serve_file(site / "small.txt")(Request(method=method), None))
    for response in (
        await get(site, "/small.txt", method=method),
        await get(site, "/../x", method=method),
        single,
    ):
        assert (response.status, response.headers["Allow"]) == (405, "GET, HEAD")


async def test_one_file(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """serve_file answers every path with its file, by the working directory of its construction."""
    monkeypatch.chdir(site)
    handler = serve_file("small.txt", cache="max-age=60")
    monkeypatch.chdir("/")
    response = await answered(handler(Request(path="/any/path"), None))
    assert (response.content, response.headers["Cache-Control"]) == (SMALL, "max-age=60")
    assert "Vary" not in response.headers
    ranged = await answered(handler(Request(headers=Headers({"Range": "bytes=1-2"})), None))
    assert (ranged.status, ranged.content) == (206, b"12")
    (site / "small.txt").unlink()
    assert (await answered(handler(Request(), None))).status == 404


@pytest.mark.parametrize("cache", ["", "public, max-age=31536000, immutable"])
async def test_cache(site: Path, cache: str) -> None:
    """Cache-Control has the value of the argument; without one there is no such field."""
    response = await get(site, "/small.txt", cache=cache)
    assert response.headers.get("Cache-Control", "") == cache
    known = await get(site, "/small.txt", {"If-None-Match": response.headers["ETag"]}, cache=cache)
    assert known.headers.get("Cache-Control", "") == cache


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.html", "text/html; charset=utf-8"),
        ("A.HTML", "text/html; charset=utf-8"),
        ("a.mjs", "text/javascript; charset=utf-8"),
        ("a.json", "application/json"),
        ("a.svg", "image/svg+xml"),
        ("a.woff2", "font/woff2"),
        ("a.wasm", "application/wasm"),
        ("a.tar.gz", "application/gzip"),
        ("a.gz.txt", "text/plain; charset=utf-8"),
        ("html", "application/octet-stream"),
        ("a.", "application/octet-stream"),
        ("a.unknown", "application/octet-stream"),
    ],
)
def test_media_types(name: str, expected: str) -> None:
    """The type follows from the last extension, by a fixed table."""
    assert media_type(name) == expected


# -------------------------------------------------------------------------------------------- validators


async def test_entity_tags(site: Path) -> None:
    """The tag changes with the time to the nanosecond, the size, the file itself, and the encoding."""
    tags = {(await get(site, "/small.txt")).headers["ETag"]}
    os.utime(site / "small.txt", ns=(0, MODIFIED * 10**9 + 1))
    tags.add((await get(site, "/small.txt")).headers["ETag"])
    write(site / "small.txt", SMALL + b"!")
    tags.add((await get(site, "/small.txt")).headers["ETag"])
    write(site / "new", SMALL + b"!")
    (site / "new").rename(site / "small.txt")
    tags.add((await get(site, "/small.txt")).headers["ETag"])
    assert len(tags) == 4
    os.link(site / "small.txt", site / "small.txt.gz")
    coded = await get(site, "/small.txt", {"Accept-Encoding": "gzip"})
    assert coded.headers["ETag"] not in tags
    assert len({tag.removesuffix('"').partition("-gzip")[0] for tag in (*tags, coded.headers["ETag"])}) == 4


async def test_a_file_that_was_just_modified(site: Path) -> None:
    """The tag is weak while a modification may not change it (section 8.8.1), so a range is not joined with it."""
    write(site / "small.txt", SMALL, time.time())
    response = await get(site, "/small.txt")
    tag = response.headers["ETag"]
    assert tag.startswith('W/"')
    assert (await get(site, "/small.txt", {"If-None-Match": tag})).status == 304
    assert (await get(site, "/small.txt", {"If-Range": tag, "Range": "bytes=0-1"})).status == 200


async def test_modified_in_the_future(site: Path) -> None:
    """Last-Modified is never later than the present (RFC 9110, section 8.8.2.1)."""
    write(site / "small.txt", SMALL, time.time() + 10**6)
    response = await get(site, "/small.txt")
    assert response.headers["Last-Modified"] in {http_date(time.time() - ago) for ago in range(30)}


def http_date(timestamp: float) -> str:
    return time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(timestamp))


@pytest.mark.parametrize("modified", [-1, -(10**9)])
async def test_modified_before_1970(site: Path, modified: int) -> None:
    """A time before 1970 is not a date of anything: there is no Last-Modified."""
    write(site / "small.txt", SMALL, modified)
    response = await get(site, "/small.txt", {"If-Modified-Since": DATE})
    assert (response.status, "Last-Modified" in response.headers) == (200, False)


# -------------------------------------------------------------------------------------------- conditions

OK, NOT_MODIFIED, FAILED = 200, 304, 412


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("conditions", "status"),
    [
        ({"If-None-Match": "{tag}"}, NOT_MODIFIED),
        ({"If-None-Match": "W/{tag}"}, NOT_MODIFIED),
        ({"If-None-Match": '"a", {tag}'}, NOT_MODIFIED),
        ({"If-None-Match": "*"}, NOT_MODIFIED),
        ({"If-None-Match": '"other"'}, OK),
        ({"If-None-Match": '"other"', "If-Modified-Since": DATE}, OK),
        ({"If-Modified-Since": DATE}, NOT_MODIFIED),
        ({"If-Modified-Since": LATER}, NOT_MODIFIED),
        ({"If-Modified-Since": EARLIER}, OK),
        ({"If-Modified-Since": "yesterday"}, OK),
        ({"If-Match": "{tag}"}, OK),
        ({"If-Match": "*"}, OK),
        ({"If-Match": "W/{tag}"}, FAILED),
        ({"If-Match": '"other"'}, FAILED),
        ({"If-Unmodified-Since": DATE}, OK),
        ({"If-Unmodified-Since": LATER}, OK),
        ({"If-Unmodified-Since": EARLIER}, FAILED),
        ({"If-Match": '"other"', "If-None-Match": "{tag}"}, FAILED),
        ({"If-Match": "{tag}", "If-Unmodified-Since": EARLIER}, OK),
        ({"If-Match": "{tag}", "If-None-Match": "{tag}"}, NOT_MODIFIED),
        ({"If-Unmodified-Since": DATE, "If-Modified-Since": DATE}, NOT_MODIFIED),
        ({"If-None-Match": "{tag}", "Range": "bytes=0-1"}, NOT_MODIFIED),
        ({"If-Match": '"other"', "Range": "bytes=99-"}, FAILED),
    ],
)
async def test_conditions(site: Path, method: str, conditions: dict[str, str], status: int) -> None:
    """Conditions are evaluated in the order of RFC 9110, section 13.2.2, before a Range."""
    tag = (await get(site, "/small.txt")).headers["ETag"]
    headers = {name: value.replace("{tag}", tag) for name, value in conditions.items()}
    response = await get(site, "/small.txt", headers, method=method)
    assert response.status == status
    if status == NOT_MODIFIED:
        assert response.content == b""
        assert names_of(response) == {"ETag", "Cache-Control", "Vary"}
        assert response.headers["ETag"] == tag
    if status == FAILED:
        assert {"ETag", "Last-Modified", "Content-Range"}.isdisjoint(names_of(response))


async def test_conditions_of_what_does_not_exist(site: Path) -> None:
    """Conditions do not matter if the response would not be a 2xx without them (RFC 9110, section 13.2.1)."""
    for conditions in ({"If-Match": "*"}, {"If-None-Match": "*"}, {"If-Unmodified-Since": EARLIER}):
        assert (await get(site, "/none.txt", conditions)).status == 404


# ------------------------------------------------------------------------------------------------ ranges


@pytest.mark.parametrize(
    ("value", "expected", "content_range"),
    [
        ("bytes=0-3", b"0123", "bytes 0-3/10"),
        ("bytes=0-0", b"0", "bytes 0-0/10"),
        ("bytes=4-", b"456789", "bytes 4-9/10"),
        ("bytes=-3", b"789", "bytes 7-9/10"),
        ("bytes=-99", SMALL, "bytes 0-9/10"),
        ("bytes=8-99", b"89", "bytes 8-9/10"),
        ("bytes=0-3,4-5", b"012345", "bytes 0-5/10"),
        ("bytes=9-,99-", b"9", "bytes 9-9/10"),
    ],
)
async def test_single_ranges(site: Path, value: str, expected: bytes, content_range: str) -> None:
    """One range is a 206 with the fields of the 200 and its Content-Range (RFC 9110, section 15.3.7)."""
    whole = await get(site, "/small.txt")
    response = await get(site, "/small.txt", {"Range": value})
    assert (response.status, response.content) == (206, expected)
    assert [*response.headers] == [*whole.headers, ("Content-Range", content_range)]


@pytest.mark.parametrize("value", ["bytes=a-b", "bytes=3-2", "items=0-3", "bytes", "bytes=", "bytes=-"])
async def test_ranges_that_are_ignored(site: Path, value: str) -> None:
    """A Range that is malformed, or in another unit, is ignored (RFC 9110, section 14.2)."""
    response = await get(site, "/small.txt", {"Range": value})
    assert (response.status, response.content) == (200, SMALL)


@pytest.mark.parametrize("value", ["bytes=10-", "bytes=99-100", "bytes=-0"])
async def test_ranges_after_the_end(site: Path, value: str) -> None:
    """A Range after the end is a 416 with the size, and no other Content-Range (RFC 9110, section 15.5.17)."""
    response = await get(site, "/small.txt", {"Range": value})
    assert (response.status, response.headers["Content-Range"]) == (416, "bytes */10")
    assert {"ETag", "Last-Modified"}.isdisjoint(names_of(response))


async def test_ranges_of_an_empty_file(site: Path) -> None:
    """An empty file has no ranges, and is sent as it is."""
    response = await get(site, "/empty.txt", {"Range": "bytes=0-"})
    assert (response.status, response.content) == (200, b"")


async def test_ranges_of_a_large_file(site: Path) -> None:
    """A short range of a large file is read at once; a long one is a body."""
    short = await get(site, "/large.bin", {"Range": f"bytes=1000-{1000 + 64 * 1024 - 1}"})
    assert short.content == LARGE[1000 : 1000 + 64 * 1024]
    long = await get(site, "/large.bin", {"Range": "bytes=1000-"})
    body = body_of(long)
    assert body is not None
    assert (long.status, body.length) == (206, len(LARGE) - 1000)
    assert await content_of(long) == LARGE[1000:]


@pytest.mark.parametrize(
    ("path", "value", "parts"),
    [
        ("/small.txt", "bytes=0-1,5-6", [(b"01", "bytes 0-1/10"), (b"56", "bytes 5-6/10")]),
        ("/small.txt", "bytes=-2,0-0", [(b"89", "bytes 8-9/10"), (b"0", "bytes 0-0/10")]),
        (
            "/large.bin",
            "bytes=0-99999,200000-399999",
            [(LARGE[:100000], "bytes 0-99999/1048576"), (LARGE[200000:400000], "bytes 200000-399999/1048576")],
        ),
    ],
)
async def test_several_ranges(site: Path, path: str, value: str, parts: list[tuple[bytes, str]]) -> None:
    """Several ranges are parts of multipart/byteranges in the requested order (RFC 9110, section 15.3.7.2)."""
    whole = await get(site, path)
    content_type = whole.headers["Content-Type"]
    await content_of(whole)
    response = await get(site, path, {"Range": value})
    assert response.status == 206
    assert "Content-Range" not in response.headers
    assert names_of(response) == names_of(whole)
    found = parse_multipart(response.headers["Content-Type"], await content_of(response))
    assert [(part.get_payload(decode=True), part["Content-Range"]) for part in found] == parts
    assert {part["Content-Type"] for part in found} == {content_type}


def parse_multipart(content_type: str, content: bytes) -> list[Message]:
    assert content_type.startswith("multipart/byteranges; boundary=")
    head = f"Content-Type: {content_type}\r\n\r\n".encode()
    message = BytesParser(policy=compat32).parsebytes(head + content)
    assert message.is_multipart()
    return message.get_payload()  # type: ignore[return-value]


async def test_too_many_ranges(site: Path) -> None:
    """More than 16 ranges are answered with the whole file."""
    for count, status in ((16, 206), (17, 200)):
        value = "bytes=" + ",".join(f"{2 * at}-{2 * at}" for at in range(count))
        response = await get(site, "/large.bin", {"Range": value})
        assert response.status == status
        await content_of(response)


@pytest.mark.parametrize(
    ("value", "status"),
    [
        ("{tag}", 206),
        ('"other"', 200),
        ("W/{tag}", 200),
        (DATE, 206),
        (EARLIER, 200),
        (LATER, 200),
        ("nonsense", 200),
    ],
)
async def test_if_range(site: Path, value: str, status: int) -> None:
    """A Range counts only for the representation that If-Range names (RFC 9110, section 13.1.5)."""
    tag = (await get(site, "/small.txt")).headers["ETag"]
    headers = {"If-Range": value.replace("{tag}", tag), "Range": "bytes=0-1"}
    response = await get(site, "/small.txt", headers)
    assert (response.status, response.content) == (status, b"01" if status == 206 else SMALL)
    beyond = await get(site, "/small.txt", headers | {"Range": "bytes=99-"})
    assert beyond.status == (416 if status == 206 else 200)


# ----------------------------------------------------------------------------------------- precompressed


@pytest.mark.parametrize(
    ("accepted", "content", "coding"),
    [
        (None, b"plain", None),
        ("", b"plain", None),
        ("gzip", b"gz", "gzip"),
        ("x-gzip", b"gz", "gzip"),
        ("br", b"br", "br"),
        ("zstd", b"zst", "zstd"),
        ("gzip, deflate, br, zstd", b"zst", "zstd"),
        ("gzip, br", b"br", "br"),
        ("gzip;q=1, br;q=0.5", b"gz", "gzip"),
        ("*", b"zst", "zstd"),
        ("gzip;q=0", b"plain", None),
        ("identity, gzip;q=0.5", b"plain", None),
        ("identity;q=0", b"plain", None),
    ],
)
async def test_precompressed(site: Path, accepted: str | None, content: bytes, coding: str | None) -> None:
    """The precompressed file that the client prefers is sent, and every response varies by Accept-Encoding."""
    response = await get(site, "/style.css", {} if accepted is None else {"Accept-Encoding": accepted})
    assert (response.content, response.headers.get("Content-Encoding")) == (content, coding)
    assert response.headers["Content-Type"] == "text/css; charset=utf-8"
    assert response.headers["Vary"] == "Accept-Encoding"


async def test_missing_precompressed_file_is_passed_over(site: Path) -> None:
    """If the preferred one does not exist, or is not a regular file, the next one is taken."""
    (site / "style.css.zst").unlink()
    (site / "style.css.br").unlink()
    (site / "style.css.br").mkdir()
    response = await get(site, "/style.css", {"Accept-Encoding": "zstd, br, gzip"})
    assert response.headers["Content-Encoding"] == "gzip"
    (site / "style.css").unlink()
    assert (await get(site, "/style.css", {"Accept-Encoding": "gzip"})).status == 404


async def test_older_precompressed_files(site: Path) -> None:
    """A precompressed file that is older than its original, in seconds, contains an older version."""
    os.utime(site / "style.css", (MODIFIED + 0.9, MODIFIED + 0.9))
    headers = {"Accept-Encoding": "gzip"}
    assert (await get(site, "/style.css", headers)).content == b"gz"
    os.utime(site / "style.css", (MODIFIED + 1, MODIFIED + 1))
    assert (await get(site, "/style.css", headers)).content == b"plain"


async def test_conditions_and_ranges_of_precompressed_files(site: Path) -> None:
    """Validators and ranges are those of the encoding that is sent (RFC 9110, section 8.8.3.3)."""
    gzip = {"Accept-Encoding": "gzip"}
    tag = (await get(site, "/style.css", gzip)).headers["ETag"]
    known = await get(site, "/style.css", gzip | {"If-None-Match": tag})
    assert (known.status, known.headers["Vary"], "Content-Encoding" in known.headers) == (
        304,
        "Accept-Encoding",
        False,
    )
    assert (await get(site, "/style.css", {"If-None-Match": tag})).status == 200
    part = await get(site, "/style.css", gzip | {"Range": "bytes=1-"})
    assert (part.content, part.headers["Content-Range"]) == (b"z", "bytes 1-1/2")
    assert part.headers["Content-Encoding"] == "gzip"


async def test_without_precompressed(site: Path) -> None:
    """Without precompressed files nothing varies; the files themselves can still be requested."""
    response = await get(site, "/style.css", {"Accept-Encoding": "gzip"}, precompressed=())
    assert (response.content, "Vary" in response.headers) == (b"plain", False)
    direct = await get(site, "/style.css.gz", {"Accept-Encoding": "gzip"})
    assert (direct.content, direct.headers["Content-Type"]) == (b"gz", "application/gzip")
    assert "Content-Encoding" not in direct.headers


# ------------------------------------------------------------------------------------- handlers of one's own


@pytest.mark.parametrize(
    ("filename", "expected"),
    [
        ("report.pdf", 'attachment; filename="report.pdf"'),
        ("two words.pdf", 'attachment; filename="two words.pdf"'),
        ("\u20ac rates.pdf", "attachment; filename=\"_ rates.pdf\"; filename*=UTF-8''%E2%82%AC%20rates.pdf"),
        ('a"b.pdf', "attachment; filename=\"a_b.pdf\"; filename*=UTF-8''a%22b.pdf"),
        ("100%41.pdf", "attachment; filename=\"100_41.pdf\"; filename*=UTF-8''100%2541.pdf"),
        ("it's (1)*.pdf", 'attachment; filename="it\'s (1)*.pdf"'),
        ("\u00e4'(*.pdf", "attachment; filename=\"_'(*.pdf\"; filename*=UTF-8''%C3%A4%27%28%2A.pdf"),
        ("../../etc/x.pdf", 'attachment; filename=".._.._etc_x.pdf"'),
        ("..\\x.pdf", 'attachment; filename=".._x.pdf"'),
        ("a\r\nX: y.pdf", 'attachment; filename="a__X: y.pdf"'),
        ("\ud800.pdf", 'attachment; filename="_.pdf"'),
    ],
)
async def test_downloads(site: Path, filename: str, expected: str) -> None:
    """A download proposes its name, in RFC 8187's form if it is not plain, and has the type of the name."""
    response = await answered(file_response(Request(), site / "large.bin", filename=filename, cache="private"))
    assert response.headers["Content-Disposition"] == expected
    assert response.headers["Content-Type"] == "application/pdf"
    assert response.headers["Cache-Control"] == "private"
    assert await content_of(response) == LARGE


async def test_file_response(site: Path) -> None:
    """It answers like serve_file, but methods other than GET and HEAD get the whole file."""
    path = site / "small.txt"
    response = await answered(file_response(Request(headers=Headers({"Range": "bytes=0-1"})), path))
    assert (response.status, response.content, "Content-Disposition" in response.headers) == (206, b"01", False)
    conditions = Headers({"Range": "bytes=0-1", "If-None-Match": "*", "If-Match": '"x"'})
    posted = await answered(file_response(Request(method="POST", headers=conditions), str(path)))
    assert (posted.status, posted.content) == (200, SMALL)
    assert (await answered(file_response(Request(), site / "none"))).status == 404
    assert (await answered(file_response(Request(), site))).status == 404


async def test_more_fields_of_a_file(site: Path) -> None:
    """``content_type`` and ``headers`` are those of each response with the file, and of a 304."""
    fields = {"X-Robots-Tag": "noindex", "Content-Disposition": "inline"}
    for asked, status in (("Range", "bytes=0-1"), 206), (("If-None-Match", "*"), 304), (("A", "b"), 200):
        request = Request(headers=[asked])
        response = await file_response(
            request, site / "large.bin", filename="a.pdf", content_type="video/mp4", headers=fields
        )
        assert (response.status, response.headers["X-Robots-Tag"]) == (status, "noindex")
        assert response.headers.get_all("Content-Disposition") == ("inline",)
        assert response.content_type == ("" if status == 304 else "video/mp4")
        if response.body is not None:
            await content_of(response)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"headers": {"ETag": '"1"'}}, "file_response sets the field etag itself: omit it"),
        ({"headers": {"Content-Type": "a/b"}}, "pass content_type="),
        ({"headers": {"Cache-Control": "no-store"}}, "pass cache="),
        ({"content_type": "a/b\r\nX: y"}, "Content-Type"),
    ],
)
async def test_wrong_fields_of_a_file(site: Path, arguments: dict[str, Any], said: str) -> None:
    """A field that follows from the file, and an invalid one, are errors."""
    with pytest.raises(ValueError, match=said):
        await file_response(Request(), site / "small.txt", **arguments)


def test_redirect() -> None:
    """redirect answers every request with its location."""
    response = redirect("/new?a=b")(Request(method="POST", path="/old", query="c=d"), None)
    assert (response.status, response.headers["Location"]) == (302, "/new?a=b")
    assert redirect("https://example.com/", status=308)(Request(), None).status == 308


Failing = Callable[[Path], object]


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda site: serve_dir(site / "none"), ValueError, "there is no directory"),
        (lambda site: serve_dir(site / "small.txt"), ValueError, "there is no directory"),
        (lambda site: serve_dir(site, index="index.html"), TypeError, r"write \('index.html',\)"),
        (lambda site: serve_dir(site, index=("a/b",)), ValueError, "not the name of a file"),
        (lambda site: serve_dir(site, index=("..",)), ValueError, "not the name of a file"),
        (lambda site: serve_dir(site, precompressed="gz"), TypeError, r"write \('gz',\)"),
        (lambda site: serve_dir(site, precompressed=("gzip",)), ValueError, "'gzip' is not the extension"),
        (lambda site: serve_dir(site, cache="a\nb"), ValueError, "Cache-Control"),
        (lambda site: serve_file(site, cache="a\nb"), ValueError, "Cache-Control"),
        (lambda site: serve_file(1), TypeError, "PathLike"),  # type: ignore[arg-type]
        (lambda site: redirect("/", status=200), ValueError, "not a redirect"),
        (lambda site: redirect("/\n"), ValueError, "Location"),
    ],
)
def test_wrong_arguments(site: Path, make: Failing, error: type[Exception], said: str) -> None:
    """A wrong argument is an error when the handler is made."""
    with pytest.raises(error, match=said):
        make(site)


# ---------------------------------------------------------------------------------------------- failures


def failing(monkeypatch: pytest.MonkeyPatch, name: bytes, number: int) -> None:
    """Make ``os.open`` fail for one name."""
    original = os.open

    def open_or_fail(path: Any, *args: Any, **kwargs: Any) -> int:
        if os.path.basename(path) == name:
            raise OSError(number, os.strerror(number))
        return original(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", open_or_fail)


@pytest.mark.parametrize(("number", "status"), [(errno.EACCES, 403), (errno.EPERM, 403), (errno.ELOOP, 404)])
async def test_unreadable_files(site: Path, monkeypatch: pytest.MonkeyPatch, number: int, status: int) -> None:
    """A file that the process may not read is a 403, so that the log tells; one that cannot be found is a 404."""
    failing(monkeypatch, b"small.txt", number)
    assert (await get(site, "/small.txt")).status == status
    assert (await answered(file_response(Request(), site / "small.txt"))).status == status


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.EIO])
async def test_failures_of_the_server(site: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """What is not about the file is not hidden: it is an exception, and so a 500 and a log entry."""
    failing(monkeypatch, b"small.txt", number)
    handlers: list[Callable[[], Awaitable[Response]]] = [
        lambda: get(site, "/small.txt"),
        lambda: file_response(Request(), site / "small.txt"),
    ]
    for handler in handlers:
        with pytest.raises(OSError, match=re.escape(os.strerror(number))):
            await handler()


async def test_unreadable_precompressed_files(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a precompressed file cannot be opened, the next choice is sent."""
    failing(monkeypatch, b"style.css.br", errno.EACCES)
    response = await get(site, "/style.css", {"Accept-Encoding": "br, gzip"})
    assert response.headers["Content-Encoding"] == "gzip"


async def test_many_clients(site: Path) -> None:
    """More requests than threads are all answered."""
    statuses: list[int] = []

    async def request() -> None:
        statuses.append((await get(site, "/small.txt")).status)

    async with trio.open_nursery() as nursery:
        for _ in range(200):
            nursery.start_soon(request)
    assert statuses == [200] * 200

"""A browser gets files of ``serve_dir``: seeks in media, its cache, precompressed files and downloads."""

from __future__ import annotations

import gzip
import os
import struct
from pathlib import Path

import pytest

from humphrey_trio import App, Request, Response
from humphrey_trio.handlers import file_response, serve_dir
from humphrey_trio.layers import compression
from tests.support.browser import Browser, needs_chromium
from tests.support.http_clients import serving
from tests.support.visits import Visits, page

pytestmark = needs_chromium

LOAD = """
    const response = await fetch(url, options)
    return [response.status, await response.text(), Object.fromEntries(response.headers)]
"""
#: A time of modification that is old enough for a strong ETag.
LONG_AGO = 1_700_000_000


def store(path: Path, text: str, modified: int = LONG_AGO) -> None:
    """Replace a file as a deployment does."""
    new = path.with_suffix(".new")
    new.write_text(text)
    os.utime(new, (modified, modified))
    new.replace(path)


class Site:
    """An app with the files of a directory, and the requests that it got."""

    def __init__(self, directory: Path, cache: str = "no-cache") -> None:
        self.visits = Visits()
        self.app = (
            App()
            .with_layer(self.visits)
            .with_layer(compression())
            .with_stateless_route("/", page)
            .with_path_aware_route("/files/*", serve_dir(directory, cache=cache))
        )

    def ranges(self, path: str) -> list[tuple[str | None, int]]:
        """The Range fields of the requests for a file, and the statuses of the responses."""
        return [
            (request.headers.get("Range"), status) for request, status in self.visits.all if request.path == path
        ]


@pytest.mark.parametrize("size", [10, 100_000])
async def test_cached_file(browser: Browser, tmp_path: Path, size: int) -> None:
    """The browser asks whether its copy is fresh, uses it after a 304, and gets a new version."""
    site, file = Site(tmp_path), tmp_path / "text.txt"
    store(file, "a" * size)
    async with serving(site.app) as (address,), browser.profile() as profile:
        tab = await profile.open(f"http://{address}/")
        for text in ("a" * size, "b" * size):
            for _ in range(2):
                status, found, headers = await tab.run(LOAD, url="/files/text.txt", options={})
                assert (status, found) == (200, text)
                assert headers.get("content-encoding") == (None if size < 1000 else "zstd")
            store(file, "b" * size, LONG_AGO + 1)
    assert [status for _, status in site.visits.of("/files/text.txt")] == [200, 304, 200, 304]


async def test_page_is_reloaded(browser: Browser, tmp_path: Path) -> None:
    """A reloaded page is a 304. Its script is not asked for again while it is fresh."""
    site = Site(tmp_path, cache="max-age=3600")
    store(tmp_path / "index.html", '<!doctype html><link rel="icon" href="data:,"><script src="a.js"></script>')
    store(tmp_path / "a.js", "document.title = 'ready'")
    async with serving(site.app) as (address,), browser.profile() as profile:
        tab = await profile.open(f"http://{address}/files/")
        for _ in range(2):
            assert await tab.run("return document.title") == "ready"
            await tab.reload()
        assert await tab.run("return document.title") == "ready"
    assert [status for _, status in site.visits.of("/files/")] == [200, 304, 304]
    assert [status for _, status in site.visits.of("/files/a.js")] == [200]


async def test_ranges_of_a_script(browser: Browser, tmp_path: Path) -> None:
    """A page gets single ranges, the end of a file, several ranges, and a 416 with the size."""
    site = Site(tmp_path)
    store(tmp_path / "digits.bin", "0123456789")
    async with serving(site.app) as (address,), browser.profile() as profile:
        tab = await profile.open(f"http://{address}/")

        async def load(ranges: str, query: str = "") -> tuple[int, str, str | None]:
            options = {"headers": {"Range": ranges}}
            status, text, headers = await tab.run(LOAD, url=f"/files/digits.bin{query}", options=options)
            return status, text, headers.get("content-range")

        assert await load("bytes=2-4") == (206, "234", "bytes 2-4/10")
        assert await load("bytes=-3") == (206, "789", "bytes 7-9/10")
        status, text, content_range = await load("bytes=0-1,5-6")
        assert (status, content_range) == (206, None)
        assert "\r\n\r\n01\r\n" in text
        assert "\r\n\r\n56\r\n" in text
        # The query keeps Chromium from its cache, whose 416 has the fields of another response.
        status, _, content_range = await load("bytes=20-", "?new")
        assert (status, content_range) == (416, "bytes */10")


def store_sound(path: Path, seconds: int) -> int:
    """Store silence: WAV, two channels of 16 bits at 48 kHz. Returns its size."""
    rate = 48_000 * 4
    size = seconds * rate
    format_chunk = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 2, 48_000, rate, 4, 16)
    head = struct.pack("<4sI4s", b"RIFF", 36 + size, b"WAVE") + format_chunk + struct.pack("<4sI", b"data", size)
    path.write_bytes(head)
    os.truncate(path, len(head) + size)
    os.utime(path, (LONG_AGO, LONG_AGO))
    return len(head) + size


async def test_seek_in_sound(browser: Browser, tmp_path: Path) -> None:
    """A media element asks for the range to which the user jumps, and does not load what is between."""
    site = Site(tmp_path)
    size = store_sound(tmp_path / "silence.wav", seconds=600)
    async with serving(site.app) as (address,), browser.profile() as profile:
        tab = await profile.open(f"http://{address}/")
        found = await tab.run(
            """
            const audio = new Audio("/files/silence.wav")
            const happens = name => new Promise((resolve, reject) => {
                audio.addEventListener(name, resolve, {once: true})
                audio.onerror = () => reject(new Error(audio.error.message))
            })
            audio.preload = "auto"
            await happens("canplay")
            for (const second of [500, 200]) {
                audio.currentTime = second
                await happens("seeked")
            }
            return [audio.duration, audio.currentTime, audio.seekable.end(0)]
            """
        )
        assert found == [600, 200, 600]
        assert size > 100_000_000
        await tab.close()
    ranges = site.ranges("/files/silence.wav")
    # A 304 tells the browser that the part in its cache is still right.
    assert 206 in {status for _, status in ranges} <= {206, 304}
    starts = [int(asked.removeprefix("bytes=").partition("-")[0]) for asked, _ in ranges if asked is not None]
    assert starts[0] == 0
    assert any(start > 90_000_000 for start in starts)
    assert any(30_000_000 < start < 40_000_000 for start in starts)


async def test_precompressed_file(browser: Browser, tmp_path: Path) -> None:
    """A script whose compressed form is next to it runs in the page."""
    site = Site(tmp_path)
    store(tmp_path / "a.js", "this would be an error")
    (tmp_path / "a.js.gz").write_bytes(gzip.compress(b"document.title = 'compressed'"))
    async with serving(site.app) as (address,), browser.profile() as profile:
        tab = await profile.open(f"http://{address}/")
        title = await tab.run(
            """
            const script = document.createElement("script")
            script.src = "/files/a.js"
            await new Promise((resolve, reject) => {
                Object.assign(script, {onload: resolve, onerror: reject})
                document.body.append(script)
            })
            return document.title
            """
        )
        assert title == "compressed"


@pytest.mark.parametrize(
    ("name", "suggested"),
    [
        ("report.txt", "report.txt"),
        ("Umsätze 2026 你好.txt", "Umsätze 2026 你好.txt"),
        ('a "quoted" 100%.txt', "a _quoted_ 100%.txt"),  # Chromium stores no quotation marks
    ],
)
async def test_download(browser: Browser, tmp_path: Path, name: str, suggested: str) -> None:
    """The browser stores a download under the name that the handler gave it."""
    store(tmp_path / "stored.txt", "content of the file")
    kept = tmp_path / "downloads"
    kept.mkdir()

    async def report(request: Request) -> Response:
        return await file_response(request, tmp_path / "stored.txt", filename=name)

    app = App().with_stateless_route("/", page).with_stateless_route("/report", report)
    async with serving(app) as (address,), browser.profile() as profile:
        tab = await profile.open(f"http://{address}/")
        assert await tab.download("/report", kept) == suggested
    assert [file.read_text() for file in kept.iterdir()] == ["content of the file"]

"""A browser gets files of ``serve_dir``: seeks in media, its cache, precompressed files and downloads."""

from __future__ import annotations

import base64
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


def element(number: int, *contents: bytes) -> bytes:
    """An EBML element (RFC 8794): its id, its size in eight bytes, and its content."""
    content = b"".join(contents)
    ident = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return ident + (len(content) | 1 << 56).to_bytes(8, "big") + content


def integer(number: int, value: int) -> bytes:
    return element(number, value.to_bytes(8, "big"))


def store_video(path: Path, frames: list[bytes], frame_size: int) -> int:
    """Store a WebM video with an index (RFC 9559): a key frame for each second. Returns its size.

    Args:
        path: the path of the file.
        frames: key frames of VP8, 64 pixels wide and high.
        frame_size: the size of a frame in the file. A decoder ignores the zeros behind the frame.
    """
    video = element(0xE0, integer(0xB0, 64), integer(0xBA, 64))
    track = element(0xAE, integer(0xD7, 1), integer(0x73C5, 1), integer(0x83, 1), element(0x86, b"V_VP8"), video)
    duration = element(0x4489, struct.pack(">d", len(frames) * 1000))
    head = element(0x1549A966, integer(0x2AD7B1, 1_000_000), duration) + element(0x1654AE6B, track)
    clusters = [
        element(
            0x1F43B675,
            integer(0xE7, 1000 * second),
            element(0xA3, b"\x81\0\0\x80", frame.ljust(frame_size, b"\0")),
        )
        for second, frame in enumerate(frames)
    ]

    def index(position: int) -> bytes:
        """The positions of the clusters, if the first one is at this position of the segment."""
        places = range(position, position + len(clusters) * len(clusters[0]), len(clusters[0]))
        return element(0x1C53BB6B, *(point(second, place) for second, place in enumerate(places)))

    def point(second: int, place: int) -> bytes:
        return element(0xBB, integer(0xB3, 1000 * second), element(0xB7, integer(0xF7, 1), integer(0xF1, place)))

    head += index(len(head) + len(index(0)))
    segment = element(0x18538067, head, *clusters)
    path.write_bytes(element(0x1A45DFA3, element(0x4282, b"webm")) + segment)
    os.utime(path, (LONG_AGO, LONG_AGO))
    return path.stat().st_size


# A lossy WebP image contains a key frame of VP8.
DRAW_FRAMES = """
    const canvas = new OffscreenCanvas(64, 64)
    const context = canvas.getContext("2d")
    const frames = []
    for (let second = 0; second < seconds; second++) {
        context.fillStyle = `rgb(${2 * second}, ${2 * second}, ${2 * second})`
        context.fillRect(0, 0, 64, 64)
        const image = await canvas.convertToBlob({type: "image/webp", quality: 0.8})
        const content = new Uint8Array(await image.arrayBuffer())
        frames.push(btoa(String.fromCharCode(...content)))
    }
    return frames
"""

# Returns the duration, and for each seek the position and the brightness of the frame that is shown there.
SEEK_IN_VIDEO = """
    const video = document.createElement("video")
    const happens = name => new Promise((resolve, reject) => {
        video.addEventListener(name, resolve, {once: true})
        video.onerror = () => reject(new Error(video.error.message))
    })
    const context = new OffscreenCanvas(64, 64).getContext("2d")
    video.preload = "metadata"
    video.src = "/files/video.webm"
    await happens("loadeddata")
    const found = []
    for (const second of seconds) {
        video.currentTime = second
        await happens("seeked")
        context.drawImage(video, 0, 0)
        found.push([video.currentTime, context.getImageData(32, 32, 1, 1).data[0]])
    }
    return [video.duration, found]
"""


async def test_seek_in_video(browser: Browser, tmp_path: Path) -> None:
    """A video shows the frame to which the user jumps, and few bytes are sent for it: less than the file twice."""
    site, mib = Site(tmp_path), 2**20
    async with serving(site.app) as (address,), browser.profile() as profile:
        tab = await profile.open(f"http://{address}/")
        images = [base64.b64decode(image) for image in await tab.run(DRAW_FRAMES, seconds=100)]
        frames = [image.partition(b"VP8 ")[2][4:] for image in images]
        size = store_video(tmp_path / "video.webm", frames, frame_size=mib)
        duration, found = await tab.run(SEEK_IN_VIDEO, seconds=[80.5, 40.5])
        await tab.close()
    assert duration == 100
    assert [position for position, _ in found] == [80.5, 40.5]
    assert [round(brightness / 2) for _, brightness in found] == [80, 40]
    ranges = site.ranges("/files/video.webm")
    partial = [asked for asked, status in ranges if status == 206]
    starts = [int(asked.removeprefix("bytes=").partition("-")[0]) for asked in partial if asked is not None]
    assert starts[0] == 0
    assert any(75 * mib < start < 82 * mib for start in starts)
    assert any(35 * mib < start < 42 * mib for start in starts)
    assert site.app.statistics().bytes_sent < 2 * size  # what the browser does not take was sent as well


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

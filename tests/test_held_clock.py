"""Virtual time does not pass while the library works in threads."""

from __future__ import annotations

import threading
import time
from math import inf
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from humphrey_trio import App, Request, Response
from humphrey_trio.handlers import file_response
from humphrey_trio.layers import compression
from humphrey_trio.testing import Upload, http_client, memory_connection
from tests.support import PATIENCE

Clock = trio.testing.MockClock
LARGE = bytes(range(256)) * 4096


def app_of(path: Path) -> App:
    """An app that reads a file, receives one, and compresses."""

    async def read(request: Request) -> Response:
        return await file_response(request, path)

    async def receive(request: Request) -> Response:
        form = await request.read_form(spool=0)
        await form.files["f"].save(path, replace=True)
        return Response(200, str(len(await form.files["f"].read())))

    return (
        App()
        .with_layer(compression())
        .with_stateless_route("/", read, methods=("GET",))
        .with_stateless_route("/", receive, methods=("POST",), stream=True, max_body=2**24)
        .with_stateless_route("/text", lambda _: Response(200, LARGE.hex()))
    )


async def test_work_in_threads(tmp_path: Path, autojump_clock: Clock) -> None:
    """Files, forms on disk and compression take no virtual time, so a deadline right ahead does not expire."""
    async with http_client(app_of(tmp_path / "file")) as client:
        for _ in range(20):
            begun = trio.current_time()
            with trio.fail_after(0.001):
                received = await client.post("/", files={"f": Upload("f", LARGE)})
                sent = await client.get("/")
                compressed = await client.get("/text", headers={"Accept-Encoding": "gzip"})
            assert trio.current_time() == begun
            assert (received.text, sent.content) == (str(len(LARGE)), LARGE)
            assert compressed.headers["Content-Encoding"] == "gzip"


async def test_time_passes_after_the_thread(
    tmp_path: Path, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock jumps again when no thread is busy, and has the threshold that it had."""
    path = tmp_path / "file"
    path.write_bytes(b"content")
    finish = threading.Event()
    open_before = open

    def slow_open(*arguments: Any) -> Any:
        finish.wait(PATIENCE)
        return open_before(*arguments)

    async with http_client(app_of(path)) as client, trio.open_nursery() as nursery:
        monkeypatch.setattr("builtins.open", slow_open)
        nursery.start_soon(lambda: client.post("/", files={"f": Upload("f", b"new")}))
        await trio.testing.wait_all_tasks_blocked()
        held = autojump_clock.autojump_threshold
        finish.set()
        await trio.sleep(1)
        assert held == inf
        assert path.read_bytes() == b"new"
    await trio.sleep(1000)
    assert autojump_clock.autojump_threshold == 0


def test_other_clocks() -> None:
    """Outside trio, and with the real clock, connections have no effect on time."""
    memory_connection()

    async def main() -> None:
        begun = time.perf_counter()
        memory_connection()
        await trio.sleep(0.01)
        assert time.perf_counter() - begun >= 0.01

    trio.run(main)

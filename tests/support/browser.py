"""A headless Chromium, and its pages, in which tests run scripts.

The tests send commands of the DevTools protocol through the two pipes of ``--remote-debugging-pipe``. A message is
JSON with a NUL behind it. No port is opened, and no client library is used.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
from collections.abc import AsyncGenerator, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from . import PATIENCE

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
#: For the modules whose tests use a browser.
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="there is no chromium here (Debian's package chromium)"
)

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-startup-window",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
)
# Chromium reads commands from its file descriptor 3, and writes to 4.
_WITH_PIPES = ("sh", "-c", 'exec "$@" 3<&0 4>&1 </dev/null >/dev/null', "sh")

Json = dict[str, Any]


class ScriptError(Exception):
    """The script of a test has thrown an exception."""


class Browser:
    """One process of a browser. Each test has profiles of its own in it, and a trio run of its own."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        # They outlive a test, so that the late answers to one are not mistaken for those to another.
        self._numbers = itertools.count(1)
        self._received = bytearray()

    @asynccontextmanager
    async def profile(self) -> AsyncGenerator[Profile]:
        """A profile without cookies and cached files. At the end, its pages are closed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        to_browser = trio.lowlevel.FdStream(os.dup(self._process.stdin.fileno()))
        from_browser = trio.lowlevel.FdStream(os.dup(self._process.stdout.fileno()))
        async with to_browser, from_browser, trio.open_nursery() as nursery:
            link = Link(to_browser, from_browser, self._numbers, self._received)
            nursery.start_soon(link.receive)
            context = (await link.call("Target.createBrowserContext"))["browserContextId"]
            yield Profile(link, context)
            await link.call("Target.disposeBrowserContext", browserContextId=context)
            nursery.cancel_scope.cancel()


class Link:
    """The commands to the browser and their results, and its events.

    Args:
        to_browser, from_browser: the pipes.
        numbers: the numbers of commands.
        received: what was received of an incomplete message. It is changed.
    """

    def __init__(
        self,
        to_browser: trio.abc.SendStream,
        from_browser: trio.abc.ReceiveStream,
        numbers: Iterator[int],
        received: bytearray,
    ) -> None:
        self._to_browser = to_browser
        self._from_browser = from_browser
        self._numbers = numbers
        self._received = received
        self._sending = trio.Lock()
        self._results: dict[int, trio.MemorySendChannel[Json]] = {}
        self._events: dict[tuple[str | None, str], trio.MemorySendChannel[Json]] = {}

    async def call(self, method: str, session: str | None = None, **parameters: Any) -> Json:
        """Send a command, and return its result."""
        number = next(self._numbers)
        send, results = trio.open_memory_channel[Json](1)
        self._results[number] = send
        command: Json = {"id": number, "method": method, "params": parameters}
        if session is not None:
            command["sessionId"] = session
        async with self._sending:
            await self._to_browser.send_all(json.dumps(command).encode() + b"\0")
        answer = await results.receive()
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return dict(answer["result"])

    @contextmanager
    def events(self, method: str, session: str | None) -> Iterator[trio.MemoryReceiveChannel[Json]]:
        """Receive the events of a kind during the block."""
        send, receive = trio.open_memory_channel[Json](100)
        self._events[session, method] = send
        try:
            yield receive
        finally:
            del self._events[session, method]

    async def receive(self) -> None:
        """Receive messages until this is cancelled."""
        while data := await self._from_browser.receive_some():
            self._received += data
            *messages, rest = self._received.split(b"\0")
            self._received[:] = rest
            for message in messages:
                self._take(json.loads(message))
        raise EOFError("the browser has ended")

    def _take(self, message: Json) -> None:
        if "id" not in message:
            channel = self._events.get((message.get("sessionId"), message["method"]))
            content = message["params"]
        else:
            channel, content = self._results.pop(message["id"], None), message
        if channel is not None:
            channel.send_nowait(content)


class Profile:
    """Pages that share cookies and cached files."""

    def __init__(self, link: Link, context: str) -> None:
        self._link = link
        self._context = context

    async def open(self, url: object) -> Page:
        """Open a page, and wait until it is loaded."""
        target = await self._link.call("Target.createTarget", url="about:blank", browserContextId=self._context)
        attached = await self._link.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        page = Page(self._link, self._context, target["targetId"], attached["sessionId"])
        await page.listen("Page")
        await page.go(url)
        return page


class Page:
    """A page of the browser."""

    def __init__(self, link: Link, context: str, target: str, session: str) -> None:
        self._link = link
        self._context = context
        self._target = target
        self._session = session

    async def listen(self, domain: str) -> None:
        """Ask for the events of a domain of the protocol, such as ``Network``."""
        await self._link.call(f"{domain}.enable", self._session)

    def events(self, method: str) -> AbstractContextManager[trio.MemoryReceiveChannel[Json]]:
        """Receive the events of a kind during the block."""
        return self._link.events(method, self._session)

    async def go(self, url: object) -> None:
        """Go to another page, and wait until it is loaded."""
        async with self.loads():
            await self._link.call("Page.navigate", self._session, url=str(url))

    async def reload(self) -> None:
        """Reload the page as a user does, and wait until it is loaded."""
        async with self.loads():
            await self._link.call("Page.reload", self._session)

    @asynccontextmanager
    async def loads(self) -> AsyncGenerator[None]:
        """Wait after the block until another page is loaded."""
        with self.events("Page.loadEventFired") as events:
            yield
            await events.receive()

    async def run(self, script: str, **values: object) -> Any:
        """Run the body of an async function in the page, and return what it returns.

        Args:
            script: JavaScript, which may use ``await`` and ``return``.
            values: constants of the script, which are passed as JSON.

        Raises:
            ScriptError: the script has thrown an exception.
        """
        names = ", ".join(values)
        result = await self._link.call(
            "Runtime.evaluate",
            self._session,
            expression=f"(async ({{{names}}}) => {{{script}}})({json.dumps(values)})",
            awaitPromise=True,
            returnByValue=True,
            userGesture=True,
        )
        if "exceptionDetails" in result:
            details = result["exceptionDetails"]
            raise ScriptError(details.get("exception", {}).get("description", details["text"]))
        return result["result"].get("value")

    async def download(self, url: str, directory: Path) -> str:
        """Follow a link to a download, and wait until it is complete.

        Returns:
            The name that the browser would give the file. In the directory, it has another one.
        """
        await self._link.call(
            "Browser.setDownloadBehavior",
            behavior="allowAndName",
            browserContextId=self._context,
            downloadPath=str(directory),
            eventsEnabled=True,
        )
        with (
            self._link.events("Browser.downloadWillBegin", None) as begins,
            self._link.events("Browser.downloadProgress", None) as progress,
        ):
            await self.run("location = url", url=url)
            name = (await begins.receive())["suggestedFilename"]
            while (await progress.receive())["state"] != "completed":
                pass
        return str(name)

    async def close(self) -> None:
        """Close the page, as a user does who leaves."""
        await self._link.call("Target.closeTarget", targetId=self._target)


@contextmanager
def running_browser(directory: Path) -> Iterator[Browser]:
    """Run a browser until the end of the block.

    Args:
        directory: an empty directory for the files of the browser.
    """
    assert CHROMIUM is not None
    process = subprocess.Popen(
        [*_WITH_PIPES, CHROMIUM, *_FLAGS, f"--user-data-dir={directory}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with process:
        try:
            yield Browser(process)
        finally:
            process.terminate()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()

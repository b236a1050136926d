"""The command line in a process of its own."""

from __future__ import annotations

import re
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from humphrey_trio.http import Address

from .programs import BEGINNING, started

#: A module with apps of each kind.
SITE = """
import os
from contextlib import asynccontextmanager
import trio
from humphrey_trio import App, AsyncWebsocketApp, Response


async def slow(request):
    print("slow", flush=True)
    await trio.sleep_forever()


app = App().with_stateless_route("/", lambda _: Response(200, "fine"))
app.with_stateless_route("/pid", lambda _: Response(200, str(os.getpid()))).with_stateless_route("/slow", slow)


async def echo(stream, message, state):
    await stream.send(message)


websocket_app = AsyncWebsocketApp().with_message_handler(echo)
unlinked_app = AsyncWebsocketApp.new_unlinked().with_message_handler(echo)


def factory():
    return app


async def async_factory():
    await trio.sleep(0)
    return app


@asynccontextmanager
async def with_state():
    print("begin", flush=True)
    try:
        yield app
    finally:
        print("end", flush=True)
"""


class Server:
    """A process of the command line. Its output and its log are one text.

    Attributes:
        process: the process.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def read_until(self, text: str) -> str:
        """Read the output up to the next line that contains a text, and return that line."""
        out = self.process.stdout
        assert out is not None
        seen = ""
        while True:
            assert select.select([out], [], [], BEGINNING)[0], f"it prints no {text!r}: {seen}"
            line = out.readline().decode()
            assert line, f"it has ended without {text!r}: {seen}"
            seen += line
            if text in line:
                return line

    def read_address(self) -> Address:
        """The address of the next line about an address that the server listens on."""
        found = re.search(r"listening on (?:\w+://)?(\S+)", self.read_until("listening on"))
        assert found is not None
        return Address.parse(found[1])

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to it."""
        self.process.send_signal(number)

    def finish(self) -> tuple[int, str]:
        """Wait until it has ended; its exit status, and the output that was not read."""
        output, _ = self.process.communicate(timeout=BEGINNING)
        return self.process.returncode, output.decode()


@contextmanager
def serving(
    folder: Path,
    *arguments: str,
    site: str = SITE,
    environment: Mapping[str, str] = {},
    descriptors: Sequence[int] = (),
    launcher: Sequence[str] = (),
    stdin: int | None = None,
) -> Iterator[Server]:
    """Run ``python -m humphrey_trio`` in a folder with a module ``site1``.

    Args:
        folder: the current directory.
        *arguments: the arguments of the command line.
        site: the content of the module.
        environment: more variables.
        descriptors: open files that the process inherits.
        launcher: a command that executes its last arguments.
        stdin: the standard input; None for that of the tests.
    """
    (folder / "site1.py").write_text(site)
    with started(
        [*launcher, sys.executable, "-m", "humphrey_trio", *arguments],
        environment={"PYTHONWARNINGS": "always"} | environment,
        cwd=folder,
        pass_fds=descriptors,
        stdin=stdin,
        stderr=subprocess.STDOUT,
    ) as process:
        yield Server(process)


_SYSTEMD = """
import fcntl, os, sys

count = int(sys.argv[1])
passed, command = sys.argv[2 : 2 + count], sys.argv[2 + count :]
# First out of the way of the numbers that systemd assigns, which begin with 3.
for at, number in enumerate([fcntl.fcntl(int(number), fcntl.F_DUPFD, 100) for number in passed]):
    os.dup2(number, 3 + at)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(count), "LISTEN_FDNAMES": "web:admin"}
os.execv(command[0], command)
"""


@contextmanager
def activated(
    folder: Path, count: int, *arguments: str, site: str = SITE
) -> Iterator[tuple[Server, list[Address]]]:
    """Run the command line with sockets of systemd. Yields it with their addresses."""
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        server = stack.enter_context(
            serving(
                folder,
                "site1:app",
                *arguments,
                site=site,
                descriptors=[listener.fileno() for listener in listeners],
                launcher=[sys.executable, "-c", _SYSTEMD, str(count), *(str(one.fileno()) for one in listeners)],
            )
        )
        yield server, [Address(*listener.getsockname()) for listener in listeners]

"""A server that restarts when its source changes: the supervisor, its server process, and what clients get."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.programs import Program, running

#: Seconds in which anything happens: a bound for a machine that is busy.
SOON = 30.0

_SUPERVISOR = """
import logging, os, socket, sys
from functools import partial
import trio
from humphrey_trio._cli._reload import supervise

folder, *command = sys.argv[1:]
os.environ["PYTHONDONTWRITEBYTECODE"] = ""  # as on the machine of a developer
logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(name)s: %(message)s")
with socket.create_server(("127.0.0.1", 0)) as listener:
    print(listener.getsockname()[1], flush=True)
    status = trio.run(partial(supervise, [sys.executable, *command], [listener], paths=[folder]))
sys.exit(status)
"""

# Serves ``site_app.app``. Without connections, the first SIGTERM ends it. With connections, the second does.
_SERVER = """
import signal, socket, sys
from humphrey_trio._cli._lifeline import end_with_supervisor

end_with_supervisor()

import trio
from site_app import app

async def serve(listener, accepting, connections):
    with accepting:
        await trio.serve_listeners(app.serve_stream, [listener], handler_nursery=connections)

async def end_on_signals(accepting, everything):
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        print("serving", flush=True)
        await anext(signals)
        print("ending", flush=True)
        accepting.cancel()
        await anext(signals)
        everything.cancel()

async def main():
    option, descriptor = sys.argv[1:]
    assert option == "--bind"
    sock = socket.socket(fileno=int(descriptor.removeprefix("fd:")))
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
    accepting = trio.CancelScope()
    async with trio.open_nursery() as everything:
        everything.start_soon(end_on_signals, accepting, everything.cancel_scope)
        async with trio.open_nursery() as connections:
            connections.start_soon(serve, listener, accepting, connections)
        everything.cancel_scope.cancel()
    print("ended", flush=True)

trio.run(main)
"""

#: The source of an app that answers each request with a text.
APP = """
import time, trio
from humphrey_trio import App, Response, websocket_handler

async def wait(request):
    print("waiting", flush=True)
    await trio.sleep_forever()

def block(request):
    print("blocked", flush=True)
    time.sleep(1000)

async def echo(stream, state):
    await stream.send("open")
    await stream.receive()

app = App().with_stateless_route("/", lambda _: Response(200, {text!r}))
app = app.with_stateless_route("/wait", wait).with_stateless_route("/block", block)
app = app.with_websocket_route("/ws", websocket_handler(echo))
"""


class Site:
    """A server whose source a test changes.

    Attributes:
        supervisor: the process of the supervisor, whose standard output its server process shares.
        port: the port.
    """

    def __init__(self, supervisor: Program, folder: Path) -> None:
        self.supervisor = supervisor
        self.port = int(supervisor.read_line())
        self._source = folder / "site_app.py"

    def wait_for(self, beginning: str) -> None:
        """Read the output of both processes up to a line that begins like this."""
        while not self.supervisor.read_line().startswith(beginning):
            pass

    def change(self, text: str) -> None:
        """Let the app answer with another text."""
        self.write(APP.format(text=text))

    def write(self, source: str) -> None:
        """Change the source of the app."""
        self._source.write_text(source)

    def connect(self, path: str, fields: str = "") -> socket.socket:
        """Connect and send a request; the connection."""
        client = socket.create_connection(("127.0.0.1", self.port), timeout=SOON)
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n".encode())
        return client

    def get(self) -> str:
        """Request ``/``; the text of the response. It may wait for the next server process."""
        with self.connect("/", "Connection: close\r\n") as client:
            response = read_to_end(client)
        assert response.startswith(b"HTTP/1.1 200 "), response
        return response.partition(b"\r\n\r\n")[2].decode()

    def seconds_until(self, text: str) -> float:
        """Request ``/`` again and again until it is another text; the seconds that it took."""
        began = time.monotonic()
        while self.get() != text:
            assert time.monotonic() < began + SOON, "the server was not restarted"
            time.sleep(0.005)
        return time.monotonic() - began


def read_to_end(client: socket.socket) -> bytes:
    """Everything that a server sends until it closes the connection."""
    received = b""
    while piece := client.recv(65536):
        received += piece
    return received


@contextmanager
def reloading(folder: Path) -> Iterator[Site]:
    """Run a server that answers "first" and restarts when its source changes. Its source is in the folder."""
    (folder / "site_app.py").write_text(APP.format(text="first"))
    (folder / "server.py").write_text(_SERVER)
    with running("-c", _SUPERVISOR, str(folder), str(folder / "server.py")) as supervisor:
        yield Site(supervisor, folder)

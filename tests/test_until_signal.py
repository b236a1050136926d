"""``until_signal``: programs in processes of their own, which real signals shut down."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio

from humphrey_trio import until_signal
from tests.support.programs import Program, running

PROGRAM = """
import signal
import time
import trio
from humphrey_trio import App, Response, until_signal


async def slow(request):
    print("slow", flush=True)
    await trio.sleep_forever()


def busy(request):
    for _ in range(3):
        print("busy", flush=True)
        signal.raise_signal(signal.SIGINT)
    print("not killed", flush=True)


def sleep_in_thread():
    print("thread", flush=True)
    time.sleep(60)


async def thread(request):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tell_cancelled)
        await trio.to_thread.run_sync(sleep_in_thread)


async def tell_cancelled():
    try:
        await trio.sleep_forever()
    finally:
        print("cancelled", flush=True)


async def main():
    shutdown = trio.Event()
    with until_signal(shutdown) as same:
        assert same is shutdown
        app = App().with_stateless_route("/fast", lambda _: Response(200, "fast"))
        app.with_stateless_route("/slow", slow).with_stateless_route("/busy", busy)
        app.with_stateless_route("/thread", thread).with_shutdown(shutdown)
        async with trio.open_nursery() as nursery:
            (address,) = await nursery.start(app.run, "127.0.0.1:0")
            print(address.port, flush=True)
            await shutdown.wait()
            print("shutdown", flush=True)
    print("after the block", flush=True)


trio.run(main)
print("end", flush=True)
"""


@contextmanager
def program() -> Iterator[tuple[Program, int]]:
    """Run the program. Yields it with its port."""
    with running("-c", PROGRAM) as started:
        yield started, int(started.read_line())


@contextmanager
def request_to(path: str, port: int) -> Iterator[socket.socket]:
    """Send a request, and keep the connection open."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        yield client


each_signal = pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"]
)


@each_signal
def test_the_first_signal(number: signal.Signals, status: int) -> None:
    """The first signal sets the event, and the program goes on after the graceful shutdown, with status 0."""
    with program() as (running_program, port), request_to("/fast", port) as client:
        assert client.recv(1000).endswith(b"fast")
        running_program.send_signal(number)
        assert running_program.finish() == (0, "shutdown\nafter the block\nend\n", "")
        assert client.recv(1) == b""


@each_signal
def test_the_second_signal(number: signal.Signals, status: int) -> None:
    """The second signal ends the program at once, with the status of shells and without a traceback."""
    with program() as (running_program, port), request_to("/slow", port):
        assert running_program.read_line() == "slow\n"
        running_program.send_signal(signal.SIGTERM)
        assert running_program.read_line() == "shutdown\n"
        running_program.send_signal(number)
        assert running_program.finish() == (status, "", "")


def test_a_busy_handler() -> None:
    """If a handler blocks the program, the third signal kills it, with the traceback of the handler."""
    with program() as (running_program, port), request_to("/busy", port):
        ending = running_program.finish()
    assert "not killed" not in ending.stdout
    assert ending.status == 130
    assert " in busy\n" in ending.stderr


@each_signal
def test_a_thread(number: signal.Signals, status: int) -> None:
    """A thread of a handler, which a cancellation does not end, does not outlive the third signal."""
    with program() as (running_program, port), request_to("/thread", port):
        assert running_program.read_line() == "thread\n"
        running_program.send_signal(signal.SIGTERM)
        assert running_program.read_line() == "shutdown\n"
        running_program.send_signal(signal.SIGINT)
        assert running_program.read_line() == "cancelled\n"
        running_program.send_signal(number)
        ending = running_program.finish()
    assert (ending.status, ending.stdout) == (status, "")
    assert " in sleep_in_thread\n" in ending.stderr


ENDS_BY_ITSELF = """
import signal
import trio
from humphrey_trio import until_signal

before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


async def main():
    inside = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with until_signal() as shutdown:
        assert not shutdown.is_set()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == inside
    try:
        with until_signal():
            raise OSError("of the block")
    except OSError as exc:
        print(exc, flush=True)
    with until_signal() as shutdown:
        shutdown.set()  # the program shuts itself down
        signal.raise_signal(signal.SIGTERM)
        await trio.sleep_forever()


assert before[0] is signal.default_int_handler
trio.run(main)
"""


def test_the_end_of_the_block() -> None:
    """The block ends by itself or with its exception, unchanged, and a signal in a shutdown ends it at once."""
    with running("-c", ENDS_BY_ITSELF) as started:
        assert started.finish() == (143, "of the block\n", "")


IGNORES = """
import signal
import trio
from humphrey_trio import until_signal

signal.signal(signal.SIGINT, signal.SIG_IGN)


async def main():
    with until_signal() as shutdown:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        await shutdown.wait()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


trio.run(main)
"""


def test_an_ignored_signal() -> None:
    """A SIGINT that the process ignores is still ignored."""
    with running("-c", IGNORES) as started:
        assert started.finish() == (0, "", "")


async def test_another_thread() -> None:
    """In another thread, the error says what to do."""

    async def use() -> None:
        with until_signal():
            pass

    with pytest.raises(RuntimeError, match="set the event of with_shutdown yourself"):
        await trio.to_thread.run_sync(trio.run, use)

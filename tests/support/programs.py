"""Programs that run in processes of their own."""

from __future__ import annotations

import itertools
import os
import random
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]

#: Seconds in which a program has begun, and in which one has ended: bounds for a machine that is busy.
BEGINNING, ENDING = 60, 5


class Program:
    """A Python program in a process of its own."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def read_line(self) -> str:
        """The next line of its standard output."""
        out = self._process.stdout
        assert out is not None
        assert select.select([out], [], [], BEGINNING)[0], "the program prints nothing"
        return out.readline().decode()

    def write_line(self, line: str) -> None:
        """Write a line to its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())

    def wait_for_port(self, port: int) -> None:
        """Wait until it listens on a port."""
        give_up = time.monotonic() + BEGINNING
        while True:
            assert self._process.poll() is None, "the program has ended"
            try:
                return socket.create_connection(("127.0.0.1", port)).close()
            except ConnectionRefusedError:
                assert time.monotonic() < give_up, "the program does not listen"
                time.sleep(0.02)

    def send_signal(self, number: int) -> None:
        """Send a signal to it."""
        self._process.send_signal(number)

    def interrupt(self) -> Ending:
        """Send SIGINT, as Ctrl-C does, and wait until it has ended."""
        self._process.send_signal(signal.SIGINT)
        return self.finish()

    def finish(self) -> Ending:
        """Wait until it has ended, for ``ENDING`` seconds at most."""
        stdout, stderr = self._process.communicate(timeout=ENDING)
        return Ending(self._process.returncode, stdout.decode(), stderr.decode())


class Ending(NamedTuple):
    """The exit status of a program, and its output that was not read."""

    status: int
    stdout: str
    stderr: str


@contextmanager
def running(*arguments: str) -> Iterator[Program]:
    """Run ``python arguments...`` with the package of this repository. Warnings are written to standard error."""
    command = [sys.executable, "-W", "always", *arguments]
    with started(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        yield Program(process)


@contextmanager
def started(
    command: Sequence[str], *, environment: Mapping[str, str] = {}, **options: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process that can import the package of this repository, and kill it at the end of the block.

    Args:
        command: the program and its arguments.
        environment: more variables.
        **options: as for ``subprocess.Popen``. The standard output is a pipe.
    """
    # A shell's background job ignores SIGINT, and so would its children.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        variables = os.environ | {"PYTHONPATH": str(ROOT)} | environment
        process = subprocess.Popen(command, env=variables, bufsize=0, stdout=subprocess.PIPE, **options)
    finally:
        signal.signal(signal.SIGINT, handler)
    with process:
        try:
            yield process
        finally:
            process.kill()


def first_program() -> str:
    """The first block of Python in the README."""
    found = re.search(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert found, "the README has no program"
    return found[1]


# Below the ports that Linux and macOS choose for port 0 and for connections. So no other server of the same test
# can get a port between the call of ``free_port`` and its use.
_PORTS = itertools.cycle(random.sample(range(20_000, 30_000), 10_000))


def free_port() -> int:
    """A port of 127.0.0.1 on which no process listens. Every call returns another one."""
    for port in _PORTS:
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("a cycle does not end")


def assert_is_keyboard_interrupt_alone(stderr: str) -> None:
    """Assert that this is the traceback of an exception group with one KeyboardInterrupt, and nothing else.

    If Ctrl-C interrupts a handler, there is a group inside the group.
    """
    assert stderr.startswith("  + Exception Group Traceback (most recent call last):\n"), stderr
    # Every line is one of the group's drawing, so nothing else was written.
    assert re.fullmatch(r"(?: +[|+].*\n)+", stderr), stderr
    *groups, leaf = re.findall(r"^ +\| (\S.*)(?<!:)$", stderr, re.MULTILINE)
    assert groups, stderr
    assert all(re.fullmatch(r"BaseExceptionGroup: .* \(1 sub-exception\)", group) for group in groups), stderr
    assert leaf == "KeyboardInterrupt", stderr

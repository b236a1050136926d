"""Listeners: host names with several addresses, and Unix sockets that several processes use."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
import stat
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from humphrey_trio import App, Response
from humphrey_trio.http import Address
from tests.support import PATIENCE
from tests.support.clients import RawClient
from tests.support.programs import free_port, running
from tests.support.wire import request_bytes

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="other systems let this address be bound")

#: A second address of this machine: on Linux all of 127.0.0.0/8 is, elsewhere IPv6 is common.
SECOND = "127.0.0.2" if sys.platform == "linux" else "::1"
#: Addresses for documentation, which no machine has (RFC 5737, RFC 3849).
FOREIGN, FOREIGN_IPV6 = "192.0.2.1", "2001:db8::1"


def app_with_text(text: str) -> App:
    return App().with_stateless_route("/", lambda _: Response(200, text))


@asynccontextmanager
async def listening(*addresses: str, text: str = "fine") -> AsyncGenerator[tuple[Address, ...]]:
    """Run an app that responds with a text. Yields its addresses."""
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            yield await nursery.start(app_with_text(text).run, *addresses)
            nursery.cancel_scope.cancel()


async def refusal(*addresses: str) -> str:
    """The error of an app that cannot listen on these addresses."""
    with trio.fail_after(10), pytest.raises(OSError) as refused:  # noqa: PT011  (callers check the message)
        await app_with_text("nothing").run(*addresses)
    return str(refused.value)


async def get_text(address: Address) -> str:
    """The response of the app at an address."""
    stream: trio.SocketStream
    if address.host.startswith("unix:"):
        stream = await trio.open_unix_socket(address.host.removeprefix("unix:"))
    else:
        stream = await trio.open_tcp_stream(address.host, address.port)
    async with stream:
        client = RawClient(stream)
        await client.send(request_bytes("GET / HTTP/1.1", [("Host", "a")]))
        return (await client.reply()).content.decode()


# ---------------------------------------------------------------------------------------- host names


class Resolver(trio.abc.HostnameResolver):
    """A resolver that resolves every name to these addresses."""

    def __init__(self, *hosts: str) -> None:
        self.hosts = hosts
        trio.socket.set_custom_hostname_resolver(self)

    async def getaddrinfo(self, host: Any, port: Any, *_: object, **__: object) -> list[Any]:
        await trio.lowlevel.checkpoint()
        found: list[Any] = []
        for text in self.hosts:
            found += socket.getaddrinfo(text, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        return found

    async def getnameinfo(self, *_: object, **__: object) -> Any:
        raise AssertionError("no name is asked for")


@pytest.mark.parametrize("foreign", [FOREIGN, FOREIGN_IPV6])
@pytest.mark.parametrize("first", [True, False], ids=["first", "last"])
async def test_unavailable_addresses_of_a_name_are_skipped(
    foreign: str, first: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Addresses of a name that are not of this machine are skipped, each with a WARNING."""
    Resolver(*([foreign, "127.0.0.1"] if first else ["127.0.0.1", foreign]))
    async with listening("name.test:0") as [address]:
        assert address.host == "127.0.0.1"
        assert await get_text(address) == "fine"
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        f"name.test:0: skipped {Address(foreign)}, which this machine does not have:"
        f" {os.strerror(errno.EADDRNOTAVAIL)}"
    )


async def test_host_name_without_ipv6(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Without IPv6 in the kernel, an app listens on the IPv4 address of a name."""

    class WithoutIpv6(socket.socket):
        def __init__(self, family: int = -1, *args: Any, **options: Any) -> None:
            if family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
            super().__init__(family, *args, **options)

    Resolver("::1", "127.0.0.1")
    monkeypatch.setattr(socket, "socket", WithoutIpv6)
    async with listening("name.test:0") as [address]:
        assert await get_text(address) == "fine"
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


async def test_repeated_address_of_a_name(caplog: pytest.LogCaptureFixture) -> None:
    """An address that a name lists twice has one listener."""
    Resolver("127.0.0.1", "127.0.0.1")
    async with listening(f"name.test:{free_port()}") as [address]:
        assert await get_text(address) == "fine"
    assert caplog.records == []


async def test_localhost() -> None:
    """An app can listen on ``localhost``, whatever its addresses are."""
    async with listening("localhost:0") as addresses:
        assert [await get_text(address) for address in addresses] == ["fine"] * len(addresses)
    assert len({address.port for address in addresses}) == 1


async def test_host_name_without_an_available_address(caplog: pytest.LogCaptureFixture) -> None:
    """A name without an address of this machine is an error."""
    Resolver(FOREIGN, FOREIGN_IPV6)
    said = await refusal("127.0.0.1:0", "name.test:0")
    assert f"cannot listen on name.test:0: {os.strerror(errno.EADDRNOTAVAIL)}" in said
    assert caplog.records == []


@pytest.mark.parametrize("address", [f"{FOREIGN}:0", f"[{FOREIGN_IPV6}]:0"])
async def test_unavailable_ip_address(address: str) -> None:
    """An IP address that is not of this machine is an error, even among others."""
    said = await refusal("127.0.0.1:0", address)
    assert f"cannot listen on {address}: {os.strerror(errno.EADDRNOTAVAIL)}" in said


async def test_address_of_a_name_in_use() -> None:
    """An address of a name that is in use is an error, and is not skipped."""
    with socket.create_server((SECOND, 0), family=family_of(SECOND)) as taken:
        port = taken.getsockname()[1]
        Resolver("127.0.0.1", SECOND)
        said = await refusal(f"name.test:{port}")
    assert f"cannot listen on name.test:{port}: {os.strerror(errno.EADDRINUSE)}" in said


def family_of(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


async def test_port_0_of_a_name() -> None:
    """With port 0, all addresses of a name get the same port."""
    Resolver("127.0.0.1", FOREIGN, SECOND)
    async with listening("name.test:0") as addresses:
        assert [address.host for address in addresses] == ["127.0.0.1", SECOND]
        assert addresses[0].port == addresses[1].port
        assert [await get_text(address) for address in addresses] == ["fine", "fine"]


@linux_only
async def test_port_0_of_a_name_without_a_common_port() -> None:
    """If no port is free at all addresses of a name, each gets its own."""
    Resolver("0.0.0.0", "127.0.0.1")  # the first includes the second
    async with listening("name.test:0") as addresses:
        assert addresses[0].port != addresses[1].port
        assert [await get_text(address) for address in addresses] == ["fine", "fine"]


# --------------------------------------------------------------------------------------- Unix sockets

SLOW_UNLINK = """
import os, random, time

unlink = os.unlink


def slow_unlink(path):
    time.sleep(random.uniform(0, 0.01))  # in which the others look at the path, and put a file of theirs there
    unlink(path)


os.unlink = slow_unlink
"""

RACE = """
import os, signal, socket, sys
import trio
from humphrey_trio import App, Response

path, rounds, racers = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])


async def run(gate, verdicts):
    app = App().with_stateless_route("/", lambda _: Response(200, str(os.getpid())))
    os.read(gate, 1)  # until the parent closes its end
    async with trio.open_nursery() as nursery:
        try:
            await nursery.start(app.run, f"unix:{path}")
        except OSError as exc:
            os.write(verdicts, b"%d %d\\n" % (os.getpid(), exc.errno))
            return
        os.write(verdicts, b"%d 0\\n" % os.getpid())
        await trio.sleep_forever()


def get_text():
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(path)
        client.sendall(b"GET / HTTP/1.1\\r\\nHost: a\\r\\nConnection: close\\r\\n\\r\\n")
        return client.makefile("rb").read().rpartition(b"\\r\\n")[2].decode()


for _ in range(rounds):
    gate, opener = os.pipe()
    verdicts, verdict = os.pipe()
    children = []
    for _ in range(racers):
        child = os.fork()
        if child == 0:
            os.close(opener)
            try:
                trio.run(run, gate, verdict)
            finally:
                os._exit(0)
        children.append(child)
    os.close(gate)
    os.close(opener)
    os.close(verdict)
    said = []
    with open(verdicts) as lines:
        for _ in range(racers):
            said.append(lines.readline().split())
    listening = [pid for pid, error in said if error == "0"]
    errors = sorted({error for _, error in said} - {"0"})
    try:
        answer = get_text()
    except OSError as exc:
        answer = repr(exc)
    print(len(listening), answer in listening, *errors, flush=True)
    for child in children:
        os.kill(child, signal.SIGKILL)  # which leaves a stale file for the next round
        os.waitpid(child, 0)
"""


def test_many_processes_at_one_stale_path(tmp_path: Path) -> None:
    """Of processes that start at once on a stale path, one listens, and clients of the path reach it."""
    path = tmp_path / "socket"
    rounds, racers = 30, 4
    with running("-c", SLOW_UNLINK + RACE, str(path), str(rounds), str(racers)) as program:
        for _ in range(rounds):
            assert program.read_line() == f"1 True {errno.EADDRINUSE}\n"
        ending = program.finish()
    assert (ending.status, ending.stderr) == (0, "")
    assert path.is_socket()  # of the last, which was killed


TAKE_TURNS = """
import os, sys
import trio
from humphrey_trio import App, Response

path, turns, racers = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])


async def get_text():
    async with await trio.open_unix_socket(path) as stream:
        await stream.send_all(b"GET / HTTP/1.1\\r\\nHost: a\\r\\nConnection: close\\r\\n\\r\\n")
        answer = b""
        async for data in stream:
            answer += data
        return int(answer.rpartition(b"\\r\\n")[2])


async def take_turn():
    app = App().with_stateless_route("/", lambda _: Response(200, str(os.getpid())))
    async with trio.open_nursery() as nursery:
        try:
            await nursery.start(app.run, f"unix:{path}")
        except OSError:
            return False
        for _ in range(3):
            assert await get_text() == os.getpid()
        nursery.cancel_scope.cancel()
    return True


async def run():
    turn = 0
    while turn < turns:
        turn += await take_turn()


for _ in range(racers):
    if os.fork() == 0:
        status = 1
        try:
            trio.run(run)
            status = 0
        finally:
            os._exit(status)
for _ in range(racers):
    print(os.wait()[1], flush=True)
"""


def test_processes_that_use_a_path_in_turn(tmp_path: Path) -> None:
    """A process that ends does not remove the file of the process that uses the path next."""
    racers = 3
    with running("-c", SLOW_UNLINK + TAKE_TURNS, str(tmp_path / "socket"), "20", str(racers)) as program:
        assert [program.read_line() for _ in range(racers)] == ["0\n"] * racers
        ending = program.finish()
    assert (ending.status, ending.stderr) == (0, "")
    assert os.listdir(tmp_path) == []


SERVE = """
import sys
import trio
from humphrey_trio import App, Response


async def main():
    async with trio.open_nursery() as nursery:
        app = App().with_stateless_route("/", lambda _: Response(200, "the first"))
        await nursery.start(app.run, f"unix:{sys.argv[1]}")
        print("listening", flush=True)


trio.run(main)
"""


async def test_files_of_a_killed_process(tmp_path: Path) -> None:
    """The files of a killed process are replaced by the next one, which removes both at its end."""
    path = tmp_path / "socket"
    with running("-c", SERVE, str(path)) as program:
        assert program.read_line() == "listening\n"
        said = await refusal(f"unix:{path}")
        assert f"cannot listen on unix:{path}: {os.strerror(errno.EADDRINUSE)}" in said
        assert await get_text(Address(f"unix:{path}")) == "the first"
    assert sorted(os.listdir(tmp_path)) == ["socket", "socket.lock"]
    async with listening(f"unix:{path}", text="the second") as [address]:
        assert await get_text(address) == "the second"
    assert os.listdir(tmp_path) == []


async def test_modes_of_the_files(tmp_path: Path) -> None:
    """The socket has the mode of the umask, and its lock that of the user; both are removed at the end."""
    path = tmp_path / "socket"
    umask = os.umask(0o077)
    try:
        async with listening(f"unix:{path}"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o700
            assert stat.S_IMODE((tmp_path / "socket.lock").stat().st_mode) == 0o600
            path.chmod(0o770)
    finally:
        os.umask(umask)
    assert os.listdir(tmp_path) == []


@contextmanager
def foreign_listener(path: Path, backlog: int = 1) -> Iterator[socket.socket]:
    """Listen on a path without a lock, as other programs do."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen(backlog)
        yield sock


async def test_path_of_another_program(tmp_path: Path) -> None:
    """A path on which another program listens without a lock is an error, and its file is kept."""
    path = tmp_path / "socket"
    with foreign_listener(path):
        assert os.strerror(errno.EADDRINUSE) in await refusal(f"unix:{path}")
        assert os.listdir(tmp_path) == ["socket"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a full backlog from a dead listener")
async def test_path_with_a_full_backlog(tmp_path: Path) -> None:
    """A path whose listener has a full backlog is an error, and its file is kept."""
    path = tmp_path / "socket"
    with foreign_listener(path, 0), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        assert os.strerror(errno.EADDRINUSE) in await refusal(f"unix:{path}")
        assert path.is_socket()


async def test_locked_path(tmp_path: Path) -> None:
    """While another process holds the lock of a path, neither file is changed."""
    path, lock = tmp_path / "socket", tmp_path / "socket.lock"
    with foreign_listener(path):
        pass  # what it leaves is stale
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        said = await refusal(f"unix:{path}")
    assert f"cannot listen on unix:{path}: {os.strerror(errno.EADDRINUSE)}" in said
    assert sorted(os.listdir(tmp_path)) == ["socket", "socket.lock"]


async def test_lock_file_with_content(tmp_path: Path) -> None:
    """A lock file with content, of another program, is used and kept."""
    path, lock = tmp_path / "socket", tmp_path / "socket.lock"
    lock.write_text("precious")
    async with listening(f"unix:{path}") as [address]:
        assert await get_text(address) == "fine"
    assert os.listdir(tmp_path) == ["socket.lock"]
    assert lock.read_text() == "precious"


async def test_lock_that_cannot_be_created(tmp_path: Path) -> None:
    """If the lock cannot be created, the error says so and names its file, and no file is left."""
    (tmp_path / "socket.lock").mkdir()
    said = await refusal(f"unix:{tmp_path}/socket")
    assert f"cannot listen on unix:{tmp_path}/socket: " in said
    assert f"({tmp_path}/socket.lock)" in said
    assert os.listdir(tmp_path) == ["socket.lock"]


async def test_removed_lock_file(tmp_path: Path) -> None:
    """Without its lock file, a live socket is not taken for a stale one."""
    path, lock = tmp_path / "socket", tmp_path / "socket.lock"
    async with listening(f"unix:{path}") as [address]:
        lock.unlink()
        assert os.strerror(errno.EADDRINUSE) in await refusal(f"unix:{path}")
        assert await get_text(address) == "fine"
        lock.touch()
    assert os.listdir(tmp_path) == ["socket.lock"]


async def test_symbolic_link_instead_of_a_socket(tmp_path: Path) -> None:
    """A symbolic link is not a socket, wherever it leads, and is kept."""
    path, stale = tmp_path / "link", tmp_path / "stale"
    with foreign_listener(stale):
        pass
    path.symlink_to(stale)
    assert os.strerror(errno.EADDRINUSE) in await refusal(f"unix:{path}")
    assert sorted(os.listdir(tmp_path)) == ["link", "stale"]


async def test_socket_replaced_by_another_program(tmp_path: Path) -> None:
    """The socket of another program at the same path is kept at the end."""
    path = tmp_path / "socket"
    async with listening(f"unix:{path}"):
        path.unlink()
        # A file system that gives the same number again makes the two look the same but for their times.
        with foreign_listener(path):
            pass
    assert os.listdir(tmp_path) == ["socket"]


async def test_relative_path_after_chdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file of a relative path is removed even if the working directory has changed."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    async with listening("unix:socket"):
        assert (tmp_path / "socket").is_socket()
        monkeypatch.chdir(tmp_path / "elsewhere")
    assert os.listdir(tmp_path) == ["elsewhere"]


async def test_path_is_reused_at_once(tmp_path: Path) -> None:
    """The next app of a process can use a path as soon as the previous one has ended."""
    for number in range(20):
        async with listening(f"unix:{tmp_path}/socket", text=str(number)) as [address]:
            assert await get_text(address) == str(number)
    assert os.listdir(tmp_path) == []

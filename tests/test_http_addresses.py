"""The addresses that an app listens on: TCP ports, Unix sockets, and host names."""

from __future__ import annotations

import gc
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from humphrey_trio.http import Address, App, Response
from tests.support import ANY_PORT
from tests.support.cancellation import open_files
from tests.support.http_clients import dial, get, is_served, serving
from tests.support.links import is_refused
from tests.support.parsers import each_parser as each_parser  # the fixture
from tests.support.programs import free_port
from tests.support.small_app import small_app
from tests.support.steps import at_step

# Every test runs with each parser of request heads.
pytestmark = pytest.mark.usefixtures("each_parser")


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")


def address_app() -> App:
    """A small app that responds with the address of the client at ``/who``."""
    return small_app().with_stateless_route("/who", lambda request: Response(200, str(request.address)))


@pytest.mark.parametrize(
    ("wanted", "host"),
    [
        (ANY_PORT, "127.0.0.1"),
        pytest.param("[::1]:0", "::1", marks=needs_ipv6),
    ],
)
async def test_port_0(wanted: str, host: str) -> None:
    """Port 0 selects a free port, which ``nursery.start`` returns; a request has the address of the client."""
    async with serving(address_app(), wanted) as [address]:
        assert address.host == host
        assert address.port > 0
        client = await dial(address)
        async with client.stream:
            assert isinstance(client.stream, trio.SocketStream)
            ours = Address(*client.stream.socket.getsockname()[:2])
            assert (await client.ask(get("/who"))).content == str(ours).encode()
    assert await is_refused(address)


async def test_unix_socket_file_exists_while_it_is_served(tmp_path: Path) -> None:
    """An app listens on ``unix:/path``; the file exists from its start to its end."""
    path = tmp_path / "socket"
    async with serving(address_app(), f"unix:{path}") as [address]:
        assert address == Address(f"unix:{path}")
        assert path.is_socket()
        client = await dial(address)
        async with client.stream:
            assert (await client.ask(get("/who"))).content == b"unix:"
    assert not path.exists()


async def test_stale_unix_socket_is_replaced(tmp_path: Path) -> None:
    """The socket file of a process that no longer runs is replaced."""
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    async with serving(small_app(), f"unix:{path}") as [address]:
        assert await is_served(address)
    assert not path.exists()


async def test_unix_socket_in_use_is_kept(tmp_path: Path) -> None:
    """A socket file on which a process listens is kept, and the second app fails with that error."""
    path = tmp_path / "socket"
    async with serving(small_app(), f"unix:{path}") as [address]:
        with pytest.raises(OSError, match=f"cannot listen on unix:{path}: Address already in use"):
            await small_app().run(f"unix:{path}")
        assert await is_served(address)


async def test_other_files_are_not_removed(tmp_path: Path) -> None:
    """A file that is not a socket is never removed, neither at the start nor at the end."""
    path = tmp_path / "file"
    path.write_text("precious")
    with pytest.raises(OSError, match=f"cannot listen on unix:{path}: "):
        await small_app().run(f"unix:{path}")
    async with serving(small_app(), f"unix:{tmp_path / 'socket'}"):
        path.replace(tmp_path / "socket")
    assert (tmp_path / "socket").read_text() == "precious"


async def test_several_addresses(tmp_path: Path) -> None:
    """An app listens on all of its addresses, and returns them in the order of the arguments."""
    wanted = [ANY_PORT, f"unix:{tmp_path / 'socket'}", ANY_PORT, *(["[::1]:0"] if has_ipv6() else [])]
    async with serving(small_app(), *wanted) as addresses:
        assert [address.host for address in addresses] == [Address.parse(text).host for text in wanted]
        for address in addresses:
            assert await is_served(address)
    for address in addresses:
        assert await is_refused(address)


@pytest.mark.parametrize("bad", ["taken", "foreign", "no directory", "long path"])
async def test_bad_address_releases_the_others(bad: str, tmp_path: Path) -> None:
    """If one address cannot be used, the error names it with the reason, and no other address stays open."""
    good = [Address("127.0.0.1", free_port()), Address(f"unix:{tmp_path / 'socket'}")]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        text, reason = {
            "taken": (str(Address(*taken.getsockname())), "Address already in use"),
            "foreign": ("192.0.2.1:80", "Cannot assign requested address"),
            "no directory": (f"unix:{tmp_path}/missing/socket", "No such file or directory"),
            "long path": (f"unix:{tmp_path}/{'a' * 200}", "AF_UNIX path too long"),
        }[bad]
        with pytest.raises(OSError) as refused:  # noqa: PT011  (the message is checked below)
            await small_app().run(*map(str, good), text)
    assert f"cannot listen on {text}: {reason}" in str(refused.value)
    for address in good:
        assert await is_refused(address)
    assert not (tmp_path / "socket").exists()


class TwoAddresses(trio.abc.HostnameResolver):
    """A resolver that resolves every name to two ports of 127.0.0.1."""

    def __init__(self, *ports: int) -> None:
        self.ports = ports

    async def getaddrinfo(self, *_: object, **__: object) -> list[Any]:
        await trio.lowlevel.checkpoint()
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)) for port in self.ports]

    async def getnameinfo(self, *_: object, **__: object) -> Any:
        raise AssertionError("no name is resolved back")


async def test_host_name_with_several_addresses() -> None:
    """An app listens on all addresses of a host name."""
    trio.socket.set_custom_hostname_resolver(TwoAddresses(free_port(), free_port()))
    async with serving(small_app(), "name.test:80") as addresses:
        assert len(addresses) == 2
        assert [await is_served(address) for address in addresses] == [True, True]


async def test_host_name_with_a_bad_address_releases_the_others() -> None:
    """If one address of a host name cannot be used, the others of the name are closed."""
    good = Address("127.0.0.1", free_port())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        trio.socket.set_custom_hostname_resolver(TwoAddresses(good.port, taken.getsockname()[1]))
        with pytest.raises(OSError, match=r"cannot listen on name\.test:80: Address already in use"):
            await small_app().run("name.test:80")
    gc.collect()  # a forgotten socket would warn
    assert await is_refused(good)


async def test_run_needs_valid_addresses() -> None:
    """``run`` without an address, or with an invalid one, raises an error with an example of an address."""
    with pytest.raises(ValueError, match=r"pass at least one address to listen on, such as '127\.0\.0\.1:8080'"):
        await small_app().run()
    with pytest.raises(ValueError, match=r"'8080' is not an address: write '127\.0\.0\.1:8080'"):
        await small_app().run("8080")


async def test_start_cancelled_at_every_step(tmp_path: Path) -> None:
    """An app that is cancelled while it starts leaves no listener and no file."""
    app = small_app()
    trio.socket.set_custom_hostname_resolver(TwoAddresses(free_port(), free_port()))
    files = open_files()
    step = 0
    started = False
    while not started:
        step += 1
        with trio.CancelScope() as scope, at_step(step, scope.cancel):
            async with serving(app, ANY_PORT, f"unix:{tmp_path / 'socket'}", "name.test:80"):
                started = True
        assert os.listdir(tmp_path) == []
        assert open_files() == files
    gc.collect()  # a forgotten socket would warn
    assert step > 2

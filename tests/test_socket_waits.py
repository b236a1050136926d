"""Closing a socket wakes every task that waits on it, and no task waits on a number that was reused."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from humphrey_trio._http._address import Address
from humphrey_trio._server._socket import SocketTransport
from tests.support import PATIENCE

Wait = Callable[[SocketTransport], Awaitable[object]]


async def send_much(transport: SocketTransport) -> None:
    await transport.send_all(bytes(2**24))


async def receive_twice(transport: SocketTransport) -> None:
    await transport.receive_some()
    await transport.receive_some()


WAITS: list[Wait] = [SocketTransport.receive_some, receive_twice, SocketTransport.discard_some, send_much]
ENDS = [SocketTransport.abort, SocketTransport.interrupt, SocketTransport.reset]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("wait", WAITS)
async def test_a_waiting_task_is_woken(wait: Wait, end: Callable[[SocketTransport], None]) -> None:
    """A task that waits to receive or to send gets ``ClosedResourceError`` when another task ends the wait."""
    own, peer = socket.socketpair()
    transport = SocketTransport(own, Address("unix:"))
    if wait is receive_twice:
        peer.send(b"x")
    with peer, own, trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def waiting() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await wait(transport)

            await trio.testing.wait_all_tasks_blocked()
            end(transport)


@pytest.mark.parametrize("end", ENDS)
async def test_both_directions_are_woken(end: Callable[[SocketTransport], None]) -> None:
    """A sender is woken although a task that received at the same time has stopped."""
    own, peer = socket.socketpair()
    transport = SocketTransport(own, Address("unix:"))
    with peer, own, trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def sending() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await send_much(transport)

            nursery.start_soon(transport.receive_some)
            await trio.testing.wait_all_tasks_blocked()
            peer.send(b"x")
            await trio.testing.wait_all_tasks_blocked()
            end(transport)


async def test_a_number_is_reused_by_the_next_socket() -> None:
    """A socket that was waited on and then closed leaves nothing behind for the next one with its number."""
    own, peer = socket.socketpair()
    number = own.fileno()
    for _ in range(3):
        transport = SocketTransport(own, Address("unix:"))
        with peer, trio.fail_after(PATIENCE):
            for _ in range(3):  # the first receive does not wait
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(transport.receive_some)
                    await trio.testing.wait_all_tasks_blocked()
                    peer.send(b"x")
            transport.abort()
        own, peer = sorted(socket.socketpair(), key=lambda sock: sock.fileno() != number)
        assert own.fileno() == number
    own.close()
    peer.close()

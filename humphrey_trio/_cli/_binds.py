"""The targets to listen on: the addresses of ``--bind``, inherited descriptors, and sockets of systemd."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Generator, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager

from .._server._given_listener import ListenTarget
from .._server._open_listeners import CANNOT_LISTEN, check_targets
from ._arguments import DEFAULT_BIND, FD_PREFIX
from ._errors import CommandError, UsageError

logger = logging.getLogger("humphrey_trio.http")

#: The first descriptor that systemd passes (sd_listen_fds(3)).
_FIRST = 3


def listen_targets(
    binds: Sequence[str], unix_mode: int | None, environment: MutableMapping[str, str]
) -> list[ListenTarget]:
    """Return the addresses and the sockets to listen on.

    Without ``--bind``, they are all sockets of systemd, or else the default address.

    Args:
        binds: the texts of ``--bind``.
        unix_mode: the mode of Unix sockets, or None.
        environment: the environment, from which the variables of systemd are removed, so that programs that this
            process starts do not use them.

    Raises:
        UsageError: a descriptor is not a socket that listens, a name is unknown, or a variable is malformed.
    """
    passed = _passed_by_systemd(environment)
    wanted: list[str | int] = [*_wanted(binds, passed)] if binds else [*passed] or [DEFAULT_BIND]
    numbers = [one for one in wanted if isinstance(one, int)]
    if len(set(numbers)) < len(numbers):
        raise UsageError("--bind names a file descriptor twice")
    for number in passed.keys() - set(numbers):
        logger.warning("systemd has passed the socket fd:%d (%s), and no --bind names it", number, passed[number])
    targets: list[ListenTarget] = [_socket(one) if isinstance(one, int) else one for one in wanted]
    try:
        check_targets(targets, unix_mode)
    except ValueError as exc:
        raise UsageError(str(exc)) from None
    return targets


@contextmanager
def errors_of_listening() -> Generator[None]:
    """Replace an OSError about an address to listen on.

    Raises:
        CommandError: instead of it.
    """
    try:
        yield
    except OSError as exc:
        if str(exc.strerror).startswith(CANNOT_LISTEN):
            raise CommandError(exc.strerror) from None
        raise


def _wanted(binds: Sequence[str], passed: Mapping[int, str]) -> Iterator[str | int]:
    """Yield what ``--bind`` names: addresses as they are, and the numbers of descriptors."""
    for bind in binds:
        if bind.startswith(FD_PREFIX):
            yield from _descriptors(bind.removeprefix(FD_PREFIX), passed)
        else:
            yield bind


def _descriptors(name_or_number: str, passed: Mapping[int, str]) -> list[int]:
    """Return the number, or the numbers of the sockets of systemd that have a name."""
    if name_or_number.isascii() and name_or_number.isdigit():
        return [int(name_or_number)]
    found = [number for number, name in passed.items() if name == name_or_number]
    if not found:
        names = ", ".join(sorted(set(passed.values())))
        hint = f"; the names are {names}" if names else ", because systemd has passed no socket"
        raise UsageError(f"--bind fd:{name_or_number}: there is no socket of this name{hint}")
    return found


def _passed_by_systemd(environment: MutableMapping[str, str]) -> dict[int, str]:
    """Return the descriptors that systemd has passed to this process, with their names."""
    pid, count, names = (environment.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"))
    if not count or pid != str(os.getpid()):  # they are meant for another process
        return {}
    if not (count.isascii() and count.isdigit()):
        raise UsageError(f"LISTEN_FDS={count!r} is not a number of file descriptors")
    named = names.split(":") if names else []
    return {_FIRST + at: named[at] if at < len(named) else "unknown" for at in range(int(count))}


def _socket(number: int) -> socket.socket:
    try:
        sock = socket.socket(fileno=number)
    except OSError as exc:
        raise UsageError(f"fd:{number} is not an open socket: {exc.strerror}") from None
    sock.set_inheritable(False)
    return sock

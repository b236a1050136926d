"""The open files of this process below a directory, unnamed ones included."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import trio

from . import PATIENCE


def descriptors_in(directory: Path) -> list[str]:
    """What is open of a directory. Needs ``/proc``."""
    found: list[str] = []
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
        if target.startswith(str(directory)):
            found.append(target)
    return found


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that worker threads do."""
    with trio.fail_after(PATIENCE):
        while not condition():  # noqa: ASYNC110 (threads set no trio.Event)
            await trio.sleep(0.001)


async def all_closed(directory: Path) -> None:
    """Wait until abandoned threads have closed what they opened."""
    await until(lambda: not descriptors_in(directory))

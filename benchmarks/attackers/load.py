"""The load generator with attackers: times well-behaved clients, with or without an attacker.

It reads an AttackJob from standard input and prints a Result. The attacker runs in another process on the same
core. So the kernel timestamps the replies (see StampedClients), and the time that a client waits for this core
does not count.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from benchmarks.attackers.attacks import BY_NAME, Attack, Attacker
from benchmarks.load import (
    POLL_SECONDS,
    SETTLE,
    StampedClients,
    answer,
    first_exchange,
    in_background,
    measured,
    opened,
    request_for,
)
from benchmarks.measure import Job, Result, open_files, peak_bytes, reset_peak
from benchmarks.wire import ReplyError

MIB = 2**20
OPEN_TIMEOUT = 20.0  # seconds until all connections of an attacker must be open
GROWTH = "growth, MiB"
ENDED = "ended: "  # the prefix of figures that count how the connections of the attacker ended


@dataclass(frozen=True)
class AttackJob(Job):
    """A job with an attacker.

    Attributes:
        attacker: its name; empty for none.
        pace: seconds from one request of a well-behaved client to the next.
    """

    attacker: str
    pace: float


def with_attacker(job: AttackJob) -> Result:
    request = request_for(job.work)
    opening = first_exchange(job.work, request)
    clients = StampedClients(opened(job.port, job.work.connections, opening), request, job.pace)
    clients.run(job.warmup)  # so that the memory for these clients does not count as growth
    reset_peak(job.pids)
    before = peak_bytes(job.pids)
    if job.attacker:
        attacker, files = BY_NAME[job.attacker], open_files(job.pids)
        with in_background(partial(attack, attacker, job.port), attacker.nice) as figures:
            if attacker.stays:
                wait_for_files(job.pids, files + attacker.connections)
                time.sleep(SETTLE)
            result = measured(clients, job, shared=True)
        if not figures:
            raise ReplyError("the attacker has failed")
        result.extra.update(figures)
    else:
        result = measured(clients, job)
    result.extra[GROWTH] = (peak_bytes(job.pids) - before) / MIB
    return result


def wait_for_files(pids: list[int], count: int) -> None:
    """Wait until the processes of the server have so many open files, such as connections."""
    deadline = time.monotonic() + OPEN_TIMEOUT
    while open_files(pids) < count:
        if time.monotonic() > deadline:
            raise ReplyError(f"the connections of the attacker are not open after {OPEN_TIMEOUT:.0f} s")
        time.sleep(POLL_SECONDS)


def attack(attacker: Attacker, port: int, stopped: Callable[[], bool]) -> dict[str, float]:
    """Run an attacker until it is stopped. Returns its counts, and how its connections ended."""
    running = Attack(attacker, port)
    running.run(stopped)
    return {**running.counts, **{ENDED + ending: count for ending, count in running.endings.items()}}


if __name__ == "__main__":
    answer(AttackJob, with_attacker)

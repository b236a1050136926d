"""The load generator with attackers: times well-behaved clients, with or without an attacker.

It reads an AttackJob from standard input and prints a Result. The attacker runs in another process on the same
core. So the kernel timestamps the replies (see StampedClients), and the time that a client waits for this core
does not count.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from benchmarks import wire
from benchmarks.attackers.attacks import BY_NAME, MIB, Attack
from benchmarks.load import BACKGROUND_NICE, StampedClients, answer, in_background, measured, opened
from benchmarks.measure import Job, Result, peak_bytes, reset_peak
from benchmarks.wire import ReplyError

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
    request = wire.echo(job.work.size)
    clients = StampedClients(opened(job.port, job.work.connections, wire.upgrade("/ws")), request, job.pace)
    clients.run(job.warmup)  # so that the memory for these clients does not count as growth
    reset_peak(job.pids)
    before = peak_bytes(job.pids)
    if job.attacker:
        with in_background(partial(attack, job.attacker, job.port), BACKGROUND_NICE) as figures:
            result = measured(clients, job, shared=True)
        if not figures:
            raise ReplyError("the attacker has failed")
        result.extra.update(figures)
    else:
        result = measured(clients, job)
    result.extra[GROWTH] = (peak_bytes(job.pids) - before) / MIB
    return result


def attack(name: str, port: int, stopped: Callable[[], bool]) -> dict[str, float]:
    """Run an attacker until it is stopped. Returns its counts, and how its connections ended."""
    running = Attack(BY_NAME[name], port)
    running.run(stopped)
    return {**running.counts, **{ENDED + ending: count for ending, count in running.endings.items()}}


if __name__ == "__main__":
    answer(AttackJob, with_attacker)

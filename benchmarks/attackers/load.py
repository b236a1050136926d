"""The load generator beside attackers: well-behaved clients are timed, alone or while somebody attacks.

It reads an AttackJob from standard input and prints a Result. The attacker works in a process of its own, on
the same core; so the kernel times the replies (see StampedClients), and waiting for that core does not count.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from benchmarks import wire
from benchmarks.attackers.attacks import BY_NAME, MIB, Attack
from benchmarks.load import StampedClients, answer, aside, measured, opened
from benchmarks.measure import Job, Result, forget_peak, peak_bytes
from benchmarks.wire import ReplyError

NICE = 10  # of the attacker: it shares a core with those who are timed
GROWTH = "growth, MiB"
ENDED = "ended: "  # begins the names of the figures that tell how the attacker's connections ended


@dataclass(frozen=True)
class AttackJob(Job):
    """`attacker` is the name of one, or empty; `pace` is the seconds from a client's request to its next."""

    attacker: str
    pace: float


def beside_attacker(job: AttackJob) -> Result:
    request = wire.echo(job.work.size)
    clients = StampedClients(opened(job.port, job.work.connections, wire.upgrade("/ws")), request, job.pace)
    clients.run(job.warmup)  # the memory of the clients themselves is none of the attacker's
    forget_peak(job.pids)
    before = peak_bytes(job.pids)
    if job.attacker:
        with aside(partial(attacked, job.attacker, job.port), NICE) as told:
            result = measured(clients, job, shared=True)
        if not told:
            raise ReplyError("the attacker has failed")
        result.extra.update(told)
    else:
        result = measured(clients, job)
    result.extra[GROWTH] = (peak_bytes(job.pids) - before) / MIB
    return result


def attacked(name: str, port: int, enough: Callable[[], bool]) -> dict[str, float]:
    """Let somebody attack; what was done and how connections ended."""
    attack = Attack(BY_NAME[name], port)
    attack.run(enough)
    return {**attack.did, **{ENDED + ending: count for ending, count in attack.ended.items()}}


if __name__ == "__main__":
    answer(AttackJob, beside_attacker)

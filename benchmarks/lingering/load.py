"""The load generator beside lingering connections: well-behaved clients are timed, alone or beside a crowd.

It reads a CrowdJob from standard input and prints a Result. The crowd comes before the clock runs; what it does
then is done by a process of its own on the same core, so the kernel times the replies (see StampedClients).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.lingering.crowd import BY_NAME
from benchmarks.load import SETTLE, StampedClients, answer, aside, greeting_for, measured, opened, request_for
from benchmarks.measure import Job, Result, forget_peak, peak_bytes, resident_bytes
from benchmarks.wire import ReplyError

NICE = 10  # of the crowd: it shares a core with those who are timed
MEMORY = "KB each"
STAYED = "still there"
SENT = "MB/s sent"


@dataclass(frozen=True)
class CrowdJob(Job):
    """`crowd` is the name of one, or empty; `pace` is the seconds from a client's request to its next."""

    crowd: str
    count: int
    pace: float


def beside_crowd(job: CrowdJob) -> Result:
    request = request_for(job.work)
    greeting = greeting_for(job.work, request)
    clients = StampedClients(opened(job.port, job.work.connections, greeting), request, job.pace)
    clients.run(job.warmup)  # the memory of the clients themselves is none of the crowd's
    if not job.crowd:
        return measured(clients, job)
    crowd = BY_NAME[job.crowd]
    time.sleep(SETTLE)
    files, memory = open_files(job.pids), resident_bytes(job.pids)
    forget_peak(job.pids)
    members = crowd.come(job.port, job.count)

    def work(enough: Callable[[], bool]) -> dict[str, float]:
        started = time.perf_counter()
        sent = crowd.do(members, enough)
        return {SENT: sent / (time.perf_counter() - started) / 1e6}

    with aside(work, NICE) as told:
        result = measured(clients, job, shared=True)
        stayed = open_files(job.pids) - files
    if not told:
        raise ReplyError("the crowd has failed")
    if members:
        result.extra = {
            MEMORY: (peak_bytes(job.pids) - memory) / len(members) / 1e3,
            STAYED: stayed,
            SENT: told[SENT],
        }
    return result


def open_files(pids: list[int]) -> int:
    """The open files of these processes: at the server, a connection is one until it is closed altogether."""
    return sum(1 for pid in pids for _ in Path(f"/proc/{pid}/fd").iterdir())


if __name__ == "__main__":
    answer(CrowdJob, beside_crowd)

"""The load generator with lingering connections: times well-behaved clients, with or without a group.

It reads a GroupJob from standard input and prints a Result. The group connects before the measured time. Its work
is done by another process on the same core, so the kernel timestamps the replies (see StampedClients).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.lingering.groups import BY_NAME
from benchmarks.load import (
    BACKGROUND_NICE,
    SETTLE,
    StampedClients,
    answer,
    first_exchange,
    in_background,
    measured,
    opened,
    request_for,
)
from benchmarks.measure import Job, Result, open_files, peak_bytes, reset_peak, resident_bytes
from benchmarks.wire import ReplyError

MEMORY = "KB each"
STILL_OPEN = "still open"
SENT = "MB/s sent"


@dataclass(frozen=True)
class GroupJob(Job):
    """A job with a group of lingering connections.

    Attributes:
        group: its name; empty for none.
        count: the number of its clients.
        pace: seconds from one request of a well-behaved client to the next.
    """

    group: str
    count: int
    pace: float


def with_group(job: GroupJob) -> Result:
    request = request_for(job.work)
    opening = first_exchange(job.work, request)
    clients = StampedClients(opened(job.port, job.work.connections, opening), request, job.pace)
    clients.run(job.warmup)  # so that the memory for these clients does not count for the group
    if not job.group:
        return measured(clients, job)
    group = BY_NAME[job.group]
    time.sleep(SETTLE)
    files, memory = open_files(job.pids), resident_bytes(job.pids)
    reset_peak(job.pids)
    members = group.connect(job.port, job.count)

    def work(stopped: Callable[[], bool]) -> dict[str, float]:
        started = time.perf_counter()
        sent = group.work(members, stopped)
        return {SENT: sent / (time.perf_counter() - started) / 1e6}

    with in_background(work, BACKGROUND_NICE) as figures:
        result = measured(clients, job, shared=True)
        still_open = open_files(job.pids) - files
    if not figures:
        raise ReplyError("the group has failed")
    if members:
        result.extra = {
            MEMORY: (peak_bytes(job.pids) - memory) / len(members) / 1e3,
            STILL_OPEN: still_open,
            SENT: figures[SENT],
        }
    return result


if __name__ == "__main__":
    answer(GroupJob, with_group)

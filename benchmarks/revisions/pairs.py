"""Takes pairs of measurements: the same work, one after the other, with two servers that run at the same time.

The two revisions alternate in slices of less than a second, so that a machine that becomes slower affects both.
The servers are started again in each round, because two processes of the same program may differ by some per cent.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks import measure
from benchmarks.catalogue import Server
from benchmarks.measure import Job
from benchmarks.results import Sample
from benchmarks.scenarios import Scenario

BEFORE, AFTER = "before", "after"
START = 1.0  # seconds to start and to end the two servers
SLICE = 0.25  # seconds to start and to end the load generator, and to open the connections


@dataclass(frozen=True)
class Plan:
    """How pairs are taken.

    Attributes:
        roots: the folders of the two revisions, by BEFORE and AFTER.
        rounds: how often the servers are started.
        pairs: the pairs of measurements in each round.
        seconds: the measured time of each measurement.
        warmup: the time before it.
    """

    roots: dict[str, Path]
    rounds: int
    pairs: int
    seconds: float
    warmup: float

    def pairs_of(self, scenario: Scenario) -> int:
        """Return the pairs in a round. Memory is only measured in a new process."""
        return 1 if is_memory(scenario) else self.pairs

    def duration(self, scenario: Scenario) -> float:
        """Estimate the seconds of one round of a scenario."""
        return START + 2 * self.pairs_of(scenario) * (SLICE + self.warmup + self.seconds)


def is_memory(scenario: Scenario) -> bool:
    """Return whether the figure to compare is memory, and not CPU time."""
    return scenario.work.mode == "idle"


def key(scenario: Scenario) -> str:
    """Return the attribute of a `Result` to compare. Less is better."""
    return "value" if is_memory(scenario) else "cpu_us"


def taken(
    plan: Plan, number: int, scenario: Scenario, server: Server, files: Path | None, title: str
) -> Iterator[Sample]:
    """Yield the samples of one round of a scenario. A sample has the number of its pair as its round."""
    with contextlib.ExitStack() as stack:
        running = {
            name: stack.enter_context(
                measure.running_server(server.module, scenario.work.tls, files, root=plan.roots[name])
            )
            for name in _order(number)
        }
        count = plan.pairs_of(scenario)
        for pair in range(number * count, (number + 1) * count):
            for name in _order(pair):
                job = Job(scenario.work, *running[name], plan.seconds, plan.warmup)
                yield Sample(pair, title, name, measure.run_load(job))


def _order(number: int) -> tuple[str, str]:
    return (BEFORE, AFTER) if number % 2 == 0 else (AFTER, BEFORE)

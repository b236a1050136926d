"""Times well-behaved clients without and with each attacker, in alternating rounds, and prints a table."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial

from benchmarks import measure, paired
from benchmarks.attackers import attacks, report
from benchmarks.attackers.load import AttackJob
from benchmarks.command import Step
from benchmarks.load import WELL_BEHAVED
from benchmarks.measure import Result
from benchmarks.scenarios import Work

SERVER = "humphrey_trio_attacked"
WORK = Work("with_attacker", "ws", WELL_BEHAVED, size=32)
OVERHEAD = 1.5  # seconds to start and to end the server and the load generator


def main() -> None:
    parser = paired.parser("benchmarks.attackers", __doc__, "attackers", attacks.BY_NAME)
    options = paired.parse(parser, attacks.BY_NAME)
    if options.list:
        paired.show(attacks.BY_NAME)
        return
    paired.run(planned(options), options, report.table)


def planned(options: argparse.Namespace) -> Iterator[Step]:
    """Yield all steps in order: in each round, one measurement with each attacker and one without it."""
    for number in range(options.rounds):
        for attacker in (attacks.BY_NAME[name] for name in options.chosen):
            seconds = max(options.seconds, attacker.least_seconds)
            expected = OVERHEAD + 2 * options.warmup + seconds
            for phase in paired.phases(number):
                name = attacker.name if phase == paired.WITH else ""
                take = partial(measured, name, seconds, options)
                yield Step(number, attacker.name, phase, expected, take)


def measured(attacker: str, seconds: float, options: argparse.Namespace) -> Result:
    """Measure a fresh server with an attacker, or without one if the name is empty."""

    def run(port: int, pids: list[int]) -> Result:
        job = AttackJob(WORK, port, pids, seconds, options.warmup, attacker, 1 / options.rate)
        return measure.run_load(job, "benchmarks.attackers.load")

    return measure.measure(SERVER, run, paired.TOLERATED)


if __name__ == "__main__":
    main()

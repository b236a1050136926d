"""Times clients without and with groups of lingering connections, in alternating rounds; or runs real clients."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial

from benchmarks import measure, paired
from benchmarks.catalogue import PROJECT
from benchmarks.command import Step
from benchmarks.lingering import groups, report
from benchmarks.lingering.load import GroupJob
from benchmarks.load import WELL_BEHAVED
from benchmarks.measure import Result
from benchmarks.scenarios import Work

SERVER = "humphrey_trio_lingering"
WORKS = {
    "GETs": Work("with_group", "http", WELL_BEHAVED),
    "echoes": Work("with_group", "ws", WELL_BEHAVED, size=32),
}
OVERHEAD = 2.5  # seconds to start and to end the server and the load generator, and to connect the group
CLIENTS = "tests/test_lingering_clients.py"


def main() -> None:
    options = parse()
    if options.list:
        paired.show(groups.BY_NAME)
        return
    if options.runs:
        sys.exit(run_clients(options.runs))
    paired.run(planned(options), options, report.table)


def parse() -> argparse.Namespace:
    parser = paired.parser("benchmarks.lingering", __doc__, "groups", groups.BY_NAME)
    parser.add_argument("--count", type=int, default=1000, help="number of clients in a group (default: 1000)")
    parser.add_argument(
        "--runs", type=int, metavar="N", help=f"measure nothing; run each client of {CLIENTS} N times"
    )
    options = paired.parse(parser, groups.BY_NAME)
    if options.count < 1 or (options.runs is not None and options.runs < 1):
        parser.error("--count and --runs must be at least 1")
    return options


def run_clients(runs: int) -> int:
    """Run the tests of real clients, `runs` clients in each. Returns the exit status of pytest."""
    arguments = [sys.executable, "-m", "pytest", CLIENTS, "-v", "-p", "no:cacheprovider"]
    return subprocess.run(arguments, cwd=PROJECT, env=os.environ | {"LINGERING_RUNS": str(runs)}).returncode


def planned(options: argparse.Namespace) -> Iterator[Step]:
    """Yield all steps in order: in each round, each group with each kind of client, and the clients without it."""
    for number in range(options.rounds):
        for name in options.chosen:
            for clients, work in WORKS.items():
                for phase in paired.phases(number):
                    take = partial(measured, work, name if phase == paired.WITH else "", options)
                    expected = OVERHEAD + options.warmup + options.seconds
                    yield Step(number, f"{name}: {clients}", phase, expected, take)


def measured(work: Work, name: str, options: argparse.Namespace) -> Result:
    """Measure a fresh server with a group, or without one if the name is empty."""

    def run(port: int, pids: list[int]) -> Result:
        job = GroupJob(work, port, pids, options.seconds, options.warmup, name, options.count, 1 / options.rate)
        return measure.run_load(job, "benchmarks.lingering.load")

    return measure.measure(SERVER, run, paired.TOLERATED, most_attempts=options.attempts)


if __name__ == "__main__":
    main()

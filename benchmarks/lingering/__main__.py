"""The command: times clients without and with each crowd in alternating rounds; or runs real clients."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial

from benchmarks import command, measure
from benchmarks.attackers.report import TOLERATED, WITH, WITHOUT
from benchmarks.command import Step
from benchmarks.lingering import crowd, report
from benchmarks.lingering.load import CrowdJob
from benchmarks.load import WELL_BEHAVED
from benchmarks.measure import PROJECT, Result
from benchmarks.scenarios import Work

SERVER = "humphrey_trio_lingering"
WORKS = {
    "GETs": Work("beside_crowd", "http", WELL_BEHAVED),
    "echoes": Work("beside_crowd", "ws", WELL_BEHAVED, size=32),
}
OVERHEAD = 2.5  # seconds to start the server and the load, to let the crowd come, and to end them
CLIENTS = "tests/test_lingering_clients.py"


def main() -> None:
    options = parse()
    if options.list:
        for each in crowd.CROWDS:
            print(f"{each.name:12} {each.about}")
        return
    if options.runs:
        sys.exit(run_clients(options.runs))
    command.check_machine()
    measure.raise_file_limit()
    run = command.take_all(list(planned(options)), options)
    print(report.table(run))
    if options.json:
        run.write(options.json)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lingering", description=__doc__)
    command.add_options(parser, seconds=5.0, warmup=0.5)
    parser.add_argument(
        "--crowds",
        type=command.names,
        default=list(crowd.BY_NAME),
        help="names, with commas between them (default: all)",
    )
    parser.add_argument("--count", type=int, default=1000, help="how many a crowd has (default: 1000)")
    parser.add_argument(
        "--rate", type=float, default=20.0, help="requests a second of each well-behaved client (default: 20)"
    )
    parser.add_argument("--list", action="store_true", help="show the crowds")
    parser.add_argument(
        "--runs", type=int, metavar="N", help=f"measure nothing; run each client of {CLIENTS} N times"
    )
    options = parser.parse_args()
    command.check_options(parser, options)
    if options.rate <= 0 or options.count < 1 or (options.runs is not None and options.runs < 1):
        parser.error("--rate is above 0, --count and --runs are at least 1")
    for name in options.crowds:
        if name not in crowd.BY_NAME:
            parser.error(f"no crowd {name!r}, see --list")
    return options


def run_clients(runs: int) -> int:
    """Run the tests of real clients with so many runs each; their exit status."""
    arguments = [sys.executable, "-m", "pytest", CLIENTS, "-v", "-p", "no:cacheprovider"]
    return subprocess.run(arguments, cwd=PROJECT, env=os.environ | {"LINGERING_RUNS": str(runs)}).returncode


def planned(options: argparse.Namespace) -> Iterator[Step]:
    """All steps in their order: each crowd once a round beside each kind of client, in every other round last."""
    phases = (WITHOUT, WITH)
    for number in range(options.rounds):
        for name in options.crowds:
            for clients, work in WORKS.items():
                for phase in phases if number % 2 == 0 else reversed(phases):
                    take = partial(measured, work, name if phase == WITH else "", options)
                    expected = OVERHEAD + options.warmup + options.seconds
                    yield Step(number, f"{name}: {clients}", phase, expected, take)


def measured(work: Work, name: str, options: argparse.Namespace) -> Result:
    """Measure a fresh server beside this crowd, or beside none."""

    def run(port: int, pids: list[int]) -> Result:
        job = CrowdJob(work, port, pids, options.seconds, options.warmup, name, options.count, 1 / options.rate)
        return measure.run_load(job, "benchmarks.lingering.load")

    return measure.measure(SERVER, run, TOLERATED)


if __name__ == "__main__":
    main()

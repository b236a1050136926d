"""The command: times well-behaved clients without and with each attacker, in alternating rounds, and reports."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial

from benchmarks import command, measure
from benchmarks.attackers import attacks, report
from benchmarks.attackers.load import AttackJob
from benchmarks.command import Step
from benchmarks.load import WELL_BEHAVED
from benchmarks.measure import Result
from benchmarks.scenarios import Work

SERVER = "humphrey_trio_attacked"
WORK = Work("beside_attacker", "ws", WELL_BEHAVED, size=32)
OVERHEAD = 1.5  # seconds to start the server and the load, and to end them


def main() -> None:
    options = parse()
    if options.list:
        for attacker in attacks.ATTACKERS:
            print(f"{attacker.name:12} {attacker.about}")
        return
    command.check_machine()
    measure.raise_file_limit()
    run = command.take_all(list(planned(options)), options)
    print(report.table(run))
    if options.json:
        run.write(options.json)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attackers", description=__doc__)
    command.add_options(parser, seconds=5.0, warmup=0.5)
    parser.add_argument(
        "--attackers",
        type=command.names,
        default=list(attacks.BY_NAME),
        help="names, with commas between them (default: all)",
    )
    parser.add_argument(
        "--rate", type=float, default=20.0, help="echoes a second of each well-behaved client (default: 20)"
    )
    parser.add_argument("--list", action="store_true", help="show the attackers")
    options = parser.parse_args()
    command.check_options(parser, options)
    if options.rate <= 0:
        parser.error("--rate is above 0")
    for name in options.attackers:
        if name not in attacks.BY_NAME:
            parser.error(f"no attacker {name!r}, see --list")
    return options


def planned(options: argparse.Namespace) -> Iterator[Step]:
    """All steps in their order: every attacker once a round, in every other round before it is quiet."""
    for number in range(options.rounds):
        for attacker in (attacks.BY_NAME[name] for name in options.attackers):
            seconds = max(options.seconds, attacker.least)
            expected = OVERHEAD + 2 * options.warmup + seconds
            phases = (report.WITHOUT, report.WITH)
            for phase in phases if number % 2 == 0 else reversed(phases):
                name = attacker.name if phase == report.WITH else ""
                take = partial(measured, name, seconds, options)
                yield Step(number, attacker.name, phase, expected, take)


def measured(attacker: str, seconds: float, options: argparse.Namespace) -> Result:
    """Measure a fresh server beside this attacker, or beside none."""

    def run(port: int, pids: list[int]) -> Result:
        job = AttackJob(WORK, port, pids, seconds, options.warmup, attacker, 1 / options.rate)
        return measure.run_load(job, "benchmarks.attackers.load")

    return measure.measure(SERVER, run, report.TOLERATED)


if __name__ == "__main__":
    main()

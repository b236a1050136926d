"""Times well-behaved clients without and with each attacker, in alternating rounds, and prints a table."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks import catalogue, command, measure, paired, payload
from benchmarks.attackers import attacks, report
from benchmarks.attackers.attacks import Attacker
from benchmarks.attackers.load import AttackJob
from benchmarks.catalogue import Server
from benchmarks.command import Step
from benchmarks.measure import Result
from benchmarks.page import markers

OVERHEAD = 1.5  # seconds to start and to end the server and the load generator
PER_CONNECTION = 0.0005  # seconds to open a connection of an attacker


def main() -> None:
    options = parse()
    if options.list:
        paired.show(attacks.BY_NAME)
        return
    chosen = [attacks.BY_NAME[name] for name in options.chosen]
    with folder_for(chosen) as files:
        run = paired.run(planned(chosen, files, options), options, report.table)
    if options.write:
        markers.replace(options.page, report.blocks(run))


def parse() -> argparse.Namespace:
    parser = paired.parser("benchmarks.attackers", __doc__, "attackers", attacks.BY_NAME)
    parser.add_argument(
        "--servers",
        type=command.names,
        default=[server.name for server in attacks.EXCESSIVE.servers],
        metavar="A,B",
        help="only these servers (default: all that an attacker is for)",
    )
    parser.add_argument("--write", action="store_true", help="write the tables into the page")
    markers.add_page(parser)
    options = paired.parse(parser, attacks.BY_NAME, attacks.chosen)
    command.check_names(parser, options.servers, catalogue.BY_NAME)
    markers.check_page(parser, options.page)
    return options


@contextlib.contextmanager
def folder_for(chosen: list[Attacker]) -> Iterator[Path | None]:
    """Create a folder with the large file if an attacker downloads it."""
    if not any(attacker.files for attacker in chosen):
        yield None
        return
    with payload.large_file() as folder:
        yield folder


def planned(chosen: list[Attacker], files: Path | None, options: argparse.Namespace) -> Iterator[Step]:
    """Yield all steps in order: in each round, each server with each attacker and without it."""
    for number in range(options.rounds):
        for attacker in chosen:
            for server in servers(attacker, options.servers):
                yield from pair(number, attacker, server, files if attacker.files else None, options)


def servers(attacker: Attacker, names: list[str]) -> list[Server]:
    """Return the servers that the attacker attacks, without those that are not installed."""
    return [server for server in attacker.servers() if server.name in names and not server.missing()]


def pair(
    number: int, attacker: Attacker, server: Server, files: Path | None, options: argparse.Namespace
) -> Iterator[Step]:
    """Yield the two steps of a server and an attacker in a round."""
    seconds = max(options.seconds, attacker.least_seconds)
    scenario = report.scenario(attacker, server)
    for phase in paired.phases(number):
        attacks_now = phase == paired.WITH
        name = attacker.name if attacks_now else ""
        job = partial(AttackJob, attacker.suite.work, attacker=name, pace=1 / options.rate)
        take = partial(measured, job, server, files, seconds, options)
        opening = attacker.connections * PER_CONNECTION if attacks_now else 0.0
        yield Step(number, scenario, phase, OVERHEAD + opening + 2 * options.warmup + seconds, take)


def measured(
    job: partial[AttackJob], server: Server, files: Path | None, seconds: float, options: argparse.Namespace
) -> Result:
    """Measure a fresh server. `job` has everything but the port, the processes and the times."""

    def run(port: int, pids: list[int]) -> Result:
        given = job(port=port, pids=pids, seconds=seconds, warmup=options.warmup)
        return measure.run_load(given, "benchmarks.attackers.load")

    return measure.measure(server.module, run, paired.TOLERATED, files=files, most_attempts=options.attempts)


if __name__ == "__main__":
    main()

"""Compares the CPU time and the memory of two revisions of this library, in pairs of measurements."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks import catalogue, command, measure, plan, report, scenarios
from benchmarks.catalogue import Server
from benchmarks.plan import Entry
from benchmarks.progress import Progress
from benchmarks.results import Run, Sample
from benchmarks.revisions import checkout, pairs
from benchmarks.revisions import report as table
from benchmarks.revisions.pairs import AFTER, BEFORE, Plan
from benchmarks.scenarios import Scenario

SERVERS = {name: catalogue.BY_NAME[name] for name in (catalogue.OURS, catalogue.OURS_FAST)}


def main() -> None:
    options = parse()
    command.check_machine()
    entries = [Entry(scenario, [SERVERS[name] for name in options.servers]) for scenario in options.scenarios]
    possible = [entry for entry in plan.installed(entries) if plan.is_possible(entry.scenario)]
    try:
        shown = {name: checkout.described(revision) for name, revision in revisions(options).items()}
        with tempfile.TemporaryDirectory() as folder, plan.folder_for(possible) as files:
            roots = {
                name: checkout.copy(revision, Path(folder) / name) for name, revision in revisions(options).items()
            }
            taking = Plan(roots, options.rounds, options.pairs, options.seconds, options.warmup)
            run = compared(taking, possible, files, options)
    except checkout.UnknownRevisionError as problem:
        sys.exit(str(problem))
    keys = {title(*cell): pairs.key(cell[0]) for cell in cells(possible)}
    print("\n".join([report.about(run), *(f"{name}: {text}" for name, text in shown.items()), ""]))
    print(table.table(run, keys, options.tolerated / 100))
    if options.json:
        run.write(options.json)
    if lost := table.worse(run, keys, options.tolerated / 100):
        sys.exit(f"worse by more than {options.tolerated:g} %: {', '.join(lost)}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.revisions", description=__doc__)
    parser.add_argument("before", help="the revision before, such as main~10")
    parser.add_argument("after", nargs="?", default=checkout.WORKING_TREE, help="default: the working tree")
    command.add_options(parser, seconds=0.3, warmup=0.1, rounds=5)
    parser.add_argument("--pairs", type=int, default=4, help="pairs of measurements in each round (default: 4)")
    parser.add_argument(
        "--tolerated", type=float, default=3.0, metavar="PERCENT", help="the tolerated loss (default: 3)"
    )
    parser.add_argument(
        "--scenarios", type=command.names, default=["all"], metavar="A,B", help="names or groups (default: all)"
    )
    parser.add_argument(
        "--servers",
        type=command.names,
        default=[catalogue.OURS],
        metavar="A,B",
        help=f"{' and '.join(SERVERS)} (default: {catalogue.OURS})",
    )
    options = parser.parse_args()
    command.check_options(parser, options)
    command.check_names(parser, options.servers, SERVERS)
    if options.pairs < 1:
        parser.error("--pairs must be at least 1")
    options.scenarios = [one for one in scenarios.chosen(options.scenarios) if is_comparable(one)]
    return options


def is_comparable(scenario: Scenario) -> bool:
    """Return whether a scenario has a figure for CPU time or memory that is not already a comparison."""
    return not scenario.ours_only and scenario.work.mode != "connect_at_once"


def revisions(options: argparse.Namespace) -> dict[str, str]:
    return {BEFORE: options.before, AFTER: options.after}


def title(scenario: Scenario, server: Server) -> str:
    return scenario.name if server.name == catalogue.OURS else f"{scenario.name}, {server.name}"


def cells(entries: list[Entry]) -> list[tuple[Scenario, Server]]:
    return [(entry.scenario, server) for entry in entries for server in entry.servers]


def compared(taking: Plan, entries: list[Entry], files: Path | None, options: argparse.Namespace) -> Run:
    """Take all pairs. If interrupted, return the samples so far."""
    measure.raise_file_limit()
    run = Run(command.about(options))
    steps = [(number, *cell) for number in range(taking.rounds) for cell in cells(entries)]
    progress = Progress([taking.duration(scenario) for _, scenario, _ in steps])
    try:
        for number, scenario, server in steps:
            progress.starts(f"{title(scenario, server)}, round {number + 1} of {taking.rounds}")
            run.samples += samples(taking, number, scenario, server, files)
            progress.ends(taking.duration(scenario))
    except KeyboardInterrupt:
        command.say("\nInterrupted. These are the results so far.")
    progress.finish()
    return run


def samples(taking: Plan, number: int, scenario: Scenario, server: Server, files: Path | None) -> Iterator[Sample]:
    """Yield the samples of a round of a scenario. The last one is the failure, if there is one."""
    name = title(scenario, server)
    served = files if scenario.work.protocol == catalogue.FILE else None
    try:
        yield from pairs.taken(taking, number, scenario, server, served, name)
    except measure.CellError as failure:
        yield Sample(number, name, AFTER, None, str(failure))


if __name__ == "__main__":
    main()

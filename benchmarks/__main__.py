"""Measures servers on scenarios, in alternating rounds, and prints tables."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks import catalogue, certificate, chart, command, measure, report, scenarios
from benchmarks.catalogue import Server
from benchmarks.command import Step, names, say
from benchmarks.measure import Job, Result
from benchmarks.results import Run
from benchmarks.scenarios import Scenario

SPARE_FILES = 200  # open files of a process other than its connections


def main() -> None:
    options = parse()
    if options.list:
        show_list()
        return
    run = Run.read(options.from_json) if options.from_json else run_all(options)
    print(report.tables(run, options.reference))
    if options.json:
        run.write(options.json)
    if options.svg:
        options.svg.write_text(chart.svg(run))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    command.add_options(parser, seconds=1.0, warmup=0.3)
    parser.add_argument("--servers", type=names, help="names, separated by commas (default: all)")
    parser.add_argument(
        "--scenarios",
        type=names,
        default=["all"],
        help="names, separated by commas; or http, ws, tls, ours, all (default: all)",
    )
    parser.add_argument(
        "--reference", default=catalogue.OURS, help="the server whose figures are divided by those of the others"
    )
    parser.add_argument("--svg", type=Path, metavar="FILE", help="write a chart")
    parser.add_argument("--from-json", type=Path, metavar="FILE", help="measure nothing; report an earlier run")
    parser.add_argument("--list", action="store_true", help="list servers and scenarios")
    options = parser.parse_args()
    command.check_names(parser, [*(options.servers or []), options.reference], catalogue.BY_NAME)
    command.check_options(parser, options)
    command.check_file(parser, options.svg)
    for name in options.scenarios:
        if not scenarios.chosen([name]):
            parser.error(f"unknown name {name!r}: see --list")
    return options


def show_list() -> None:
    print("Servers")
    for server in catalogue.SERVERS:
        missing = server.missing()
        note = f"  (not installed: {', '.join(missing)})" if missing else ""
        print(f"  {server.name:20} {'+'.join(server.protocols):8}{note}".rstrip())
    print("Scenarios")
    for scenario in scenarios.SCENARIOS:
        ours = "  (other servers only with --servers)" if scenario.ours_only else ""
        print(f"  {scenario.name:20} {scenario.title}, {scenario.unit}{ours}")


def run_all(options: argparse.Namespace) -> Run:
    """Measure the chosen servers on the chosen scenarios."""
    command.check_machine()
    return command.take_all(list(planned(options)), options)


def planned(options: argparse.Namespace) -> Iterator[Step]:
    """Yield all steps in order. Servers alternate within a scenario, and each round starts with another server."""
    servers = installed([catalogue.BY_NAME[name] for name in options.servers or catalogue.BY_NAME])
    chosen = possible(scenarios.chosen(options.scenarios))
    for number in range(options.rounds):
        for scenario in chosen:
            suitable = [server for server in servers if is_suitable(server, scenario, named=bool(options.servers))]
            first = number * len(suitable) // options.rounds
            for server in suitable[first:] + suitable[:first]:
                expected = scenario.duration(options.seconds, options.warmup)
                take = partial(measured, scenario, server, options)
                yield Step(number, scenario.name, server.name, expected, take)


def is_suitable(server: Server, scenario: Scenario, named: bool) -> bool:
    if scenario.ours_only and not named and server.name != catalogue.OURS:
        return False
    return scenario.work.protocol in server.protocols and (server.tls or not scenario.work.tls)


def installed(servers: list[Server]) -> list[Server]:
    for server in servers:
        if missing := server.missing():
            say(f"{server.name} is skipped: {', '.join(missing)} is not installed")
    return [server for server in servers if not server.missing()]


def possible(chosen: list[Scenario]) -> list[Scenario]:
    files = measure.raise_file_limit() - SPARE_FILES
    has_certificates = catalogue.importable(certificate.NEEDS)
    found = []
    for scenario in chosen:
        if scenario.work.connections > files:
            say(f"{scenario.name} is skipped: it needs more open files than the limit of {files}")
        elif scenario.work.tls and not has_certificates:
            say(f"{scenario.name} is skipped: {certificate.NEEDS}, which creates certificates, is not installed")
        else:
            found.append(scenario)
    return found


def measured(scenario: Scenario, server: Server, options: argparse.Namespace) -> Result:
    def run(port: int, pids: list[int]) -> Result:
        return measure.run_load(Job(scenario.work, port, pids, options.seconds, options.warmup))

    return measure.measure(server.module, run, tls=scenario.work.tls)


if __name__ == "__main__":
    main()

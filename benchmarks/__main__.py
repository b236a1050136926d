"""The command: chooses servers and scenarios, runs them in alternating rounds and reports."""

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

SPARE_FILES = 200  # what a process needs besides its connections


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
    parser.add_argument("--servers", type=names, help="names, with commas between them (default: all)")
    parser.add_argument(
        "--scenarios", type=names, default=["all"], help="names, or http, ws, tls, ours, all (default: all)"
    )
    parser.add_argument("--reference", default=catalogue.OURS, help="the upper part of the ratios")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="write a chart there")
    parser.add_argument("--from-json", type=Path, metavar="FILE", help="report an earlier run again")
    parser.add_argument("--list", action="store_true", help="show servers and scenarios")
    options = parser.parse_args()
    for name in options.servers or []:
        if name not in catalogue.BY_NAME:
            parser.error(f"no server {name!r}, see --list")
    if options.reference not in catalogue.BY_NAME:
        parser.error(f"no server {options.reference!r} to refer to, see --list")
    command.check_options(parser, options)
    command.check_file(parser, options.svg)
    for name in options.scenarios:
        if not scenarios.chosen([name]):
            parser.error(f"no scenario {name!r}, see --list")
    return options


def show_list() -> None:
    print("Servers")
    for server in catalogue.SERVERS:
        missing = server.missing()
        note = f"  (not installed: {', '.join(missing)})" if missing else ""
        print(f"  {server.name:20} {'+'.join(server.protocols):8}{note}".rstrip())
    print("Scenarios")
    for scenario in scenarios.SCENARIOS:
        ours = "  (of others only if --servers names them)" if scenario.ours_only else ""
        print(f"  {scenario.name:20} {scenario.title}, {scenario.unit}{ours}")


def run_all(options: argparse.Namespace) -> Run:
    """Run everything that was asked for."""
    command.check_machine()
    return command.take_all(list(planned(options)), options)


def planned(options: argparse.Namespace) -> Iterator[Step]:
    """All steps in their order: servers alternate within a scenario, and another one begins in each round."""
    servers = installed([catalogue.BY_NAME[name] for name in options.servers or catalogue.BY_NAME])
    chosen = possible(scenarios.chosen(options.scenarios))
    for number in range(options.rounds):
        for scenario in chosen:
            able = [server for server in servers if is_for(server, scenario, named=bool(options.servers))]
            first = number * len(able) // options.rounds
            for server in able[first:] + able[:first]:
                expected = scenario.duration(options.seconds, options.warmup)
                take = partial(measured, scenario, server, options)
                yield Step(number, scenario.name, server.name, expected, take)


def is_for(server: Server, scenario: Scenario, named: bool) -> bool:
    if scenario.ours_only and not named and server.name != catalogue.OURS:
        return False
    return scenario.work.protocol in server.protocols and (server.tls or not scenario.work.tls)


def installed(servers: list[Server]) -> list[Server]:
    for server in servers:
        if missing := server.missing():
            say(f"{server.name} is left out: {', '.join(missing)} is not installed")
    return [server for server in servers if not server.missing()]


def possible(chosen: list[Scenario]) -> list[Scenario]:
    files = measure.raise_file_limit() - SPARE_FILES
    able = catalogue.importable(certificate.NEEDS)
    found = []
    for scenario in chosen:
        if scenario.work.connections > files:
            say(f"{scenario.name} is left out: it needs more open files than are allowed here, {files}")
        elif scenario.work.tls and not able:
            say(f"{scenario.name} is left out: {certificate.NEEDS}, which makes certificates, is not installed")
        else:
            found.append(scenario)
    return found


def measured(scenario: Scenario, server: Server, options: argparse.Namespace) -> Result:
    def run(port: int, pids: list[int]) -> Result:
        return measure.run_load(Job(scenario.work, port, pids, options.seconds, options.warmup))

    return measure.measure(server.module, run, tls=scenario.work.tls)


if __name__ == "__main__":
    main()

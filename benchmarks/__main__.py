"""Measures servers on scenarios, in alternating rounds, and prints tables."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks import catalogue, chart, command, plan, report, scenarios
from benchmarks.catalogue import Server
from benchmarks.command import names
from benchmarks.plan import Entry
from benchmarks.results import Run
from benchmarks.scenarios import Scenario


def main() -> None:
    options = parse()
    if options.list:
        show_list()
        return
    run = Run.read(options.from_json) if options.from_json else plan.run_all(chosen(options), options)
    print(report.tables(run, options.reference))
    if options.json:
        run.write(options.json)
    if options.svg:
        options.svg.write_text(chart.svg(run))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    command.add_options(parser, seconds=1.0, warmup=0.3)
    command.add_attempts(parser)
    parser.add_argument("--servers", type=names, help="names, separated by commas (default: all)")
    parser.add_argument(
        "--scenarios",
        type=names,
        default=["all"],
        help="names, separated by commas; or http, ws, file, tls, asgi, ours, all (default: all)",
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
        print(f"  {server.name:20} {'+'.join(server.protocols):12}{note}".rstrip())
    print("Scenarios")
    for scenario in scenarios.SCENARIOS:
        ours = "  (other servers only with --servers)" if scenario.ours_only else ""
        print(f"  {scenario.name:20} {scenario.title}, {scenario.unit}{ours}")


def chosen(options: argparse.Namespace) -> list[Entry]:
    """Return the chosen scenarios, each with the chosen servers that can do its work."""
    return [
        Entry(scenario, [server for server in catalogue.SERVERS if is_chosen(server, scenario, options.servers)])
        for scenario in scenarios.chosen(options.scenarios)
    ]


def is_chosen(server: Server, scenario: Scenario, names: list[str] | None) -> bool:
    if names is None:
        return plan.is_suitable(server, scenario) and (server.ours or not scenario.ours_only)
    return server.name in names and plan.is_suitable(server, scenario)


if __name__ == "__main__":
    main()

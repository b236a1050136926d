"""The command: chooses servers and scenarios, runs them in alternating rounds and reports."""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import catalogue, chart, measure, report, scenarios
from benchmarks.catalogue import Server
from benchmarks.progress import Progress
from benchmarks.results import Run, Sample
from benchmarks.scenarios import Scenario

SPARE_FILES = 200  # what a process needs besides its connections


class Cell(NamedTuple):
    """One measurement."""

    round: int
    scenario: Scenario
    server: Server

    def __str__(self) -> str:
        return f"{self.scenario.name}, {self.server.name}, round {self.round + 1}"


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
    parser.add_argument("--rounds", type=int, default=3, help="how often to measure each (default: 3)")
    parser.add_argument("--seconds", type=float, default=1.0, help="measured time of each (default: 1.0)")
    parser.add_argument("--warmup", type=float, default=0.3, help="time before that (default: 0.3)")
    parser.add_argument("--servers", type=names, help="names, with commas between them (default: all)")
    parser.add_argument(
        "--scenarios", type=names, default=["all"], help="names, or http, ws, ours, all (default: all)"
    )
    parser.add_argument("--reference", default=catalogue.OURS, help="the upper part of the ratios")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples there")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="write a chart there")
    parser.add_argument("--from-json", type=Path, metavar="FILE", help="report an earlier run again")
    parser.add_argument("--list", action="store_true", help="show servers and scenarios")
    options = parser.parse_args()
    for name in options.servers or []:
        if name not in catalogue.BY_NAME:
            parser.error(f"no server {name!r}, see --list")
    if options.reference not in catalogue.BY_NAME:
        parser.error(f"no server {options.reference!r} to refer to, see --list")
    if options.rounds < 1 or options.seconds <= 0 or options.warmup < 0:
        parser.error("--rounds is at least 1, --seconds is above 0, and --warmup is not below 0")
    for file in (options.json, options.svg):
        if file is not None and not file.absolute().parent.is_dir():
            parser.error(f"there is no folder for {str(file)!r}")
    for name in options.scenarios:
        if not scenarios.chosen([name]):
            parser.error(f"no scenario {name!r}, see --list")
    return options


def names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


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
    """Run everything that was asked for; after an interrupt, what is done so far."""
    cores = {measure.SERVER_CORE, measure.LOAD_CORE}
    if not sys.platform.startswith("linux") or not cores <= os.sched_getaffinity(0):
        sys.exit("The benchmarks need Linux, and the first two cores of the machine.")
    cells = list(planned(options))
    if not cells:
        sys.exit("Nothing to measure.")
    durations = [cell.scenario.duration(options.seconds, options.warmup) for cell in cells]
    run = Run(about(options))
    progress = Progress(durations)
    broken: dict[str, str] = {}
    try:
        for cell, duration in zip(cells, durations, strict=True):
            if cell.server.name not in broken:
                progress.starts(f"{cell} of {options.rounds}")
                run.samples.append(measured(cell, options, broken))
            progress.ends(duration)
    except KeyboardInterrupt:
        say("\nInterrupted; this is what was measured.")
    progress.finish()
    for name, reason in broken.items():
        say(f"{name} is left out: {report.shortened(reason)}")
    return run


def planned(options: argparse.Namespace) -> Iterator[Cell]:
    """All cells in their order: servers alternate within a scenario, and another one begins in each round."""
    servers = installed([catalogue.BY_NAME[name] for name in options.servers or catalogue.BY_NAME])
    chosen = possible(scenarios.chosen(options.scenarios))
    for number in range(options.rounds):
        for scenario in chosen:
            able = [server for server in servers if is_for(server, scenario, named=bool(options.servers))]
            first = number * len(able) // options.rounds
            for server in able[first:] + able[:first]:
                yield Cell(number, scenario, server)


def is_for(server: Server, scenario: Scenario, named: bool) -> bool:
    if scenario.ours_only and not named and server.name != catalogue.OURS:
        return False
    return scenario.work.protocol in server.protocols


def installed(servers: list[Server]) -> list[Server]:
    for server in servers:
        if missing := server.missing():
            say(f"{server.name} is left out: {', '.join(missing)} is not installed")
    return [server for server in servers if not server.missing()]


def possible(chosen: list[Scenario]) -> list[Scenario]:
    files = measure.raise_file_limit() - SPARE_FILES
    for scenario in chosen:
        if scenario.work.connections > files:
            say(f"{scenario.name} is left out: it needs more open files than are allowed here, {files}")
    return [scenario for scenario in chosen if scenario.work.connections <= files]


def measured(cell: Cell, options: argparse.Namespace, broken: dict[str, str]) -> Sample:
    """Measure a cell; a server that does not even start goes among the broken ones."""
    place = cell.round, cell.scenario.name, cell.server.name
    try:
        result = measure.measure(cell.server.module, cell.scenario.work, options.seconds, options.warmup)
    except measure.StartError as failure:
        broken[cell.server.name] = str(failure)
        return Sample(*place, None, str(failure))
    except measure.CellError as failure:
        return Sample(*place, None, str(failure))
    return Sample(*place, result)


def about(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "date": datetime.datetime.now().isoformat(" ", "minutes"),
        "python": platform.python_version(),
        "kernel": f"{platform.system()} {platform.release()}",
        "cpu": cpu_model(),
        "versions": versions(),
        "rounds": options.rounds,
        "seconds": options.seconds,
        "warmup": options.warmup,
    }


def cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def versions() -> dict[str, str]:
    found = {}
    for name in catalogue.DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def say(words: str) -> None:
    print(words, file=sys.stderr)


if __name__ == "__main__":
    main()

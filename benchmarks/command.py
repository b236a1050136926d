"""Shared by all commands: common options, and the loop that takes the samples."""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import sys
from collections.abc import Callable, Container, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import catalogue, measure, report
from benchmarks.measure import Result
from benchmarks.progress import Progress
from benchmarks.results import Run, Sample


class Step(NamedTuple):
    """A planned measurement. `expected` is its estimated duration in seconds."""

    round: int
    scenario: str
    server: str
    expected: float
    take: Callable[[], Result]

    def __str__(self) -> str:
        return f"{self.scenario}, {self.server}, round {self.round + 1}"


def add_options(parser: argparse.ArgumentParser, *, seconds: float, warmup: float, rounds: int = 3) -> None:
    """Add the options of all commands, with these defaults."""
    parser.add_argument("--rounds", type=int, default=rounds, help=f"number of rounds (default: {rounds})")
    parser.add_argument(
        "--seconds", type=float, default=seconds, help=f"measured time of each measurement (default: {seconds})"
    )
    parser.add_argument(
        "--warmup", type=float, default=warmup, help=f"time before it that is not measured (default: {warmup})"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples")


def add_attempts(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--attempts",
        type=int,
        choices=range(1, 10),
        default=measure.ATTEMPTS,
        metavar="N",
        help=f"how often a measurement is taken while it is disturbed (default: {measure.ATTEMPTS})",
    )


def check_options(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if options.rounds < 1 or options.seconds <= 0 or options.warmup < 0:
        parser.error("--rounds must be at least 1, --seconds above 0, and --warmup at least 0")
    check_file(parser, options.json)


def check_file(parser: argparse.ArgumentParser, file: Path | None) -> None:
    if file is not None and not file.absolute().parent.is_dir():
        parser.error(f"the folder of {str(file)!r} does not exist")


def check_names(parser: argparse.ArgumentParser, chosen: Iterable[str], known: Container[str]) -> None:
    """Exit if one of the names is unknown."""
    for name in chosen:
        if name not in known:
            parser.error(f"unknown name {name!r}: see --list")


def names(text: str) -> list[str]:
    """Split a list of names that are separated by commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def check_machine() -> None:
    cores = {measure.SERVER_CORE, measure.LOAD_CORE}
    if not sys.platform.startswith("linux") or not cores <= os.sched_getaffinity(0):
        sys.exit("The benchmarks need Linux, and permission to use the first two cores.")


def take_all(steps: Sequence[Step], options: argparse.Namespace) -> Run:
    """Take the steps. If interrupted, return the samples so far. A server that does not start is skipped."""
    if not steps:
        sys.exit("Nothing to measure.")
    run = Run(about(options))
    progress = Progress([step.expected for step in steps])
    broken: dict[str, str] = {}
    try:
        for step in steps:
            if step.server not in broken:
                progress.starts(f"{step} of {options.rounds}")
                run.samples.append(_taken(step, broken))
            progress.ends(step.expected)
    except KeyboardInterrupt:
        say("\nInterrupted. These are the results so far.")
    progress.finish()
    run.about["load_average"]["end"] = list(os.getloadavg())
    for name, reason in broken.items():
        say(f"{name} is skipped: {report.shortened(reason)}")
    return run


def _taken(step: Step, broken: dict[str, str]) -> Sample:
    """Take a step. If the server does not start, add it to `broken` with the reason."""
    place = step.round, step.scenario, step.server
    try:
        return Sample(*place, step.take())
    except measure.StartError as failure:
        broken[step.server] = str(failure)
        return Sample(*place, None, str(failure))
    except measure.CellError as failure:
        return Sample(*place, None, str(failure))


def about(options: argparse.Namespace) -> dict[str, Any]:
    """Return the date, the machine, the versions and the options of a run."""
    return {
        "date": datetime.datetime.now().isoformat(" ", "minutes"),
        "python": platform.python_version(),
        "kernel": f"{platform.system()} {platform.release()}",
        "cpu": cpu_model(),
        "load_average": {"start": list(os.getloadavg())},
        "versions": versions(),
        "servers": {
            server.name: {"versions": server.versions(), "missing": server.missing()}
            for server in catalogue.SERVERS
        },
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
    """Return the versions of all servers, of what they are built on, and of the frameworks."""
    servers = {name: version for server in catalogue.SERVERS for name, version in server.versions().items()}
    return servers | {
        name: version for name in catalogue.FRAMEWORKS if (version := catalogue.distribution_version(name))
    }


def say(line: str) -> None:
    print(line, file=sys.stderr)

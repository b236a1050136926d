"""What the commands have in common: their options, and how they take their samples."""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import os
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import catalogue, measure, report
from benchmarks.measure import Result
from benchmarks.progress import Progress
from benchmarks.results import Run, Sample


class Step(NamedTuple):
    """One measurement that is planned; `expected` is about how many seconds it will take."""

    round: int
    scenario: str
    server: str
    expected: float
    take: Callable[[], Result]

    def __str__(self) -> str:
        return f"{self.scenario}, {self.server}, round {self.round + 1}"


def add_options(parser: argparse.ArgumentParser, *, seconds: float, warmup: float) -> None:
    """The options that every command has, with these defaults."""
    parser.add_argument("--rounds", type=int, default=3, help="how often to measure each (default: 3)")
    parser.add_argument(
        "--seconds", type=float, default=seconds, help=f"measured time of each (default: {seconds})"
    )
    parser.add_argument("--warmup", type=float, default=warmup, help=f"time before that (default: {warmup})")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples there")


def check_options(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if options.rounds < 1 or options.seconds <= 0 or options.warmup < 0:
        parser.error("--rounds is at least 1, --seconds is above 0, and --warmup is not below 0")
    check_file(parser, options.json)


def check_file(parser: argparse.ArgumentParser, file: Path | None) -> None:
    if file is not None and not file.absolute().parent.is_dir():
        parser.error(f"there is no folder for {str(file)!r}")


def names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def check_machine() -> None:
    cores = {measure.SERVER_CORE, measure.LOAD_CORE}
    if not sys.platform.startswith("linux") or not cores <= os.sched_getaffinity(0):
        sys.exit("The benchmarks need Linux, and the first two cores of the machine.")


def take_all(steps: Sequence[Step], options: argparse.Namespace) -> Run:
    """Take these steps; after an interrupt, what is done so far."""
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
        say("\nInterrupted; this is what was measured.")
    progress.finish()
    for name, reason in broken.items():
        say(f"{name} is left out: {report.shortened(reason)}")
    return run


def _taken(step: Step, broken: dict[str, str]) -> Sample:
    """Take a step; a server that does not even start goes among the broken ones."""
    place = step.round, step.scenario, step.server
    try:
        return Sample(*place, step.take())
    except measure.StartError as failure:
        broken[step.server] = str(failure)
        return Sample(*place, None, str(failure))
    except measure.CellError as failure:
        return Sample(*place, None, str(failure))


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

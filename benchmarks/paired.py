"""Shared by `benchmarks.attackers` and `benchmarks.lingering`.

Both commands time well-behaved clients of one server without and with something else that uses the server: an
attacker, or a group of lingering connections.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from benchmarks import command, measure, report
from benchmarks.command import Step
from benchmarks.results import Run

WITHOUT, WITH = "without", "with"
# The tolerated share of a core for other processes. If a virtual machine halts for 0.1 s in 5 s, that is its p99.
TOLERATED = 0.02
FIGURES = {"p50_ms": "p50 ms", "p99_ms": "p99 ms", "busy": "CPU"}  # "CPU" is a fraction of a core
TITLES = [f"{title} {phase}" for title in FIGURES.values() for phase in (WITHOUT, WITH)]


class Choice(Protocol):
    """An attacker or a group: what the command can measure."""

    @property
    def name(self) -> str:
        """The name in options and tables."""
        ...

    @property
    def about(self) -> str:
        """One line for `--list`."""
        ...


def parser(
    prog: str, description: str | None, kind: str, choices: Mapping[str, Choice]
) -> argparse.ArgumentParser:
    """Create a parser with the options that both commands have.

    Args:
        prog: the module of the command.
        description: for `--help`.
        kind: the name of the choices in the plural, which is also the option that selects them.
        choices: all of them, by name.
    """
    created = argparse.ArgumentParser(prog=f"python -m {prog}", description=description)
    command.add_options(created, seconds=5.0, warmup=0.5)
    command.add_attempts(created)
    created.add_argument(
        f"--{kind}",
        dest="chosen",
        type=command.names,
        default=list(choices),
        metavar="A,B",
        help="names, separated by commas (default: all)",
    )
    created.add_argument(
        "--rate", type=float, default=20.0, help="requests per second of each well-behaved client (default: 20)"
    )
    created.add_argument("--list", action="store_true", help=f"list the {kind}")
    return created


def parse(
    parser: argparse.ArgumentParser,
    choices: Mapping[str, Choice],
    expand: Callable[[list[str]], list[str]] = lambda given: given,
) -> argparse.Namespace:
    """Parse the command line, and exit if an option of both commands is invalid.

    Args:
        parser: that of the command.
        choices: all choices, by name.
        expand: replaces the names of groups of choices.
    """
    options = parser.parse_args()
    options.chosen = expand(options.chosen)
    command.check_options(parser, options)
    if options.rate <= 0:
        parser.error("--rate must be above 0")
    command.check_names(parser, options.chosen, choices)
    return options


def show(choices: Mapping[str, Choice]) -> None:
    """Print the list of choices."""
    for choice in choices.values():
        print(f"{choice.name:20} {choice.about}")


def run(steps: Iterable[Step], options: argparse.Namespace, table: Callable[[Run], str]) -> Run:
    """Take the steps, print the table, write the samples if a file was given, and return them."""
    command.check_machine()
    measure.raise_file_limit()
    taken = command.take_all(list(steps), options)
    print(table(taken))
    if options.json:
        taken.write(options.json)
    return taken


def phases(round: int) -> tuple[str, str]:
    """Return the order of the phases in a round. It alternates, so that a trend of the machine affects both."""
    return (WITHOUT, WITH) if round % 2 == 0 else (WITH, WITHOUT)


def cells(run: Run, scenario: str) -> list[str]:
    """Return the figures of a row, in the order of `TITLES`."""
    return [report.spread(run.figure(scenario, phase, key)) for key in FIGURES for phase in (WITHOUT, WITH)]


def troubles(run: Run, scenario: str) -> list[str]:
    """Return the reasons to doubt the figures of a row."""
    return [
        f"{phase}: {trouble}"
        for phase in (WITHOUT, WITH)
        for trouble in report.troubles(run, scenario, phase, TOLERATED)
    ]


def table(run: Run, head: list[str], rows: list[list[str]], notes: list[str]) -> str:
    """Format a table.

    Args:
        run: for the line about the machine and the versions.
        head: the titles of the columns.
        rows: the cells.
        notes: the text after the head and after each row; may be empty.
    """
    lines = report.aligned([head, *rows])
    body = [f"{line}  {note}".rstrip() for line, note in zip(lines, notes, strict=True)]
    return "\n".join([report.about(run), "", *body])

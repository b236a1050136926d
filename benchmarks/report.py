"""The tables: one for each scenario, with medians and, in brackets, the lowest and the highest of the rounds."""

from __future__ import annotations

from benchmarks import scenarios
from benchmarks.measure import DISTURBED
from benchmarks.results import Figure, Run
from benchmarks.scenarios import HIGHER


def tables(run: Run, reference: str) -> str:
    parts = [_table(run, name, reference) for name in run.scenarios()]
    return "\n\n".join([about(run), *parts])


def number(value: float) -> str:
    """Format a number with at least three significant digits."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if 0 < abs(value) < 1 else f"{value:#.3g}"


def shortened(text: str, half: int = 80) -> str:
    """Return the text on one line, without its middle if it is long."""
    line = " ".join(text.split())
    return line if len(line) <= 2 * half else f"{line[:half]} ... {line[-half:]}"


def spread(figure: Figure | None) -> str:
    """Format a figure: the median and, if the rounds differ, the lowest and the highest."""
    if figure is None:
        return ""
    if figure.low == figure.high:
        return number(figure.median)
    return f"{number(figure.median)} [{number(figure.low)}..{number(figure.high)}]"


def aligned(rows: list[list[str]]) -> list[str]:
    """Return the lines of a table. The first column is aligned to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [_aligned(row, widths) for row in rows]


def about(run: Run) -> str:
    """Return the date, the machine and the versions of a run, on two lines."""
    facts = run.about
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    return f"{facts['date']}, Python {facts['python']}, {facts['cpu']}, {facts['kernel']}\n{versions}"


def _table(run: Run, name: str, reference: str) -> str:
    scenario = scenarios.BY_NAME[name]
    servers = run.servers(name)
    compared = reference in servers and len(servers) > 1
    head = ["", scenario.unit, "p50 ms", "p99 ms", "CPU us/op", "core busy"]
    head += [f"ratio {scenario.unit}", "ratio CPU"] if compared else []
    rows = [head] + [_row(run, name, server, reference if compared else "") for server in servers]
    lines = aligned(_without_empty_columns(rows))
    notes = ["", *(_notes(run, name, server) for server in servers)]
    body = [f"{line}  {note}".rstrip() for line, note in zip(lines, notes, strict=True)]
    better = "higher is better" if scenario.better == HIGHER else "lower is better"
    ratios = f"; ratios are {reference} / server of the row" if compared else ""
    return "\n".join([f"{name}: {scenario.title} ({scenario.unit}: {better}{ratios})", *body])


def _aligned(row: list[str], widths: list[int]) -> str:
    first, *others = zip(row, widths, strict=True)
    return "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)])


def _row(run: Run, scenario: str, server: str, reference: str) -> list[str]:
    figures = [run.figure(scenario, server, key) for key in ("value", "p50_ms", "p99_ms", "cpu_us")]
    busy = run.figure(scenario, server, "busy")
    row = [server, *map(spread, figures), f"{busy.median:.0%}" if busy else ""]
    if reference:
        row += [spread(run.ratio(scenario, server, reference, key)) for key in ("value", "cpu_us")]
    return row


def _without_empty_columns(rows: list[list[str]]) -> list[list[str]]:
    used = [place for place in range(len(rows[0])) if place == 0 or any(row[place] for row in rows[1:])]
    return [[row[place] for place in used] for row in rows]


def _notes(run: Run, scenario: str, server: str) -> str:
    notes = [f"{name}: {spread(figure)}" for name, figure in run.extras(scenario, server).items()]
    return "; ".join(notes + troubles(run, scenario, server))


def troubles(run: Run, scenario: str, server: str, tolerated: float = DISTURBED) -> list[str]:
    """Return the reasons to doubt the figures of a server."""
    notes = []
    disturbed = run.figure(scenario, server, "disturbed")
    if disturbed and disturbed.high > tolerated:
        notes.append(f"other processes used up to {disturbed.high:.0%} of a core")
    errors = run.errors(scenario, server)
    if errors:
        notes.append(f"failed rounds: {len(errors)} ({shortened(errors[0])})")
    return notes

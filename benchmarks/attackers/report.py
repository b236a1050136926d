"""The tables: one row for each attacker and server, with medians, and the lowest and the highest of the rounds."""

from __future__ import annotations

from benchmarks import paired
from benchmarks.attackers import attacks
from benchmarks.attackers.attacks import Attacker
from benchmarks.attackers.load import ENDED, GROWTH
from benchmarks.catalogue import Server
from benchmarks.page import markdown
from benchmarks.report import number, spread
from benchmarks.results import Figure, Run

HEAD = ["others are", "server", "p50, ms", "p99, ms", "p99: with / without", "CPU of the server", "memory, MiB"]


def scenario(attacker: Attacker, server: Server) -> str:
    """Return the name of the samples of an attacker and a server."""
    return f"{attacker.name}: {server.name}"


def table(run: Run) -> str:
    """Return the table for a terminal."""
    scenarios = run.scenarios()
    rows = [[name, *paired.cells(run, name), _growth(run, name)] for name in scenarios]
    notes = ["counts of the attacker; how its connections ended", *(_notes(run, name) for name in scenarios)]
    return paired.table(run, ["attacker: server", *paired.TITLES, GROWTH], rows, notes)


def blocks(run: Run) -> dict[str, str]:
    """Return the content of the marker of the page, if the run has figures for it."""
    suite = attacks.EXCESSIVE
    rows = [row for attacker in attacks.ATTACKERS if attacker.suite is suite for row in _rows(run, attacker)]
    return (
        {suite.name: f"{markdown.conditions(run, paired.TOLERATED)}\n\n{markdown.table(HEAD, rows)}"}
        if rows
        else {}
    )


def _rows(run: Run, attacker: Attacker) -> list[list[str]]:
    measured = run.scenarios()
    servers = [server for server in attacker.servers() if scenario(attacker, server) in measured]
    titles = [attacker.about.rstrip("."), *[""] * (len(servers) - 1)]
    return [[title, *_row(run, attacker, server)] for title, server in zip(titles, servers, strict=False)]


def _row(run: Run, attacker: Attacker, server: Server) -> list[str]:
    name = scenario(attacker, server)
    if errors := run.errors(name, paired.WITH):
        return [server.name, f"failed: {errors[0]}", "", "", "", ""]
    return [
        server.name,
        _change(run, name, "p50_ms"),
        _change(run, name, "p99_ms"),
        spread(run.ratio(name, paired.WITHOUT, paired.WITH, "p99_ms")),
        _change(run, name, "busy"),
        _growth(run, name),
    ]


def _change(run: Run, name: str, key: str) -> str:
    figures = [run.figure(name, phase, key) for phase in (paired.WITHOUT, paired.WITH)]
    return " -> ".join(number(figure.median) if figure else "failed" for figure in figures)


def _growth(run: Run, name: str) -> str:
    return spread(run.extras(name, paired.WITH).get(GROWTH))


def _notes(run: Run, name: str) -> str:
    figures = run.extras(name, paired.WITH)
    figures.pop(GROWTH, None)
    ended = {title: figures.pop(title) for title in list(figures) if title.startswith(ENDED)}
    notes = [_counts(figures), ENDED + _counts(ended) if ended else "", *paired.troubles(run, name)]
    return "; ".join(note for note in notes if note)


def _counts(figures: dict[str, Figure]) -> str:
    return ", ".join(f"{name.removeprefix(ENDED)} {figure.median:,.0f}" for name, figure in figures.items())

"""The table: one row for each attacker, with medians, and the lowest and the highest of the rounds."""

from __future__ import annotations

from benchmarks import paired
from benchmarks.attackers.load import ENDED, GROWTH
from benchmarks.report import spread
from benchmarks.results import Figure, Run


def table(run: Run) -> str:
    attackers = run.scenarios()
    rows = [[name, *paired.cells(run, name), _growth(run, name)] for name in attackers]
    notes = ["counts of the attacker; how its connections ended", *(_notes(run, name) for name in attackers)]
    return paired.table(run, ["attacker", *paired.TITLES, GROWTH], rows, notes)


def _growth(run: Run, attacker: str) -> str:
    return spread(run.extras(attacker, paired.WITH).get(GROWTH))


def _notes(run: Run, attacker: str) -> str:
    figures = run.extras(attacker, paired.WITH)
    figures.pop(GROWTH, None)
    ended = {name: figures.pop(name) for name in list(figures) if name.startswith(ENDED)}
    notes = [_counts(figures), ENDED + _counts(ended) if ended else "", *paired.troubles(run, attacker)]
    return "; ".join(note for note in notes if note)


def _counts(figures: dict[str, Figure]) -> str:
    return ", ".join(f"{name.removeprefix(ENDED)} {figure.median:,.0f}" for name, figure in figures.items())

"""The table: a line for each attacker, with medians and, in brackets, lowest and highest of the rounds."""

from __future__ import annotations

from benchmarks.attackers.load import ENDED, GROWTH
from benchmarks.report import about, aligned, spread, troubles
from benchmarks.results import Figure, Run

WITHOUT, WITH = "without", "with"
TOLERATED = 0.02  # of a core for others: a virtual machine that halts for 0.1 s in 5 has shown that as its p99
PAIRED = {"p50_ms": "p50 ms", "p99_ms": "p99 ms", "busy": "CPU"}  # "CPU" is a fraction of a core


def table(run: Run) -> str:
    head = ["attacker", *(f"{title} {side}" for title in PAIRED.values() for side in (WITHOUT, WITH)), GROWTH]
    attackers = run.scenarios()
    lines = aligned([head, *(_row(run, attacker) for attacker in attackers)])
    notes = ["what it did; how its connections ended", *(_notes(run, attacker) for attacker in attackers)]
    body = [f"{line}  {note}" for line, note in zip(lines, notes, strict=True)]
    return "\n".join([about(run), "", *body])


def _row(run: Run, attacker: str) -> list[str]:
    paired = [spread(run.figure(attacker, side, key)) for key in PAIRED for side in (WITHOUT, WITH)]
    return [attacker, *paired, spread(run.extras(attacker, WITH).get(GROWTH))]


def _notes(run: Run, attacker: str) -> str:
    figures = run.extras(attacker, WITH)
    figures.pop(GROWTH, None)
    ended = {name: figures.pop(name) for name in list(figures) if name.startswith(ENDED)}
    notes = [_counts(figures), ENDED + _counts(ended) if ended else ""]
    for side in (WITHOUT, WITH):
        notes += [f"{side}: {trouble}" for trouble in troubles(run, attacker, side, TOLERATED)]
    return "; ".join(note for note in notes if note)


def _counts(figures: dict[str, Figure]) -> str:
    return ", ".join(f"{name.removeprefix(ENDED)} {figure.median:,.0f}" for name, figure in figures.items())

"""The table: a line for each crowd and each kind of client beside it, with medians, lowest and highest."""

from __future__ import annotations

from benchmarks.attackers.report import PAIRED, TOLERATED, WITH, WITHOUT
from benchmarks.lingering.load import MEMORY, SENT, STAYED
from benchmarks.report import about, aligned, spread, troubles
from benchmarks.results import Run

EXTRAS = (MEMORY, STAYED, SENT)


def table(run: Run) -> str:
    head = ["beside", *(f"{title} {side}" for title in PAIRED.values() for side in (WITHOUT, WITH)), *EXTRAS]
    scenarios = run.scenarios()
    lines = aligned([head, *(_row(run, scenario) for scenario in scenarios)])
    notes = ["", *(_notes(run, scenario) for scenario in scenarios)]
    body = [f"{line}  {note}".rstrip() for line, note in zip(lines, notes, strict=True)]
    return "\n".join([about(run), "", *body])


def _row(run: Run, scenario: str) -> list[str]:
    paired = [spread(run.figure(scenario, side, key)) for key in PAIRED for side in (WITHOUT, WITH)]
    extras = run.extras(scenario, WITH)
    return [scenario, *paired, *(spread(extras.get(name)) for name in EXTRAS)]


def _notes(run: Run, scenario: str) -> str:
    return "; ".join(
        f"{side}: {trouble}" for side in (WITHOUT, WITH) for trouble in troubles(run, scenario, side, TOLERATED)
    )

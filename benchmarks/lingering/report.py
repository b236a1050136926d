"""The table: one row for each group and kind of client, with medians, and the lowest and highest of the rounds."""

from __future__ import annotations

from benchmarks import paired
from benchmarks.lingering.load import MEMORY, SENT, STILL_OPEN
from benchmarks.report import spread
from benchmarks.results import Run

EXTRAS = (MEMORY, STILL_OPEN, SENT)


def table(run: Run) -> str:
    scenarios = run.scenarios()
    rows = [[scenario, *paired.cells(run, scenario), *_extras(run, scenario)] for scenario in scenarios]
    notes = ["", *("; ".join(paired.troubles(run, scenario)) for scenario in scenarios)]
    return paired.table(run, ["group: clients", *paired.TITLES, *EXTRAS], rows, notes)


def _extras(run: Run, scenario: str) -> list[str]:
    extras = run.extras(scenario, paired.WITH)
    return [spread(extras.get(name)) for name in EXTRAS]

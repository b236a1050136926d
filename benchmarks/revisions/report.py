"""The table: one row for each scenario, with the ratio of the two revisions, and whether it is a loss."""

from __future__ import annotations

import statistics
from enum import Enum
from math import floor, sqrt
from typing import NamedTuple

from benchmarks import report
from benchmarks.measure import DISTURBED
from benchmarks.results import Run
from benchmarks.revisions.pairs import AFTER, BEFORE

HEAD = ["", "before", "after", "after / before", "95 %", "pairs", "result"]
FEWEST = 5  # pairs: the lowest and the highest of five contain the median with 94 %


class Verdict(Enum):
    """What the interval of a ratio says."""

    WORSE = "worse"
    NOT_WORSE = "not worse"
    UNDECIDED = "undecided"


class Ratio(NamedTuple):
    """The median of the ratios of all pairs, and the interval that contains it with a probability of 95 %."""

    median: float
    low: float
    high: float
    pairs: int

    @classmethod
    def of(cls, run: Run, scenario: str, key: str) -> Ratio | None:
        """Compute the ratio of a scenario; None without a pair."""
        before, after = run.results(scenario, BEFORE), run.results(scenario, AFTER)
        both = before.keys() & after.keys()
        found = sorted(getattr(after[pair], key) / getattr(before[pair], key) for pair in both)
        if not found:
            return None
        # The order statistics around the median, by the normal approximation of the binomial distribution.
        outside = max(floor(len(found) / 2 - 0.98 * sqrt(len(found))), 0)
        return cls(statistics.median(found), found[outside], found[-1 - outside], len(found))

    def verdict(self, tolerated: float) -> Verdict:
        """Compare the interval with the tolerated loss, such as 0.03."""
        if self.pairs < FEWEST or self.low <= 1 + tolerated < self.high:
            return Verdict.UNDECIDED
        return Verdict.WORSE if self.low > 1 + tolerated else Verdict.NOT_WORSE


def table(run: Run, keys: dict[str, str], tolerated: float) -> str:
    """Return the table.

    Args:
        run: the samples.
        keys: the attribute of a `Result` to compare, for each scenario.
        tolerated: the tolerated loss, such as 0.03.
    """
    rows = [_row(run, name, keys[name], tolerated) for name in run.scenarios()]
    lines = report.aligned([HEAD, *rows])
    notes = ["", *(_note(run, name) for name in run.scenarios())]
    return "\n".join(f"{line}  {note}".rstrip() for line, note in zip(lines, notes, strict=True))


def worse(run: Run, keys: dict[str, str], tolerated: float) -> list[str]:
    """Return the scenarios whose loss is greater than tolerated."""
    ratios = {name: Ratio.of(run, name, keys[name]) for name in run.scenarios()}
    return [name for name, ratio in ratios.items() if ratio and ratio.verdict(tolerated) is Verdict.WORSE]


def _row(run: Run, name: str, key: str, tolerated: float) -> list[str]:
    ratio = Ratio.of(run, name, key)
    if ratio is None:
        return [name, *[""] * 5, "failed"]
    figures = [run.figure(name, phase, key) for phase in (BEFORE, AFTER)]
    return [
        name,
        *(report.number(figure.median) if figure else "" for figure in figures),
        f"{ratio.median:.3f}",
        f"{ratio.low:.3f}..{ratio.high:.3f}",
        str(ratio.pairs),
        ratio.verdict(tolerated).value,
    ]


def _note(run: Run, name: str) -> str:
    samples = [sample.result for sample in run.samples if sample.scenario == name and sample.result]
    disturbed = sum((result.disturbed or 0.0) > DISTURBED for result in samples)
    notes = [f"disturbed: {disturbed} of {len(samples)}"] if disturbed else []
    errors = [error for phase in (BEFORE, AFTER) for error in run.errors(name, phase)]
    return "; ".join(notes + [report.shortened(error) for error in errors[:1]])

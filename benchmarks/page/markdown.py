"""What all tables of the page have in common: Markdown, and the conditions of a run."""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks import report
from benchmarks.results import Run


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    titles = list(head)
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("|".join(["", *(f" {cell} " if cell else " " for cell in line), ""]) for line in lines)


def escaped(text: str) -> str:
    return report.shortened(text).replace("|", "\\|").replace("<", "&lt;")


def conditions(run: Run, tolerated: float) -> str:
    """Return the date, the machine, the length and the noise of a run. Others may use the share `tolerated`."""
    return f"{machine(run)} {_length(run)}\n\n{_load(run)} {_disturbances(run, tolerated)}"


def machine(run: Run) -> str:
    """Return the date and the machine of a run."""
    facts = run.about
    return f"{facts['date']}, {facts['cpu']}, {facts['kernel']}, Python {facts['python']}."


def _length(run: Run) -> str:
    facts = run.about
    count = facts["rounds"]
    rounds = "One round" if count == 1 else f"Medians of {count} alternating rounds"
    return f"{rounds} of {facts['seconds']} s for each measurement, after {facts['warmup']} s of the same work."


def _load(run: Run) -> str:
    averages = run.about["load_average"]
    shown = {when: ", ".join(f"{x:.2f}" for x in values) for when, values in averages.items()}
    return (
        f"Load average (1, 5 and 15 minutes): {shown['start']} at the start, {shown.get('end', 'unknown')} at the"
        " end."
    )


def _disturbances(run: Run, tolerated: float) -> str:
    shares = [sample.result.disturbed or 0.0 for sample in run.samples if sample.result]
    if not shares:
        return "Nothing was measured."
    high = sum(share > tolerated for share in shares)
    return (
        f"In {high} of {len(shares)} measurements, other processes used more than {tolerated:.0%} of a core;"
        f" at most {max(shares):.0%}."
    )

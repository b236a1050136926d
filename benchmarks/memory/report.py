"""The table: one row for each body."""

from __future__ import annotations

from benchmarks import catalogue, report
from benchmarks.memory.bodies import BY_NAME, MIB
from benchmarks.page import markdown
from benchmarks.results import Run

PART, SECONDS, SIZE = "growth for a tenth", "seconds", "size"  # figures of a sample
HEAD = ["body", "growth for a tenth of it, MiB", "growth, MiB", "MB/s"]


def table(run: Run) -> str:
    """Return the table for a terminal."""
    return "\n".join([report.about(run), "", *report.aligned([HEAD, *_rows(run)])])


def blocks(run: Run) -> dict[str, str]:
    """Return the content of the marker of the page."""
    return {"bodies": f"{markdown.machine(run)}\n\n{markdown.table(HEAD, _rows(run))}"}


def _rows(run: Run) -> list[list[str]]:
    return [[BY_NAME[name].title, *_figures(run, name)] for name in run.scenarios()]


def _figures(run: Run, name: str) -> list[str]:
    if errors := run.errors(name, catalogue.OURS):
        return [f"failed: {report.shortened(errors[0])}", "", ""]
    (result,) = run.results(name, catalogue.OURS).values()
    rate = result.extra[SIZE] / result.extra[SECONDS] / 1e6
    return [f"{result.extra[PART] / MIB:.2f}", f"{result.value / MIB:.2f}", report.number(rate)]

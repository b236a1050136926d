"""Takes the measurements of docs/performance.md, and writes its tables and the chart."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks import chart, command, plan
from benchmarks.catalogue import PROJECT
from benchmarks.page import layout, tables
from benchmarks.page.markers import add_page, check_page, replace
from benchmarks.results import Run

CHART = PROJECT / "docs" / "benchmarks.svg"
SAMPLES = PROJECT / "benchmarks" / "run.json"


def main() -> None:
    options = parse()
    run = Run.read(options.from_json) if options.from_json else measured(options)
    replace(options.page, tables.blocks(run, options.sections))
    if options.svg:
        options.svg.write_text(chart.svg(run))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.page", description=__doc__)
    command.add_options(parser, seconds=0.4, warmup=0.15, rounds=5)
    command.add_attempts(parser)
    add_page(parser)
    parser.add_argument("--svg", type=Path, metavar="FILE", help="the chart (default: that of the page)")
    parser.add_argument("--from-json", type=Path, metavar="FILE", help="measure nothing; render an earlier run")
    parser.add_argument(
        "--sections",
        type=command.names,
        default=list(layout.BY_NAME),
        metavar="A,B",
        help=f"only these sections: {', '.join(layout.BY_NAME)} (default: all)",
    )
    options = parser.parse_args()
    command.check_names(parser, options.sections, layout.BY_NAME)
    if set(options.sections) == set(layout.BY_NAME):
        options.svg = options.svg or CHART
    command.check_options(parser, options)
    command.check_file(parser, options.svg)
    check_page(parser, options.page)
    return options


def measured(options: argparse.Namespace) -> Run:
    """Measure the sections, and write the samples before anything else can fail."""
    entries = [entry for name in options.sections for entry in layout.BY_NAME[name].entries()]
    run = plan.run_all(entries, options)
    run.write(options.json or SAMPLES)
    return run


if __name__ == "__main__":
    main()

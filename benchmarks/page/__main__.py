"""Takes the measurements of docs/performance.md, and writes its tables and the chart."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from benchmarks import chart, command, plan
from benchmarks.catalogue import PROJECT
from benchmarks.page import layout, tables
from benchmarks.results import Run

PAGE = PROJECT / "docs" / "performance.md"
CHART = PROJECT / "docs" / "benchmarks.svg"
SAMPLES = PROJECT / "benchmarks" / "run.json"
BLOCK = re.compile(r"(<!-- benchmarks: (\w+) -->\n).*?(?=<!-- end -->)", re.DOTALL)


def main() -> None:
    options = parse()
    run = Run.read(options.from_json) if options.from_json else measured(options)
    options.page.write_text(rendered(options.page.read_text(), tables.blocks(run)))
    options.svg.write_text(chart.svg(run))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.page", description=__doc__)
    command.add_options(parser, seconds=0.4, warmup=0.15, rounds=5)
    command.add_attempts(parser)
    parser.set_defaults(json=SAMPLES)
    parser.add_argument("--page", type=Path, default=PAGE, metavar="FILE", help="the page with the markers")
    parser.add_argument("--svg", type=Path, default=CHART, metavar="FILE", help="the chart")
    parser.add_argument("--from-json", type=Path, metavar="FILE", help="measure nothing; render an earlier run")
    parser.add_argument(
        "--sections",
        type=command.names,
        default=list(layout.BY_NAME),
        metavar="A,B",
        help=f"only these sections: {', '.join(layout.BY_NAME)} (default: all)",
    )
    options = parser.parse_args()
    command.check_options(parser, options)
    command.check_names(parser, options.sections, layout.BY_NAME)
    command.check_file(parser, options.svg)
    if not options.page.is_file():
        parser.error(f"there is no page {str(options.page)!r}")
    return options


def measured(options: argparse.Namespace) -> Run:
    """Measure the sections, and write the samples before anything else can fail."""
    entries = [entry for name in options.sections for entry in layout.BY_NAME[name].entries()]
    run = plan.run_all(entries, options)
    run.write(options.json)
    return run


def rendered(page: str, blocks: dict[str, str]) -> str:
    """Replace what is between the markers of a page."""
    names = [match[2] for match in BLOCK.finditer(page)]
    if sorted(names) != sorted(blocks):
        sys.exit(f"the page has the markers {', '.join(names)}, but must have {', '.join(blocks)}")
    return BLOCK.sub(lambda match: f"{match[1]}\n{blocks[match[2]]}\n\n", page)


if __name__ == "__main__":
    main()

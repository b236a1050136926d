"""The chart: an SVG with a panel for each charted scenario, readable on light and on dark pages."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from benchmarks import catalogue, scenarios
from benchmarks.report import number
from benchmarks.results import Figure, Run
from benchmarks.scenarios import Scenario

COLUMNS = 3
PANEL, GAP, MARGIN = 296, 24, 24
NAME, VALUE = 128, 52  # the widths of the labels left and right of a bar
ROW, BAR = 18, 11
HEAD = 44  # of a panel
TOP = 76  # of the chart
FOOT = 20
QUICKEST = 3  # the number of other servers in a panel
ABOUT = (
    'humphrey-trio: as installed by default; humphrey-trio-fast: with App(parser="fast") and the extra fast;'
    f" below them the {QUICKEST} quickest of the other servers"
)

STYLE = """
text { font: 11px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #24292f; }
.page { fill: #ffffff; }
.title { font-size: 17px; font-weight: 600; }
.heading { font-size: 12px; font-weight: 600; }
.quiet { fill: #57606a; }
.strong { font-weight: 600; }
.bar { fill: #8c959f; }
.ours { fill: #0969da; }
.fast { fill: #54aeff; }
.spread { stroke: #24292f; stroke-width: 1; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; }
  .page { fill: #0d1117; }
  .quiet { fill: #9198a1; }
  .bar { fill: #6e7681; }
  .ours { fill: #4493f8; }
  .fast { fill: #9ecbff; }
  .spread { stroke: #e6edf3; }
}
"""

Bars = dict[str, Figure]


def svg(run: Run) -> str:
    """Return the chart. It has no panels if no charted scenario was measured."""
    panels = [(scenario, unit, bars) for scenario, unit, bars in _panels(run) if bars]
    body: list[str] = []
    top = TOP
    for start in range(0, len(panels), COLUMNS):
        line = panels[start : start + COLUMNS]
        for place, (scenario, unit, bars) in enumerate(line):
            body += _panel(MARGIN + place * (PANEL + GAP), top, scenario, unit, bars)
        top += HEAD + ROW * max(len(bars) for _, _, bars in line) + GAP
    body.append(_text(MARGIN, top, ABOUT, "quiet"))
    top += FOOT
    width = 2 * MARGIN + COLUMNS * PANEL + (COLUMNS - 1) * GAP
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {top}" role="img">',
            "<title>humphrey_trio and other servers</title>",
            f"<style>{STYLE}</style>",
            f'<rect class="page" width="{width}" height="{top}" rx="8"/>',
            _text(MARGIN, 34, "humphrey_trio and other servers: less is better", "title"),
            _text(MARGIN, 54, _subtitle(run), "quiet"),
            *body,
            "</svg>\n",
        ]
    )


def _panels(run: Run) -> Iterable[tuple[Scenario, str, Bars]]:
    """Yield the panels: the CPU time per operation if it was measured, else the figure of the scenario."""
    for scenario in (scenarios.BY_NAME[name] for name in run.scenarios()):
        if not scenario.charted:
            continue
        bars = _bars(run, scenario.name, "cpu_us")
        if bars:
            yield scenario, "microseconds of CPU each", bars
        else:
            yield scenario, _unit_name(scenario.unit), _bars(run, scenario.name, "value")


def _unit_name(unit: str) -> str:
    return {"ms": "milliseconds"}.get(unit, unit)


def _bars(run: Run, scenario: str, key: str) -> Bars:
    """Return the figures of this library, and then those of the quickest other servers."""
    figures = {
        server: figure for server in catalogue.SERVERS if (figure := run.figure(scenario, server.name, key))
    }
    own = [server for server in figures if server.ours]
    peers = [server for server in figures if not server.ours and not server.bound]
    peers.sort(key=lambda server: figures[server].median)
    return {server.name: figures[server] for server in own + peers[:QUICKEST]}


def _subtitle(run: Run) -> str:
    about = run.about
    count = about["rounds"]
    rounds = "1 round" if count == 1 else f"medians of {count} rounds, with lowest and highest"
    return f"{rounds}; server on one core of {about['cpu']}, Python {about['python']}, {about['date'][:10]}"


def _panel(left: int, top: int, scenario: Scenario, unit: str, bars: Bars) -> list[str]:
    longest = max(figure.high for figure in bars.values())
    scale = (PANEL - NAME - VALUE) / longest if longest > 0 else 0.0
    parts = [
        _text(left, top + 12, scenario.title, "heading"),
        _text(left, top + 28, unit, "quiet"),
    ]
    for place, (server, figure) in enumerate(bars.items()):
        parts += _row(left, top + HEAD + place * ROW, server, figure, scale)
    return parts


def _row(left: int, top: int, server: str, figure: Figure, scale: float) -> list[str]:
    start, middle = left + NAME, top + BAR / 2
    kind = {catalogue.OURS: "ours", catalogue.OURS_FAST: "fast"}.get(server, "bar")
    weight = "strong" if kind != "bar" else ""
    parts = [
        _text(start - 6, top + 9, server, weight, "end"),
        f'<rect class="{kind}" x="{start}" y="{top}" width="{figure.median * scale:.1f}" height="{BAR}"/>',
        _text(start + figure.high * scale + 6, top + 9, number(figure.median), weight),
    ]
    if figure.low < figure.high:
        low, high = start + figure.low * scale, start + figure.high * scale
        parts.append(f'<path class="spread" d="M{low:.1f} {middle}H{high:.1f}"/>')
    return parts


def _text(x: float, y: float, text: str, kind: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(text)}</text>'

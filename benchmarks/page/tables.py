"""The tables of the page, in Markdown. A cell has the median of the rounds, the lowest and the highest."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks import catalogue, report
from benchmarks.catalogue import Server
from benchmarks.measure import DISTURBED
from benchmarks.page.layout import OURS, SECTIONS, Section
from benchmarks.page.markdown import conditions, escaped, table
from benchmarks.report import spread
from benchmarks.results import Figure, Run
from benchmarks.scenarios import Scenario

FIRST_BYTE = "first byte, ms"


def blocks(run: Run) -> dict[str, str]:
    """Return the content of each marker of the page."""
    tables = {section.name: _section(run, section) for section in SECTIONS if section.name != "files"}
    return {"run": _run(run), "summary": _summary(run), **tables, "files": _files(run)}


def _summary(run: Run) -> str:
    """One row for each scenario, with the quickest of all peers and the quickest of those on trio."""
    head = [
        "work",
        "default",
        "fast",
        "quickest peer",
        "default / it",
        "fast / it",
        "quickest on trio",
        "default / it",
    ]
    rows = [
        _summary_row(run, section, scenario)
        for section in SECTIONS
        for scenario in section.scenarios()
        if _is_measured(run, scenario)
    ]
    return table(head, rows)


def _summary_row(run: Run, section: Section, scenario: Scenario) -> list[str]:
    own = [_plain(run, section, scenario, name) for name in OURS]
    peers = section.peers_of(scenario)
    peer = _quickest(run, section, scenario, peers)
    on_trio = _quickest(run, section, scenario, [server for server in peers if "trio" in server.needs])
    return [
        f"{scenario.title}, {section.unit}",
        *own,
        _named(run, section, scenario, peer),
        *(_ratio(run, section, scenario, peer, name) for name in OURS),
        _named(run, section, scenario, on_trio),
        _ratio(run, section, scenario, on_trio, catalogue.OURS),
    ]


def _section(run: Run, section: Section) -> str:
    """One row for each scenario and each peer. The figures of this library are only in the first."""
    head = ["work", "default", "fast", "peer", "its figure", "default / peer", "fast / peer"]
    rows = [
        row
        for scenario in section.scenarios()
        if _is_measured(run, scenario)
        for row in _rows(run, section, scenario)
    ]
    return f"Figures in {section.unit}.\n\n{table(head, rows)}" if rows else "Not measured."


def _rows(run: Run, section: Section, scenario: Scenario) -> Iterator[list[str]]:
    start = [scenario.title, *(_cell(run, section, scenario, name) for name in OURS)]
    for peer in section.peers_of(scenario):
        ratios = [_ratio(run, section, scenario, peer, name) for name in OURS]
        yield [*start, peer.name, _cell(run, section, scenario, peer.name), *ratios]
        start = ["", "", ""]


def _files(run: Run) -> str:
    head = ["work", "server", "MB/s", "CPU us per MB", "first byte, ms", "CPU: default / it"]
    section = next(section for section in SECTIONS if section.name == "files")
    rows = [
        [
            scenario.title if server.name == catalogue.OURS else "",
            server.name,
            spread(run.figure(scenario.name, server.name, "value")),
            _cell(run, section, scenario, server.name),
            spread(run.extras(scenario.name, server.name).get(FIRST_BYTE)),
            _ratio(run, section, scenario, server, catalogue.OURS) if not server.ours else "",
        ]
        for scenario, servers in section.entries()
        if _is_measured(run, scenario)
        for server in servers
    ]
    return table(head, rows) if rows else "Not measured."


def _run(run: Run) -> str:
    """The date, the machine, the noise, and the version of every server."""
    names = dict.fromkeys(
        server.name for section in SECTIONS for entry in section.entries() for server in entry[1]
    )
    rows = [[name, _versions(run, name), _status(run, name)] for name in names]
    return f"{conditions(run, DISTURBED)}\n\n{table(['server', 'versions', 'status'], rows)}"


def _versions(run: Run, name: str) -> str:
    return ", ".join(
        f"{key} {value}" for key, value in run.about["servers"].get(name, {}).get("versions", {}).items()
    )


def _status(run: Run, name: str) -> str:
    missing = run.about["servers"].get(name, {}).get("missing", [])
    if missing:
        return f"missing; not installed: {', '.join(missing)}"
    samples = [sample for sample in run.samples if sample.server == name]
    failed = [sample for sample in samples if sample.error]
    if not failed:
        return "measured" if samples else "not measured"
    where = ", ".join(dict.fromkeys(sample.scenario for sample in failed))
    return f"failed in {len(failed)} of {len(samples)} measurements ({where}): {escaped(failed[0].error)}"


def _is_measured(run: Run, scenario: Scenario) -> bool:
    return scenario.name in run.scenarios()


def _figure(run: Run, section: Section, scenario: Scenario, server: str) -> Figure | None:
    found = run.figure(scenario.name, server, section.key)
    return found and Figure(*(value / section.divisor for value in found))


def _cell(run: Run, section: Section, scenario: Scenario, server: str) -> str:
    """Return the figure of a server, or the reason why there is none."""
    figure = _figure(run, section, scenario, server)
    if figure:
        return spread(figure)
    if run.about["servers"].get(server, {}).get("missing"):
        return "missing"
    return "failed" if run.errors(scenario.name, server) else "not measured"


def _plain(run: Run, section: Section, scenario: Scenario, server: str) -> str:
    """Return the median alone, or the reason why there is none."""
    figure = _figure(run, section, scenario, server)
    return report.number(figure.median) if figure else _cell(run, section, scenario, server)


def _named(run: Run, section: Section, scenario: Scenario, server: Server | None) -> str:
    return f"{server.name} {_plain(run, section, scenario, server.name)}" if server else ""


def _ratio(run: Run, section: Section, scenario: Scenario, peer: Server | None, ours: str) -> str:
    return spread(run.ratio(scenario.name, peer.name, ours, section.key)) if peer else ""


def _quickest(run: Run, section: Section, scenario: Scenario, peers: list[Server]) -> Server | None:
    figures = {peer: figure for peer in peers if (figure := _figure(run, section, scenario, peer.name))}
    return min(figures, key=lambda peer: figures[peer].median, default=None)

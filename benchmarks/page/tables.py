"""The tables of the page, in Markdown. A cell has the median of the rounds, the lowest and the highest."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from benchmarks import catalogue, report
from benchmarks.catalogue import Server
from benchmarks.measure import DISTURBED
from benchmarks.page.layout import BY_NAME, OURS, SECTIONS, Section
from benchmarks.page.markdown import conditions, escaped, table
from benchmarks.report import spread
from benchmarks.results import Figure, Run
from benchmarks.scenarios import Scenario

FIRST_BYTE = "first byte, ms"


def blocks(run: Run, sections: Collection[str] = tuple(BY_NAME)) -> dict[str, str]:
    """Return the content of the markers of the page.

    If only some of the sections were measured, the content is that of these. Each has the conditions of the run.
    """
    found = {name: _files(run) if name == "files" else _section(run, BY_NAME[name]) for name in sections}
    if len(found) < len(SECTIONS):
        return {name: f"{_conditions_of(run, BY_NAME[name])}\n\n{block}" for name, block in found.items()}
    return {"run": _run(run), "summary": _summary(run), **found}


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
    if not rows:
        return "Not measured."
    return f"Figures in {section.unit}.{_frameworks(run, section)}\n\n{table(head, rows)}"


def _frameworks(run: Run, section: Section) -> str:
    """The versions of the frameworks of a section."""
    apps = dict.fromkeys(scenario.work.app for scenario in section.scenarios())
    shown = [f"{app} {run.about['versions'][app]}" for app in apps if app in run.about["versions"]]
    return f" {', '.join(shown)}." if shown else ""


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
    """The conditions of the run, and the version of every server."""
    names = dict.fromkeys(
        server.name for section in SECTIONS for entry in section.entries() for server in entry[1]
    )
    rows = [[name, _versions(run, name), _status(run, name)] for name in names]
    return f"{conditions(run, DISTURBED)}\n\n{table(['server', 'versions', 'status'], rows)}"


def _conditions_of(run: Run, section: Section) -> str:
    """The conditions of the run, and the versions of the servers of a section."""
    servers = dict.fromkeys(server.name for entry in section.entries() for server in entry.servers)
    versions = {}
    for name in servers:
        versions |= run.about["servers"].get(name, {}).get("versions", {})
    shown = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"{conditions(run, DISTURBED)} {shown}".rstrip()


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

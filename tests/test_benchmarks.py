"""The benchmarks: the tables of docs/performance.md come from the samples, and no server is left out."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from benchmarks import catalogue, chart, paired, payload, wire
from benchmarks.attackers import attacks
from benchmarks.attackers import report as attackers_report
from benchmarks.attackers.load import GROWTH
from benchmarks.catalogue import OURS, OURS_FAST
from benchmarks.measure import Result
from benchmarks.memory import bodies
from benchmarks.memory import report as memory_report
from benchmarks.page import layout, tables
from benchmarks.page.markers import PAGE, names, rendered
from benchmarks.results import Run, Sample
from benchmarks.revisions.pairs import AFTER, BEFORE
from benchmarks.revisions.report import Ratio, Verdict, worse
from benchmarks.servers.arguments import Arguments
from benchmarks.servers.asgi import app_of
from benchmarks.wire import ReplyError
from humphrey_trio import App
from humphrey_trio.testing import http_client


def a_run(samples: list[Sample], servers: dict[str, Any] | None = None) -> Run:
    about: dict[str, Any] = {
        "date": "2026-11-28 12:00",
        "python": "3.11.7",
        "kernel": "Linux",
        "cpu": "a CPU",
        "load_average": {"start": [0.1, 0.2, 0.3], "end": [1.0, 0.5, 0.4]},
        "versions": {},
        "servers": servers or {},
        "rounds": 2,
        "seconds": 0.4,
        "warmup": 0.15,
    }
    return Run(about, samples)


def samples(server: str, *cpu: float) -> list[Sample]:
    """One sample of `get-64` for each round."""
    return [Sample(number, "get-64", server, Result(1.0, cpu_us=us)) for number, us in enumerate(cpu)]


def beside(attacker: str, server: str, *p99: float) -> list[Sample]:
    """One round of an attacker and a server: the p99 without it and with it."""
    results = [Result(1.0, 0.1, ms, cpu_us=1.0, busy=0.5, extra={GROWTH: 2.0}) for ms in p99]
    return [
        Sample(0, f"{attacker}: {server}", phase, result)
        for phase, result in zip((paired.WITHOUT, paired.WITH), results, strict=True)
    ]


def body(name: str) -> Sample:
    """The figures of a large body: 1 MiB for a tenth of it, and 2 MiB for the whole."""
    extra = {memory_report.PART: 2.0**20, memory_report.SECONDS: 2.0, memory_report.SIZE: 10.0**9}
    return Sample(0, name, OURS, Result(2.0**21, extra=extra))


def all_blocks() -> dict[str, str]:
    """The blocks of all commands that write into the page."""
    return {
        **tables.blocks(a_run(samples(OURS, 40.0))),
        **attackers_report.blocks(a_run(beside("idle", OURS, 0.2, 0.4))),
        **memory_report.blocks(a_run([body("stream")])),
    }


def test_the_page_has_a_marker_for_each_table() -> None:
    """docs/performance.md has the markers of all commands, and rendering it again changes nothing."""
    blocks = all_blocks()
    once = rendered(PAGE.read_text(), blocks)
    assert sorted(names(once)) == sorted(blocks)
    assert rendered(once, blocks) == once


def test_the_blocks_of_other_commands_are_not_changed() -> None:
    """A command replaces its own blocks. A block without a marker is an error."""
    page = "a\n<!-- benchmarks: run -->\n\nold\n\n<!-- end -->\n<!-- benchmarks: http -->\n\nold\n\n<!-- end -->\n"
    assert rendered(page, {"http": "new"}) == "new".join(page.rsplit("old", 1))
    with pytest.raises(ValueError, match="no marker for tls"):
        rendered(page, {"tls": "new"})


def test_a_row_of_attackers_has_both_phases_and_their_ratio() -> None:
    """The p99 with an attacker is divided by that without it. A server that failed is in the table."""
    failed = Sample(0, "idle: aiohttp", paired.WITH, None, "ReplyError: no reply")
    run = a_run([*beside("idle", OURS, 0.2, 0.4), failed])
    lines = attackers_report.blocks(run)["excessive"].splitlines()
    about = attacks.BY_NAME["idle"].about.rstrip(".")
    assert lines[-2] == f"| {about} | {OURS} | 0.1 -> 0.1 | 0.2 -> 0.4 | 2.00 | 0.5 -> 0.5 | 2.00 |"
    assert lines[-1] == "| | aiohttp | failed: ReplyError: no reply | | | | |"


def test_no_table_of_attackers_without_figures_for_it() -> None:
    """A run of other attackers does not replace the table of the page."""
    assert attackers_report.blocks(a_run(beside("bomb", OURS, 0.2, 0.4))) == {}


def test_each_attacker_has_a_suite_and_a_server() -> None:
    """The names of the suites select all attackers, each once."""
    selected = attacks.chosen([suite.name for suite in attacks.SUITES])
    assert sorted(selected) == sorted(attacks.BY_NAME)
    for attacker in attacks.ATTACKERS:
        assert OURS in [server.name for server in attacker.servers()]


def test_only_servers_with_files_are_asked_for_files() -> None:
    """A slow download is measured only with servers that have the file."""
    servers = attacks.BY_NAME["slow-reader"].servers()
    assert all(catalogue.FILE in server.protocols for server in servers)
    assert "uvicorn-fast" not in [server.name for server in servers]


def test_a_row_of_bodies() -> None:
    """The growth is in MiB, and the rate in MB/s."""
    assert memory_report.blocks(a_run([body("stream")]))["bodies"].endswith(
        f"| {bodies.BY_NAME['stream'].title} | 1.00 | 2.00 | 500 |"
    )


def pairs(*ratios: float) -> Run:
    """Pairs of `get-64` with these ratios."""
    before = [Sample(number, "get-64", BEFORE, Result(1.0, cpu_us=40.0)) for number in range(len(ratios))]
    after = [
        Sample(number, "get-64", AFTER, Result(1.0, cpu_us=40.0 * ratio)) for number, ratio in enumerate(ratios)
    ]
    return a_run(before + after)


@pytest.mark.parametrize(
    ("ratios", "verdict"),
    [
        ([1.1, 1.05, 1.06, 1.08, 1.2], Verdict.WORSE),
        ([1.0, 0.9, 1.02, 1.01, 0.99], Verdict.NOT_WORSE),
        ([1.0, 1.1, 1.02, 1.01, 1.05], Verdict.UNDECIDED),
        ([1.0, 1.0, 1.0, 1.0], Verdict.UNDECIDED),
        ([1.0] * 14 + [2.0] * 2, Verdict.NOT_WORSE),
    ],
    ids=["all-above", "all-below", "around", "few", "two-outliers"],
)
def test_the_verdict_on_a_revision(ratios: list[float], verdict: Verdict) -> None:
    """A loss counts if the interval of the median of the ratios of pairs is above 3 %."""
    run = pairs(*ratios)
    ratio = Ratio.of(run, "get-64", "cpu_us")
    assert ratio is not None
    assert ratio.verdict(0.03) is verdict
    assert worse(run, {"get-64": "cpu_us"}, 0.03) == (["get-64"] if verdict is Verdict.WORSE else [])


def test_a_revision_that_fails_has_no_ratio() -> None:
    """A pair without both results does not count."""
    run = a_run([Sample(0, "get-64", BEFORE, Result(1.0, cpu_us=40.0))])
    assert Ratio.of(run, "get-64", "cpu_us") is None


def test_some_sections_replace_only_their_tables() -> None:
    """A run of one section has the facts of the run above its table, and keeps the other tables."""
    page = "<!-- benchmarks: run -->\nkept\n<!-- end -->\n<!-- benchmarks: http -->\nold\n<!-- end -->\n"
    once = rendered(page, tables.blocks(a_run(samples(OURS, 40.0)), ["http"]))
    assert "kept" in once
    assert "old" not in once
    assert once.index("2026-11-28 12:00, a CPU") < once.index("| GET, 64 connections | 40.0 |")


@pytest.mark.parametrize("name", ["app", "attacked", "lingering"])
def test_the_servers_of_this_library_can_be_imported(name: str) -> None:
    """What the programs of the servers use is there."""
    importlib.import_module(f"benchmarks.servers.humphrey_trio_{name}")


@pytest.mark.parametrize("name", ["bare", "starlette", "fastapi"])
async def test_the_asgi_apps_answer_as_expected(name: str) -> None:
    """Each app that is measured gives the reply that the load generator accepts."""
    app = App().with_asgi("*", app_of(Arguments(0, app=name)))
    async with http_client(app) as client:
        response = await client.get("/")
    assert (response.status, response.content) == (200, payload.HELLO)


def test_a_row_has_medians_spreads_and_ratios_within_rounds() -> None:
    """A ratio is that of two figures of the same round, and its median is not the ratio of the medians."""
    run = a_run([*samples(OURS, 30, 50), *samples(OURS_FAST, 20, 20), *samples("aiohttp", 20, 40)])
    row = next(line for line in tables.blocks(run)["http"].splitlines() if "aiohttp" in line)
    assert row == (
        "| GET, 64 connections | 40.0 [30.0..50.0] | 20.0 | aiohttp | 30.0 [20.0..40.0] |"
        " 1.38 [1.25..1.50] | 0.75 [0.5..1.00] |"
    )


def test_a_server_without_figures_is_in_the_tables_with_the_reason() -> None:
    """A server that is not installed, and one that failed, are not left out."""
    absent = {"aiohttp": {"versions": {}, "missing": ["aiohttp"]}}
    failed = Sample(0, "get-64", "uvicorn-fast", None, "ReplyError: no reply")
    blocks = tables.blocks(a_run([*samples(OURS, 40.0), failed], absent))
    assert "| aiohttp | | missing; not installed: aiohttp |" in blocks["run"]
    assert "failed in 1 of 1 measurements (get-64): ReplyError: no reply" in blocks["run"]
    assert "| aiohttp | missing | | |" in blocks["http"]
    assert "| uvicorn-fast | failed | | |" in blocks["http"]


def test_the_chart_has_both_variants_first() -> None:
    """The bars of this library are above those of the other servers, even if these are quicker."""
    drawn = chart.svg(a_run([*samples("aiohttp", 10), *samples(OURS, 40), *samples(OURS_FAST, 20)]))
    assert drawn.index(">humphrey-trio<") < drawn.index(">humphrey-trio-fast<") < drawn.index(">aiohttp<")


def test_samples_survive_a_file(tmp_path: Path) -> None:
    """A run that was written to a file and read again has the same samples and facts."""
    run = a_run([*samples(OURS, 40.0, 50.0), Sample(0, "get-64", "aiohttp", None, "failed")])
    run.write(tmp_path / "run.json")
    assert Run.read(tmp_path / "run.json") == run


def test_each_scenario_of_the_page_has_peers() -> None:
    """No row of the page compares this library only with itself."""
    for section in layout.SECTIONS:
        for scenario in section.scenarios():
            assert section.peers_of(scenario)


def test_the_head_of_a_browser_has_522_bytes() -> None:
    """The size that the documentation of the scenario states is that of the request."""
    assert len(wire.get(fields=wire.BROWSER_FIELDS).request) == 522


def test_the_json_reply_must_have_all_fields() -> None:
    """A server that leaves out one of the five fields fails the measurement."""
    lines = [f"{name.lower()}: {value}\r\n" for name, value in payload.JSON_FIELDS.items()]
    start = f"HTTP/1.1 200 OK\r\ncontent-length: {len(payload.JSON)}\r\n"
    complete = bytearray(f"{start}{''.join(reversed(lines))}\r\n".encode() + payload.JSON)
    assert wire.get("/json").replies.take(complete) == (1, 0)
    for missing in lines:
        reply = f"{start}{''.join(line for line in lines if line != missing)}\r\n".encode() + payload.JSON
        with pytest.raises(ReplyError):
            wire.get("/json").replies.take(bytearray(reply))

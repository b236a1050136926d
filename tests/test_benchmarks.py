"""The benchmarks: the tables of docs/performance.md come from the samples, and no server is left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import chart, payload, wire
from benchmarks.catalogue import OURS, OURS_FAST
from benchmarks.measure import Result
from benchmarks.page import layout, tables
from benchmarks.page.markers import PAGE, rendered
from benchmarks.results import Run, Sample
from benchmarks.wire import ReplyError


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


def test_the_page_has_a_marker_for_each_table() -> None:
    """docs/performance.md can be rendered, and rendering it again changes nothing."""
    blocks = tables.blocks(a_run(samples(OURS, 40.0)))
    once = rendered(PAGE.read_text(), blocks)
    assert rendered(once, blocks) == once


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

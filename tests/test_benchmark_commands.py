"""The commands of the benchmarks run: each measures something small with real processes."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import departures, measure
from benchmarks.catalogue import PROJECT
from benchmarks.results import Run
from benchmarks.revisions import checkout

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the benchmarks need Linux"),
    pytest.mark.skipif(
        sys.platform == "linux" and not {measure.SERVER_CORE, measure.LOAD_CORE} <= os.sched_getaffinity(0),
        reason="the benchmarks need the first two cores",
    ),
]
SHORT = ("--rounds", "1", "--seconds", "0.1", "--warmup", "0.05")
ONCE = ("--attempts", "1")


def samples_of(command: str, folder: Path, *arguments: str) -> Run:
    """Run a command, and return the samples that it has written. None of them has failed."""
    file = folder / "run.json"
    done = subprocess.run(
        [sys.executable, "-m", command, *arguments, "--json", str(file)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    run = Run.read(file)
    assert run.samples
    assert [sample.error for sample in run.samples if sample.error] == []
    return run


def test_servers(tmp_path: Path) -> None:
    """`python -m benchmarks` measures both variants of this library."""
    run = samples_of("benchmarks", tmp_path, *SHORT, *ONCE, "--scenarios", "get-1", "--servers", "humphrey-trio")
    assert run.figure("get-1", "humphrey-trio", "cpu_us")


@pytest.mark.parametrize("attacker", ["bomb", "slow-reader", "slow-bodies", "long-flood"])
def test_attackers(attacker: str, tmp_path: Path) -> None:
    """`python -m benchmarks.attackers` times clients without and with an attacker."""
    chosen = ("--attackers", attacker, "--servers", "humphrey-trio")
    run = samples_of("benchmarks.attackers", tmp_path, *SHORT, *ONCE, *chosen)
    assert [sample.server for sample in run.samples] == ["without", "with"]


def test_lingering(tmp_path: Path) -> None:
    """`python -m benchmarks.lingering` times clients without and with lingering connections."""
    run = samples_of("benchmarks.lingering", tmp_path, *SHORT, *ONCE, "--groups", "silent", "--count", "5")
    assert run.extras("silent: GETs", "with")["still open"].median == 5


def test_memory(tmp_path: Path) -> None:
    """`python -m benchmarks.memory` transfers all kinds of large bodies."""
    run = samples_of("benchmarks.memory", tmp_path, "--scale", "0.0002")
    assert len(run.scenarios()) == 5


@pytest.mark.skipif(not (PROJECT / ".git").exists(), reason="not a checkout of git")
def test_revisions(tmp_path: Path) -> None:
    """`python -m benchmarks.revisions` compares the last revision with the working tree."""
    run = samples_of("benchmarks.revisions", tmp_path, "HEAD", *SHORT, "--pairs", "1", "--scenarios", "get-1")
    assert [sample.server for sample in run.samples] == ["before", "after"]


@pytest.mark.skipif(not (PROJECT / ".git").exists(), reason="not a checkout of git")
def test_an_unknown_revision_is_an_error() -> None:
    """The message is that of git."""
    with pytest.raises(checkout.UnknownRevisionError, match="no-such-revision"):
        checkout.described("no-such-revision")


def test_departures() -> None:
    """The cost of finding clients that leave is measured with the parts of the server."""
    assert departures.per_watched(2, 1) > 0


async def test_departures_of_requests() -> None:
    """The begin and the end of a handler are measured in a task."""
    assert departures.per_request(10) > 0


@pytest.mark.parametrize(
    "name", sorted(path.stem for path in PROJECT.glob("benchmarks/servers/humphrey_trio_*.py"))
)
def test_the_programs_of_this_library_can_be_imported(name: str) -> None:
    """No program of a server uses a name that has been removed."""
    importlib.import_module(f"benchmarks.servers.{name}")

"""The plan of a run: which server is measured on which scenario, and in which order."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from benchmarks import catalogue, certificate, command, measure, payload
from benchmarks.catalogue import Server
from benchmarks.command import Step, say
from benchmarks.measure import Job, Result
from benchmarks.results import Run
from benchmarks.scenarios import Scenario

SPARE_FILES = 200  # open files of a process other than its connections


class Entry(NamedTuple):
    """A scenario, and the servers that are measured on it."""

    scenario: Scenario
    servers: list[Server]


def run_all(entries: list[Entry], options: argparse.Namespace) -> Run:
    """Measure everything that is possible on this machine. If interrupted, return the samples so far."""
    command.check_machine()
    possible = [entry for entry in installed(entries) if is_possible(entry.scenario)]
    with folder_for(possible) as files:
        return command.take_all(list(steps(possible, options, files)), options)


def steps(entries: list[Entry], options: argparse.Namespace, files: Path | None) -> Iterator[Step]:
    """Yield all steps in order. Servers alternate within a scenario, and each round starts with another server."""
    for number in range(options.rounds):
        for scenario, servers in entries:
            if number >= scenario.most_rounds:
                continue
            first = number * len(servers) // options.rounds
            for server in servers[first:] + servers[:first]:
                expected = scenario.duration(options.seconds, options.warmup)
                take = partial(measured, scenario, server, options, files)
                yield Step(number, scenario.name, server.name, expected, take)


def is_suitable(server: Server, scenario: Scenario) -> bool:
    """Return whether a server can do the work of a scenario."""
    work = scenario.work
    return work.protocol in server.protocols and (server.tls or not work.tls) and (server.asgi or not work.app)


def installed(entries: list[Entry]) -> list[Entry]:
    """Return the entries without the servers that are not installed, which are reported."""
    chosen = dict.fromkeys(server for entry in entries for server in entry.servers)
    missing = {server: absent for server in chosen if (absent := server.missing())}
    for server, absent in missing.items():
        say(f"{server.name} is skipped; not installed: {', '.join(absent)}")
    return [
        Entry(scenario, [server for server in servers if server not in missing]) for scenario, servers in entries
    ]


def is_possible(scenario: Scenario) -> bool:
    """Return whether this machine can do a scenario. If it cannot, this is reported."""
    files = measure.raise_file_limit() - SPARE_FILES
    if scenario.work.connections > files:
        say(f"{scenario.name} is skipped: it needs more open files than the limit of {files}")
    elif scenario.work.tls and not catalogue.importable(certificate.NEEDS):
        say(f"{scenario.name} is skipped: {certificate.NEEDS}, which creates certificates, is not installed")
    elif scenario.work.app in catalogue.FRAMEWORKS and not catalogue.importable(scenario.work.app):
        say(f"{scenario.name} is skipped: {scenario.work.app} is not installed")
    else:
        return True
    return False


@contextlib.contextmanager
def folder_for(entries: list[Entry]) -> Iterator[Path | None]:
    """Create a folder with the large file if one of the entries needs it."""
    if all(entry.scenario.work.protocol != catalogue.FILE for entry in entries):
        yield None
        return
    with payload.large_file() as folder:
        yield folder


def measured(scenario: Scenario, server: Server, options: argparse.Namespace, files: Path | None) -> Result:
    def run(port: int, pids: list[int]) -> Result:
        return measure.run_load(Job(scenario.work, port, pids, options.seconds, options.warmup))

    return measure.measure(
        server.module,
        run,
        tls=scenario.work.tls,
        files=files if scenario.work.protocol == catalogue.FILE else None,
        app=scenario.work.app,
        most_attempts=options.attempts,
    )

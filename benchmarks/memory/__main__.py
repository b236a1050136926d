"""Measures how much the memory of a server grows while large bodies are sent and received, and prints a table."""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks import catalogue, command, measure
from benchmarks.command import Step
from benchmarks.measure import Result
from benchmarks.memory import bodies, report
from benchmarks.memory.bodies import Body
from benchmarks.page import markers
from benchmarks.wire import ReplyError

SERVER = "humphrey_trio_bodies"
EXPECTED = 10.0  # seconds of one measurement
WARMUP = 2**20  # bytes that are transferred first, so that modules, buffers and threads do not count
PART = 10  # memory is also measured for this part of the size


def main() -> None:
    options = parse()
    command.check_machine()
    with tempfile.TemporaryDirectory() as folder:
        with (Path(folder) / bodies.SPARSE_FILE).open("wb") as file:
            file.truncate(bodies.SPARSE_BYTES)
        run = command.take_all(list(planned(Path(folder), options)), options)
    print(report.table(run))
    if options.json:
        run.write(options.json)
    if options.write:
        markers.replace(options.page, report.blocks(run))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument(
        "--bodies",
        type=command.names,
        default=list(bodies.BY_NAME),
        metavar="A,B",
        help=f"only these: {', '.join(bodies.BY_NAME)} (default: all)",
    )
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies all sizes (default: 1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples")
    parser.add_argument("--write", action="store_true", help="write the table into the page")
    parser.set_defaults(rounds=1, seconds=0.0, warmup=0.0)
    markers.add_page(parser)
    options = parser.parse_args()
    if not 0 < options.scale <= 1:
        parser.error("--scale must be above 0, and at most 1")
    if options.write and options.scale != 1:
        parser.error("--write needs --scale 1, because the titles in the table have the sizes")
    command.check_names(parser, options.bodies, bodies.BY_NAME)
    command.check_file(parser, options.json)
    markers.check_page(parser, options.page)
    return options


def planned(folder: Path, options: argparse.Namespace) -> Iterator[Step]:
    for name in options.bodies:
        body = bodies.BY_NAME[name]
        take = partial(measured, body, int(body.size * options.scale), folder)
        yield Step(0, name, catalogue.OURS, EXPECTED * options.scale, take)


def measured(body: Body, size: int, folder: Path) -> Result:
    """Transfer a part of a body and the whole body, and return the growth of the memory of a fresh server."""
    os.sched_setaffinity(0, {measure.LOAD_CORE})
    with measure.running_server(SERVER, files=folder) as (port, pids):
        try:
            body.run(port, min(WARMUP, size))
            before = measure.resident_bytes(pids)
            measure.reset_peak(pids)
            body.run(port, size // PART)
            part = measure.peak_bytes(pids) - before
            started = time.perf_counter()
            body.run(port, size)
            seconds = time.perf_counter() - started
            whole = measure.peak_bytes(pids) - before
        except (ReplyError, OSError) as problem:
            raise measure.CellError(f"{type(problem).__name__}: {problem}") from problem
    return Result(whole, extra={report.PART: float(part), report.SECONDS: seconds, report.SIZE: float(size)})


if __name__ == "__main__":
    main()

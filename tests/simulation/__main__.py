"""``python -m tests.simulation --seeds N [--start S] [--jobs J]``: runs seeds and prints the violations."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

from .generate import generate
from .runner import run
from .script import Script
from .shrink import shrink

_CHUNK = 50


def main() -> int:
    """Run seeds.

    Returns:
        The exit status: 1 if a seed has failed.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=300, help="how many seeds")
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--keep-going", action="store_true", help="continue after the first failing seed")
    options = parser.parse_args()
    began, failed, done, steps = time.monotonic(), 0, 0, 0
    for seeds, failures, taken in _run_all(options.start, options.seeds, options.jobs):
        done, steps = done + len(seeds), steps + taken
        for seed, violation in failures:
            failed += 1
            print(f"seed {seed}: {violation}", flush=True)
            if not options.keep_going:
                print(explain(generate(seed)), flush=True)
                return 1
    seconds = time.monotonic() - began
    print(f"{done} seeds from {options.start}, {failed} failed; {steps} steps in {seconds:.0f} s")
    return min(failed, 1)


def explain(script: Script) -> str:
    """The violation of a script, and the shortest script that fails in the same way."""
    shortest = shrink(script, first_violation)
    return "\n".join([str(shortest), *(f"  -> {violation}" for violation in run(shortest).violations)])


def first_violation(script: Script) -> str | None:
    """The first violation of a script, or None."""
    violations = run(script).violations
    return violations[0] if violations else None


def _run_all(start: int, count: int, jobs: int) -> Iterator[tuple[range, list[tuple[int, str]], int]]:
    chunks = [range(first, min(first + _CHUNK, start + count)) for first in range(start, start + count, _CHUNK)]
    if jobs == 1:
        yield from map(_run_chunk, chunks)
        return
    with ProcessPoolExecutor(jobs) as pool:
        try:
            yield from pool.map(_run_chunk, chunks)
        finally:
            pool.shutdown(cancel_futures=True)


def _run_chunk(seeds: range) -> tuple[range, list[tuple[int, str]], int]:
    failures, steps = [], 0
    for seed in seeds:
        outcome = run(generate(seed))
        steps += outcome.steps
        if outcome.violations:
            failures.append((seed, outcome.violations[0]))
    return seeds, failures, steps


if __name__ == "__main__":
    sys.exit(main())

"""``python -m tests.parsers --examples N [--start S]``: compares the parsers, and prints the differences."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from random import Random

from humphrey_trio._server._fast_head import ordinary_head
from humphrey_trio.http import Limits

from .comparison import difference
from .messages import limits, message, reads

_STEP = 100_000


def main() -> int:
    """Compare.

    Returns:
        The exit status: 1 if there is a difference.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.parsers", description=__doc__)
    parser.add_argument("--examples", type=int, default=10_000, help="how many examples")
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    options = parser.parse_args()
    began, count = time.monotonic(), Counter[str]()
    for seed in range(options.start, options.start + options.examples):
        random = Random(seed)
        raw = message(random)
        found = difference(reads(random, raw), limits(random, raw))
        if found is not None:
            count["different"] += 1
            print(f"seed {seed}: {found}", flush=True)
        head = raw[: raw.find(b"\r\n\r\n") + 4]
        count["ordinary"] += ordinary_head(head, Limits()) is not None
        if (seed + 1 - options.start) % _STEP == 0:
            print(f"{seed + 1 - options.start} examples", flush=True)
    seconds = time.monotonic() - began
    print(
        f"{options.examples} examples from {options.start}, {count['different']} differences;"
        f" {count['ordinary']} began with an ordinary head; {seconds:.0f} s"
    )
    return min(count["different"], 1)


if __name__ == "__main__":
    raise SystemExit(main())

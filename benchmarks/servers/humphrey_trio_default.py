"""humphrey_trio as `pip install humphrey_trio` installs it: heads are parsed by h11, and nothing is compiled."""

from __future__ import annotations

import sys

import trio

from benchmarks.servers.arguments import Arguments

COMPILED = ("bitarray",)  # what the extra `fast` installs


def main() -> None:
    for name in COMPILED:
        sys.modules[name] = None  # type: ignore[assignment]  # importing it raises ImportError
    from benchmarks.servers.humphrey_trio_app import serve

    trio.run(serve, Arguments.read(), "h11")


if __name__ == "__main__":
    main()

"""humphrey_trio with `App(parser="fast")` and the extra `fast`."""

from __future__ import annotations

import trio

from benchmarks.servers.arguments import Arguments
from benchmarks.servers.humphrey_trio_app import serve

if __name__ == "__main__":
    trio.run(serve, Arguments.read(), "fast")

"""hypercorn with its trio worker, in this process."""

from __future__ import annotations

import sys

import trio
from hypercorn.trio import serve

from benchmarks.servers.asgi import app
from benchmarks.servers.hypercorn_settings import settings

if __name__ == "__main__":
    trio.run(serve, app, settings(int(sys.argv[1])))  # type: ignore[arg-type]

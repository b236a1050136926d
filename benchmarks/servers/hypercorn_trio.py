"""hypercorn with its trio worker, in this process."""

from __future__ import annotations

import trio
from hypercorn.trio import serve

from benchmarks.servers.arguments import Arguments
from benchmarks.servers.asgi import app_of
from benchmarks.servers.hypercorn_settings import settings

if __name__ == "__main__":
    arguments = Arguments.read()
    trio.run(serve, app_of(arguments), settings(arguments))  # type: ignore[arg-type]

"""Serve the files of a directory, with ranges and caching.

python examples/files.py [DIRECTORY] [PORT]
"""

from __future__ import annotations

import sys

import trio

from humphrey_trio import App
from humphrey_trio.handlers import serve_dir


async def main(directory: str, port: int) -> None:
    app = App().with_path_aware_route("/*", serve_dir(directory))
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(app.run, f"127.0.0.1:{port}")
        print(f"http://{address}/ has the files of {directory}", flush=True)


if __name__ == "__main__":
    directory = sys.argv[1] if len(sys.argv) > 1 else "."
    port = int(sys.argv[2]) if len(sys.argv) > 2 else 8080
    status = 0
    try:
        trio.run(main, directory, port)
    except* KeyboardInterrupt:
        status = 130  # the exit status of shells for SIGINT
    sys.exit(status)

"""The configuration of both servers on hypercorn."""

from __future__ import annotations

from hypercorn.config import Config

from benchmarks.servers.arguments import Arguments


def settings(arguments: Arguments) -> Config:
    config = Config()
    config.bind = [f"127.0.0.1:{arguments.port}"]
    config.certfile, config.keyfile = arguments.cert, arguments.key
    config.backlog = 4096
    config.keep_alive_max_requests = 10**9
    config.keep_alive_timeout = 75
    config.loglevel = "ERROR"
    return config

"""uvicorn in pure Python: h11, wsproto and the event loop of asyncio."""

from __future__ import annotations

import uvicorn

from benchmarks.servers.arguments import Arguments
from benchmarks.servers.asgi import app_of

if __name__ == "__main__":
    arguments = Arguments.read()
    uvicorn.run(
        app_of(arguments),
        host="127.0.0.1",
        port=arguments.port,
        ssl_certfile=arguments.cert,
        ssl_keyfile=arguments.key,
        http="h11",
        ws="wsproto",
        loop="asyncio",
        lifespan="off",
        log_level="error",
        access_log=False,
        ws_per_message_deflate=False,
        backlog=4096,
        timeout_keep_alive=75,
    )

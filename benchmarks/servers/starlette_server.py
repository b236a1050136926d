"""Starlette on uvicorn with httptools and uvloop: files only."""

from __future__ import annotations

from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.routing import Route

from benchmarks.servers.arguments import Arguments

arguments = Arguments.read()


async def file(request: Request) -> FileResponse:
    return FileResponse(Path(arguments.folder or "") / request.path_params["name"])


if __name__ == "__main__":
    uvicorn.run(
        Starlette(routes=[Route("/files/{name}", file)]),
        host="127.0.0.1",
        port=arguments.port,
        http="httptools",
        loop="uvloop",
        lifespan="off",
        log_level="error",
        access_log=False,
        backlog=4096,
        timeout_keep_alive=75,
    )

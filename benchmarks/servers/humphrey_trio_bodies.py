"""The server for `benchmarks.memory`: long responses, files, and uploads."""

from __future__ import annotations

import trio

from benchmarks.servers.arguments import Arguments
from humphrey_trio import App, Request, Response
from humphrey_trio.handlers import serve_dir
from humphrey_trio.http import Write

PIECE = bytes(2**18)
LONGEST_BODY = 2**30
PAUSE = 0.01  # seconds between two pieces of an upload that is read slowly


async def stream(request: Request) -> Response:
    """Send as many bytes as the query says."""
    size = request.query_param("size", int)

    async def produce(write: Write) -> None:
        for at in range(0, size, len(PIECE)):
            await write(PIECE[: size - at])

    return Response.stream(produce, length=size)


async def read_slowly(request: Request) -> Response:
    size = 0
    async for piece in request.body:
        size += len(piece)
        await trio.sleep(PAUSE)
    return Response(200, str(size))


async def read_form(request: Request) -> Response:
    form = await request.read_form()
    return Response(200, str(form.files["file"].size))


async def main(arguments: Arguments) -> None:
    app = (
        App()
        .with_stateless_route("/stream", stream)
        .with_stateless_route("/slow", read_slowly, methods=("POST",), stream=True, max_body=LONGEST_BODY)
        .with_stateless_route("/form", read_form, methods=("POST",), stream=True, max_body=LONGEST_BODY)
        .with_path_aware_route("/files/*", serve_dir(arguments.folder or "."))
    )
    await app.run(f"127.0.0.1:{arguments.port}")


if __name__ == "__main__":
    trio.run(main, Arguments.read())

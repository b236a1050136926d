"""An app of Quart-Trio that uses most of the framework."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import trio
from quart import (
    Blueprint,
    Response,
    abort,
    current_app,
    jsonify,
    request,
    send_file,
    url_for,
    websocket,
)
from quart_trio import QuartTrio

from .asgi_probes import Crowd, Probe

CROWD = 20


class Teapot(Exception):
    """An exception for which the app has a handler."""


pages = Blueprint("pages", __name__, url_prefix="/pages")


@pages.get("/<name>")
async def page(name: str) -> str:
    """A page of a blueprint."""
    return f"page {name}"


def quart_app(probe: Probe, folder: Path) -> QuartTrio:
    """An app with a blueprint, static files, and functions that run before and after serving."""
    app = QuartTrio(__name__, static_folder=str(folder), static_url_path="/static")
    app.register_blueprint(pages)
    crowd = Crowd(CROWD)

    @app.before_serving
    async def start() -> None:
        probe.note("startup")

    @app.after_serving
    async def stop() -> None:
        probe.note("shutdown")

    @app.while_serving
    async def lifespan() -> AsyncGenerator[None]:
        app.config["DATABASE"] = "connected"
        yield
        probe.note("database closed")

    @app.route("/")
    async def hello() -> str:
        return "hello"

    @app.get("/users/<int:number>")
    async def user(number: int) -> dict[str, Any]:
        return {"number": number, "tags": request.args.getlist("tag"), "root": request.root_path}

    @app.post("/json")
    async def json_back() -> tuple[Response, int]:
        return jsonify(await request.get_json()), 201

    @app.post("/form")
    async def form() -> dict[str, Any]:
        fields = await request.form
        file = (await request.files).get("file")
        return {"name": fields["name"], "size": len(file.read()) if file else 0}

    @app.post("/count")
    async def count() -> str:
        return str(sum([len(piece) async for piece in request.body]))

    @app.get("/thread")
    def thread() -> dict[str, bool]:
        return {"main": threading.current_thread() is threading.main_thread()}

    @app.get("/background")
    async def background() -> str:
        async def later() -> None:
            await probe.gate.wait()
            probe.note("task ends")

        app.add_background_task(later)
        return "accepted"

    @app.get("/numbers")
    async def numbers() -> Response:
        async def produce() -> AsyncGenerator[str]:
            yield "one"
            await probe.gate.wait()
            yield "two"

        return Response(produce())

    @app.get("/events")
    async def events() -> Response:
        async def produce() -> AsyncGenerator[bytes]:
            try:
                for number in range(3):
                    yield b"event: tick\r\nid: %d\r\ndata: %d\r\n\r\n" % (number, number)
                await trio.sleep_forever()
            finally:
                probe.note("events end")

        response = Response(produce(), content_type="text/event-stream")
        response.timeout = None
        return response

    @app.get("/wait")
    async def wait() -> str:
        probe.note("waits")
        try:
            await trio.sleep_forever()
        finally:
            probe.note("left")

    @app.get("/crowd")
    async def join() -> str:
        await crowd.join()
        return "together"

    @app.get("/url")
    async def url() -> dict[str, str]:
        return {"page": url_for("pages.page", name="x"), "static": url_for("static", filename="a.txt")}

    @app.get("/state")
    async def state() -> str:
        return str(current_app.config["DATABASE"])

    @app.get("/file")
    async def file() -> Response:
        return await send_file(folder / "a.txt", conditional=True)

    @app.get("/missing")
    async def missing() -> str:
        abort(404, "no such page")

    @app.get("/teapot")
    async def teapot() -> str:
        raise Teapot

    @app.errorhandler(Teapot)
    async def answer_teapot(error: Teapot) -> tuple[str, int]:
        return "short", 418

    @app.get("/fail")
    async def fail() -> str:
        raise RuntimeError("the secret cause")

    @app.websocket("/ws/<name>")
    async def chat(name: str) -> None:
        await websocket.accept(subprotocol="b", headers={"x-name": name})
        try:
            while True:
                await websocket.send(await websocket.receive())
        finally:
            probe.note("left")

    @app.websocket("/refuse")
    async def refuse() -> tuple[str, int]:
        return "no token", 401

    @app.websocket("/close")
    async def close() -> None:
        await websocket.accept()
        await websocket.close(4001, "enough")

    @app.websocket("/break-down")
    async def break_down() -> None:
        await websocket.accept()
        raise RuntimeError("the secret cause")

    return app

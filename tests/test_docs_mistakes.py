"""The page about common mistakes: its program, and the messages that it lists."""

from __future__ import annotations

import ast
import re
from typing import Any

from humphrey_trio import App
from humphrey_trio.testing import http_client, websocket_client
from tests.support.documentation import block_with
from tests.support.programs import ROOT


async def test_mistakes(runs: list[tuple[Any, ...]]) -> None:
    """The program at the beginning of mistakes.md shows items, and publishes messages to a room."""
    app: App[Any] = block_with('stream.subscribe("room")').run()["app"]
    async with http_client(app) as client:
        shown, missing, wrong = [await client.get(f"/items/1?page={page}") for page in (2, 10, "x")]
        assert (await client.post("/items/1")).text.endswith("is not allowed here: use GET or HEAD\n")
    assert (shown.status, shown.text, shown.headers["Cache-Control"]) == (200, '{"item":1,"page":2}', "no-store")
    assert (missing.status, wrong.status) == (404, 400)
    async with websocket_client(app, "/ws") as ann, websocket_client(app, "/ws") as bob:
        await ann.send("/join")
        await ann.ping()
        await bob.send("hi")
        assert str(await ann.receive()).endswith(": hi")


#: Messages of Python and of trio.
FOREIGN_MESSAGES = (
    "coroutine '",
    "Trio was expecting",
    "got an unexpected keyword",
    "missing 1 required",
    "'App' object",
    "no running event loop",
    "object has no attribute",
)


def test_messages_of_mistakes() -> None:
    """Every message on mistakes.md that is one of this library is in its source."""
    texts = {
        node.value
        for module in (ROOT / "humphrey_trio").rglob("*.py")
        for node in ast.walk(ast.parse(module.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    page = (ROOT / "docs" / "mistakes.md").read_text()
    cells = re.findall(r"^\| (.*?) \| ", page.partition("## Start")[2], re.MULTILINE)
    messages = [message for cell in cells for message in re.findall("`(.*?)`", cell)]
    ours = [message for message in messages if not any(part in message for part in FOREIGN_MESSAGES)]
    parts = [part for message in ours for part in re.split("…|: write |: use | is ", message) if part.strip(" :,")]
    symptoms = ("response.with_header(...)", "KeyError")
    absent = [part for part in parts if not any(part in text for text in texts) and part not in symptoms]
    assert absent == []
    assert len(ours) > 40

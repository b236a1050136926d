"""A server of the Model Context Protocol that an ``App`` serves, with the client of the same SDK."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest
from mcp import Client

from tests.support.asgi_probes import Probe
from tests.support.asgi_probes import probe as probe  # the fixture
from tests.support.asgi_sites import Site, mounted
from tests.support.mcp_apps import mcp_server

# The client of the SDK leaves iterators of its HTTP library to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:Async generator 'http(x|core)2:ResourceWarning")


@pytest.fixture
async def site(probe: Probe) -> AsyncGenerator[Site]:
    async with mounted(mcp_server(probe).streamable_http_app()) as site:
        yield site


async def test_quick_start(site: Site) -> None:
    """A client calls a tool, reads a resource and gets a prompt."""
    async with Client(site.url("/mcp")) as client:
        assert sorted(tool.name for tool in (await client.list_tools()).tools) == [
            "add",
            "fail",
            "in_thread",
            "work",
        ]
        assert (await client.call_tool("add", {"a": 1, "b": 2})).structured_content == {"result": 3}
        assert (await client.call_tool("in_thread", {})).structured_content == {"result": False}
        greeting = await client.read_resource("greeting://Ann")
        assert greeting.contents[0].text == "Hello, Ann!"
        prompt = await client.get_prompt("review", {"code": "x"})
        assert prompt.messages[0].content.text == "Review: x"


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_progress(site: Site, probe: Probe, mode: str) -> None:
    """Progress arrives while the tool runs, and the tool has the state of the lifespan."""
    seen: list[tuple[float, str | None]] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        seen.append((progress, message))
        probe.gate.set()

    async with Client(site.url("/mcp"), mode=mode) as client:
        result = await client.call_tool("work", {}, progress_callback=on_progress)
    assert result.structured_content == {"result": "connected"}
    assert seen[0] == (1, "half")


async def test_failing_tool(site: Site) -> None:
    """A tool that fails is a result that says so, and the session goes on."""
    async with Client(site.url("/mcp")) as client:
        result = await client.call_tool("fail", {})
        assert result.is_error
        assert (await client.call_tool("add", {"a": 1, "b": 2})).structured_content == {"result": 3}


async def test_two_clients(site: Site) -> None:
    """Two clients have sessions at the same time."""
    async with Client(site.url("/mcp"), mode="legacy") as one, Client(site.url("/mcp"), mode="legacy") as two:
        assert (await one.call_tool("add", {"a": 1, "b": 1})).structured_content == {"result": 2}
        assert (await two.call_tool("add", {"a": 2, "b": 2})).structured_content == {"result": 4}


async def test_json_responses_without_sessions(probe: Probe) -> None:
    """The app can answer with JSON instead of events, without sessions."""
    async with (
        mounted(mcp_server(probe).streamable_http_app(json_response=True, stateless_http=True)) as site,
        Client(site.url("/mcp")) as client,
    ):
        assert (await client.call_tool("add", {"a": 1, "b": 2})).structured_content == {"result": 3}


async def test_lifespan_runs(probe: Probe) -> None:
    """The lifespan of the app runs, without which the SDK answers nothing."""
    async with mounted(mcp_server(probe).streamable_http_app()) as site:
        refused = await site.client.get("/mcp")
        assert refused.status_code in (400, 406)
    assert probe.notes == ["startup", "shutdown"]


async def test_graceful_end_with_an_open_session(site: Site, probe: Probe) -> None:
    """The server ends gracefully while a client has a session, with its stream of events."""
    async with Client(site.url("/mcp"), mode="legacy") as client:
        await client.call_tool("add", {"a": 1, "b": 2})
        site.shutdown.set()
        await probe.noted("shutdown")


async def test_path_of_the_app_is_that_of_the_mount(probe: Probe) -> None:
    """The app can be mounted at its own path."""
    async with (
        mounted(mcp_server(probe).streamable_http_app(streamable_http_path="/"), "/mcp") as site,
        Client(site.url("/")) as client,
    ):
        assert (await client.call_tool("add", {"a": 1, "b": 2})).structured_content == {"result": 3}

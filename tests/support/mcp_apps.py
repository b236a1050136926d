"""A server of the Model Context Protocol, with the SDK for Python."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from mcp.server import MCPServer
from mcp.server.mcpserver import Context

from .asgi_probes import Probe


def mcp_server(probe: Probe) -> MCPServer[Any]:
    """The server of the quick start, with a tool that reports progress and one that fails."""

    @asynccontextmanager
    async def lifespan(server: MCPServer[Any]) -> AsyncGenerator[dict[str, str]]:
        probe.note("startup")
        yield {"database": "connected"}
        probe.note("shutdown")

    server: MCPServer[Any] = MCPServer("Demo", lifespan=lifespan)

    @server.tool()
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    @server.tool()
    def in_thread() -> bool:
        """Whether a plain function runs in the main thread."""
        return threading.current_thread() is threading.main_thread()

    @server.tool()
    async def work(context: Context[Any, Any]) -> str:
        """Report progress, and wait for the test."""
        await context.report_progress(1, 2, "half")
        await probe.gate.wait()
        await context.report_progress(2, 2, "all")
        database: str = context.request_context.lifespan_context["database"]
        return database

    @server.tool()
    async def fail() -> str:
        """Fail."""
        raise ValueError("no more")

    @server.resource("greeting://{name}")
    def greeting(name: str) -> str:
        """Greet someone by name."""
        return f"Hello, {name}!"

    @server.prompt()
    def review(code: str) -> str:
        """Ask for a review."""
        return f"Review: {code}"

    return server

"""Caddy in front of a server."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

_CADDY = shutil.which("caddy")

#: Skips a test without Caddy.
needs_caddy = pytest.mark.skipif(_CADDY is None, reason="Caddy is not installed (Debian's package caddy)")

_OPTIONS = """
{
    admin off
    auto_https disable_redirects
    log {
        output stderr
    }
}
"""


@asynccontextmanager
async def running_caddy(sites: str, folder: Path) -> AsyncGenerator[None]:
    """Run Caddy.

    Args:
        sites: the content of its configuration, without global options.
        folder: an empty folder for its files.
    """
    assert _CADDY is not None
    configuration = folder / "Caddyfile"
    configuration.write_text(_OPTIONS + sites)
    homes = {"HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    process = await trio.lowlevel.open_process(
        [_CADDY, "run", "--config", str(configuration), "--adapter", "caddyfile"],
        env=os.environ | homes,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        await _wait_until_serving(process)
        yield
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            assert process.stderr is not None
            await process.stderr.aclose()


async def _wait_until_serving(process: trio.Process) -> None:
    """Wait for the line of its log after which it accepts connections."""
    assert process.stderr is not None
    log = b""
    while b"serving initial configuration" not in log:
        received = await process.stderr.receive_some()
        assert received, f"Caddy has ended: {log.decode()}"
        log += received

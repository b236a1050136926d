"""nginx in front of a server."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

# Debian installs nginx in a folder that only root has in its PATH.
_NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")

#: Skips a test without nginx.
needs_nginx = pytest.mark.skipif(_NGINX is None, reason="nginx is not installed (Debian's package nginx-light)")

_CONFIGURATION = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {http}
}}
"""


@asynccontextmanager
async def running_nginx(http: str, folder: Path) -> AsyncGenerator[None]:
    """Run nginx as one process.

    Args:
        http: the content of its ``http`` block.
        folder: an empty folder for its files.
    """
    assert _NGINX is not None
    configuration = folder / "nginx.conf"
    configuration.write_text(_CONFIGURATION.format(folder=folder, http=http))
    process = await trio.lowlevel.open_process([_NGINX, "-c", str(configuration)], stderr=subprocess.DEVNULL)
    try:
        await _wait_until_listening(trio.Path(folder / "nginx.pid"), process)
        yield
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


async def _wait_until_listening(pid_file: trio.Path, process: trio.Process) -> None:
    """Wait for the file that nginx writes after it listens. Another process might answer on its port."""
    while not await pid_file.exists():
        assert process.poll() is None, "nginx has ended"
        await trio.sleep(0.02)

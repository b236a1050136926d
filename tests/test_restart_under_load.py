"""A FastAPI app and a WebSocket app on one port with TLS are restarted under load, behind nginx and without it."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.support import PATIENCE
from tests.support.certificates import authority, client_context
from tests.support.documentation import block_with, indented_block_with, replaced
from tests.support.nginx import needs_nginx, running_nginx
from tests.support.programs import Program, free_port, running
from tests.support.restarts import CLIENTS, SHOP, Load, accepted_orders

RESTARTS = 2


def write_files(folder: Path) -> None:
    """The shop, its certificate with the key, and that of the authority."""
    (folder / "shop.py").write_text(SHOP)
    certificate = authority().issue_cert("shop.example", "127.0.0.1")
    certificate.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    authority().cert_pem.write_to_path(folder / "ca.pem")


def parent_of_the_page(port: int) -> str:
    """The program of the page that keeps the listening socket, for servers with TLS."""
    tls = 'f"fd:{file}", "--tls-cert", "cert.pem", "--tls-key", "key.pem"]'
    changes = {'("127.0.0.1", 8080)': f'("127.0.0.1", {port})', 'f"fd:{file}"]': tls}
    return replaced(block_with("successor").source, **changes)


@asynccontextmanager
async def shop(folder: Path) -> AsyncGenerator[tuple[Program, int]]:
    """Run the program of the page. Yields it with its port, and ends it by SIGTERM."""
    port = free_port()
    write_files(folder)
    with trio.fail_after(PATIENCE), running("-c", parent_of_the_page(port)) as parent:
        assert await trio.to_thread.run_sync(parent.read_line) == "loaded\n"
        yield parent, port
        parent.send_signal(signal.SIGTERM)
        ending = await trio.to_thread.run_sync(parent.finish)
    assert ending.status == 0
    assert "Traceback" not in ending.stderr


async def restart_under_load(parent: Program, load: Load, folder: Path) -> None:
    """Replace the server by SIGHUP to its parent, which sends it SIGTERM."""

    async def restart() -> None:
        parent.send_signal(signal.SIGHUP)
        assert await trio.to_thread.run_sync(parent.read_line) == "loaded\n"

    await load.restart(restart, RESTARTS)
    assert load.failures == []
    assert load.codes == {1012: CLIENTS * RESTARTS}
    assert accepted_orders(folder) == Counter(load.orders)


#: The changes of the page for connections to the server that stay open.
KEPT = {"server 127.0.0.1:8080;": "server 127.0.0.1:8080; keepalive 32;", "''      close;": "''      '';"}


def nginx_of_the_page(port: int, backend: int, folder: Path, *, kept: bool) -> str:
    """The configuration of the page, for other addresses and files."""
    block = indented_block_with("deployment", "proxy_ssl_verify")
    if kept:
        repeat = indented_block_with("deployment", "proxy_next_upstream").strip()
        block = replaced(block, **KEPT, proxy_read_timeout=f"{repeat} proxy_read_timeout")
    own = {
        "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
        "127.0.0.1:8080": f"127.0.0.1:{backend}",
        "/etc/ssl/shop.example": str(folder),
    }
    return replaced(block, **own)


@needs_nginx
@pytest.mark.parametrize("kept", [False, True], ids=["closed after each request", "kept open"])
async def test_behind_nginx(kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No request fails, each order is accepted once, and every WebSocket gets the code of the ``Drain``."""
    monkeypatch.chdir(tmp_path)
    port = free_port()
    async with (
        shop(tmp_path) as (parent, backend),
        running_nginx(nginx_of_the_page(port, backend, tmp_path, kept=kept), tmp_path),
    ):
        await restart_under_load(parent, Load(port, client_context(), posts_reuse=True), tmp_path)


async def test_without_a_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for clients of the server itself, if each POST has a connection of its own."""
    monkeypatch.chdir(tmp_path)
    async with shop(tmp_path) as (parent, port):
        await restart_under_load(parent, Load(port, client_context(), posts_reuse=False), tmp_path)

"""The servers that can be measured, whether they are installed, and their versions."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import tomllib
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
OURS = "humphrey-trio"
OURS_FAST = "humphrey-trio-fast"
HTTP, WS, FILE = "http", "ws", "file"
#: The frameworks of which there are ASGI apps.
FRAMEWORKS = ("starlette", "fastapi")


@dataclass(frozen=True)
class Server:
    """A server that can be measured.

    Attributes:
        name: its name in options and tables.
        module: its program in benchmarks/servers.
        needs: the modules that must be importable. The versions of their distributions are reported.
        protocols: what it serves: ``http``, ``ws`` and ``file``.
        tls: whether it serves TLS if its program gets a certificate.
        asgi: whether it serves any ASGI app.
        bound: whether it is only shown for comparison, and not usable as a server.
        program: the program that must be installed, if it is not written in Python.
    """

    name: str
    module: str
    needs: tuple[str, ...] = ()
    protocols: tuple[str, ...] = (HTTP, WS)
    tls: bool = False
    asgi: bool = False
    bound: bool = False
    program: str = ""

    @property
    def ours(self) -> bool:
        return self.name in (OURS, OURS_FAST)

    def missing(self) -> list[str]:
        """Return the modules and programs that are not installed."""
        absent = [name for name in self.needs if not importable(name)]
        return absent + ([self.program] if self.program and not program(self.program) else [])

    def versions(self) -> dict[str, str]:
        """Return the versions of what is installed."""
        names = [name.partition(".")[0].replace("_", "-") for name in self.needs]
        found = {name: version for name in names if (version := distribution_version(name))}
        return found | ({self.program: program_version(self.program)} if self.program else {})


def importable(name: str) -> bool:
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:  # its parent package is missing
        return False
    return spec is not None and spec.origin is not None


def program(name: str) -> str | None:
    """Return the path of a program; None if it is not installed."""
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")


def program_version(name: str) -> str:
    """Return the version that ``-v`` shows; empty if the program is not installed."""
    path = program(name)
    if path is None:
        return ""
    shown = subprocess.run([path, "-v"], capture_output=True, text=True, check=False)
    found = re.search(r"\d+(?:\.\d+)+", shown.stdout + shown.stderr)
    return found[0] if found else ""


def distribution_version(name: str) -> str:
    """Return the version of an installed distribution; empty if it is not installed."""
    if name == "humphrey-trio":
        return own_version()
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def own_version() -> str:
    """Return the version of this checkout, which is what the benchmarks import, and its commit."""
    version: str = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"]
    command = ["git", "-C", str(PROJECT), "describe", "--always", "--dirty"]
    try:
        commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return version
    return f"{version} ({commit})"


SERVERS = (
    Server(
        OURS,
        "humphrey_trio_default",
        ("humphrey_trio", "trio", "h11", "wsproto"),
        (HTTP, WS, FILE),
        tls=True,
        asgi=True,
    ),
    Server(
        OURS_FAST,
        "humphrey_trio_fast",
        ("humphrey_trio", "trio", "h11", "wsproto", "bitarray"),
        (HTTP, WS, FILE),
        tls=True,
        asgi=True,
    ),
    Server("hypercorn-trio", "hypercorn_trio", ("hypercorn", "trio", "h11", "wsproto"), tls=True, asgi=True),
    Server("quart-trio", "quart_trio_server", ("quart_trio", "hypercorn", "trio")),
    Server("trio-websocket", "trio_websocket_server", ("trio_websocket", "trio", "wsproto"), (WS,)),
    Server("websockets-trio", "websockets_trio", ("websockets.trio", "trio"), (WS,)),
    Server("websockets-asyncio", "websockets_asyncio", ("websockets.asyncio",), (WS,), tls=True),
    Server("uvicorn-h11", "uvicorn_h11", ("uvicorn", "h11", "wsproto"), tls=True, asgi=True),
    Server("uvicorn-fast", "uvicorn_fast", ("uvicorn", "httptools", "uvloop", "websockets"), tls=True, asgi=True),
    Server("aiohttp", "aiohttp_server", ("aiohttp",), (HTTP, WS, FILE), tls=True),
    Server("picows", "picows_server", ("picows", "uvloop"), (WS,), tls=True),
    Server("starlette", "starlette_server", ("starlette", "uvicorn", "httptools", "uvloop"), (FILE,)),
    Server("nginx", "nginx_server", protocols=(FILE,), program="nginx"),
    Server("floor", "floor", ("trio", "h11", "wsproto"), bound=True),
    Server("raw", "raw", ("trio",), bound=True),
)
BY_NAME = {server.name: server for server in SERVERS}

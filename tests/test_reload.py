"""A server restarts when its source changes, whatever its connections and handlers do, and refuses no client."""

from __future__ import annotations

import base64
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from humphrey_trio._cli._errors import UsageError
from humphrey_trio._cli._file_changes import is_source
from humphrey_trio._cli._lifeline import end_with_supervisor
from humphrey_trio._cli._reload import supervise
from tests.support.reloading import APP, SOON, Site, read_to_end, reloading

#: Seconds from a change to an answer of the new source. It is below 1 on a machine that has nothing else to do.
RESTART = 10.0


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with reloading(tmp_path) as site:
        site.wait_for("serving")
        assert site.get() == "first"
        yield site


# ------------------------------------------------------------------------------------------- restarts


def test_change(site: Site) -> None:
    """After a change, the new source answers."""
    site.change("second")
    assert site.seconds_until("second") < RESTART


def test_replaced_file(site: Site, tmp_path: Path) -> None:
    """A file that is replaced by another one, as many editors save it, is a change."""
    replacement = tmp_path / "site_app.py.new"
    replacement.write_text(APP.format(text="second"))
    replacement.replace(tmp_path / "site_app.py")
    assert site.seconds_until("second") < RESTART


def test_changes_in_one_second(site: Site) -> None:
    """Each of several changes is noticed, also of the same size and in the same second."""
    for text in ("text 1", "text 2", "text 3", "text 4"):
        site.change(text)
        assert site.seconds_until(text) < RESTART


def test_clients_during_a_restart(site: Site) -> None:
    """During a restart, no client is refused. Each gets an answer of the old or of the new source."""
    texts: list[str] = []
    done = threading.Event()

    def request_always() -> None:
        while not done.is_set():
            texts.append(site.get())

    client = threading.Thread(target=request_always)
    client.start()
    try:
        for text in ("second", "third"):
            site.change(text)
            site.seconds_until(text)
    finally:
        done.set()
        client.join()
    order = [("first", "second", "third").index(text) for text in texts]
    assert order == sorted(order)
    assert order[0] == 0


def test_open_connections(site: Site) -> None:
    """A long poll, a WebSocket that does not answer, and a silent connection do not hold up a restart."""
    key = base64.b64encode(bytes(16)).decode()
    upgrade = (
        f"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
    )
    with (
        site.connect("/wait") as poll,
        site.connect("/ws", upgrade) as websocket,
        socket.create_connection(("127.0.0.1", site.port), timeout=SOON) as silent,
    ):
        received = b""
        while not received.endswith(b"\x81\x04open"):
            received += websocket.recv(65536)
        site.change("second")
        assert site.seconds_until("second") < RESTART
        for client in (poll, websocket, silent):
            with suppress(ConnectionResetError):
                read_to_end(client)


def test_blocked_handler(site: Site) -> None:
    """A handler that blocks the event loop does not hold up a restart."""
    with site.connect("/block"):
        site.wait_for("blocked")
        site.change("second")
        assert site.seconds_until("second") < RESTART


def test_source_with_an_error(site: Site) -> None:
    """A source that cannot be imported prints its traceback. Clients wait until the next change corrects it."""
    site.write("app = (")
    site.wait_for("humphrey_trio.reload: the server has ended with status 1")
    with site.connect("/", "Connection: close\r\n") as client:
        site.change("second")
        assert read_to_end(client).endswith(b"\r\n\r\nsecond")
    assert "SyntaxError: " in site.supervisor.interrupt().stderr


# ------------------------------------------------------------------------------------------------ ends


def announced(number: signal.Signals) -> str:
    """The log line about a signal."""
    return f"humphrey_trio.http: {number.name}: shutting down gracefully; a second signal ends at once\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal(site: Site, number: signal.Signals) -> None:
    """A signal ends the server gracefully, and then its supervisor, without a traceback."""
    site.supervisor.send_signal(number)
    assert site.supervisor.finish() == (0, f"{announced(number)}ending\nended\n", "")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_second_signal(site: Site, number: signal.Signals, status: int) -> None:
    """The first signal waits for connections. The second kills the server, and the status is that of shells."""
    with site.connect("/wait") as poll:
        site.supervisor.send_signal(number)
        site.wait_for("ending")
        site.supervisor.send_signal(number)
        ending = site.supervisor.finish()
        assert read_to_end(poll) == b""
    assert ending == (status, "", "")


@pytest.mark.parametrize("path", ["/wait", "/block"])
def test_killed_supervisor(site: Site, path: str) -> None:
    """No server is left behind if its supervisor is killed, not even a blocked one."""
    with site.connect(path) as client:
        site.wait_for("waiting" if path == "/wait" else "blocked")
        site.supervisor.send_signal(signal.SIGKILL)
        read_to_end(client)
        # The server has the same standard output, which has ended now.
        assert site.supervisor.finish().status == -signal.SIGKILL


def test_signal_while_no_server_runs(site: Site) -> None:
    """A signal ends a supervisor whose server has failed."""
    site.write("raise SystemExit(3)")
    site.wait_for("humphrey_trio.reload: the server has ended with status 3")
    assert site.supervisor.interrupt() == (0, announced(signal.SIGINT), "")


# ---------------------------------------------------------------------------------------------- errors


async def test_watchfiles_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without watchfiles, the error says what to install, and nothing is started."""
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    with pytest.raises(UsageError, match=r"pip install 'humphrey_trio\[reload\]'"):
        await supervise(["/does/not/exist"], [])


async def test_missing_paths(tmp_path: Path) -> None:
    """A path that does not exist, or a program that does not, is an error that names it."""
    missing = tmp_path / "missing"
    with pytest.raises(UsageError, match=str(missing)):
        await supervise([sys.executable, "-c", ""], [], paths=[missing])
    with pytest.raises(UsageError, match=str(missing)):
        await supervise([str(missing)], [], paths=[tmp_path])


def test_without_a_supervisor() -> None:
    """A server that was not started by a supervisor goes on without one."""
    assert end_with_supervisor() is False


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("shop.py", True),
        ("shop/views.py", True),
        ("shop/page.html", False),
        ("shop/__pycache__/views.py", False),
        ("env/lib/shop.py", False),
        ("env2/lib/shop.py", True),
        (".tox/lib/shop.py", False),
        ("lib/site-packages/shop.py", False),
        ("shop/.#views.py", False),
        ("shop/flycheck_views.py", False),
        ("../shop.py", False),
    ],
)
def test_sources(tmp_path: Path, path: str, expected: bool) -> None:
    """Sources of the application count. Caches, virtual environments and temporary files of editors do not."""
    root = tmp_path / ".venv" / "node_modules"  # the names above a root do not matter
    (root / "env").mkdir(parents=True)
    (root / "env" / "pyvenv.cfg").touch()
    assert is_source(str((root / path).resolve()), [str(root)]) is expected
    assert is_source(str(root / "shop.py"), [str(root / "shop.py")])

"""The examples, each run as its first lines describe, with real clients."""

from __future__ import annotations

import hashlib
import os
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import trio
import trustme
from trio_websocket import open_websocket_url
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.support.certificates import trusting_in_threads
from tests.support.programs import ROOT, Ending, Program, running

EXAMPLES = ROOT / "examples"
ANY_PORT = "0"


@contextmanager
def example(name: str, *arguments: str) -> Iterator[tuple[Program, list[str]]]:
    """Run an example. Yields it with the URLs of its first line of output."""
    with running(str(EXAMPLES / name), *arguments, ANY_PORT) as program:
        yield program, re.findall(r"(?:http|ws)s?://\S+", program.read_line())


def get(url: str, tls: ssl.SSLContext | bool = True) -> httpx.Response:
    with httpx.Client(verify=tls, trust_env=False) as client:
        return client.get(url)


def open_client(url: str, tls: ssl.SSLContext | None = None) -> ClientConnection:
    return connect(url, ssl=tls, proxy=None)


def assert_ended_by_ctrl_c(ending: Ending) -> None:
    assert (ending.status, ending.stderr) == (130, "")


def assert_going_away(client: ClientConnection) -> None:
    with pytest.raises(ConnectionClosed) as caught:
        client.recv(timeout=10)
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 1001


def test_linked() -> None:
    """linked.py answers HTTP and echoes over WebSockets; Ctrl-C ends it with 130 and no traceback."""
    with example("linked.py") as (program, (page, socket)):
        assert get(page).text == "Hello world!"
        with open_client(socket) as client:
            for message in ("text", b"bytes"):
                client.send(message)
                assert client.recv(timeout=10) == message
            assert_ended_by_ctrl_c(program.interrupt())
            assert_going_away(client)


async def test_linked_with_trio_websocket() -> None:
    """linked.py echoes to a trio-websocket client."""
    with example("linked.py") as (_, (_, url)):
        async with open_websocket_url(url) as client:
            for message in ("text", b"bytes"):
                await client.send_message(message)
                with trio.fail_after(10):
                    assert await client.get_message() == message


def test_websocket() -> None:
    """websocket.py numbers the messages of each connection, and serves a page that opens a WebSocket."""
    with example("websocket.py") as (program, (page, socket)):
        answer = get(page)
        assert answer.headers["Content-Type"].startswith("text/html")
        assert "new WebSocket(" in answer.text
        with open_client(socket) as client, open_client(socket) as other:
            for message, expected in (("a", "1: 'a'"), (b"b", "2: b'b'")):
                client.send(message)
                assert client.recv(timeout=10) == expected
            other.send("c")
            assert other.recv(timeout=10) == "1: 'c'"
            client.close()
            assert program.read_line().endswith(" left after 2 messages\n")
            assert_ended_by_ctrl_c(program.interrupt())
            assert_going_away(other)


def test_async_websocket() -> None:
    """async_websocket.py greets each client, counts its messages, and tells the others when it disconnects."""
    with example("async_websocket.py") as (program, (url,)), open_client(url) as stays:
        with open_client(url) as leaves:
            for client in (stays, leaves):
                assert str(client.recv(timeout=10)).startswith("Welcome, 127.0.0.1:")
            for message, expected in (("ä", "Message 1 has 2 bytes"), (b"b", "Message 2 has 1 bytes")):
                leaves.send(message)
                assert leaves.recv(timeout=10) == expected
            stays.send("c")
            assert stays.recv(timeout=10) == "Message 1 has 1 bytes"
        assert str(stays.recv(timeout=10)).endswith(" left after 2 messages")
        assert_ended_by_ctrl_c(program.interrupt())
        assert_going_away(stays)


def test_broadcast() -> None:
    """broadcast.py sends each line of its input to all clients; Ctrl-C ends it while it waits for a line."""
    with example("broadcast.py") as (program, (url,)), open_client(url) as first, open_client(url) as second:
        # The streams are taken a moment after their 101, so the first line waits until both answer.
        for client in (first, second):
            client.ping().wait(10)
        for line in ("one", "zwölf"):
            program.write_line(line)
            for client in (first, second):
                assert client.recv(timeout=10) == line
        assert_ended_by_ctrl_c(program.interrupt())
        assert_going_away(first)
        assert_going_away(second)


def test_rooms() -> None:
    """rooms.py tells the clients of a room, and no others, which clients enter, speak and leave."""
    with (
        example("rooms.py") as (program, (url,)),
        open_client(f"{url}red") as ann,
        open_client(f"{url}blue") as bob,
    ):
        for client in (ann, bob):
            assert str(client.recv(timeout=10)).endswith(" has joined")
        with open_client(f"{url}red") as guest:
            for client in (ann, guest):
                assert str(client.recv(timeout=10)).endswith(" has joined")
            guest.send("hello")
            for client in (ann, guest):
                assert str(client.recv(timeout=10)).endswith(": hello")
        assert str(ann.recv(timeout=10)).endswith(" has left")
        bob.send("is this room empty?")
        assert str(bob.recv(timeout=10)).endswith(": is this room empty?")
        assert_ended_by_ctrl_c(program.interrupt())
        assert_going_away(ann)


def test_graceful() -> None:
    """graceful.py completes requests and closes with 1012 at the first Ctrl-C, and ends with 0."""
    with example("graceful.py") as (program, (page, socket)), open_client(socket) as client:
        assert get(page).text == "Hello world!"
        client.send("text")
        assert client.recv(timeout=10) == "text"
        ending = program.interrupt()
        with pytest.raises(ConnectionClosed) as caught:
            client.recv(timeout=10)
        assert caught.value.rcvd is not None
        assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (1012, "retry-after=5")
        assert (ending.status, ending.stderr) == (0, "")


def test_files(tmp_path: Path) -> None:
    """files.py serves a directory: whole files, ranges, and 304 for cached files."""
    (tmp_path / "index.html").write_text("<h1>Hello</h1>")
    (tmp_path / "large.bin").write_bytes(bytes(range(256)) * 1024)
    for path in tmp_path.iterdir():
        os.utime(path, (10**9, 10**9))
    with (
        example("files.py", str(tmp_path)) as (program, (url,)),
        httpx.Client(base_url=url, trust_env=False) as client,
    ):
        page = client.get("/")
        assert (page.status_code, page.text) == (200, "<h1>Hello</h1>")
        assert client.get("/index.html", headers={"If-None-Match": page.headers["ETag"]}).status_code == 304
        assert client.get("/large.bin").content == bytes(range(256)) * 1024
        part = client.get("/large.bin", headers={"Range": "bytes=100-99999"})
        assert (part.status_code, part.content) == (206, (bytes(range(256)) * 1024)[100:100000])
        assert client.get("/none").status_code == 404
        assert_ended_by_ctrl_c(program.interrupt())


def test_tls(tmp_path: Path) -> None:
    """tls.py serves both apps over TLS, with the certificate of its command line."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    key.write_bytes(certificate.private_key_pem.bytes())
    cert.write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    tls = ssl.create_default_context()
    authority.configure_trust(tls)
    with example("tls.py", str(cert), str(key)) as (program, (page, socket)):
        assert (page[:8], socket[:6]) == ("https://", "wss://")
        assert get(page, tls).text == "Hello world!"
        with open_client(socket, trusting_in_threads(authority)) as client:
            client.send("text")
            assert client.recv(timeout=10) == "text"
            assert_ended_by_ctrl_c(program.interrupt())
            assert_going_away(client)


def test_upload() -> None:
    """upload.py shows its page, hashes the files of a form while they arrive, and prints its progress."""
    contents = {"one.bin": bytes(range(256)) * 10_000, "z\u00f6.txt": b""}
    with example("upload.py") as (program, (page,)):
        assert 'type="file"' in get(page).text
        files = [("file", (name, content)) for name, content in contents.items()]
        with httpx.Client(trust_env=False) as client:
            response = client.post(f"{page}upload", files=files, data={"ignored": "x"})
        assert response.text == "".join(
            f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in contents.items()
        )
        assert re.fullmatch(r"'one.bin': \d+ %\n", program.read_line())
        assert_ended_by_ctrl_c(program.interrupt())


def test_api() -> None:
    """api.py adds, lists, shows, changes and deletes notes, and refuses what is wrong, with the reason as JSON."""
    with (
        example("api.py") as (program, (url,)),
        httpx.Client(trust_env=False, headers={"Accept": "application/json"}) as client,
    ):
        user = {"Authorization": "Bearer secret"}
        added = client.post(url, json={"text": "buy tea"}, headers=user)
        note = {"number": 1, "author": "ann", "text": "buy tea"}
        assert (added.status_code, added.headers["Location"], added.json()) == (201, "/notes/1", note)
        client.post(url, json={"text": "drink"}, headers=user)
        assert client.get(url, params={"search": "tea"}).json() == [note]
        assert len(client.get(url, params={"limit": "1"}).json()) == 1
        assert client.get(f"{url}/1").json() == note
        changed = client.put(f"{url}/1", json={"text": "buy milk"}, headers=user)
        assert changed.json() == note | {"text": "buy milk"}
        assert client.delete(f"{url}/2", headers=user).status_code == 204
        assert [note["text"] for note in client.get(url).json()] == ["buy milk"]
        for refused, status in (
            (client.post(url, json={"text": "x"}), 401),
            (client.post(url, json={"text": 1}, headers=user), 400),
            (client.post(url, content="{", headers=user), 400),
            (client.post(url, json={"text": "x" * 10_000}, headers=user), 413),
            (client.get(url, params={"limit": "x"}), 400),
            (client.get(f"{url}/2"), 404),
            (client.get(f"{url}/x"), 404),
            (client.patch(f"{url}/1", headers=user), 405),
        ):
            assert (refused.status_code, refused.json()["status"]) == (status, status)
        assert_ended_by_ctrl_c(program.interrupt())


def read_events(page: str, headers: dict[str, str], count: int) -> list[str]:
    """The first events of events.py, each as its lines."""
    with (
        httpx.Client(trust_env=False) as client,
        client.stream("GET", f"{page}events", headers=headers) as response,
    ):
        assert response.headers["Content-Type"] == "text/event-stream"
        received = ""
        for text in response.iter_text():
            received += text
            if received.count("\n\n") >= count:
                break
    return received.split("\n\n")[:count]


def test_events() -> None:
    """events.py sends the ticks to a page, and to a client that connects again also those that it has missed."""
    with example("events.py") as (program, (page,)):
        assert 'new EventSource("/events")' in get(page).text
        begin, first, second = read_events(page, {}, 3)
        assert begin.startswith("id: ")
        assert "\n" not in begin
        number = int(first.split()[-1])
        event, last_id, data = first.split("\n")
        assert (event, data) == ("event: tick", f"data: tick {number}")
        assert second.endswith(f"tick {number + 1}")
        _, *missed = read_events(page, {"Last-Event-ID": last_id.removeprefix("id: ")}, 4)
        assert [event.split()[-1] for event in missed] == [str(number + step) for step in (1, 2, 3)]
        assert_ended_by_ctrl_c(program.interrupt())


def test_tls_without_files() -> None:
    """tls.py without arguments prints its usage."""
    with running(str(EXAMPLES / "tls.py")) as program:
        ending = program.finish()
    assert ending.status == 1
    assert "python examples/tls.py CERT KEY [PORT]" in ending.stderr


def test_every_example_is_tested() -> None:
    """Each example has a test here, and its first lines say how to run it."""
    tests = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    found = sorted(EXAMPLES.glob("*.py"))
    assert found
    for file in found:
        assert file.stem in tests
        assert f"\npython examples/{file.name} " in file.read_text()

"""A shop of FastAPI and an ``AsyncWebsocketApp``, and clients that use it while its server is replaced."""

from __future__ import annotations

import itertools
import json
import ssl
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import trio

from humphrey_trio import ConnectionClosed
from humphrey_trio.testing import open_websocket

#: The module ``shop``. Each order that it has accepted is a line of the file ``orders``.
SHOP = """
import os

import trio
from fastapi import FastAPI
from humphrey_trio import App, AsyncWebsocketApp, Drain
from humphrey_trio.http import TrustedProxies
from pydantic import BaseModel

api = FastAPI()
orders = os.open("orders", os.O_WRONLY | os.O_CREAT | os.O_APPEND)


class Order(BaseModel):
    number: int


@api.get("/items/{number}")
def item(number: int):  # in a thread
    return {"pid": os.getpid(), "number": number}


@api.post("/orders")
async def accept(order: Order):
    await trio.sleep(0.01)
    os.write(orders, f"{order.number}\\n".encode())
    return {"pid": os.getpid(), "number": order.number}


async def echo(stream, message, state):
    await stream.send(message)


app = App(proxies=TrustedProxies("127.0.0.1")).with_asgi("/api", api)
app.with_websocket_app("/ws", AsyncWebsocketApp.new_unlinked().with_message_handler(echo))
app.with_shutdown(trio.Event(), Drain(code=1012, spread=0.3))
print("loaded", flush=True)
"""

#: The number of clients of each kind, and that of the responses that a server sends before it is replaced.
CLIENTS, RESPONSES = 4, 30


class Load:
    """Clients that send requests, and keep WebSockets, all the time.

    Args:
        port: the port of HTTPS on 127.0.0.1.
        context: the TLS context of the clients.
        posts_reuse: whether a POST may be sent on a connection that has had a request. It is not sent again if the
            server closes that connection.

    Attributes:
        failures: the requests without the right response, and the WebSockets without a close code.
        answered: the number of responses, by method and process id.
        orders: the orders that were answered.
        codes: the number of WebSockets, by their close code.
        repeated: GETs that were sent a second time because their connection was closed (RFC 9112, section 9.3.1).
    """

    def __init__(self, port: int, context: ssl.SSLContext, *, posts_reuse: bool) -> None:
        self._port = port
        self._context = context
        self._posts_reuse = posts_reuse
        self._numbers = itertools.count()
        self._noted = trio.Event()
        self._stopping = False
        self.failures: list[str] = []
        self.answered: Counter[tuple[str, int]] = Counter()
        self.orders: set[int] = set()
        self.codes: Counter[int] = Counter()
        self.repeated = 0

    async def restart(self, restart: Callable[[], Awaitable[None]], times: int) -> None:
        """Replace the server so many times, each time after enough responses. Then the clients end."""
        async with trio.open_nursery() as websockets:
            for _ in range(CLIENTS):
                websockets.start_soon(self._keep_websocket)
            async with trio.open_nursery() as requests:
                for _ in range(CLIENTS):
                    requests.start_soon(self._request, self._get, self._client(reuse=True))
                    requests.start_soon(self._request, self._post, self._client(reuse=self._posts_reuse))
                await self._wait_for_servers(1)
                for count in range(2, times + 2):
                    await restart()
                    await self._wait_for_servers(count)
                self._stopping = True
            websockets.cancel_scope.cancel()

    async def _wait_for_servers(self, count: int) -> None:
        """Wait until so many servers have answered, and all but the last one have closed their WebSockets."""
        while self._served("GET") < count or self._served("POST") < count or self._closed() < count - 1:
            assert len(self.failures) < 100, self.failures
            await self._noted.wait()

    def _served(self, method: str) -> int:
        """The number of servers with enough responses."""
        return sum(number >= RESPONSES for (name, _), number in self.answered.items() if name == method)

    def _closed(self) -> int:
        """The number of servers that have closed their WebSockets."""
        return self.codes.total() // CLIENTS

    def _note(self) -> None:
        self._noted.set()
        self._noted = trio.Event()

    # Requests...

    def _client(self, *, reuse: bool) -> httpx.AsyncClient:
        kept = httpx.Limits(max_keepalive_connections=1 if reuse else 0)
        url = f"https://127.0.0.1:{self._port}"
        return httpx.AsyncClient(base_url=url, verify=self._context, trust_env=False, limits=kept, timeout=30)

    async def _request(
        self, send: Callable[[httpx.AsyncClient, int], Awaitable[httpx.Response]], client: httpx.AsyncClient
    ) -> None:
        """Send one request after the other."""
        async with client:
            while not self._stopping:
                number = next(self._numbers)
                try:
                    response = await send(client, number)
                except httpx.HTTPError as exc:
                    self.failures.append(repr(exc))
                else:
                    self._check(response, number)
                self._note()

    def _check(self, response: httpx.Response, number: int) -> None:
        method = response.request.method
        if response.status_code != 200 or response.json()["number"] != number:
            self.failures.append(f"{method}: {response.status_code} {response.text}")
            return
        self.answered[method, response.json()["pid"]] += 1
        if method == "POST":
            self.orders.add(number)

    async def _get(self, client: httpx.AsyncClient, number: int) -> httpx.Response:
        path = f"/api/items/{number}"
        try:
            return await client.get(path)
        except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
            self.repeated += 1
            return await client.get(path)

    async def _post(self, client: httpx.AsyncClient, number: int) -> httpx.Response:
        return await client.post("/api/orders", json={"number": number})

    # WebSockets...

    async def _keep_websocket(self) -> None:
        """A WebSocket, and a new one when it is closed."""
        while True:
            try:
                await self._use_websocket()
            except ConnectionClosed as closed:
                self.codes[closed.code] += 1
            except Exception as exc:
                self.failures.append(repr(exc))
            self._note()

    async def _use_websocket(self) -> None:
        """Send one message, and receive until the server closes the WebSocket."""
        async with self._connected() as stream:
            client = await open_websocket(stream, "/ws", headers=[("Host", "127.0.0.1")])
            await client.send("hello")
            assert (await client.receive()).text == "hello"
            await client.receive()

    @asynccontextmanager
    async def _connected(self) -> AsyncGenerator[trio.abc.Stream]:
        tcp = await trio.open_tcp_stream("127.0.0.1", self._port)
        async with trio.SSLStream(
            tcp, self._context, server_hostname="127.0.0.1", https_compatible=True
        ) as stream:
            yield stream


def accepted_orders(folder: Path) -> Counter[int]:
    """How often the servers have accepted each order."""
    return Counter(json.loads(line) for line in (folder / "orders").read_text().splitlines())

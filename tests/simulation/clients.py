"""The clients: they open WebSockets over wsproto, and perform the actions of a script."""

from __future__ import annotations

import base64
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from math import inf
from typing import Any

import trio
from wsproto.extensions import Extension, PerMessageDeflate
from wsproto.frame_protocol import FrameProtocol, Opcode, ParseFailed

from humphrey_trio import Message
from humphrey_trio.testing import MemoryStream

from .handlers import Handlers
from .http_clients import GONE, HttpSide
from .journal import ClientLife, Journal
from .padding import padding
from .script import Act, ClientPlan
from .streams import send_dripping

#: Seconds that a client waits for the server's end of file after both Close frames. While a handler runs,
#: the server notices the client's Close frame after half a second; without a half-close it waits a second itself.
PATIENCE, CLOSING_PATIENCE = 1.0, 0.5
#: The same for a client that does not answer the server's Close frame. It is longer than ``Timeouts.close``.
MUTE_PATIENCE = 4.0
#: The maximum size of a message that the server receives.
MAX_MESSAGE_SIZE = 64 * 1024

_PATHS = {"path": "/nowhere", "plain": "/"}
_HEADERS = {
    "origin": "Origin: https://foe.example\r\n",
    "denied": "Authorization: no\r\n",
    "answered": "X-Layer: answer\r\n",
    "crashed": "X-Layer: before\r\n",
    "regretted": "X-Layer: after\r\n",
}
_BAD = {
    1002: b"\x81\x02hi",  # not masked
    1007: b"\x81\x82\0\0\0\0\xff\xff",  # not UTF-8
    1009: b"\x82\xff" + (MAX_MESSAGE_SIZE + 1).to_bytes(8, "big") + bytes(4),
}


class SimulatedClient:
    """One client, from its connection to its end."""

    def __init__(self, plan: ClientPlan, journal: Journal, handlers: Handlers, seed: int) -> None:
        self.plan = plan
        self.life = journal.clients[plan.name] = ClientLife(plan)
        self._journal = journal
        self._handlers = handlers
        self._padding = random.Random(seed)
        self._extensions: list[Extension] = []
        self._frames = FrameProtocol(client=True, extensions=[])
        self._pieces: list[str | bytes] = []  # the fragments of the message that is being received
        self._sending = trio.Lock()
        self._may_send = False  # from the 101 to the client's Close frame
        self._sent = 0
        self.leaving = trio.Event()  # set when the script is over: execute the closing handshake
        self.over = trio.Event()  # set when all actions are performed

    async def run(self, stream: MemoryStream) -> None:
        """Run the client on a stream until the connection has ended."""
        self._stream = stream
        self.life.connected_at = trio.current_time()
        try:
            await self._live()
        except GONE:
            self._end("reset")
        finally:
            self.over.set()
            stream.close()

    async def _live(self) -> None:
        may_upgrade = await self._ask_all()
        if self.life.ended != "open":
            return
        rest: bytes | None = None
        attempts = self.plan.attempts if may_upgrade else ()
        for number, attempt in enumerate(attempts):
            if not self.plan.together:
                await self._request((attempt,))
            elif not number:
                await self._request(attempts)
            if (rest := await self._read_answer(rest or b"")) is None:
                return
            if self._may_send:
                break
        if not self._may_send:
            await self._stay()
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._act)
            nursery.start_soon(self._leave_at_the_end)
            try:
                await self._read(rest or b"", nursery)
            except GONE:
                self._end("reset")
            nursery.cancel_scope.cancel()

    def _end(self, how: str) -> None:
        if self.life.ended == "open":
            self.life.ended = how
            self.life.ended_at = trio.current_time()

    # HTTP.

    async def _ask_all(self) -> bool:
        """Send the HTTP requests. Returns whether an upgrade may be requested."""
        if not self.plan.asks:
            return True
        http = HttpSide(self.plan, self._stream, self.life, self._journal, self.over)
        await http.play()
        if http.rest and not http.ended:
            self.life.faults.append(f"{len(http.rest)} bytes after the last response")
        if http.ended or self.life.left_at < inf:
            self._end("eof")
        return self.life.ended == "open" and self.plan.asks[-1].framing != "malformed"

    async def _stay(self) -> None:
        """Keep the connection open, until the end of the run or until the server closes it."""
        self.over.set()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._leave_without_close, nursery.cancel_scope)
            try:
                while await self._receive_into(bytearray()):
                    self.life.faults.append("bytes without a request")
            except GONE:
                self._end("reset")
            nursery.cancel_scope.cancel()

    async def _leave_without_close(self, scope: trio.CancelScope) -> None:
        await self.leaving.wait()
        self._end("left")
        scope.cancel()

    # The handshake.

    async def _request(self, attempts: tuple[str, ...]) -> None:
        """Send requests at once."""
        data = b"".join(self._encode(attempt) for attempt in attempts if attempt != "silent")
        await send_dripping(self._stream, data, self.plan.handshake_drip)

    async def _read_answer(self, rest: bytes) -> bytes | None:
        """Read a response. Returns the bytes after it, or None if the connection has ended."""
        received = bytearray(rest)
        while b"\r\n\r\n" not in received:
            if not await self._receive_into(received):
                self.life.statuses.append(0)
                return None
        head, _, rest = bytes(received).partition(b"\r\n\r\n")
        fields = dict(line.lower().split(": ", 1) for line in head.decode("latin-1").split("\r\n")[1:])
        status = int(head.split(b" ")[1])
        self.life.statuses.append(status)
        self.life.upgrade_fields.append(fields)
        if status == 101:
            self._open(fields)
            return rest
        body, size = bytearray(rest), int(fields["content-length"])
        while len(body) < size:
            if not await self._receive_into(body):
                return None
        if "close" not in fields.get("connection", ""):
            return bytes(body[size:])
        await self._receive_into(body)
        return None

    async def _receive_into(self, received: bytearray) -> bool:
        data = await self._stream.receive_some()
        received += data
        if not data:
            self._end("eof")
        return bool(data)

    def _encode(self, attempt: str) -> bytes:
        offer = ""
        if self.plan.deflate:
            fresh = self.plan.deflate == "fresh"
            extension = PerMessageDeflate(client_no_context_takeover=fresh, server_no_context_takeover=fresh)
            self._extensions = [extension]
            offer = f"Sec-WebSocket-Extensions: permessage-deflate; {extension.offer()}\r\n"
        upgrade = (
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: {base64.b64encode(bytes(16)).decode()}\r\n{offer}"
        )
        path = _PATHS.get(attempt, f"/ws?{self.plan.name}")
        fields = "" if attempt == "plain" else upgrade + _HEADERS.get(attempt, "")
        return f"GET {path} HTTP/1.1\r\nHost: simulated\r\n{fields}\r\n".encode()

    def _open(self, fields: dict[str, str]) -> None:
        agreed = fields.get("sec-websocket-extensions")
        if agreed is not None:
            self._extensions[0].finalize(agreed)
        self._frames = FrameProtocol(client=True, extensions=self._extensions if agreed is not None else [])
        self._may_send = True

    # Receiving.

    async def _read(self, data: bytes, nursery: trio.Nursery) -> None:
        while True:
            self.life.frame_bytes += len(data)
            try:
                self._parse(data, nursery)
            except ParseFailed as exc:
                self.life.faults.append(f"cannot read what the server sent: {exc}")
                return
            if self.life.close is not None:
                break
            data = await self._stream.receive_some()
            if not data:
                self._end("eof")
                return
        if not self.life.mute:
            await self._send_close(self.life.close[0])
        patience = CLOSING_PATIENCE if self.plan.stream == "closing" else PATIENCE
        with trio.move_on_after(MUTE_PATIENCE if self.life.mute else patience) as scope:
            while data := await self._stream.receive_some():
                self.life.faults.append(f"{len(data)} bytes after the Close frame")
        self._end("patience" if scope.cancelled_caught else "eof")

    def _parse(self, data: bytes, nursery: trio.Nursery) -> None:
        if data:
            self._frames.receive_bytes(data)
            for frame in self._frames.received_frames():
                self._handle(frame.opcode, frame.payload, frame.message_finished, nursery)

    def _handle(self, opcode: Opcode, payload: Any, finished: bool, nursery: trio.Nursery) -> None:
        if self.life.close is not None:
            self.life.faults.append(f"a {opcode.name} frame after the Close frame")
        elif opcode is Opcode.CLOSE:
            code, reason = payload
            self.life.close = (int(code), str(reason or ""))
            self.life.closed_at = trio.current_time()
        elif opcode is Opcode.PING:
            nursery.start_soon(self._pong, bytes(payload))
        elif opcode is not Opcode.PONG:
            self._pieces.append(payload if isinstance(payload, str) else bytes(payload))
            if finished:
                self._note_message(self._pieces[0][:0].join(self._pieces))  # type: ignore[arg-type]
                self._pieces.clear()

    def _note_message(self, data: str | bytes) -> None:
        token = Message(data).bytes.partition(b"|")[0].decode(errors="replace")
        self.life.received.append(token)
        sending = self._journal.sendings.get(token)
        if sending is not None and sending.data != data:
            self.life.faults.append(f"{token!r} is not what was sent")

    async def _pong(self, payload: bytes) -> None:
        with suppress(*GONE):
            await self._send_frame(partial(self._frames.pong, payload))

    # Sending.

    async def _send_frame(self, encode: Callable[[], bytes | bytearray], drip: int = 0) -> bool:
        """Send a frame without interleaving. Returns False after the client's Close frame."""
        async with self._sending:
            if not self._may_send:
                return False
            await send_dripping(self._stream, encode(), drip, self._count)
            return True

    async def _send_close(self, code: int) -> None:
        async with self._sending:
            if self._may_send:
                self._may_send = False
                self.life.sent_close = code
                frame = self._frames.close(None if code == 1005 else code)
                await send_dripping(self._stream, frame, 0, self._count)

    def _count(self, size: int) -> None:
        self.life.sent_bytes += size

    # Actions.

    async def _act(self) -> None:
        try:
            async with trio.open_nursery() as stalls:
                with suppress(*GONE):  # the reader gets the same exception
                    for act in self.plan.acts:
                        await trio.sleep(act.after)
                        if act.verb == "stall":
                            stalls.start_soon(self._stall, act.seconds)
                        else:
                            await getattr(self, f"_do_{act.verb}")(act)
        finally:
            self.over.set()

    async def _leave_at_the_end(self) -> None:
        await self.leaving.wait()
        if self.life.mute:
            self._stream.reset()
        with suppress(*GONE):
            await self._send_close(1000)

    async def _do_message(self, act: Act) -> None:
        for _ in range(act.count):
            name = f"{self.plan.name}-{self._sent}"
            self._sent += 1
            text = f"{name}|{padding(self._padding, act.size)}"
            self._handlers.expect(name, Message(text.encode() if act.binary else text), act.inner)
            if not await self._send_message(name, text, act):
                return
            self.life.sent.append(name)

    async def _send_message(self, name: str, text: str, act: Act) -> bool:
        size = len(text) // act.pieces + 1
        pieces = [text[start : start + size] for start in range(0, len(text), size)]
        self.life.began.append(name)
        for number, piece in enumerate(pieces, 1):
            payload = piece.encode() if act.binary else piece
            encode = partial(self._frames.send_data, payload, number == len(pieces))
            if not await self._send_frame(encode, act.drip):
                return False
        return True

    async def _do_ping(self, act: Act) -> None:
        await self._send_frame(partial(self._frames.ping, b"from a client"))

    async def _do_close(self, act: Act) -> None:
        await self._send_close(act.code)

    # Misbehaviour.

    async def _do_eof(self, act: Act) -> None:
        """Half-close without a Close frame."""
        async with self._misbehaving("eof") as may:
            if may:
                self._stream.send_eof_nowait()

    async def _do_reset(self, act: Act) -> None:
        async with self._misbehaving("reset") as may:
            if may:
                self._stream.reset()

    async def _do_leave(self, act: Act) -> None:
        async with self._misbehaving("leave") as may:
            if may:
                self._stream.close()

    async def _do_cut(self, act: Act) -> None:
        """Half-close inside a frame."""
        async with self._misbehaving("cut") as may:
            if may:
                frame = self._frames.send_data("cut off" * 20, True)
                self._stream.send_nowait(bytes(frame[: len(frame) // 2]))
                self._stream.send_eof_nowait()

    async def _do_mute(self, act: Act) -> None:
        """Send no Close frame any more, not even as an answer."""
        self.life.misbehaviour.append("mute")
        self.life.mute = True

    async def _do_bad(self, act: Act) -> None:
        """Violate the protocol."""
        async with self._misbehaving(f"bad {act.code}") as may:
            if may:
                await self._stream.send_all(_BAD[act.code])

    async def _stall(self, seconds: float) -> None:
        """Neither read nor write for some time."""
        self.life.misbehaviour.append("stall")
        self._stream.stall()
        try:
            await trio.sleep(seconds)
        finally:
            self._stream.stall(False)

    @asynccontextmanager
    async def _misbehaving(self, what: str) -> AsyncGenerator[bool]:
        """Take the send lock for the last action. Yields False after the client's Close frame."""
        async with self._sending:
            may, self._may_send = self._may_send, False
            if may:
                self.life.misbehaviour.append(what)
            yield may

"""permessage-deflate (RFC 7692): agreeing on it, inflating what comes in, compressing what goes out.

In place of wsproto's extension, on its interface. It is pure, and knows neither streams nor frames. It must
never hold more of a message than its limit, whatever the peer's bytes inflate to; never take a control frame
for a part of a message; and never let our compressor remember what the peer has not seen, or the other way
round.
"""

from __future__ import annotations

import re
import zlib
from typing import TYPE_CHECKING, TypeAlias

from wsproto.extensions import Extension
from wsproto.frame_protocol import CloseReason, Opcode, ParseFailed, RsvBits

from .._errors import HandshakeError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from wsproto.frame_protocol import FrameDecoder, FrameProtocol

    from .._compression import Deflate

_NAME = "permessage-deflate"
_MAX_BITS = 15  # what a window has that nobody has limited (RFC 7692, section 7.1.2)
_MIN_BITS = 9  # the smallest that zlib compresses with; it inflates with 8, which RFC 7692 knows too

# A message ends with an empty stored block, of which this much is not sent (RFC 7692, section 7.2.1).
_TAIL = b"\x00\x00\xff\xff"
_EMPTY = b"\x00"  # that block, as the whole of a message (section 7.2.3.6)

# Complete DEFLATE streams in one message. A peer that cannot flush ends one instead; each of them costs us a
# new inflater, for as little as two bytes.
_MAX_STREAMS = 256


# ------------------------------------------------------------------------------------------- negotiating

_SPACE = r"[ \t]*+"
_TCHAR = r"[-!#$%&'*+.^_`|~0-9A-Za-z]"
# A quoted value has to be a token as well, once its backslashes are gone (RFC 6455, section 9.1).
_VALUE = rf'{_TCHAR}++|"(?:\\?{_TCHAR})+"'
_PARAMETER = re.compile(rf";{_SPACE}({_TCHAR}++){_SPACE}(?:={_SPACE}({_VALUE}){_SPACE})?")
# A member of the list may also be empty (RFC 9110, section 5.6.1.2).
_EXTENSION = re.compile(rf"{_SPACE}(?:({_TCHAR}++){_SPACE})?")
_BITS = re.compile(r"[89]|1[0-5]")

#: An extension's name and its parameters, in order; a parameter without a value has None.
Offer: TypeAlias = "tuple[str, list[tuple[str, str | None]]]"


def parse_offers(lines: Iterable[str]) -> list[Offer]:
    """The extensions that a client offers, of all its ``Sec-WebSocket-Extensions``, best first.

    Raises:
        HandshakeError: with 400, they are malformed; this is no matter of declining (RFC 6455, section 9.1).
    """
    return list(_offers(",".join(lines)))


def _offers(value: str) -> Iterator[Offer]:
    end = -1
    while end < len(value):
        found = _EXTENSION.match(value, end + 1)
        assert found is not None  # nothing is enough for it
        end = found.end()
        parameters: list[tuple[str, str | None]] = []
        # One by one: a possessive group of groups is what the first releases of Python 3.11 match wrongly.
        while found[1] and (parameter := _PARAMETER.match(value, end)) is not None:
            parameters.append((parameter[1], _unquoted(parameter[2])))
            end = parameter.end()
        if value[end : end + 1] not in ("", ","):
            raise HandshakeError("Sec-WebSocket-Extensions is malformed (RFC 6455, section 9.1)")
        if found[1]:
            yield found[1], parameters


def _unquoted(value: str | None) -> str | None:
    return None if value is None else value.strip('"').replace("\\", "")


def negotiate(settings: Deflate, offers: Iterable[Offer]) -> tuple[str, PerMessageDeflate] | None:
    """Accept the first acceptable offer of permessage-deflate, and no other.

    Returns:
        The value of ``Sec-WebSocket-Extensions`` in the answer and what was agreed on, for one connection;
        None if nothing that was offered is acceptable: then the answer has no such field.
    """
    for name, parameters in offers:
        wishes = _wishes(parameters) if name == _NAME else None
        if wishes is not None:
            return _accept(settings, wishes)
    return None


def _wishes(parameters: list[tuple[str, str | None]]) -> dict[str, int | None] | None:
    """What one offer asks for, or None if it has to be declined (RFC 7692, section 7).

    So it is if a parameter is unknown, repeated or has a value that it may not have.
    """
    wishes: dict[str, int | None] = {}
    for name, value in parameters:
        if name in wishes or not _is_valid(name, value):
            return None
        wishes[name] = int(value) if value else None
    return wishes


def _is_valid(name: str, value: str | None) -> bool:
    match name:
        case "server_no_context_takeover" | "client_no_context_takeover":
            return value is None
        case "client_max_window_bits":
            return value is None or bool(_BITS.fullmatch(value))
        case "server_max_window_bits":
            # We have to keep to it, and with 8 we cannot.
            return value is not None and bool(_BITS.fullmatch(value)) and int(value) >= _MIN_BITS
        case _:
            return False


def _accept(settings: Deflate, wishes: dict[str, int | None]) -> tuple[str, PerMessageDeflate]:
    server_takeover = settings.server_context_takeover and "server_no_context_takeover" not in wishes
    server_bits = min(settings.server_max_window_bits, wishes.get("server_max_window_bits") or _MAX_BITS)
    client_takeover = settings.client_context_takeover and "client_no_context_takeover" not in wishes
    client_bits = min(settings.client_max_window_bits, wishes.get("client_max_window_bits") or _MAX_BITS)
    limited = "client_max_window_bits" in wishes
    if not limited and client_bits < _MAX_BITS:
        # Only a client that has said so can be limited (RFC 7692, section 7.1.2.2); but every client can do
        # without context takeover (section 7.1.1.2), and then the big window does not stay.
        client_bits, client_takeover = _MAX_BITS, False

    answer = [_NAME]
    if not server_takeover:
        answer.append("server_no_context_takeover")
    if not client_takeover:
        answer.append("client_no_context_takeover")
    if server_bits < _MAX_BITS or "server_max_window_bits" in wishes:
        answer.append(f"server_max_window_bits={server_bits}")
    if limited:
        answer.append(f"client_max_window_bits={client_bits}")
    agreed = PerMessageDeflate(
        settings,
        server_bits=server_bits,
        client_bits=client_bits,
        server_takeover=server_takeover,
        client_takeover=client_takeover,
    )
    return "; ".join(answer), agreed


# -------------------------------------------------------------------------------------------- one stream


class PerMessageDeflate(Extension):
    """What one connection has agreed on, with the memory of both directions.

    A decoder drives the incoming side by wsproto's interface; for the outgoing side there is ``compress``.
    Memory is taken when a direction is first used.

    Attributes:
        min_size: bytes of the smallest payload that is worth compressing.
        window_bits: how far back what this peer gets may refer.
        max_message_size: bytes to which a message may inflate; it has to be set. One byte more is inflated,
            never two: by that byte, whoever puts the message together sees that it is too long.
    """

    name = _NAME

    def __init__(
        self,
        settings: Deflate,
        *,
        server_bits: int,
        client_bits: int,
        server_takeover: bool,
        client_takeover: bool,
    ) -> None:
        self._settings = settings
        self.min_size = settings.min_size
        self.window_bits = server_bits
        self.max_message_size = 0
        self._takeover = server_takeover
        self._compressor: zlib._Compress | None = None
        self._inflater = _Inflater(client_bits, takeover=client_takeover)
        self._compressed = False  # the message that comes in
        self._in_message = False  # the frame that comes in is a part of it

    def offer(self) -> bool | str:
        """Nothing: a server answers."""
        return False

    def enabled(self) -> bool:
        """Always: it is made when there is an agreement."""
        return True

    # Incoming, for wsproto's decoder. A reason that is returned would reach nobody, so they raise...

    def frame_inbound_header(
        self, proto: FrameDecoder | FrameProtocol, opcode: Opcode, rsv: RsvBits, payload_length: int
    ) -> RsvBits:
        """A frame begins. This may be said several times of one frame."""
        first = opcode in (Opcode.TEXT, Opcode.BINARY)
        if rsv.rsv1 and not first:
            raise ParseFailed("only a message's first frame says that it is compressed (RFC 7692, section 6)")
        self._in_message = not opcode.iscontrol()
        if first:
            self._compressed = rsv.rsv1
        return RsvBits(True, False, False)

    def frame_inbound_payload_data(self, proto: FrameDecoder | FrameProtocol, data: bytes) -> bytes:
        """Inflate a piece of a frame's payload."""
        if not self._in_message or not self._compressed:
            return data
        return self._inflater.inflate(data, self.max_message_size + 1)

    def frame_inbound_complete(self, proto: FrameDecoder | FrameProtocol, fin: bool) -> bytes | None:
        """A frame ends; inflate what the end of a message still holds back."""
        if not fin or not self._in_message or not self._compressed:
            return None
        return self._inflater.end_message(self.max_message_size + 1)

    # Outgoing...

    def compress(self, payload: bytes | memoryview) -> bytes:
        """The payload of a compressed message for this peer; it has to be the next that is sent to it.

        Messages that are sent uncompressed in between leave everything as it is.
        """
        if not self._takeover:
            return compress_apart(payload, self._settings, self.window_bits)
        if self._compressor is None:
            self._compressor = _compressor(self._settings, self.window_bits)
        return _compressed(self._compressor, payload)

    @property
    def kind(self) -> object:
        """Peers of one kind can share what is compressed apart for any of them."""
        return self._settings, self.window_bits

    def compress_apart(self, payload: bytes | memoryview) -> bytes:
        """The payload of a compressed message for every peer of this kind; see the function."""
        return compress_apart(payload, self._settings, self.window_bits)

    def reset(self) -> None:
        """Forget what was sent, as is needed whenever the peer got what ``compress`` has not seen."""
        self._compressor = None


class _Inflater:
    """Inflates one message after the other, each within its bound.

    The first message makes what it works with; without context takeover the end of every message drops it.
    """

    __slots__ = ("_bits", "_ended", "_size", "_stream", "_takeover")

    def __init__(self, bits: int, *, takeover: bool) -> None:
        self._bits = bits
        self._takeover = takeover
        self._stream: zlib._Decompress | None = None
        self._size = 0  # of the message, inflated so far
        self._ended = 0  # streams that have ended in it

    def inflate(self, data: bytes, bound: int) -> bytes:
        """Inflate a piece of a message, which may become so many bytes; what goes beyond is dropped.

        Raises:
            ParseFailed: the piece cannot be inflated.
        """
        pieces: list[bytes] = []
        # zlib takes a bound of 0 for none.
        while data and (room := bound - self._size) > 0:
            if self._stream is None:
                self._stream = zlib.decompressobj(-self._bits)
            try:
                piece = self._stream.decompress(data, room)
            except zlib.error as exc:
                raise _corrupt("the message cannot be inflated") from exc
            self._size += len(piece)
            pieces.append(piece)
            data = self._stream.unused_data
            if self._stream.eof:
                self._end_stream()
        return b"".join(pieces)

    def end_message(self, bound: int) -> bytes:
        """Inflate what the message's last block still holds."""
        # The tail ends a block; between two streams there is none to end.
        rest = self.inflate(_TAIL, bound) if self._stream is not None else b""
        self._size = self._ended = 0
        if not self._takeover:
            self._stream = None
        return rest

    def _end_stream(self) -> None:
        """A block with BFINAL was the last of its stream; another may follow (RFC 7692, section 7.2.1).

        It begins without a memory: so compressors do that have ended one, and so browsers read it.
        """
        self._stream = None
        self._ended += 1
        if self._ended > _MAX_STREAMS:
            raise _corrupt(f"the message has more than {_MAX_STREAMS} DEFLATE streams")


def _corrupt(reason: str) -> ParseFailed:
    return ParseFailed(reason, CloseReason.INVALID_FRAME_PAYLOAD_DATA)


# ------------------------------------------------------------------------------------------- compressing


def compress_apart(payload: bytes | memoryview, settings: Deflate, window_bits: int) -> bytes:
    """The payload of a compressed message that refers to none before it, so that many peers can share it.

    Every peer can inflate it whose own ``window_bits`` are at least these. With context takeover a peer
    remembers it, and our compressor for that peer knows nothing of it: so it has to be ``reset`` whenever the
    peer gets such a message. Where nothing is taken over, that is already so.
    """
    return _compressed(_compressor(settings, window_bits), payload)


def _compressor(settings: Deflate, window_bits: int) -> zlib._Compress:
    return zlib.compressobj(settings.level, zlib.DEFLATED, -window_bits, settings.memory_level)


def _compressed(compressor: zlib._Compress, payload: bytes | memoryview) -> bytes:
    if not payload:
        return _EMPTY  # without a flush, which zlib may leave out where there is nothing to flush
    data = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
    return data[: -len(_TAIL)]


def longest_compressed(size: int, fragments: int) -> int:
    """The bytes that an honest peer may need for a message of such a size; what does not compress grows.

    zlib needs at most nine bits for a byte and a few bytes for a block (its ``deflateBound``); besides, a peer
    may flush with every fragment, and now and then within one.
    """
    return size + (size >> 3) + (size >> 6) + 64 * fragments

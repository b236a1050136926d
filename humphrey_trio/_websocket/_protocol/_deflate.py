"""permessage-deflate (RFC 7692): negotiation, decompression of incoming and compression of outgoing messages.

It replaces the extension of wsproto, and does no I/O. It guarantees:

- An incoming message never uses more memory than its limit, whatever its bytes inflate to.
- The window of our compressor always contains the same bytes as that of the peer's decompressor.
"""

from __future__ import annotations

import re
import zlib
from typing import TYPE_CHECKING, TypeAlias

from wsproto.extensions import Extension
from wsproto.frame_protocol import CloseReason, Opcode, ParseFailed, RsvBits

from ..._http._headers import TCHAR
from .._errors import HandshakeError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from wsproto.frame_protocol import FrameDecoder, FrameProtocol

    from .._deflate_settings import Deflate

_NAME = "permessage-deflate"
_MAX_BITS = 15  # the window without a negotiated limit (RFC 7692, section 7.1.2)
_MIN_BITS = 9  # the smallest window for which zlib can compress; it inflates with 8 as well

# The end of the empty stored block after each message, which is not sent (RFC 7692, section 7.2.1).
_TAIL = b"\x00\x00\xff\xff"
_EMPTY = b"\x00"  # an empty message (section 7.2.3.6)

# The maximum number of complete DEFLATE streams in one message. A peer that cannot flush ends the stream instead.
# Without a limit, every two bytes could cost a new decompressor.
_MAX_STREAMS = 256


# ------------------------------------------------------------------------------------------- negotiating

_SPACE = r"[ \t]*+"
# A quoted value without its backslashes must be a token, too (RFC 6455, section 9.1).
_VALUE = rf'{TCHAR}++|"(?:\\?{TCHAR})+"'
_PARAMETER = re.compile(rf";{_SPACE}({TCHAR}++){_SPACE}(?:={_SPACE}({_VALUE}){_SPACE})?")
# A member of the list may also be empty (RFC 9110, section 5.6.1.2).
_EXTENSION = re.compile(rf"{_SPACE}(?:({TCHAR}++){_SPACE})?")
_BITS = re.compile(r"[89]|1[0-5]")

#: The name of an extension and its parameters, in order. The value of a parameter without one is None.
Offer: TypeAlias = "tuple[str, list[tuple[str, str | None]]]"


def parse_offers(lines: Iterable[str]) -> list[Offer]:
    """Parse all ``Sec-WebSocket-Extensions`` fields of a client.

    Args:
        lines: the values of the fields.

    Returns:
        The offers in the order of the client's preference.

    Raises:
        HandshakeError: with 400, if a field is malformed. An invalid field must fail the handshake (RFC 6455,
            section 9.1), while an unknown extension is only declined.
    """
    return list(_offers(",".join(lines)))


def _offers(value: str) -> Iterator[Offer]:
    end = -1
    while end < len(value):
        found = _EXTENSION.match(value, end + 1)
        assert found is not None  # it matches the empty string
        end = found.end()
        parameters: list[tuple[str, str | None]] = []
        # One by one, because the first releases of Python 3.11 match nested possessive groups incorrectly.
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
    """Accept the first acceptable offer of permessage-deflate (RFC 7692, section 5.1).

    Returns:
        The value of ``Sec-WebSocket-Extensions`` for the response, and the compression of the connection. None if
        no offer is acceptable; then the response has no such field.
    """
    for name, parameters in offers:
        requested = _requested_parameters(parameters) if name == _NAME else None
        if requested is not None:
            return _accept(settings, requested)
    return None


def _requested_parameters(parameters: list[tuple[str, str | None]]) -> dict[str, int | None] | None:
    """Return the parameters of an offer, or None if it must be declined (RFC 7692, section 7).

    It must be declined if a parameter is unknown, repeated, or has an invalid value.
    """
    requested: dict[str, int | None] = {}
    for name, value in parameters:
        if name in requested or not _is_valid(name, value):
            return None
        requested[name] = int(value) if value else None
    return requested


def _is_valid(name: str, value: str | None) -> bool:
    match name:
        case "server_no_context_takeover" | "client_no_context_takeover":
            return value is None
        case "client_max_window_bits":
            return value is None or bool(_BITS.fullmatch(value))
        case "server_max_window_bits":
            # This limits our compressor, and zlib cannot compress with 8.
            return value is not None and bool(_BITS.fullmatch(value)) and int(value) >= _MIN_BITS
        case _:
            return False


def _accept(settings: Deflate, requested: dict[str, int | None]) -> tuple[str, PerMessageDeflate]:
    server_takeover = settings.server_context_takeover and "server_no_context_takeover" not in requested
    server_bits = min(settings.server_max_window_bits, requested.get("server_max_window_bits") or _MAX_BITS)
    client_takeover = settings.client_context_takeover and "client_no_context_takeover" not in requested
    client_bits = min(settings.client_max_window_bits, requested.get("client_max_window_bits") or _MAX_BITS)
    limited = "client_max_window_bits" in requested
    if not limited and client_bits < _MAX_BITS:
        # Only a client that offered this parameter accepts a limit (RFC 7692, section 7.1.2.2). But every client
        # must support no context takeover (section 7.1.1.2), and then its large window is not kept.
        client_bits, client_takeover = _MAX_BITS, False

    answer = [_NAME]
    if not server_takeover:
        answer.append("server_no_context_takeover")
    if not client_takeover:
        answer.append("client_no_context_takeover")
    if server_bits < _MAX_BITS or "server_max_window_bits" in requested:
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
    """The negotiated compression of one connection, with the windows of both directions.

    wsproto calls ``frame_inbound_header``. ``inflate`` and ``end_message`` are for incoming messages, ``compress``
    is for outgoing ones. The memory of a direction is allocated at its first use.

    Attributes:
        min_size: the size in bytes of the smallest payload that is compressed.
        window_bits: the window of our compressor is 2 to this power bytes.
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
        self._longest = 0  # bytes of an inflated message
        self._takeover = server_takeover
        self._compressor: zlib._Compress | None = None
        self._inflater = _Inflater(client_bits, takeover=client_takeover)

    def offer(self) -> bool | str:
        """Return False: a server makes no offers."""
        return False

    def enabled(self) -> bool:
        """Return True: it is created after the negotiation."""
        return True

    # Incoming...

    def limit(self, size: int) -> None:
        """Set the maximum size of an inflated message. The owner must call it.

        Args:
            size: in bytes. At most one byte more is inflated, by which the decoder detects that the message is too
                long.
        """
        self._longest = size

    def frame_inbound_header(
        self, proto: FrameDecoder | FrameProtocol, opcode: Opcode, rsv: RsvBits, payload_length: int
    ) -> RsvBits:
        """Check the header of a frame. May be called several times for one frame."""
        if rsv.rsv1 and opcode not in (Opcode.TEXT, Opcode.BINARY):
            # An exception, because the frame decoder of wsproto ignores a CloseReason that an extension returns.
            raise ParseFailed("RSV1 is set in a frame that does not begin a message (RFC 7692, section 6)")
        return RsvBits(True, False, False)

    def inflate(self, data: bytes) -> bytes:
        """Inflate a part of a compressed message.

        Raises:
            ParseFailed: it cannot be inflated.
        """
        return self._inflater.inflate(data, self._longest + 1)

    def end_message(self) -> bytes:
        """Return the rest of the content of a compressed message at its end.

        Raises:
            ParseFailed: as ``inflate``.
        """
        return self._inflater.end_message(self._longest + 1)

    # Outgoing...

    def compress(self, payload: bytes | memoryview) -> bytes:
        """Compress a payload for this peer. The result must be the next compressed message that is sent to it.

        Uncompressed messages may be sent in between. They do not enter the window.
        """
        if not self._takeover:
            return compress_apart(payload, self._settings, self.window_bits)
        if self._compressor is None:
            self._compressor = _compressor(self._settings, self.window_bits)
        return _compressed(self._compressor, payload)

    @property
    def kind(self) -> object:
        """A key that is equal for all peers that can receive the same result of ``compress_apart``."""
        return self._settings, self.window_bits

    def compress_apart(self, payload: bytes | memoryview) -> bytes:
        """Compress a payload for all peers of this ``kind``; see the function ``compress_apart``."""
        return compress_apart(payload, self._settings, self.window_bits)

    def reset(self) -> None:
        """Discard the window. Required after a compressed message was sent that ``compress`` did not return."""
        self._compressor = None


class _Inflater:
    """Inflates messages, each with a limit of its size.

    The decompressor is created for the first message. Without context takeover, it is discarded after each.
    """

    __slots__ = ("_bits", "_ended", "_size", "_stream", "_takeover")

    def __init__(self, bits: int, *, takeover: bool) -> None:
        self._bits = bits
        self._takeover = takeover
        self._stream: zlib._Decompress | None = None
        self._size = 0  # inflated bytes of the current message
        self._ended = 0  # DEFLATE streams that ended in the current message

    def inflate(self, data: bytes, bound: int) -> bytes:
        """Inflate a part of a message.

        Args:
            data: the compressed bytes.
            bound: the maximum size of the whole inflated message. The rest is discarded.

        Raises:
            ParseFailed: the data cannot be inflated.
        """
        pieces: list[bytes] = []
        # The loop ends at the limit, because zlib takes a limit of 0 as no limit.
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
        """Inflate the rest of a message at its end, and prepare for the next message."""
        # The tail ends a block (RFC 7692, section 7.2.2). After a complete stream there is no block to end.
        rest = self.inflate(_TAIL, bound) if self._stream is not None else b""
        self._size = self._ended = 0
        if not self._takeover:
            self._stream = None
        return rest

    def _end_stream(self) -> None:
        """Process the end of a DEFLATE stream, a block with BFINAL (RFC 7692, section 7.2.3.4).

        Another stream may follow in the same message. Its window is empty: compressors discard their window when
        they end a stream, and browsers decompress it so.
        """
        self._stream = None
        self._ended += 1
        if self._ended > _MAX_STREAMS:
            raise _corrupt(f"the message has more than {_MAX_STREAMS} DEFLATE streams")


def _corrupt(reason: str) -> ParseFailed:
    return ParseFailed(reason, CloseReason.INVALID_FRAME_PAYLOAD_DATA)


# ------------------------------------------------------------------------------------------- compressing


def compress_apart(payload: bytes | memoryview, settings: Deflate, window_bits: int) -> bytes:
    """Compress a payload without references to earlier messages, so that many peers can receive the result.

    A peer can inflate it if its ``window_bits`` are not smaller. With context takeover, the message enters the
    window of the peer, but not that of our compressor. So the compressor must be ``reset`` after the peer was sent
    such a message (RFC 7692, section 7.1.1).
    """
    return _compressed(_compressor(settings, window_bits), payload)


def _compressor(settings: Deflate, window_bits: int) -> zlib._Compress:
    return zlib.compressobj(settings.level, zlib.DEFLATED, -window_bits, settings.memory_level)


def _compressed(compressor: zlib._Compress, payload: bytes | memoryview) -> bytes:
    if not payload:
        return _EMPTY  # zlib may write nothing if there is nothing to flush
    data = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
    return data[: -len(_TAIL)]


def longest_compressed(size: int, fragments: int) -> int:
    """Return the maximum size of the compressed form of a message that a correct compressor produces.

    Content that does not compress grows. zlib uses at most nine bits for a byte, and a few bytes for a block (its
    ``deflateBound``). A peer may also flush with every fragment, and sometimes within one.

    Args:
        size: the size of the message in bytes.
        fragments: the number of its frames.
    """
    return size + (size >> 3) + (size >> 6) + 64 * fragments

"""The two ends of permessage-deflate without a connection."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterable

from hypothesis import strategies as st

from humphrey_trio._websocket._deflate_settings import Deflate
from humphrey_trio._websocket._limits import StreamLimits
from humphrey_trio._websocket._protocol._decoder import Decoder
from humphrey_trio._websocket._protocol._deflate import PerMessageDeflate, negotiate, parse_offers
from humphrey_trio._websocket._protocol._encoder import compress_frame, encode_message
from humphrey_trio.websocket import Message
from tests.support.wire import CONTINUATION, TEXT, client_frame

#: The three reserved bits of a frame whose message is compressed.
COMPRESSED = 0b100
TAIL = b"\x00\x00\xff\xff"
#: What browsers offer.
OFFER = "permessage-deflate; client_max_window_bits"
FORGETFUL = Deflate(server_context_takeover=False, client_context_takeover=False)


def encode_compressed(data: str | bytes, compress: Callable[[bytes | memoryview], bytes]) -> bytes:
    """The compressed frame of a message."""
    return compress_frame(encode_message(data), compress)


class DeflateClient:
    """The client's side of an agreement, which uses only Python's zlib."""

    def __init__(self, answer: str) -> None:
        self._server_bits = _bits(answer, "server")
        self._client_bits = _bits(answer, "client")
        self._server_takeover = "server_no_context_takeover" not in answer
        self._client_takeover = "client_no_context_takeover" not in answer
        self._compressor = zlib.compressobj(wbits=-self._client_bits)
        self._inflater = zlib.decompressobj(-self._server_bits)

    def compress(self, payload: bytes) -> bytes:
        """The payload of a compressed message."""
        if not self._client_takeover:
            self._compressor = zlib.compressobj(wbits=-self._client_bits)
        if not payload:
            return b"\x00"
        return (self._compressor.compress(payload) + self._compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]

    def read(self, frame: bytes) -> Message:
        """The message in a frame of a server, compressed or not."""
        first, size = frame[0], frame[1]
        payload = frame[2 if size < 126 else 4 if size == 126 else 10 :]
        if first & (COMPRESSED << 4):
            if not self._server_takeover:
                self._inflater = zlib.decompressobj(-self._server_bits)
            payload = self._inflater.decompress(payload + TAIL)
        return Message(payload.decode() if first & 0xF == TEXT else payload)


def _bits(answer: str, side: str) -> int:
    found = re.search(rf"{side}_max_window_bits=(\d+)", answer)
    return int(found[1]) if found else 15


def agree(settings: Deflate, *offers: str) -> tuple[str, PerMessageDeflate]:
    """Negotiate offers, each a header line. One of them must be accepted."""
    agreed = negotiate(settings, parse_offers(offers or [OFFER]))
    assert agreed is not None
    return agreed


def meet(
    settings: Deflate | None = None, offer: str = OFFER, limits: StreamLimits | None = None
) -> tuple[DeflateClient, Decoder, PerMessageDeflate]:
    """A client, and the decoder and the compressor of its server."""
    answer, deflate = agree(settings or Deflate(), offer)
    return DeflateClient(answer), Decoder(limits or StreamLimits(), deflate=deflate), deflate


def compressed_frame(payload: bytes, kind: int = TEXT, *, fin: bool = True) -> bytes:
    """The first frame of a compressed message of a client."""
    return client_frame(kind, payload, fin=fin, rsv=COMPRESSED)


def compressed_frames(fragments: Iterable[bytes], kind: int = TEXT) -> list[bytes]:
    """All frames of a compressed message."""
    *most, last = fragments
    if not most:
        return [compressed_frame(last, kind)]
    return [
        compressed_frame(most[0], kind, fin=False),
        *(client_frame(CONTINUATION, part, fin=False) for part in most[1:]),
        client_frame(CONTINUATION, last),
    ]


S_BITS, C_BITS = "server_max_window_bits", "client_max_window_bits"
NO_S, NO_C = "server_no_context_takeover", "client_no_context_takeover"
WIDE = Deflate(server_max_window_bits=15, client_max_window_bits=15)


HELLO = bytes.fromhex("f2 48 cd c9 c9 07 00")

words = st.lists(st.sampled_from(["window", "€", "deflate ", "\x00", "x" * 300]), max_size=20).map("".join)
contents = st.one_of(words, words.map(str.encode), st.text(), st.binary())

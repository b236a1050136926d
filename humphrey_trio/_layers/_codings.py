"""Content codings (RFC 9110, section 8.4.1): compressors for whole bodies and for streams, without I/O.

gzip is in the standard library. brotli and zstd are in optional packages, and zstd in the standard library from
Python 3.14 on. They are imported by name, because most installations do not have them.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any, NamedTuple

# The window is 256 KiB at most, which bounds the memory of a stream. zlib has 32 KiB.
_WINDOW_BITS = 18
# Levels that compress JSON at 80 to 500 MB/s. Higher ones cost twice the time for a few percent of the size.
_GZIP_LEVEL = 4
_BROTLI_QUALITY = 4
_ZSTD_LEVEL = 3

# Bytes of a whole body that are compressed at once: a few milliseconds.
_STEP = 1024 * 1024

_GZIP_WRAPPER = 16 + zlib.MAX_WBITS


class _Encoder(NamedTuple):
    """A compressor of a library, for one body.

    Attributes:
        feed: compresses bytes. It may keep some of them.
        flush: returns what was kept, so that everything up to here can be decompressed.
        finish: returns what was kept, and the end.
    """

    feed: Callable[[bytes], bytes]
    flush: Callable[[], bytes]
    finish: Callable[[], bytes]


def _gzip() -> _Encoder:
    compressor = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP_WRAPPER)
    return _Encoder(compressor.compress, lambda: compressor.flush(zlib.Z_SYNC_FLUSH), compressor.flush)


def _brotli(module: Any) -> Callable[[], _Encoder]:
    def create() -> _Encoder:
        compressor = module.Compressor(quality=_BROTLI_QUALITY, lgwin=_WINDOW_BITS)
        return _Encoder(compressor.process, compressor.flush, compressor.finish)

    return create


def _zstd(module: Any) -> Callable[[], _Encoder]:
    options = {
        module.CompressionParameter.compression_level: _ZSTD_LEVEL,
        module.CompressionParameter.window_log: _WINDOW_BITS,
    }

    def create() -> _Encoder:
        compressor = module.ZstdCompressor(options=options)
        return _Encoder(compressor.compress, lambda: compressor.flush(compressor.FLUSH_BLOCK), compressor.flush)

    return create


def _first_of(*names: str) -> ModuleType | None:
    """Import the first module that is installed."""
    for name in names:
        try:
            if find_spec(name) is not None:
                return import_module(name)
        except ModuleNotFoundError:  # the package around the module is not installed
            continue
    return None


def _available() -> dict[str, Callable[[], _Encoder]]:
    """Return the installed codings, the preferred one first: zstd takes the least time."""
    codings: dict[str, Callable[[], _Encoder]] = {}
    if (module := _first_of("compression.zstd", "backports.zstd")) is not None:
        codings["zstd"] = _zstd(module)
    if (module := _first_of("brotli")) is not None:
        codings["br"] = _brotli(module)
    return codings | {"gzip": _gzip}


_CODINGS = _available()

#: The names of the installed codings, in lower case, the preferred one first.
CODINGS = tuple(_CODINGS)


class StreamCompressor:
    """Compress a body in pieces. Each result can be decompressed as soon as it has arrived.

    Args:
        coding: one of ``CODINGS``.

    Raises:
        ValueError: the coding is not installed.
    """

    __slots__ = ("_encoder",)

    def __init__(self, coding: str) -> None:
        self._encoder = _encoder_of(coding)

    def transform(self, piece: bytes) -> bytes:
        """Compress a piece, and flush it. The result is empty for an empty piece."""
        return self._encoder.feed(piece) + self._encoder.flush() if piece else b""

    def finish(self) -> bytes:
        """Return the end of the compressed body. Call it once, after all pieces."""
        return self._encoder.finish()


def compress_whole(coding: str, content: bytes, between: Callable[[], object]) -> bytes:
    """Compress a whole body.

    Args:
        coding: one of ``CODINGS``.
        content: the body.
        between: called before each step of 1 MiB. It may raise to stop.

    Raises:
        ValueError: the coding is not installed.
    """
    encoder = _encoder_of(coding)
    result: list[bytes] = []
    for at in range(0, len(content), _STEP):
        between()
        result.append(encoder.feed(content[at : at + _STEP]))
    return b"".join([*result, encoder.finish()])


def _encoder_of(coding: str) -> _Encoder:
    if coding not in _CODINGS:
        raise ValueError(f"the coding {coding!r} is not installed: use one of {', '.join(CODINGS)}")
    return _CODINGS[coding]()

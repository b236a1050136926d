"""Compression of responses: which are compressed, how, and what becomes of their validators.

The compressors are in ``_codings``.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Final

import trio

from .._http._body import TransformedBody
from .._http._entity_tags import EntityTag, parse_entity_tag, parse_entity_tags
from .._http._field_lists import tokens
from .._http._headers import Headers
from .._http._negotiation import IDENTITY, choose_coding
from .._http._request import Request
from .._http._response import Response
from .._settings import check_whole
from .._thread_limiters import computing_limiter
from .._type_variables import State
from ._codings import CODINGS, StreamCompressor, compress_whole
from ._layer import CallNext
from ._response_fields import replace_content, replace_fields, with_vary

#: Bodies of more bytes than this are compressed in a worker thread. Less takes under a millisecond.
INLINE_SIZE: Final = 64 * 1024

# Media types with text in them. Types that end in +json, +xml and +text are compressible, too (RFC 6839). Images,
# audio, video, archives and WOFF fonts are compressed already.
_COMPRESSIBLE = frozenset(
    (
        *("application/graphql", "application/javascript", "application/json", "application/json-seq"),
        *("application/manifest", "application/ndjson", "application/rtf", "application/sql", "application/toml"),
        *("application/vnd.ms-fontobject", "application/wasm", "application/x-javascript", "application/x-ndjson"),
        *("application/x-sh", "application/x-www-form-urlencoded", "application/xhtml", "application/xml"),
        *("application/xml-dtd", "application/yaml", "font/collection", "font/otf", "font/sfnt", "font/ttf"),
        *("image/bmp", "image/vnd.microsoft.icon", "image/x-icon", "model/gltf", "model/obj", "model/stl"),
    )
)
_COMPRESSIBLE_SUFFIXES = ("+json", "+xml", "+text", "+yaml", "+gltf")
# Each event of such a stream has to arrive at once, and proxies delay what is compressed (HTML standard, 9.2).
_EVENTS = "text/event-stream"

_PARTIAL_CONTENT = 206
_NOT_MODIFIED = 304
# Their bodies must reach the client as they are: encoded already, a part of a representation (RFC 9110, section
# 14.4), or with a digest of their bytes (RFC 9530).
_UNTOUCHABLE = ("Content-Encoding", "Content-Range", "Content-Digest", "Repr-Digest", "Digest", "Content-MD5")
# What describes the body without a content coding. A range of the coded body cannot be requested.
_STALE = ("Content-Length", "Accept-Ranges", "ETag")


def compression(*, minimum: int = 1000) -> CompressionLayer:
    """Create a layer that compresses responses, if the client accepts it (RFC 9110, section 12.5.3).

    The codings are zstd, br and gzip, in this order of preference; the first two if their packages are installed.

    - Compressed are bodies of text, JSON, XML and the like, unless they are smaller than ``minimum`` or would not
      become smaller. Not compressed are ranges, event streams, bodies with a Content-Encoding or a digest, and
      responses with ``Cache-Control: no-transform``.
    - ``Vary: Accept-Encoding`` is added to every response that could have been compressed.
    - Strong entity tags get the coding as a suffix, ``"v1"`` becomes ``"v1-gzip"``, because equal tags mean equal
      bytes (RFC 9110, section 8.8.3). In If-None-Match and If-Match of a request, the layer adds the tag without
      the suffix, so handlers compare with their own tags. Weak tags stay.
    - Bodies above 64 KiB are compressed in a worker thread. As many run at once as the machine has processors.
    - Streamed bodies are compressed piece by piece, and each piece is flushed, so it arrives at once. Pieces above
      64 KiB are compressed in a worker thread as well.

    Responses that contain both a secret and text of an attacker must not be compressed, because the size tells
    about the secret (BREACH): give the layer a path, or set ``Cache-Control: no-transform``.

    Args:
        minimum: the size in bytes of the smallest body that is compressed.

    Returns:
        The layer, for ``with_layer``.

    Raises:
        ValueError: ``minimum`` is negative.
    """
    return CompressionLayer(minimum)


class CompressionLayer:
    """The layer of ``compression``."""

    def __init__(self, minimum: int) -> None:
        check_whole("compression(minimum=...)", minimum, 0, hint="; 0 compresses every body")
        self._minimum = minimum

    def __repr__(self) -> str:
        return f"compression(minimum={self._minimum})"

    async def __call__(self, request: Request, state: State, call_next: CallNext) -> Response:
        response = await call_next(_with_own_tags(request))
        if response.status == _NOT_MODIFIED:
            return _not_modified(response, request.headers)
        size = _size_of(request, response)
        if size < max(self._minimum, 1) or not _may_be_compressed(response):
            return response
        response = with_vary(response, "Accept-Encoding")
        coding = _coding_for(request.headers)
        if coding == IDENTITY:
            return response
        if response.body is not None:
            body = TransformedBody(response.body, partial(_StreamTransform, coding))
            return _with_coding(response, coding).with_body(body)
        if not response.content:
            return _with_coding(response, coding)
        content = await self._compress(coding, response.content)
        return replace_content(_with_coding(response, coding), content) if len(content) < size else response

    async def _compress(self, coding: str, content: bytes) -> bytes:
        if len(content) <= INLINE_SIZE:
            return compress_whole(coding, content, _nothing)
        # Between its steps, the thread stops if this task was cancelled.
        work = partial(compress_whole, coding, content, trio.from_thread.check_cancelled)
        return await trio.to_thread.run_sync(work, limiter=computing_limiter())


class _StreamTransform:
    """Compresses the pieces of a streamed body, large ones in a worker thread."""

    __slots__ = ("_compressor",)

    def __init__(self, coding: str) -> None:
        self._compressor = StreamCompressor(coding)

    async def transform(self, piece: bytes) -> bytes:
        if len(piece) <= INLINE_SIZE:
            return self._compressor.transform(piece)
        # Once the thread has begun, it is not cancelled: the compressor would have a part of the piece.
        return await trio.to_thread.run_sync(self._compressor.transform, piece, limiter=computing_limiter())

    def finish(self) -> bytes:
        return self._compressor.finish()


def _coding_for(headers: Headers) -> str:
    """Choose the coding for a client. One that accepts nothing that there is gets ``identity``."""
    return choose_coding(headers.get_all("Accept-Encoding"), CODINGS) or IDENTITY


def _nothing() -> None:
    """Do nothing between the steps of a small body."""


def _size_of(request: Request, response: Response) -> int:
    """Return the size of the body, for HEAD the one that GET would have; 0 if it has none.

    A streamed body whose size is not known counts as a large one.
    """
    if response.body is not None:
        return sys.maxsize if response.body.length is None else response.body.length
    if response.content or request.method != "HEAD":
        return len(response.content)
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isascii() and length.isdigit() and len(length) < 20 else 0


def _may_be_compressed(response: Response) -> bool:
    """Whether the body may be compressed for a client that accepts it."""
    headers = response.headers
    return (
        response.status != _PARTIAL_CONTENT
        and not any(name in headers for name in _UNTOUCHABLE)
        and _is_compressible(response.content_type)
        and not any("no-transform" in tokens(value) for value in headers.get_all("Cache-Control"))
    )


def _is_compressible(content_type: str) -> bool:
    media_type = content_type.partition(";")[0].strip(" \t").lower()
    if media_type.startswith("text/"):
        return media_type != _EVENTS
    return media_type in _COMPRESSIBLE or media_type.endswith(_COMPRESSIBLE_SUFFIXES)


def _with_coding(response: Response, coding: str) -> Response:
    """Return the response with the fields that describe the coded body in place of those of the other."""
    tag = parse_entity_tag(response.headers.get("ETag", ""))
    fields = [("Content-Encoding", coding)]
    if tag is not None:
        fields.append(("ETag", str(_coded_tag(tag, coding))))
    return replace_fields(response, _STALE, fields)


# ----------------------------------------------------------------------------------------- entity tags


def _coded_tag(tag: EntityTag, coding: str) -> EntityTag:
    """Return the tag of the coded body. Weak tags stay: they may be equal for different bytes."""
    return tag if tag.weak else EntityTag(f"{tag.opaque}-{coding}")


def _with_own_tags(request: Request) -> Request:
    """Add the tags of the handler to the conditions of a request that has the tags of coded bodies.

    In If-None-Match, only the tag for the coding that the client would get now counts. If-Match asks for the state
    of the resource, whatever coding the client got it in. If-Range is not changed: the client has a part of a
    coded body, and a range of the other one must not be appended to it.
    """
    headers = request.headers
    if "If-None-Match" in headers:
        headers = _with_tags(headers, "If-None-Match", (_coding_for(headers),))
    if "If-Match" in headers:
        headers = _with_tags(headers, "If-Match", CODINGS)
    return request if headers is request.headers else request.replace(headers=headers)


def _with_tags(headers: Headers, name: str, codings: tuple[str, ...]) -> Headers:
    suffixes = tuple(f"-{coding}" for coding in codings)
    given = parse_entity_tags(headers.get_all(name)).tags
    tags = {tag.opaque for tag in given if not tag.weak and tag.opaque.endswith(suffixes)}
    own = [str(EntityTag(opaque.rpartition("-")[0])) for opaque in sorted(tags)]
    return headers.with_header(name, ", ".join(own)) if own else headers


def _not_modified(response: Response, headers: Headers) -> Response:
    """Give a 304 the tag of the coded body if the client has sent that (RFC 9110, section 15.4.5).

    Args:
        response: the 304 of the handler.
        headers: the fields of the request, as the client sent them.
    """
    response = with_vary(response, "Accept-Encoding")
    tag = parse_entity_tag(response.headers.get("ETag", ""))
    coding = _coding_for(headers)
    if tag is None or coding == IDENTITY:
        return response
    coded = _coded_tag(tag, coding)
    if coded not in parse_entity_tags(headers.get_all("If-None-Match")).tags:
        return response
    return replace_fields(response, ["ETag"], [("ETag", str(coded))])

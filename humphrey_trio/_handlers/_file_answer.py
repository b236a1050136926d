"""Answer a request with a file: conditions, ranges, and the content (RFC 9110, sections 13, 14 and 15).

``plan`` decides from what is known about the file. ``carry_out`` reads a short content in the same worker thread
that has opened the file, so that a small file takes one hop to a thread.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from .._http._conditions import Outcome, Validators, evaluate, may_send_range
from .._http._errors import HttpError
from .._http._file_body import FileBody, OpenFile, Segment
from .._http._ranges import (
    ByteRange,
    MultipartRanges,
    RangeNotSatisfiableError,
    content_range,
    parse_ranges,
    unsatisfied_range,
)
from .._http._request import Request
from .._http._response import Response
from .._server._file_reader import read_all
from ._representation import FileFacts, validator_fields, validators_of
from ._tree import RegularFile

#: The longest content that is read at once, in the thread that opens the file. A longer one is sent in pieces.
SMALL = 64 * 1024

#: The methods that file handlers take.
SAFE_METHODS = ("GET", "HEAD")


class Plan(NamedTuple):
    """What the response is.

    Attributes:
        status: its status code.
        fields: its header fields.
        segments: its content; empty for none.
    """

    status: int
    fields: Sequence[tuple[str, str]]
    segments: Sequence[Segment] = ()


def answer(request: Request, opened: RegularFile, facts: FileFacts, file: OpenFile) -> Response:
    """Answer a request with a file. This blocks: call it in a worker thread.

    Args:
        request: the request.
        opened: the file. Its descriptor belongs to ``file`` from now on.
        facts: how it is presented.
        file: belongs to the response if that has a ``FileBody``; otherwise it is closed.

    Raises:
        HttpError: 412 or 416.
        OSError: the file cannot be read.
        FileTruncatedError: it has become shorter since it was opened.
    """
    file.adopt(opened.descriptor)
    return carry_out(plan(request, opened.status, facts, time.time_ns()), file)


def carry_out(decided: Plan, file: OpenFile) -> Response:
    """Make the response. This blocks: call it in a worker thread."""
    body = FileBody(file, decided.segments)
    if body.length > SMALL:
        return Response(decided.status, headers=decided.fields).with_body(body)
    content = read_all(body)
    if decided.status >= 400:
        raise HttpError(decided.status, headers=decided.fields)
    return Response(decided.status, content, decided.fields)


def plan(request: Request, status: os.stat_result, facts: FileFacts, now: int) -> Plan:
    """Decide how a request is answered with a file.

    Conditions and ranges count for GET and HEAD only. Another method gets the whole file, because only its handler
    knows what they would mean for it.

    Args:
        request: the request.
        status: the result of ``fstat`` of the file.
        facts: how the file is presented.
        now: the current time, in nanoseconds since 1970.
    """
    current = validators_of(status, facts.coding, now)
    if request.method not in SAFE_METHODS:
        return _Answers(status.st_size, current, facts).whole()
    match evaluate(request.method, request.headers, current):
        case Outcome.NOT_MODIFIED:
            return Plan(304, [("ETag", str(current.tag)), *facts.caching_fields()])
        case Outcome.PRECONDITION_FAILED:
            return Plan(412, ())
        case Outcome.PROCEED:
            answers = _Answers(status.st_size, current, facts)
            return answers.head() if request.method == "HEAD" else answers.to_get(request, now)


class _Answers:
    """The responses with 200, 206 and 416, for one file.

    A 206 has all fields of the 200. For a request with If-Range, RFC 9110, section 15.3.7, advises to omit those
    that the client already has, but not every client stores them with its part.
    """

    def __init__(self, size: int, current: Validators, facts: FileFacts) -> None:
        self._size = size
        self._current = current
        self._facts = facts

    def to_get(self, request: Request, now: int) -> Plan:
        if not may_send_range(request.headers, self._current, now=now / 10**9):
            return self.whole()
        try:
            ranges = parse_ranges(request.headers.get_all("Range"), self._size)
        except RangeNotSatisfiableError:
            return Plan(416, [("Content-Range", unsatisfied_range(self._size))])
        if not ranges:
            return self.whole()
        return self._single(*ranges) if len(ranges) == 1 else self._several(ranges)

    def whole(self) -> Plan:
        segments = [ByteRange(0, self._size - 1)] if self._size else []
        return Plan(200, self._fields(self._facts.content_type), segments)

    def head(self) -> Plan:
        fields = [*self._fields(self._facts.content_type), ("Content-Length", str(self._size))]
        return Plan(200, fields)

    def _single(self, part: ByteRange) -> Plan:
        fields = [*self._fields(self._facts.content_type), ("Content-Range", content_range(part, self._size))]
        return Plan(206, fields, [part])

    def _several(self, ranges: Iterable[ByteRange]) -> Plan:
        framing = MultipartRanges(ranges, self._size, self._facts.content_type)
        segments = [segment for head_and_part in framing.parts for segment in head_and_part]
        return Plan(206, self._fields(framing.content_type), [*segments, framing.end])

    def _fields(self, content_type: str) -> list[tuple[str, str]]:
        return [
            ("Content-Type", content_type),
            ("Accept-Ranges", "bytes"),
            *validator_fields(self._current),
            *self._facts.caching_fields(),
            *self._facts.content_fields(),
        ]

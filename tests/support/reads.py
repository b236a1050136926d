"""Bytes cut into reads, and the events that a decoder returns for them."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import TypeVar

from humphrey_trio._websocket._protocol._decoder import Decoder, Event, Failure, FrameWithoutMessage

Sliceable = TypeVar("Sliceable", str, bytes)


def cut(whole: Sliceable, places: Iterable[int]) -> list[Sliceable]:
    """Cut bytes or text at some places, which are taken modulo the size. Pieces may be empty."""
    ends = sorted(place % (len(whole) + 1) for place in places)
    return [whole[start:end] for start, end in pairwise([0, *ends, len(whole)])]


def one_by_one(data: bytes) -> Iterator[bytes]:
    """Every byte as a read of its own."""
    return (data[i : i + 1] for i in range(len(data)))


def events_of(decoder: Decoder, *reads: bytes) -> list[Event]:
    """The events that a decoder returns for some reads, without the parts of messages."""
    events: list[Event] = []
    for data in reads:
        decoder.receive(data)
        while (event := decoder.next()) is not None:
            if not isinstance(event, FrameWithoutMessage):
                events.append(event)
    return events


def failure_code(events: list[Event]) -> int:
    """The close code of the failure that is the only event."""
    (failure,) = events
    assert isinstance(failure, Failure)
    return failure.code


def bomb(mebibytes: int) -> bytes:
    """The compressed payload of a message that inflates to so many MiB of zeros."""
    compressor = zlib.compressobj(9, wbits=-12)
    return (compressor.compress(bytes(2**20)) + compressor.flush(zlib.Z_FULL_FLUSH)) * mebibytes

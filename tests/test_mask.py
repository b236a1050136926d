"""Unmasking: the same bytes in whichever way, and in whatever pieces."""

from __future__ import annotations

import random

import pytest
from wsproto.frame_protocol import XorMaskerSimple

from humphrey_trio._websocket._protocol import _mask
from humphrey_trio._websocket._protocol._mask import Mask, unmask_short

KEY = bytes.fromhex("12 fe 00 a7")
SIZES = [*range(9), 299, 300, 301, 302, 303, 511, 3071, 3072, 3073, 65535, 65536, 65537]


def payload(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def unmasked(data: bytes) -> bytes:
    """By the definition (RFC 6455, section 5.3)."""
    return bytes(byte ^ KEY[i % 4] for i, byte in enumerate(data))


@pytest.fixture(params=["with the extra", "without the extra"])
def ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the compiled code that the tests have, and without."""
    if request.param == "without the extra":
        monkeypatch.setattr(_mask, "_strxor", None)
    else:
        assert _mask._strxor is not None


@pytest.mark.usefixtures("ways")
@pytest.mark.parametrize("size", SIZES)
def test_payloads_are_unmasked(size: int) -> None:
    """A payload of any size is unmasked as the definition has it."""
    data = payload(size)
    assert Mask(XorMaskerSimple(KEY)).process(bytearray(data)) == unmasked(data)


@pytest.mark.usefixtures("ways")
@pytest.mark.parametrize("seed", range(20))
def test_pieces_are_unmasked(seed: int) -> None:
    """A payload that comes in pieces is unmasked as if it came whole."""
    chance = random.Random(seed)
    data = payload(20_000 + seed)
    mask = Mask(XorMaskerSimple(KEY))
    result = bytearray()
    position = 0
    while position < len(data):
        size = chance.choice([1, 2, 3, 5, 250, 301, 3073, 8000])
        result += mask.process(bytearray(data[position : position + size]))
        position += size
    assert result == unmasked(data)


@pytest.mark.parametrize("size", range(132))
def test_short_payloads_are_unmasked(size: int) -> None:
    """A short payload is unmasked in one step."""
    data = payload(size)
    assert unmask_short(KEY, bytearray(data)) == unmasked(data)

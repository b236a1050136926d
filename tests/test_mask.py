"""Unmasking: the same bytes in whichever way, and in whatever pieces."""

from __future__ import annotations

import random

import pytest

from humphrey_trio._websocket._protocol import _mask
from humphrey_trio._websocket._protocol._mask import rotated, unmask, unmask_long, unmask_short

KEY = bytes.fromhex("12 fe 00 a7")
SIZES = [*range(9), 199, 200, 201, 202, 203, 511, 799, 800, 801, 802, 803, 65535, 65536, 65537]


def payload(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def unmasked(data: bytes) -> bytes:
    """By the definition (RFC 6455, section 5.3)."""
    return bytes(byte ^ KEY[i % 4] for i, byte in enumerate(data))


@pytest.fixture(params=["with the extra", "without the extra"])
def ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the compiled code that the tests have, and without."""
    if request.param == "without the extra":
        monkeypatch.setattr(_mask, "compiled", None)
    else:
        assert _mask.compiled is not None


@pytest.mark.usefixtures("ways")
@pytest.mark.parametrize("size", SIZES)
def test_payloads_are_unmasked(size: int) -> None:
    """A payload of any size is unmasked as the definition has it, and the masked bytes stay as they are."""
    data = payload(size)
    masked = bytes(bytearray(data))
    assert unmask(KEY, masked) == unmask(KEY, memoryview(b"x" + masked)[1:]) == unmasked(data)
    assert masked == data


@pytest.mark.usefixtures("ways")
@pytest.mark.parametrize("seed", range(20))
def test_pieces_are_unmasked(seed: int) -> None:
    """A payload that arrives in pieces is unmasked as if it arrived whole."""
    chance = random.Random(seed)
    data = payload(20_000 + seed)
    key, result = KEY, b""
    while len(result) < len(data):
        piece = data[len(result) :][: chance.choice([1, 2, 3, 5, 150, 201, 801, 8000])]
        result += unmask(key, piece)
        key = rotated(key, len(piece))
    assert result == unmasked(data)


@pytest.mark.parametrize("size", SIZES)
def test_ways_agree(size: int) -> None:
    """Each way of unmasking is right for each size, whichever sizes it is used for."""
    data = payload(size)
    assert _mask.compiled is not None
    assert {way(KEY, data) for way in (unmask_short, unmask_long, _mask.compiled)} == {unmasked(data)}

"""The values of the WebSocket side: messages, errors, and the bounds of a stream."""

from __future__ import annotations

import array
import dataclasses

import pytest

from humphrey_trio import Response
from humphrey_trio._websocket._limits import StreamLimits
from humphrey_trio.websocket import (
    ConnectionClosed,
    HandshakeError,
    LinkError,
    Message,
    WebsocketError,
)

# ---------------------------------------------------------------------------------------------- messages


def test_str_makes_text() -> None:
    """A message made of a str is text, and its bytes are the UTF-8."""
    message = Message("grüße")

    assert (message.is_text, message.text, message.data) == (True, "grüße", "grüße")
    assert message.bytes == b"gr\xc3\xbc\xc3\x9fe"


def test_bytes_make_binary() -> None:
    """A message made of bytes is binary and has no text, even if the bytes would be UTF-8."""
    message = Message(b"hello")

    assert (message.is_text, message.text, message.data, message.bytes) == (False, None, b"hello", b"hello")


@pytest.mark.parametrize(
    "buffer",
    [bytearray(b"\x01\x00\x02\x00"), memoryview(b"\x01\x00\x02\x00"), memoryview(array.array("H", [1, 2]))],
    ids=["bytearray", "memoryview", "memoryview of words"],
)
def test_other_buffers_make_binary(buffer: bytearray | memoryview) -> None:
    """Any buffer makes a binary message of its bytes."""
    assert Message(buffer) == Message(bytes(buffer))


def test_buffer_is_copied() -> None:
    """A message does not change with the buffer it was made of."""
    buffer = bytearray(b"before")
    message = Message(buffer)
    buffer[:] = b"after!"

    assert message.bytes == b"before"


@pytest.mark.parametrize("data", [None, 7, 1.5, ["text"], {"a": 1}], ids=repr)
def test_message_takes_text_or_bytes(data: object) -> None:
    """A message of anything but text and bytes is a TypeError that names the type."""
    with pytest.raises(TypeError, match=type(data).__name__):
        Message(data)  # type: ignore[arg-type]


def test_equality_knows_the_kind() -> None:
    """Messages are equal if kind and content are, also to their content itself, and equal ones have one hash."""
    assert Message("a") == Message("a")
    assert hash(Message("a")) == hash(Message("a"))
    assert Message(b"a") == Message(bytearray(b"a"))
    assert Message("a") != Message(b"a")
    assert Message("a") == "a"
    assert Message("a") != b"a"
    assert hash(Message("a")) == hash("a")


@pytest.mark.parametrize(("data", "size"), [("", 0), ("€", 3), (b"\x00\xff", 2)])
def test_length_is_in_bytes(data: str | bytes, size: int) -> None:
    """The length of a message is that of its payload in bytes, also for text."""
    assert len(Message(data)) == size


@pytest.mark.parametrize("data", ["", b""])
def test_empty_message_is_true(data: str | bytes) -> None:
    """An empty message is a message: it counts as true."""
    assert Message(data)


@pytest.mark.parametrize("name", ["data", "text", "bytes", "is_text", "other"])
def test_message_is_immutable(name: str) -> None:
    """Nothing of a message can be set."""
    with pytest.raises(AttributeError):
        setattr(Message("a"), name, "b")


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        ("hi", "Message('hi')"),
        (b"hi", "Message(b'hi')"),
        ("x" * 100, f"Message('{'x' * 75}...')"),
        (b"x" * 100, f"Message(b'{'x' * 74}...')"),
    ],
)
def test_repr_is_short(data: str | bytes, shown: str) -> None:
    """A message shows its kind and the beginning of its content."""
    assert repr(Message(data)) == shown


# ------------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize("error", [HandshakeError("no"), ConnectionClosed(1000), LinkError("no")], ids=repr)
def test_errors_have_one_root(error: Exception) -> None:
    """Everything this library raises about WebSockets can be caught as WebsocketError."""
    assert isinstance(error, WebsocketError)


def test_handshake_error_is_a_400_by_default() -> None:
    """A refused upgrade says why and is a 400 unless it says otherwise."""
    plain, full = HandshakeError("no key"), HandshakeError("no", 403, response=Response(403))

    assert (str(plain), plain.status, plain.response) == ("no key", 400, None)
    assert (full.status, full.response) == (403, Response(403))


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ConnectionClosed(1006), "closed with 1006"),
        (ConnectionClosed(4000, "enough"), "closed with 4000: 'enough'"),
    ],
)
def test_connection_closed_says_code_and_reason(error: ConnectionClosed, text: str) -> None:
    """ConnectionClosed carries the close code and the reason, and says both."""
    assert str(error) == text
    assert error.args == (error.code, error.reason)


# ------------------------------------------------------------------------------------------------ limits


def test_default_limits() -> None:
    """The defaults are a mebibyte in 4096 frames for a message, the same for the outbox, 16 messages ahead."""
    assert dataclasses.asdict(StreamLimits()) == {
        "max_message_size": 2**20,
        "max_fragments": 4096,
        "max_outbox_bytes": 2**20,
        "max_outbox_messages": 4096,
        "max_read_ahead": 16,
    }


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(StreamLimits)])
def test_a_limit_is_at_least_one(name: str) -> None:
    """A limit below one is a ValueError that names it; one is accepted."""
    assert getattr(StreamLimits(**{name: 1}), name) == 1
    with pytest.raises(ValueError, match=name):
        StreamLimits(**{name: 0})


def test_limits_are_frozen() -> None:
    """Limits do not change once they are made."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        StreamLimits().max_fragments = 2  # type: ignore[misc]

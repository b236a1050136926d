"""The record of how a stream was closed."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, TypeAlias

from .._quoting import quoted

#: The side that closed a stream first.
Initiator: TypeAlias = Literal["client", "server"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseRecord:
    """How a stream was closed. ``str`` gives one line for a log.

    Numbers of bytes are those of frames on the wire, without the handshake.

    Attributes:
        initiator: the side that closed the stream or disconnected first, ``"client"`` or ``"server"``.
        code: the close code, as ``ConnectionClosed.code``.
        reason: the close reason as it was sent; often empty. It may contain any characters, including newlines.
        cause: a description of the cause if the code does not tell it, such as a failed handler; else empty.
        exception: the exception of the handler that caused the close, or None.
        age: seconds from the handshake to the close.
        messages_received: the number of received messages.
        bytes_received: the number of received bytes.
        messages_sent: the number of messages that were sent and not dropped. If the connection breaks, messages
            that are being written count as sent, although it is unknown whether they were received.
        bytes_sent: the number of bytes that the kernel accepted.
        dropped: the number of messages that were dropped before they were sent.
        unhandled: the number of messages that were received and not handled. Messages that were not decoded
            are counted only in ``bytes_received``.
        queued_messages: the number of messages that waited to be sent when the stream was closed.
        queued_bytes: the number of their bytes.
        clean: whether both sides sent a Close frame and the client then ended the connection, so that it could
            read everything that counts as sent (RFC 6455, section 7.1.4). False if the connection broke, was
            cut off or did not end in time, so that the last messages may be lost. None if it is not yet known.
            It is known in the log line of the stream, and usually unknown in a disconnect handler.
    """

    initiator: Initiator
    code: int
    reason: str
    cause: str
    exception: BaseException | None
    age: float
    messages_received: int
    bytes_received: int
    messages_sent: int
    bytes_sent: int
    dropped: int
    unhandled: int
    queued_messages: int
    queued_bytes: int
    clean: bool | None

    def as_dict(self) -> dict[str, str | int | float | None]:
        """Return the attributes as a dict, for structured logs.

        Returns:
            The attributes by name. ``exception`` is its repr, or None.
        """
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return named | {"exception": None if self.exception is None else repr(self.exception)}

    def __str__(self) -> str:
        beside = f" {quoted(self.reason)}" if self.reason else ""
        cause = f" ({self.cause})" if self.cause else ""
        doubt = "; the last messages may be lost" if self.clean is False and self.messages_sent else ""
        return (
            f"closed by the {self.initiator} with {self.code}{beside} after {self.age:.3f} s{cause};"
            f" received {self.messages_received} messages, {self.bytes_received} bytes;"
            f" sent {self.messages_sent} messages, {self.bytes_sent} bytes;"
            f" dropped {self.dropped}, unhandled {self.unhandled},"
            f" queued at close {self.queued_messages} messages, {self.queued_bytes} bytes{doubt}"
        )


@dataclass(slots=True)  # frozen would cost a microsecond for each connection
class Ending:
    """The part of the close record that is noted at the first close of a stream.

    Attributes:
        answered: whether the peer has sent a Close frame.
        clean: as in ``CloseRecord``; noted when the connection has ended.
    """

    initiator: Initiator
    code: int
    reason: str
    cause: str
    exception: BaseException | None
    age: float
    queued_messages: int
    queued_bytes: int
    answered: bool = False
    clean: bool | None = None

    def note_answered(self) -> None:
        """Note that the peer has sent a Close frame."""
        self.answered = True

    def note_clean(self, ended: bool) -> None:
        """Note how the connection has ended.

        Args:
            ended: whether the end of file of the peer was received, and everything before it.
        """
        self.clean = self.answered and ended

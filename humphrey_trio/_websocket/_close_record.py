"""Why a stream was closed: what there is to say of it afterwards."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, TypeAlias

from .._quoting import quoted

#: Who began the end of a stream.
Initiator: TypeAlias = Literal["client", "server"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseRecord:
    """How a stream ended. As a str it is one line for a log.

    Bytes are those of frames on the wire, without the handshake.

    Attributes:
        initiator: ``"client"`` or ``"server"``, whoever closed or left first.
        code: the close code as in ``ConnectionClosed``.
        reason: the text beside it as it was sent, often empty. It may hold any characters, newlines among them.
        cause: what led to it, in words, where the code does not say so; a failed handler, for instance.
        exception: what a handler raised, if that was it.
        age: seconds from the handshake to the close.
        messages_received: messages that came in.
        bytes_received: bytes that came in.
        messages_sent: messages that were handed over and not dropped; of those that are just being written when
            the connection breaks, nobody knows.
        bytes_sent: bytes that the system took.
        dropped: messages that were to be sent and were not.
        unhandled: messages that came in and that no handler got; what was not looked at yet counts in bytes only.
        queued_messages: messages that waited to be sent when it was closed.
        queued_bytes: their bytes.
        clean: whether both sides sent a Close frame and the client then ended the connection, so that it could
            read everything that counts as sent (RFC 6455, section 7.1.4). False if the connection broke, was
            cut off or did not end in time: the last messages may be lost. None while it is not known, which it
            is in the log, but mostly not in a disconnect handler.
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
        """The attributes by their names, for structured logs; the exception as text, None without one."""
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
    """The note that a stream makes when it is closed first, completed when its connection has ended.

    Attributes:
        answered: whether the peer has sent a Close frame.
        clean: as in ``CloseRecord``.
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
            ended: whether the peer has sent its end of file, and everything before it was received.
        """
        self.clean = self.answered and ended

"""Server-sent events, and their form as bytes (HTML standard, section 9.2.5). It does no I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass

# Other line ends of str.splitlines, such as U+2028, are ordinary characters in an event stream.
_LINE_END = re.compile(r"\r\n|\n|\r")

#: A comment, which clients ignore.
COMMENT = b":\n\n"


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """An event, as a script in a browser gets it.

    Attributes:
        data: the text. Lines are separated by LF.
        event: the type.
        id: the last id that was sent, with this event or before it; empty if there was none.
    """

    data: str
    event: str = "message"
    id: str = ""


def encode_event(data: str, event: str | None, id: str | None, retry: int | None) -> bytes:
    """Encode an event: its fields and an empty line. For the arguments and errors, see ``EventSender.send``."""
    if not isinstance(data, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"the data of an event is a str, not {type(data).__name__}: use json.dumps for values")
    fields: list[str] = []
    if event is not None:
        fields.append(f"event: {_one_line('event', event)}\n")
    if id is not None:
        fields.append(f"id: {_one_line('id', id)}\n")
    if retry is not None:
        fields.append(f"retry: {_milliseconds(retry)}\n")
    fields.extend(f"data: {line}\n" for line in _LINE_END.split(data))
    fields.append("\n")
    return "".join(fields).encode()


def encode_id(id: str) -> bytes:
    """Encode an id without an event, which dispatches none. For the errors, see ``EventSender.send_id``."""
    return f"id: {_one_line('id', id)}\n\n".encode()


def _one_line(name: str, value: str) -> str:
    if not isinstance(value, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"the {name} of an event is a str, not {type(value).__name__}")
    if "\n" in value or "\r" in value:
        raise ValueError(f"the {name} of an event must not contain a line end")
    # Clients ignore such an id (HTML standard, section 9.2.6).
    if name == "id" and "\0" in value:
        raise ValueError("the id of an event must not contain a NUL")
    return value


def _milliseconds(retry: int) -> int:
    if not isinstance(retry, int) or isinstance(retry, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"retry is an int of milliseconds, not {type(retry).__name__}")
    if retry < 0:
        raise ValueError("retry must be at least 0 milliseconds")
    return retry

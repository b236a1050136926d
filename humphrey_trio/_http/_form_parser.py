"""Incremental parsers for the bodies of forms, urlencoded or ``multipart/form-data``.

They do no I/O. What belongs in a temporary file is collected in a ``Spool``, and the caller writes it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from io import BytesIO
from math import inf
from typing import TypeAlias

from ._errors import HttpError
from ._form import Form
from ._limits import DEFAULT_MAX_FIELDS
from ._multipart import FORM_DATA, MultipartParser
from ._parameters import media_type
from ._part_head import PartHead, decode_text
from ._spool import Spool
from ._uploaded_file import SpooledContent, UploadedFile
from ._urls import TooManyFieldsError
from ._urls import parse_form as parse_urlencoded

URLENCODED = "application/x-www-form-urlencoded"

# Bytes of a whole body that are passed to the parser at once, which copies them.
_STEP = 256 * 1024


@dataclass(frozen=True, slots=True)
class FormSettings:
    """What a form may contain, and what of it is kept in memory.

    Attributes:
        max_fields: the greatest number of fields, files included.
        max_text: the greatest number of bytes of all text fields together. The heads of parts count, too.
        spool: the greatest number of bytes of all files together that are kept in memory.
        directory: the directory of the temporary file; None for that of ``tempfile.gettempdir()``.
        max_file: the greatest number of bytes of each file.

    Raises:
        ValueError: a number is negative.
    """

    max_fields: int = DEFAULT_MAX_FIELDS
    max_text: float = inf
    spool: float = inf
    directory: str | os.PathLike[str] | None = None
    max_file: float = inf

    def __post_init__(self) -> None:
        for name in ("max_fields", "max_text", "spool", "max_file"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative")


_DEFAULT = FormSettings()


class UrlencodedForm:
    """Parses a body of the type ``application/x-www-form-urlencoded``. It is parsed at its end."""

    def __init__(self, settings: FormSettings) -> None:
        self._settings = settings
        self._body = BytesIO()

    def feed(self, data: bytes) -> None:
        """Add a piece of the body.

        Raises:
            HttpError: 413 if it is too long.
        """
        if self._body.tell() + len(data) > self._settings.max_text:
            raise _too_long(self._settings)
        self._body.write(data)

    def finish(self) -> Form:
        """Return the form.

        Raises:
            HttpError: 413 if there are too many fields.
        """
        most = self._settings.max_fields
        try:
            return Form(parse_urlencoded(self._body.getvalue(), max_fields=most))
        except TooManyFieldsError:
            raise HttpError(413, f"the form has more than {most} fields") from None


class MultipartForm:
    """Parses a body of the type ``multipart/form-data``.

    Args:
        content_type: the value of the Content-Type field of the request.
        settings: the limits.
        spool: gets the files that do not fit into memory.

    Raises:
        HttpError: 400 if the boundary is missing or malformed.
        RuntimeError: the library ``multipart`` is not installed.
    """

    def __init__(self, content_type: str, settings: FormSettings, spool: Spool) -> None:
        self._parser = MultipartParser(content_type, max_parts=settings.max_fields)
        self._settings = settings
        self._text_left = settings.max_text
        self._memory_left = settings.spool
        self._spool = spool
        self._fields: list[tuple[str, str]] = []
        self._files: list[UploadedFile] = []
        self._part: _TextPart | _FilePart | None = None

    def feed(self, data: bytes) -> None:
        """Parse the next piece of the body.

        Raises:
            HttpError: 400 if the body is malformed, 413 if it has too many fields, too much text, or a file that
                is too large.
        """
        for event in self._parser.feed(data):
            if isinstance(event, PartHead):
                self._begin(event)
            elif event:
                self._add(event)
            else:
                self._end()

    def finish(self) -> Form:
        """Return the form. What waits in the spool must be written before the form is used.

        Raises:
            HttpError: 400 if the body was not complete.
        """
        self._parser.finish()
        return Form(self._fields, self._files)

    def _begin(self, head: PartHead) -> None:
        self._spend_text(sum(len(name) + len(value) for name, value in head.headers))
        self._part = (
            _TextPart(head)
            if head.filename is None
            else _FilePart(head, head.filename, self._memory_left, self._spool)
        )

    def _add(self, piece: bytes) -> None:
        part = self._part
        assert part is not None, "content follows the head of its part"
        if isinstance(part, _TextPart):
            self._spend_text(len(piece))
        elif part.size + len(piece) > self._settings.max_file:
            raise HttpError(413, f"the file {part.name!r} is larger than {self._settings.max_file} bytes")
        part.add(piece)

    def _end(self) -> None:
        part = self._part
        assert part is not None, "the end of a part follows its head"
        if isinstance(part, _TextPart):
            self._fields.append(part.field())
            return
        self._memory_left -= part.in_memory
        file = part.file()
        # Browsers send an empty name and no content if no file was chosen (HTML standard, section 4.10.21.4).
        if file.filename or file.size:
            self._files.append(file)

    def _spend_text(self, size: int) -> None:
        self._text_left -= size
        if self._text_left < 0:
            raise _too_long(self._settings)


class _TextPart:
    """A text field that is being received."""

    def __init__(self, head: PartHead) -> None:
        self._head = head
        # A list of pieces would take 40 bytes for each piece of one byte.
        self._content = BytesIO()

    def add(self, piece: bytes) -> None:
        self._content.write(piece)

    def field(self) -> tuple[str, str]:
        return self._head.name, decode_text(self._head, self._content.getvalue())


class _FilePart:
    """A file that is being received: in memory, until it is larger than the memory that is left."""

    def __init__(self, head: PartHead, filename: str, memory: float, spool: Spool) -> None:
        self._head = head
        self._filename = filename
        self._memory = memory
        self._spool = spool
        self._content = BytesIO()
        self._start: int | None = None  # in the spool

    @property
    def name(self) -> str:
        """The name of the field."""
        return self._head.name

    @property
    def size(self) -> int:
        """The number of bytes that were received."""
        return self.in_memory if self._start is None else self._spool.size - self._start

    @property
    def in_memory(self) -> int:
        """The number of bytes in memory."""
        return self._content.tell()

    def add(self, piece: bytes) -> None:
        if self._start is None and self.in_memory + len(piece) > self._memory:
            self._move_to_spool()
        if self._start is None:
            self._content.write(piece)
        else:
            self._spool.append(piece)

    def file(self) -> UploadedFile:
        head = self._head
        return UploadedFile(head.name, self._filename, head.content_type, head.headers, self._stored())

    def _move_to_spool(self) -> None:
        self._start = self._spool.size
        self._spool.append(self._content.getvalue())
        self._content = BytesIO()

    def _stored(self) -> bytes | SpooledContent:
        if self._start is None:
            return self._content.getvalue()
        return SpooledContent(self._spool.file, self._start, self.size)


FormParser: TypeAlias = UrlencodedForm | MultipartForm


def form_parser(content_type: str, settings: FormSettings, spool: Spool) -> FormParser:
    """Return a parser for the body of a request that submits a form.

    Args:
        content_type: the value of the Content-Type field of the request; empty if there is none.
        settings: the limits.
        spool: gets the files that do not fit into memory.

    Raises:
        HttpError: 400 if the Content-Type is malformed, and 415 if the media type is neither
            ``application/x-www-form-urlencoded`` nor ``multipart/form-data``.
        RuntimeError: the body is ``multipart/form-data``, and the library ``multipart`` is not installed.
    """
    kind = media_type(content_type)
    if kind == URLENCODED:
        return UrlencodedForm(settings)
    if kind == FORM_DATA:
        return MultipartForm(content_type, settings, spool)
    accepted = f"{URLENCODED}, {FORM_DATA}"
    raise HttpError(415, f"a form must be one of {accepted}", headers={"Accept": accepted})


def parse_form(content_type: str, body: bytes, settings: FormSettings = _DEFAULT) -> Form:
    """Parse a whole body. All files are kept in memory.

    Args:
        content_type: the value of the Content-Type field of the request; empty if there is none.
        body: the whole body.
        settings: the limits. ``spool`` is ignored.

    Raises:
        HttpError: 400 if the body or its Content-Type is malformed, 413 if there are too many fields or too much
            text, and 415 if the media type is not that of a form.
        RuntimeError: as for ``form_parser``.
    """
    parser = form_parser(content_type, replace(settings, spool=inf), Spool())
    for at in range(0, len(body), _STEP):
        parser.feed(body[at : at + _STEP])
    return parser.finish()


def _too_long(settings: FormSettings) -> HttpError:
    return HttpError(413, f"the text of the form is longer than {settings.max_text} bytes")

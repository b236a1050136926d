"""Forms: text fields, and files that were uploaded with them. All of it is in memory.

This module does no I/O and writes no files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from typing import BinaryIO, overload

from ._errors import HttpError
from ._fields import Fields, FieldsLike
from ._headers import Headers
from ._multipart import FORM_DATA, MultipartParser
from ._parameters import media_type
from ._part_head import PartHead, decode_text
from ._urls import TooManyFieldsError
from ._urls import parse_form as parse_urlencoded

URLENCODED = "application/x-www-form-urlencoded"

# Bytes that are passed to the parser at once, which copies them.
_STEP = 256 * 1024


@dataclass(frozen=True, slots=True)
class UploadedFile:
    """A file in a form.

    Attributes:
        name: the name of the field.
        filename: the name of the file, as the client sent it. It may contain any character, ``/``, ``..`` and NUL
            included. Never use it as a path: store the file under a name of your own, and this name as a text.
        content_type: the media type that the client sent, in lower case and without parameters; ``text/plain`` if
            it sent none (RFC 7578, section 4.4). It need not be true.
        headers: all header fields of the part.
        content: the bytes of the file.
    """

    name: str
    filename: str
    content_type: str
    headers: Headers
    content: bytes = field(repr=False)

    @property
    def size(self) -> int:
        """The number of bytes."""
        return len(self.content)

    def open(self) -> BinaryIO:
        """Return a new binary file object at the start of the content, without a copy and without a descriptor."""
        return BytesIO(self.content)


class Files:
    """The files of a form, in the order in which they were sent: an immutable multi-mapping like ``Fields``.

    ``files[name]`` is the first file of a field, or raises ``KeyError``. ``name in files`` works. Iteration yields
    all pairs of a name and an ``UploadedFile``, and ``len(files)`` is the number of files.

    Args:
        files: the files.
    """

    __slots__ = ("_files",)

    _files: tuple[UploadedFile, ...]

    def __init__(self, files: Iterable[UploadedFile] = ()) -> None:
        self._files = tuple(files)

    @overload
    def get(self, name: str) -> UploadedFile | None: ...

    @overload
    def get(self, name: str, default: UploadedFile) -> UploadedFile: ...

    def get(self, name: str, default: UploadedFile | None = None) -> UploadedFile | None:
        """Return the first file of a field.

        Args:
            name: the name of the field, in its letter case.
            default: the result if there is no such file.
        """
        return next((file for file in self._files if file.name == name), default)

    def get_all(self, name: str) -> tuple[UploadedFile, ...]:
        """Return all files of a field, in order.

        Args:
            name: the name of the field, in its letter case.
        """
        return tuple([file for file in self._files if file.name == name])

    def __getitem__(self, name: str) -> UploadedFile:
        found = self.get(name)
        if found is None:
            raise KeyError(name)
        return found

    def __contains__(self, name: object) -> bool:
        return any(file.name == name for file in self._files)

    def __iter__(self) -> Iterator[tuple[str, UploadedFile]]:
        return iter([(file.name, file) for file in self._files])

    def __len__(self) -> int:
        return len(self._files)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Files):
            return NotImplemented
        return list(self) == list(other)

    def __hash__(self) -> int:
        return hash(self._files)

    def __repr__(self) -> str:
        return f"Files({list(self._files)!r})"


class Form(Fields):
    """A form: a multi-mapping of its text fields, which also has ``files``. Immutable.

    Args:
        pairs: the text fields, as for ``Fields``.
        files: the files.

    Attributes:
        files: the files as ``Files``. It has no file for a file input in which no file was chosen.
    """

    __slots__ = ("files",)

    files: Files

    def __init__(self, pairs: FieldsLike = (), files: Iterable[UploadedFile] = ()) -> None:
        super().__init__(pairs)
        self.files = Files(files)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Form):
            return NotImplemented
        return list(self) == list(other) and self.files == other.files

    def __hash__(self) -> int:
        return hash((super().__hash__(), self.files))

    def __repr__(self) -> str:
        return f"Form({list(self)!r}, {[file for _, file in self.files]!r})"


def parse_form(content_type: str, body: bytes, *, max_fields: int = 1000) -> Form:
    """Parse the body of a request that submits a form.

    Args:
        content_type: the value of the Content-Type field of the request; empty if there is none.
        body: the whole body.
        max_fields: the greatest number of fields, files included.

    Raises:
        HttpError: 400 if the body or its Content-Type is malformed, 413 if there are too many fields, and 415 if
            the media type is neither ``application/x-www-form-urlencoded`` nor ``multipart/form-data``.
        RuntimeError: the body is ``multipart/form-data``, and the library ``multipart`` is not installed.
    """
    kind = media_type(content_type)
    if kind == URLENCODED:
        return _parse_urlencoded(body, max_fields)
    if kind == FORM_DATA:
        return _parse_multipart(MultipartParser(content_type, max_parts=max_fields), body)
    accepted = f"{URLENCODED}, {FORM_DATA}"
    raise HttpError(415, f"a form must be one of {accepted}", headers={"Accept": accepted})


def _parse_urlencoded(body: bytes, max_fields: int) -> Form:
    try:
        return Form(parse_urlencoded(body, max_fields=max_fields))
    except TooManyFieldsError:
        raise HttpError(413, f"the form has more than {max_fields} fields") from None


def _parse_multipart(parser: MultipartParser, body: bytes) -> Form:
    fields: list[tuple[str, str]] = []
    files: list[UploadedFile] = []
    for head, content in _whole_parts(parser, body):
        if head.filename is None:
            fields.append((head.name, decode_text(head, content)))
        # Browsers send an empty name and no content if no file was chosen (HTML standard, section 4.10.21.4).
        elif head.filename or content:
            files.append(UploadedFile(head.name, head.filename, head.content_type, head.headers, content))
    return Form(fields, files)


def _whole_parts(parser: MultipartParser, body: bytes) -> Iterator[tuple[PartHead, bytes]]:
    head: PartHead | None = None
    pieces: list[bytes] = []
    for at in range(0, len(body), _STEP):
        for event in parser.feed(body[at : at + _STEP]):
            if isinstance(event, PartHead):
                head, pieces = event, []
            elif event:
                pieces.append(event)
            elif head is not None:
                yield head, b"".join(pieces)
    parser.finish()

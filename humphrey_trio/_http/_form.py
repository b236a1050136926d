"""Forms: text fields, and the files that were uploaded with them. These are values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import overload

from ._fields import Fields, FieldsLike
from ._sent_values import missing
from ._uploaded_file import UploadedFile


class Files:
    """The files of a form, in the order in which they were sent: an immutable multi-mapping like ``Fields``.

    ``files[name]`` is the first file of a field. If there is none, it raises an ``HttpError`` with 400 that is
    also a ``KeyError``. ``name in files`` works. Iteration yields all pairs of a name and an ``UploadedFile``, and
    ``len(files)`` is the number of files.

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

    def keys(self) -> tuple[str, ...]:
        """Return the names, each of them once, in order. So ``dict(files)`` has the first file of each name."""
        return tuple(dict.fromkeys(file.name for file in self._files))

    def values(self) -> tuple[UploadedFile, ...]:
        """Return all files, in order."""
        return self._files

    def items(self) -> tuple[tuple[str, UploadedFile], ...]:
        """Return all pairs, in order, as iteration does. Names may be repeated."""
        return tuple(self)

    def __getitem__(self, name: str) -> UploadedFile:
        found = self.get(name)
        if found is None:
            raise missing("form", "file", name)
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

    ``form[name]`` is the first value of a field. If there is none, it raises an ``HttpError`` with 400 that is
    also a ``KeyError``.

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

    def __getitem__(self, name: str) -> str:
        value = self.get(name)
        if value is None:
            raise missing("form", "field", name)
        return value

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Form):
            return NotImplemented
        return list(self) == list(other) and self.files == other.files

    def __hash__(self) -> int:
        return hash((super().__hash__(), self.files))

    def __repr__(self) -> str:
        return f"Form({list(self)!r}, {[file for _, file in self.files]!r})"

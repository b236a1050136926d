"""Files that were compressed before, next to the original: ``style.css.br`` next to ``style.css``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from types import MappingProxyType

from .._http._negotiation import IDENTITY, choose_coding
from ._tree import RegularFile

#: The content codings (RFC 9110, section 8.4.1; RFC 7932; RFC 8878) by the extensions of their files.
CODINGS: Mapping[str, str] = MappingProxyType({"zst": "zstd", "br": "br", "gz": "gzip"})


def coded_extensions(extensions: Iterable[str]) -> dict[str, str]:
    """Return the extensions of a handler's precompressed files by their codings, the preferred one first.

    Raises:
        ValueError: an extension is not known.
        TypeError: ``extensions`` is a str.
    """
    if isinstance(extensions, str):
        raise TypeError(f"precompressed is a collection of extensions: write ({extensions!r},)")
    given = list(extensions)
    unknown = [extension for extension in given if extension not in CODINGS]
    if unknown:
        known = ", ".join(map(repr, CODINGS))
        raise ValueError(f"{unknown[0]!r} is not the extension of a precompressed file: use {known}")
    return {CODINGS[extension]: extension for extension in given}


def open_preferred(
    accept_encoding: Iterable[str],
    extensions: Mapping[str, str],
    original: os.stat_result,
    open_sibling: Callable[[bytes], RegularFile | None],
) -> tuple[str, RegularFile] | None:
    """Open the precompressed file that the client prefers (RFC 9110, section 12.5.3).

    A file that is older than its original is ignored, because it contains an older version. Times are compared in
    seconds, because several compressors copy only the seconds of the original's.

    Args:
        accept_encoding: the values of all Accept-Encoding fields.
        extensions: by coding, the preferred one first.
        original: the result of ``fstat`` of the original.
        open_sibling: opens the file next to the original whose name has an addition. Returns None if it is not a
            regular file. An ``OSError`` means that it cannot be used.

    Returns:
        The coding and the file; None if the original is to be sent.
    """
    given = list(accept_encoding)
    remaining = list(extensions)
    while remaining:
        coding = choose_coding(given, remaining)
        if coding is None or coding == IDENTITY:
            return None
        remaining.remove(coding)
        found = _open_fresh(f".{extensions[coding]}".encode(), original, open_sibling)
        if found:
            return coding, found
    return None


def _open_fresh(
    addition: bytes, original: os.stat_result, open_sibling: Callable[[bytes], RegularFile | None]
) -> RegularFile | None:
    found: RegularFile | None = None
    with suppress(OSError):
        found = open_sibling(addition)
    if found and int(found.status.st_mtime) < int(original.st_mtime):
        os.close(found.descriptor)
        return None
    return found

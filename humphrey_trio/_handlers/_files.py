"""Handlers that answer with files."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Protocol, TypeAlias

from .._http._errors import HttpError
from .._http._file_body import OpenFile
from .._http._headers import Headers, HeadersLike
from .._http._media_types import media_type
from .._http._request import Request
from .._http._response import Response
from .._server._file_threads import with_file_in_thread
from ._directory import Directory, respond
from ._disposition import attachment
from ._failed_open import http_error_of
from ._file_answer import SAFE_METHODS, answer
from ._precompressed import coded_extensions
from ._representation import FileFacts
from ._resolver import parse_path
from ._tree import open_regular

FilePathLike: TypeAlias = str | os.PathLike[str]

# The fields that follow from the file and from the other arguments of ``file_response``.
_OF_FILES = {
    "accept-ranges": "omit it",
    "cache-control": "pass cache=",
    "content-length": "omit it",
    "content-range": "omit it",
    "content-type": "pass content_type=",
    "etag": "omit it",
    "last-modified": "omit it",
    "transfer-encoding": "omit it",
}


class FilePathHandler(Protocol):
    """A handler for ``with_route``, where the whole path counts, and for ``with_path_aware_route``."""

    def __call__(self, request: Request, state: object, pattern: str = "*", /) -> Awaitable[Response]:
        """Answer a request."""
        ...


def serve_file(path: FilePathLike, *, cache: str = "no-cache") -> Callable[[Request, object], Awaitable[Response]]:
    """Make a handler for ``with_route`` that answers with one file. It handles conditions and ranges.

    A file that does not exist when it is requested is a 404, and one that the process may not read a 403. Methods
    other than GET and HEAD are a 405.

    Args:
        path: the file. A relative path is relative to the working directory at the time of this call. Links are
            followed.
        cache: the value of the Cache-Control field; empty for none. With ``no-cache`` clients store the file, and
            ask each time whether it has changed.

    Returns:
        The handler.

    Raises:
        TypeError: the path is not a path.
        ValueError: ``cache`` is not a valid header value.
    """
    absolute = _absolute(path)
    facts = FileFacts(content_type=media_type(os.fspath(path)), cache=_checked("Cache-Control", cache))

    async def handle(request: Request, state: object) -> Response:
        if request.method not in SAFE_METHODS:
            raise _method_not_allowed()
        return await _respond_with(absolute, request, facts)

    return handle


def serve_dir(
    directory: FilePathLike,
    *,
    cache: str = "no-cache",
    index: Sequence[str] = ("index.html",),
    precompressed: Sequence[str] = ("zst", "br", "gz"),
    outside_links: bool = False,
    hidden: bool = False,
) -> Callable[[Request, object, str], Awaitable[Response]]:
    """Make a handler for ``with_path_aware_route`` that answers with the files below a directory.

    The path below the directory is what follows the literal prefix of the pattern, percent-decoded once. It cannot
    lead out of the directory. A path with a segment that is empty, ``.`` or ``..``, or that contains a slash, a
    backslash, a NUL, or a drive (``C:``) is a 404. So is everything that is not a regular file, or does not exist.
    A file that the process may not read is a 403. Methods other than GET and HEAD are a 405. The path of a
    directory without a slash at its end is redirected to the one with it.

    Args:
        directory: the directory. A relative path is relative to the working directory at the time of this call. It
            may be a link; it is opened anew for each request, so it may be replaced while the server runs.
        cache: the value of the Cache-Control field; empty for none. With ``no-cache`` clients store a file, and
            ask each time whether it has changed.
        index: the names of the files that are sent for a directory. The first that exists is sent. Without one,
            directories are a 404; there are no listings.
        precompressed: the extensions of files that are sent instead of the original if the client accepts their
            coding: ``zst``, ``br``, ``gz``, the preferred one first. ``style.css.br`` must be next to
            ``style.css``, and not older.
        outside_links: whether links may lead out of the directory. An absolute link leads into it if it begins
            with the path of the directory.
        hidden: whether names that begin with a dot are served. ``.well-known`` always is (RFC 8615).

    Returns:
        The handler.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: there is no such directory, an extension or a name is invalid, or ``cache`` is not a valid
            header value.
    """
    served = Directory(
        root=_existing_directory(directory),
        cache=_checked("Cache-Control", cache),
        index=_checked_index(index),
        extensions=coded_extensions(precompressed),
        outside_links=outside_links,
    )

    async def handle(request: Request, state: object, pattern: str) -> Response:
        return await _respond_below(served, request, pattern, hidden)

    return handle


def serve_as_file_path(directory: FilePathLike) -> FilePathHandler:
    """Make a handler that answers with the files below a directory, without index files and precompressed ones.

    With ``with_route``, the whole path of the request is the path below the directory, as in Humphrey. With
    ``with_path_aware_route``, it is what follows the literal prefix of the pattern. The rest is as for
    ``serve_dir``.

    Args:
        directory: as for ``serve_dir``.

    Returns:
        The handler.

    Raises:
        TypeError, ValueError: as for ``serve_dir``.
    """
    below = serve_dir(directory, index=(), precompressed=())

    async def handle(request: Request, state: object, pattern: str = "*", /) -> Response:
        return await below(request, state, pattern)

    return handle


async def file_response(
    request: Request,
    path: FilePathLike,
    *,
    filename: str | None = None,
    content_type: str | None = None,
    cache: str = "no-cache",
    headers: HeadersLike = (),
) -> Response:
    """Answer a request with a file, in a handler of one's own, such as one that checks who may read it.

    Conditions and ranges count for GET and HEAD. Another method gets the whole file. A file that does not exist is
    a 404, and one that the process may not read a 403.

    Args:
        request: the request.
        path: the file. It is opened as it is, so it must not come from the client: use ``serve_dir`` for that.
        filename: the name under which the client stores the file (RFC 6266); any text. The media type is that of
            this name. If omitted, the client shows the file, and the type is that of the path.
        content_type: the value of the Content-Type field, instead of the type of the name. Text needs a
            ``charset``.
        cache: the value of the Cache-Control field; empty for none. Use ``private`` for a file that
            not all users may read.
        headers: additional header fields of the response. A Content-Disposition replaces that of ``filename``.

    Returns:
        A 200 with the file, a 206 with the requested ranges, or a 304 if the client has it.

    Raises:
        HttpError: the client gets no file: 403, 404, 412 or 416. If the handler does not catch it, it is answered
            by the error handler.
        OSError: a failure that is not the client's, such as too many open files.
        TypeError: the path is not a path.
        ValueError: ``cache``, ``content_type`` or a header field is invalid, or ``headers`` has a field that
            describes the file, such as ETag.
    """
    if content_type is None:
        content_type = media_type(os.fspath(path) if filename is None else filename)
    additional = _checked_additional(headers)
    facts = FileFacts(
        content_type=_checked("Content-Type", content_type),
        cache=_checked("Cache-Control", cache),
        disposition="" if filename is None or "Content-Disposition" in additional else attachment(filename),
    )
    response = await _respond_with(_absolute(path), request, facts)
    for name, value in additional:
        response = response.with_header(name, value)
    return response


async def _respond_below(directory: Directory, request: Request, pattern: str, hidden: bool) -> Response:
    if request.method not in SAFE_METHODS:
        raise _method_not_allowed()
    path = parse_path(request.path, pattern, hidden=hidden)
    if path is None:
        raise HttpError(404)
    return await with_file_in_thread(partial(respond, directory, path, request), OpenFile())


async def _respond_with(path: bytes, request: Request, facts: FileFacts) -> Response:
    return await with_file_in_thread(partial(_open_and_answer, path, request, facts), OpenFile())


def _open_and_answer(path: bytes, request: Request, facts: FileFacts, file: OpenFile) -> Response:
    try:
        opened = open_regular(path)
    except OSError as error:
        file.close()
        raise http_error_of(error) from error
    return answer(request, opened, facts, file)


def _method_not_allowed() -> HttpError:
    return HttpError(405, headers=[("Allow", ", ".join(SAFE_METHODS))])


def _absolute(path: FilePathLike) -> bytes:
    return os.path.abspath(os.fsencode(path))


def _existing_directory(directory: FilePathLike) -> bytes:
    absolute = _absolute(directory)
    if not os.path.isdir(absolute):
        raise ValueError(f"there is no directory {os.fsdecode(absolute)!r}: create it before its handler")
    return absolute


def _checked(name: str, value: str) -> str:
    """Check the value of a header field."""
    return Headers([(name, value)])[name]


def _checked_additional(headers: HeadersLike) -> Headers:
    """Check the fields that are added to a response with a file."""
    additional = Headers(headers)
    for name in additional.names & _OF_FILES.keys():
        raise ValueError(f"file_response sets the field {name} itself: {_OF_FILES[name]}")
    return additional


def _checked_index(index: Sequence[str]) -> tuple[bytes, ...]:
    if isinstance(index, str):
        raise TypeError(f"index is a collection of names: write ({index!r},)")
    for name in index:
        if name in ("", ".", "..") or "/" in name or "\0" in name:
            raise ValueError(f"{name!r} is not the name of a file: index is for names without a path")
    return tuple(os.fsencode(name) for name in index)

"""Find and answer with a file below a directory. Everything here blocks: it runs in a worker thread."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from errno import ENOENT
from typing import NamedTuple

from .._http._file_body import OpenFile
from .._http._media_types import media_type
from .._http._request import Request
from .._http._response import Response
from ._failed_open import http_error_of
from ._file_answer import answer
from ._precompressed import open_preferred
from ._representation import FileFacts
from ._resolver import FilePath, directory_location
from ._tree import Place, RegularFile, Tree


@dataclass(frozen=True, slots=True, kw_only=True)
class Directory:
    """A directory whose files are served.

    Attributes:
        root: its absolute path.
        cache: the value of the Cache-Control field; empty for none.
        index: the names of the files that are sent for a directory; the first that exists is.
        extensions: of precompressed files, by coding, the preferred one first.
        outside_links: whether links may lead out of the directory.
    """

    root: bytes
    cache: str
    index: tuple[bytes, ...]
    extensions: Mapping[str, str]
    outside_links: bool


class _Found(NamedTuple):
    """An open file, and the name by which it was requested."""

    name: bytes
    opened: RegularFile
    coding: str = ""


def respond(directory: Directory, path: FilePath, request: Request, file: OpenFile) -> Response:
    """Answer a GET or a HEAD.

    Args:
        directory: the directory.
        path: the path below it.
        request: the request.
        file: belongs to the response if that has a ``FileBody``; otherwise it is closed.

    Raises:
        HttpError: the client gets no file.
        OSError: a failure that is not the client's, such as too many open files.
    """
    try:
        with Tree(directory.root, outside_links=directory.outside_links) as tree:
            found = _find(tree, directory, path, request)
    except OSError as error:
        file.close()
        raise http_error_of(error) from error
    if found is None:
        file.close()
        return Response.redirect(directory_location(request.path, request.query), status=302)
    return answer(request, found.opened, _facts(directory, found), file)


def _facts(directory: Directory, found: _Found) -> FileFacts:
    return FileFacts(
        content_type=media_type(found.name.decode()),
        cache=directory.cache,
        negotiates=bool(directory.extensions),
        coding=found.coding,
    )


def _find(tree: Tree, directory: Directory, path: FilePath, request: Request) -> _Found | None:
    """Return the file that is sent; None if the path is that of a directory and has no slash at its end.

    Raises:
        OSError: there is none.
    """
    if path.is_directory:
        place = _directory(tree.walk(tree.top, path.names))
        return _prefer_coded(tree, directory, place, _find_index(tree, directory, place), request)
    if not path.names:
        return None
    *parents, name = path.names
    place = _directory(tree.walk(tree.top, parents))
    target = tree.walk(place, [name])
    if isinstance(target, RegularFile):
        return _prefer_coded(tree, directory, place, _Found(name, target), request)
    if not directory.index:
        raise _not_found()
    return None


def _find_index(tree: Tree, directory: Directory, place: Place) -> _Found:
    for name in directory.index:
        with suppress(FileNotFoundError):
            target = tree.walk(place, [name])
            if isinstance(target, RegularFile):
                return _Found(name, target)
    raise _not_found()


def _prefer_coded(tree: Tree, directory: Directory, place: Place, original: _Found, request: Request) -> _Found:
    """Return the precompressed file that the client prefers, if there is one, instead of the original."""

    def open_sibling(addition: bytes) -> RegularFile | None:
        target = tree.walk(place, [original.name + addition])
        return target if isinstance(target, RegularFile) else None

    accepted = request.headers.get_all("Accept-Encoding")
    preferred = open_preferred(accepted, directory.extensions, original.opened.status, open_sibling)
    if preferred is None:
        return original
    os.close(original.opened.descriptor)
    coding, opened = preferred
    return _Found(original.name, opened, coding)


def _directory(target: Place | RegularFile) -> Place:
    """Return a directory.

    Raises:
        OSError: it is a file, which is closed.
    """
    if isinstance(target, RegularFile):
        os.close(target.descriptor)
        raise _not_found()
    return target


def _not_found() -> OSError:
    return OSError(ENOENT, "no such file")

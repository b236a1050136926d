"""Bodies that need not be received, for handlers that read the body themselves."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING

import trio

from .._http._errors import body_too_long
from ._form_reader import FormReader
from ._parts import Parts

if TYPE_CHECKING:
    from .._http._body import Part
    from .._http._form import Form
    from .._http._form_parser import FormSettings


class StoredBody:
    """A body that is in memory. A ``BodyStream``.

    Args:
        content: the body.
    """

    __slots__ = ("_content", "_form")

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._form = FormReader()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        await trio.lowlevel.checkpoint()
        content, self._content = self._content, b""
        if not content:
            raise StopAsyncIteration
        return content

    @property
    def is_at_end(self) -> bool:
        """Whether nothing is left to be read."""
        return not self._content

    async def read(self, limit: int) -> bytes:
        """Read the rest. See ``BodyStream.read``."""
        if len(self._content) > limit:
            raise body_too_long(limit)
        return await anext(self, b"")

    def parts(self, content_type: str, max_parts: int) -> AsyncIterator[Part]:
        """Iterate over the parts. See ``BodyStream.parts``."""
        return aiter(Parts(self, content_type, max_parts=max_parts))

    async def form(self, content_type: str, settings: FormSettings) -> Form:
        """Read the form. See ``BodyStream.form``. All files are kept in memory, because the body is."""
        return await self._form.read(self, content_type, replace(settings, spool=inf))


class EmptyBody:
    """The body of a request without one. A ``BodyStream``. It has no state, so all requests share it."""

    __slots__ = ()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        await trio.lowlevel.checkpoint()
        raise StopAsyncIteration

    async def read(self, limit: int) -> bytes:
        """Read the rest. See ``BodyStream.read``."""
        await trio.lowlevel.checkpoint()
        return b""

    def parts(self, content_type: str, max_parts: int) -> AsyncIterator[Part]:
        """Iterate over the parts. See ``BodyStream.parts``."""
        return aiter(Parts(self, content_type, max_parts=max_parts))

    async def form(self, content_type: str, settings: FormSettings) -> Form:
        """Read the form. See ``BodyStream.form``."""
        return await FormReader().read(self, content_type, settings)


EMPTY_BODY = EmptyBody()

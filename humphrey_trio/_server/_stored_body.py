"""The body of a request that does not come from a connection, for a handler that reads the body itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import trio

from .._http._errors import HttpError
from ._parts import Parts

if TYPE_CHECKING:
    from .._http._body import Part


class StoredBody:
    """A body that is in memory. A ``BodyStream``.

    Args:
        content: the body.
    """

    __slots__ = ("_content",)

    def __init__(self, content: bytes) -> None:
        self._content = content

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        await trio.lowlevel.checkpoint()
        content, self._content = self._content, b""
        if not content:
            raise StopAsyncIteration
        return content

    async def read(self, limit: int) -> bytes:
        """Read the rest. See ``BodyStream.read``."""
        if len(self._content) > limit:
            raise HttpError(413, f"the body is longer than {limit} bytes")
        return await anext(self, b"")

    def parts(self, content_type: str, max_parts: int) -> AsyncIterator[Part]:
        """Iterate over the parts. See ``BodyStream.parts``."""
        return aiter(Parts(self, content_type, max_parts=max_parts))

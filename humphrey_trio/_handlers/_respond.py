"""How the handlers of this package answer: with a body from a file, or with a refusal."""

from __future__ import annotations

from typing import Final

from .._http._file_body import FileBody
from .._http._headers import HeadersLike
from .._http._response import Response
from .._http._status import reason_phrase


class FileResponse(Response):
    """A response whose body is in a file.

    Attributes:
        body: the body, which belongs to the response.
    """

    __slots__ = ("body",)

    def __init__(self, status: int, headers: HeadersLike, body: FileBody) -> None:
        super().__init__(status, headers=headers)
        self.body: Final = body

    @property
    def content(self) -> bytes:
        """Not available.

        Raises:
            RuntimeError: always, because the body is in a file.
        """
        raise RuntimeError("the body of this response is in a file: read it from response.body")

    def with_header(self, name: str, value: str) -> FileResponse:
        """Return a copy with one more header field at the end, and the same body.

        Args:
            name, value: as for ``Headers.with_header``.

        Raises:
            ValueError, TypeError: as for the constructor.
        """
        return FileResponse(self.status, self.headers.with_header(name, value), self.body)


def with_file(response: Response, body: FileBody) -> Response:
    """Return a response with a body from a file.

    Args:
        response: its status and its header fields, without content.
        body: the body. It belongs to the response that is returned.
    """
    return FileResponse(response.status, response.headers, body)


def refuse(status: int, headers: HeadersLike = ()) -> Response:
    """Return an error response.

    Args:
        status: the status code, from 400 to 599.
        headers: header fields of the response, such as Allow.
    """
    return Response(status, f"{status} {reason_phrase(status)}\n", headers)

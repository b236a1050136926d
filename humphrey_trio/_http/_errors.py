"""The exception with which a handler asks for an error response."""

from __future__ import annotations

from ._headers import Headers, HeadersLike


class HttpError(Exception):
    """A request is answered with an error. Raise it in a handler.

    The error handler of the app creates the response, and ``headers`` are added to it. Nothing is logged.

    Args:
        status: the status code of the response, from 400 to 599.
        detail: what is wrong with the request. The default error page shows it, so it must not contain secrets.
        headers: header fields that are added to the response.

    Attributes:
        status: as the argument.
        detail: as the argument.
        headers: as the argument, as ``Headers``.

    Raises:
        TypeError: the status is not an int, or the detail is not a str.
        ValueError: the status is not that of an error, or a header field is invalid.
    """

    def __init__(self, status: int, detail: str = "", *, headers: HeadersLike = ()) -> None:
        if not isinstance(status, int) or not isinstance(detail, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(
                "an HttpError takes an int status, then a str:"
                f" not HttpError({type(status).__name__}, {type(detail).__name__}). Write HttpError(400, 'detail')"
            )
        if not 400 <= status <= 599:
            raise ValueError(
                f"{status} is not the status of an error: return a Response instead of raising HttpError"
            )
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = Headers(headers)


def body_too_long(limit: int) -> HttpError:
    """Return the error for a body that exceeds a limit in bytes (RFC 9110, section 15.5.14)."""
    return HttpError(413, f"the body is longer than {limit} bytes")

"""The standard request methods."""

from __future__ import annotations

from enum import StrEnum


class Method(StrEnum):
    """The standard request methods (RFC 9110, section 9; PATCH is RFC 5789).

    A member is equal to its name as a str: ``request.method == Method.GET``. ``Request.method`` itself is a plain
    str, because a request may have another method.
    """

    GET = "GET"
    HEAD = "HEAD"
    POST = "POST"
    PUT = "PUT"
    DELETE = "DELETE"
    CONNECT = "CONNECT"
    OPTIONS = "OPTIONS"
    TRACE = "TRACE"
    PATCH = "PATCH"

"""Request methods: names for the standard ones; any other token is a plain str."""

from __future__ import annotations

from enum import StrEnum


class Method(StrEnum):
    """The standard request methods (RFC 9110, section 9; PATCH is RFC 5789).

    ``Request.method`` is a str, which compares equal to these: ``request.method == Method.GET``.
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

"""The standard request methods, and the names of all registered ones."""

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


#: The methods of IANA's HTTP method registry (RFC 9110, section 16.1). ``*`` is registered so that no method has
#: this name. QUERY is the safe method with a body.
REGISTERED_METHODS = frozenset(
    (
        *Method,
        *("ACL", "BASELINE-CONTROL", "BIND", "CHECKIN", "CHECKOUT", "COPY", "LABEL", "LINK", "LOCK", "MERGE"),
        *("MKACTIVITY", "MKCALENDAR", "MKCOL", "MKREDIRECTREF", "MKWORKSPACE", "MOVE", "ORDERPATCH", "PRI"),
        *("PROPFIND", "PROPPATCH", "QUERY", "REBIND", "REPORT", "SEARCH", "UNBIND", "UNCHECKOUT", "UNLINK"),
        *("UNLOCK", "UPDATE", "UPDATEREDIRECTREF", "VERSION-CONTROL"),
    )
)


def check_case(method: str) -> None:
    """Check that a standard method is in upper case, because letter case is significant (RFC 9110, section 9.1).

    Raises:
        ValueError: it is not.
    """
    if method not in REGISTERED_METHODS and method.upper() in REGISTERED_METHODS:
        raise ValueError(f"methods are case-sensitive: write {method.upper()!r} instead of {method!r}")

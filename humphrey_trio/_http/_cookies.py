"""Cookies: the Cookie field of requests and the Set-Cookie field of responses (RFC 6265bis).

What clients send is parsed leniently. What the server sends is checked when it is constructed, because user agents
ignore an invalid cookie silently.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass
from datetime import UTC, datetime
from enum import Enum

from ._dates import format_date
from ._fields import Fields
from ._headers import TOKEN

# RFC 6265bis, section 4.1.1.
_OCTETS = r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*"
_VALUE = re.compile(rf'{_OCTETS}|"{_OCTETS}"')
_PATH = re.compile(r"/(?:[\x20-\x3a\x3c-\x7e]*[\x21-\x3a\x3c-\x7e])?")
_DOMAIN = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")
# User agents ignore longer ones (RFC 6265bis, sections 5.6 and 5.7).
_MAX_SIZE = 4096
_MAX_ATTRIBUTE = 1024
# A user agent cannot parse an earlier date (RFC 6265bis, section 5.1.1).
_FIRST_YEAR = 1601


class SameSite(Enum):
    """Which requests from other sites carry a cookie (RFC 6265bis, section 5.6.7).

    Attributes:
        STRICT: none.
        LAX: only navigations of the whole page with a safe method, such as a click on a link.
        NONE: all. The cookie must be secure.
    """

    STRICT = "Strict"
    LAX = "Lax"
    NONE = "None"


def parse_cookies(values: Iterable[str]) -> Fields:
    """Parse the cookies that a client sent (RFC 6265bis, section 4.2.1).

    Args:
        values: the values of all Cookie fields.

    Returns:
        The cookies in the order of the fields. If a name is repeated, the first is that with the longest path,
        because user agents sort them so. Items without a name or ``=`` are omitted. Quotation marks are part of a
        value, and nothing is decoded.
    """
    items = (item.partition("=") for value in values for item in value.split(";"))
    # strip() without arguments would also remove other white space, such as NBSP.
    pairs = ((name.strip(" \t"), value.strip(" \t")) for name, separator, value in items if separator)
    return Fields([(name, value) for name, value in pairs if name])


@dataclass(frozen=True, slots=True)
class Cookie:
    """A cookie as a client sends it.

    Attributes:
        name: a token (RFC 9110, section 5.6.2).
        value: printable ASCII without white space, quotation marks, commas, semicolons and backslashes. Quotation
            marks around the whole value are allowed, and are part of it.

    Raises:
        TypeError: the name or the value is not a str.
        ValueError: the name or the value is invalid.
    """

    name: str
    value: str

    def __post_init__(self) -> None:
        _check_pair(self.name, self.value)

    def to_header(self) -> str:
        """Return the cookie in the form of the Cookie field. Several are separated by ``"; "``."""
        return f"{self.name}={self.value}"


@dataclass(frozen=True, slots=True)
class SetCookie:
    """A cookie that a response sets: the value of one Set-Cookie field (RFC 6265bis, section 4.1).

    Attributes:
        name: a token. The prefix ``__Secure-`` demands ``secure``. The prefix ``__Host-`` demands ``secure``,
            ``path="/"`` and no ``domain``.
        value: as for ``Cookie``.
        path: only requests for this path and the paths below it carry the cookie. None means the directory of the
            request's path.
        domain: this host and all hosts below it get the cookie. None means only the host of the request.
        max_age: seconds until the cookie expires, counted from its arrival; 0 deletes it. Takes precedence over
            ``expires``. With neither, the cookie lasts until the user agent ends its session.
        expires: when the cookie expires, with a time zone.
        secure: whether the cookie is only sent over secure connections.
        http_only: whether scripts cannot read the cookie.
        same_site: which requests from other sites carry the cookie. None leaves it to the user agent, which mostly
            means ``SameSite.LAX``.
        partitioned: whether the cookie is stored apart for each top-level site (CHIPS). It must be secure.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is invalid, or user agents would ignore the cookie with these arguments.
    """

    name: str
    value: str
    _: KW_ONLY
    path: str | None = "/"
    domain: str | None = None
    max_age: int | None = None
    expires: datetime | None = None
    secure: bool = False
    http_only: bool = False
    same_site: SameSite | None = None
    partitioned: bool = False

    def __post_init__(self) -> None:
        _check_pair(self.name, self.value)
        _check_scope(self.path, self.domain)
        _check_end(self.max_age, self.expires)
        _check_same_site(self.same_site)
        self._check_security()

    @classmethod
    def deleted(
        cls, name: str, path: str | None = "/", *, domain: str | None = None, partitioned: bool = False
    ) -> SetCookie:
        """Create a field that deletes a cookie.

        Args:
            name: the name of the cookie.
            path, domain, partitioned: as they were when the cookie was set. Otherwise it is not deleted.

        Returns:
            The field.

        Raises:
            TypeError, ValueError: as for the constructor.
        """
        _check_pair(name, "")
        return cls(
            name,
            "",
            path=path,
            domain=domain,
            max_age=0,
            expires=datetime(1970, 1, 1, tzinfo=UTC),
            secure=partitioned or _is_host_cookie(name) or _is_secure_cookie(name),
            partitioned=partitioned,
        )

    def to_header(self) -> str:
        """Return the value of the Set-Cookie field."""
        same_site = None if self.same_site is None else self.same_site.value
        expires = None if self.expires is None else format_date(int(self.expires.timestamp()))
        attributes = (
            ("Expires", expires),
            ("Max-Age", None if self.max_age is None else int(self.max_age)),
            ("Domain", self.domain),
            ("Path", self.path),
            ("SameSite", same_site),
        )
        flags = (("Secure", self.secure), ("HttpOnly", self.http_only), ("Partitioned", self.partitioned))
        return "; ".join(
            [
                f"{self.name}={self.value}",
                *(f"{name}={value}" for name, value in attributes if value is not None),
                *(name for name, is_set in flags if is_set),
            ]
        )

    def _check_security(self) -> None:
        """Check the arguments that demand each other (RFC 6265bis, sections 4.1.2.7 and 4.1.3)."""
        if _is_host_cookie(self.name) and (self.path != "/" or self.domain is not None):
            raise ValueError(f"cookie {self.name}: the prefix __Host- needs path='/', and no domain")
        if self.secure:
            return
        if _is_host_cookie(self.name) or _is_secure_cookie(self.name):
            raise ValueError(f"cookie {self.name}: the prefixes __Host- and __Secure- need secure=True")
        if self.same_site is SameSite.NONE:
            raise ValueError(f"cookie {self.name}: SameSite.NONE needs secure=True")
        if self.partitioned:
            raise ValueError(f"cookie {self.name}: partitioned=True needs secure=True")


def _is_host_cookie(name: str) -> bool:
    return name.lower().startswith("__host-")  # in any letter case (RFC 6265bis, section 5.7)


def _is_secure_cookie(name: str) -> bool:
    return name.lower().startswith("__secure-")


def _check_pair(name: str, value: str) -> None:
    if not isinstance(name, str) or not isinstance(value, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(
            "the name and the value of a cookie must be str, not"
            f" {type(name).__name__} and {type(value).__name__}: convert them first"
        )
    if not TOKEN.fullmatch(name):
        raise ValueError(f"{name!r} is not a cookie name: use letters, digits and -!#$%&'*+.^_`|~")
    if not _VALUE.fullmatch(value):
        raise ValueError(
            f"the value of cookie {name} contains white space, a control character, a quotation mark, a comma, a"
            " semicolon, a backslash, or a character outside ASCII: encode it first, as with urllib.parse.quote"
        )
    if len(name) + len(value) > _MAX_SIZE:
        raise ValueError(
            f"cookie {name} has {len(name) + len(value)} bytes: user agents ignore more than {_MAX_SIZE}"
        )


def _check_scope(path: str | None, domain: str | None) -> None:
    if path is not None and not (len(path) <= _MAX_ATTRIBUTE and _PATH.fullmatch(path)):
        raise ValueError(
            f"{path!r} is not a cookie path: begin it with '/', encode semicolons, control characters, characters"
            f" outside ASCII and a space at the end, and use at most {_MAX_ATTRIBUTE} characters"
        )
    if domain is not None and not (len(domain) <= _MAX_ATTRIBUTE and _DOMAIN.fullmatch(domain)):
        raise ValueError(
            f"{domain!r} is not a cookie domain: write a host such as 'example.com', in ASCII ('xn--...'), without"
            " a leading dot, a port and a scheme"
        )


def _check_same_site(same_site: SameSite | None) -> None:
    if same_site is None or isinstance(same_site, SameSite):  # pyright: ignore[reportUnnecessaryIsInstance]
        return
    named = [one for one in SameSite if one.value.lower() == str(same_site).lower()]
    wanted = str(named[0]) if named else "SameSite.STRICT, SameSite.LAX or SameSite.NONE"
    raise TypeError(f"same_site must be {wanted}, not {same_site!r}")


def _check_end(max_age: int | None, expires: datetime | None) -> None:
    if max_age is not None and not isinstance(max_age, int):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"max_age must be an int of whole seconds, not {type(max_age).__name__}")
    if max_age is not None and max_age < 0:
        raise ValueError(f"max_age must be at least 0, which deletes the cookie, not {max_age}")
    if expires is None:
        return
    if not isinstance(expires, datetime):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"expires must be a datetime, not {type(expires).__name__}: for seconds use max_age")
    if expires.utcoffset() is None:
        raise ValueError("expires needs a time zone: datetime.now(UTC) + timedelta(...)")
    if expires.astimezone(UTC).year < _FIRST_YEAR:
        raise ValueError(f"user agents cannot read years before {_FIRST_YEAR}: use SetCookie.deleted")

"""What a file means in HTTP: its validators, and the header fields that describe it (RFC 9110, section 8)."""

from __future__ import annotations

import os
from dataclasses import dataclass

from .._http._conditions import Validators
from .._http._dates import format_date
from .._http._entity_tags import EntityTag

_SECOND = 10**9
# A file system stores times in steps: of some milliseconds on Linux, of two seconds on FAT. A file that was
# modified so recently may be modified again without a new time.
_STEP = 2 * _SECOND


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFacts:
    """How a file is presented to clients, beside its content.

    Attributes:
        content_type: the value of the Content-Type field.
        cache: the value of the Cache-Control field; empty for none.
        disposition: the value of the Content-Disposition field; empty for none.
        negotiates: whether there may be other encodings of the file, among which Accept-Encoding chooses.
        coding: the content coding of this file; empty for none.
    """

    content_type: str
    cache: str = ""
    disposition: str = ""
    negotiates: bool = False
    coding: str = ""

    def caching_fields(self) -> list[tuple[str, str]]:
        """Return the fields that a 304 has, beside the ETag (RFC 9110, section 15.4.5)."""
        fields = [("Cache-Control", self.cache)] if self.cache else []
        return [*fields, ("Vary", "Accept-Encoding")] if self.negotiates else fields

    def content_fields(self) -> list[tuple[str, str]]:
        """Return the fields that describe the content, without Content-Type."""
        fields = [("Content-Encoding", self.coding)] if self.coding else []
        return [*fields, ("Content-Disposition", self.disposition)] if self.disposition else fields


def validators_of(status: os.stat_result, coding: str, now: int) -> Validators:
    """Return the validators of a file.

    The entity tag is made of the time of modification, the size, the inode and the coding. It is weak while the
    file may change without changing them (RFC 9110, section 8.8.1). The date is never in the future (section
    8.8.2.1).

    Args:
        status: the result of ``fstat``.
        coding: the content coding; empty for none.
        now: the current time, in nanoseconds since 1970.
    """
    modified = status.st_mtime_ns
    parts = [f"{modified:x}", f"{status.st_size:x}", f"{status.st_ino:x}", *([coding] if coding else [])]
    tag = EntityTag("-".join(parts), weak=modified + _STEP > now)
    # A date before 1970 is not a real one, and may lie outside the years of HTTP dates.
    return Validators(tag=tag, modified=min(modified, now) // _SECOND if modified >= 0 else None)


def validator_fields(current: Validators) -> list[tuple[str, str]]:
    """Return the ETag and Last-Modified fields."""
    fields = [("ETag", str(current.tag))]
    return fields if current.modified is None else [*fields, ("Last-Modified", format_date(current.modified))]

"""The head of one part of a multipart form: its names, its media type and its charset (RFC 7578, section 4).

This module interprets the fields of a head. It does not search a body for parts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from ._charset import decode_content
from ._errors import HttpError
from ._headers import Headers
from ._parameters import media_type, parse_parameters

# RFC 7578, section 4.4.
_DEFAULT_TYPE = "text/plain"
# With these, the content is sent as it is (RFC 2045, section 6.2).
_IDENTITIES = frozenset({"7bit", "8bit", "binary"})
_ONCE = ("Content-Disposition", "Content-Type", "Content-Transfer-Encoding")
_ESCAPED = re.compile(r'\\(["\\])')
_EXTENDED = re.compile(r"(?i:(utf-8)|iso-8859-1)'[^']*'(.*)")


@dataclass(frozen=True, slots=True)
class PartHead:
    """The head of one part of a multipart form.

    Attributes:
        name: the name of the field.
        filename: the name of the file as the client sent it; None if the part is a text field.
        content_type: the media type, in lower case and without parameters; ``text/plain`` if none was sent.
        headers: all fields of the head. Bytes that are not ASCII are in latin-1.
    """

    name: str
    filename: str | None
    content_type: str
    headers: Headers


def parse_part_head(fields: Iterable[tuple[str, str]]) -> PartHead:
    """Interpret the fields of the head of a part.

    Args:
        fields: pairs of a name and a value, in latin-1.

    Raises:
        HttpError: 400 if the head is malformed, has no name, or has a Content-Transfer-Encoding that changes the
            content.
    """
    try:
        headers = Headers([(name, value.strip(" \t")) for name, value in fields])
        parameters = _disposition(headers)
    except ValueError as error:
        raise HttpError(400, f"the head of a part is malformed: {error}") from None
    kind = media_type(headers.get("Content-Type", "")) or _DEFAULT_TYPE
    return PartHead(_decoded(parameters["name"]), _filename(parameters), kind, headers)


def decode_text(head: PartHead, content: bytes) -> str:
    """Decode the content of a text field (RFC 7578, section 4.5), which is UTF-8 unless its head says otherwise.

    Raises:
        HttpError: 400 if the content is malformed in its charset, 415 if the charset is not supported.
    """
    return decode_content(head.headers.get("Content-Type", ""), content, f"the field {head.name!r}")


def _disposition(headers: Headers) -> dict[str, str]:
    """Check the fields of a head, and return the parameters of Content-Disposition."""
    for name in _ONCE:
        if len(headers.get_all(name)) > 1:
            raise ValueError(f"{name} is repeated")
    encoding = headers.get("Content-Transfer-Encoding", "binary").lower()
    if encoding not in _IDENTITIES:
        # Deprecated, and unknown to browsers (RFC 7578, section 4.7).
        raise ValueError(f"the Content-Transfer-Encoding {encoding!r} is not supported: send the content as it is")
    disposition = headers.get("Content-Disposition", "")
    parameters = parse_parameters(disposition)
    if media_type(disposition) != "form-data" or "name" not in parameters:
        raise ValueError("Content-Disposition must be form-data with a name")
    return parameters


def _filename(parameters: dict[str, str]) -> str | None:
    if "filename" in parameters:
        return _decoded(parameters["filename"])
    # Forbidden in forms (RFC 7578, section 4.2), but sent by old versions of urllib3 for names that are not ASCII.
    extended = _EXTENDED.fullmatch(parameters.get("filename*", ""))
    return (
        None
        if extended is None
        else unquote_to_bytes(extended[2]).decode("utf-8" if extended[1] else "latin-1", "replace")
    )


def _decoded(value: str) -> str:
    """Decode a name as browsers encode it (HTML standard, section 4.10.21.8), or as older clients do."""
    if value.startswith('"'):
        value = value[1:-1]
    if '\\"' in value:
        value = _ESCAPED.sub(r"\1", value)
    else:
        value = value.replace("%0D", "\r").replace("%0A", "\n").replace("%22", '"')
    return value.encode("latin-1").decode("utf-8", "replace")

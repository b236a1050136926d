"""JSON in requests and responses, strictly by RFC 8259.

The module ``json`` accepts more than JSON. What it adds is refused here, because other programs refuse it, or read
it in another way.
"""

from __future__ import annotations

import json
import re
from math import isinf
from typing import Any, NoReturn

_BOM = "\ufeff"
# The escapes in the strings of a valid text. A match with a first group is half of a surrogate pair.
_ESCAPE = re.compile(
    r"\\(?:u[Dd][89ABab][0-9A-Fa-f]{2}\\u[Dd][C-Fc-f][0-9A-Fa-f]{2}|(u[Dd][89A-Fa-f][0-9A-Fa-f]{2})|.)"
)


class JsonError(ValueError):
    """A text is not JSON that can be accepted. ``str(error)`` names the reason, and the place if it is known.

    Attributes:
        reason: why, without the place.
        line: the number of the line, from 1; None if it is not known.
        column: the number of the character in the line, from 1; None if it is not known.
    """

    def __init__(self, message: str, line: int | None = None, column: int | None = None) -> None:
        super().__init__(message if line is None else f"{message}: line {line}, column {column}")
        self.reason = message
        self.line = line
        self.column = column


def loads_strict(data: bytes) -> Any:
    """Parse a JSON text (RFC 8259).

    A byte order mark at the start is ignored, as RFC 8259, section 8.1, allows. If a name is repeated in an
    object, its last value counts.

    Args:
        data: the text, in UTF-8.

    Returns:
        A dict, list, str, int, float, bool or None.

    Raises:
        JsonError: the text is not UTF-8 or not JSON; contains NaN or Infinity, a number that is too large for a
            float, an integer with more digits than Python converts (``sys.get_int_max_str_digits``), or half of a
            surrogate pair; or is nested more deeply than Python's recursion limit allows.
    """
    text = _decode(data)
    try:
        value = _DECODER.decode(text)
    except JsonError:
        raise
    except json.JSONDecodeError as error:
        raise JsonError(error.msg, error.lineno, error.colno) from None
    except RecursionError:
        raise JsonError("arrays and objects are nested too deeply") from None
    except ValueError:
        raise JsonError("an integer has too many digits") from None
    # The search for an escape is quick, and most texts have none of these.
    if "\\ud" in text or "\\uD" in text:
        _check_surrogates(text)
    return value


def dumps(value: object) -> bytes:
    """Serialise a value as JSON, in UTF-8 and without white space.

    Args:
        value: a dict, list, tuple, str, int, float, bool or None. Keys of a dict that are int, float, bool or None
            become str.

    Raises:
        TypeError: the value contains an object of another type.
        ValueError: the value contains NaN, an infinity, half of a surrogate pair, or itself, or is nested too
            deeply.
    """
    try:
        return _ENCODER.encode(value).encode()
    except TypeError as error:
        if "type method" in str(error):
            raise TypeError(f"not JSON: {error}. Call the method: write request.json()") from None
        raise TypeError(
            f"not JSON: {error}. Convert it to a dict, list, str, int, float, bool or None first"
        ) from None
    except RecursionError:
        raise ValueError("not JSON: the value is nested too deeply") from None
    except UnicodeEncodeError:
        raise ValueError("not JSON: a str contains half of a surrogate pair") from None
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from None


def _decode(data: bytes) -> str:
    try:
        return data.decode().removeprefix(_BOM)
    except UnicodeDecodeError as error:
        raise _error_at("the text is not UTF-8", data[: error.start].decode()) from None


def _check_surrogates(text: str) -> None:
    for escape in _ESCAPE.finditer(text):
        if escape[1]:
            raise _error_at(f"\\{escape[1]} is half of a surrogate pair", text[: escape.start()])


def _error_at(reason: str, before: str) -> JsonError:
    """Return the error for the character behind a text."""
    before = before.removeprefix(_BOM)
    return JsonError(reason, before.count("\n") + 1, len(before) - before.rfind("\n"))


def _parse_float(text: str) -> float:
    number = float(text)
    if isinf(number):
        raise JsonError("a number is too large")
    return number


def _refuse_constant(constant: str) -> NoReturn:
    raise JsonError(f"{constant} is not JSON")


_DECODER = json.JSONDecoder(parse_float=_parse_float, parse_constant=_refuse_constant)
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))

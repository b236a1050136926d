"""Convert the text of a parameter, as ``request.path_param`` and ``request.query_param`` do.

int and float accept more than a peer should send: white space, underscores, digits of other scripts, ``nan``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from math import isinf

from .._type_variables import T

_INTEGER = re.compile(r"-?[0-9]+")
_DECIMAL = re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:[Ee][-+]?[0-9]+)?")


def convert_text(text: str, convert: Callable[[str], T]) -> T:
    """Convert a text.

    Args:
        text: the text that the peer sent, decoded.
        convert: called with the text. With ``int``, only the digits 0 to 9 with an optional minus in front are a
            number. With ``float``, only a decimal number, with an optional exponent, that is not too large.

    Raises:
        ValueError: the text cannot be converted: ``convert`` raised a ``ValueError``, an ``ArithmeticError`` or a
            ``LookupError``.
        TypeError: ``convert`` is ``bool``.
    """
    if convert is bool:
        raise TypeError(
            "bool converts every text that is not empty to True, 'false' included: pass a function such as"
            " {'true': True, 'false': False}.__getitem__, or compare the text"
        )
    if (convert is int and not _INTEGER.fullmatch(text)) or (convert is float and not _is_finite(text)):
        raise ValueError("not a number")
    try:
        return convert(text)
    except (ArithmeticError, LookupError) as exc:
        raise ValueError(str(exc)) from exc


def _is_finite(text: str) -> bool:
    return _DECIMAL.fullmatch(text) is not None and not isinf(float(text))

"""Content negotiation (RFC 9110, section 12.5): choose a content coding or a media type for a response.

Members of a field that are malformed are ignored. If a member is repeated, its highest weight counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from ._headers import TCHAR

IDENTITY = "identity"

_TOKEN = f"{TCHAR}+"
_QUOTED = r'"[^"\\]*(?:\\.[^"\\]*)*"'
# In thousandths, because a weight has at most three decimal places (RFC 9110, section 12.4.2).
_FULL_WEIGHT = 1000
_LEAST_WEIGHT = 1
_QVALUE = re.compile(r"0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?")

_CODING = re.compile(rf"({_TOKEN})(?:[ \t]*;[ \t]*q=([0-9.]+))?")
# Names from before RFC 2068 with the same meaning (RFC 9110, section 8.4.1).
_ALIASES = {"x-gzip": "gzip", "x-compress": "compress"}

# A member of a list whose members may contain quoted commas. A quotation without an end extends to the end of the
# text, so the expression matches at every position but a comma, and never goes back.
_MEMBER = re.compile(r'(?:[^",]+|"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z))+', re.DOTALL)
_MEDIA_RANGE = re.compile(rf"\*/\*|{_TOKEN}/{_TOKEN}")
_PARAMETER = re.compile(rf"[ \t]*;[ \t]*(?:({_TOKEN})=({_TOKEN}|{_QUOTED}))?")


def choose_coding(values: Iterable[str], offers: Sequence[str]) -> str | None:
    """Choose a content coding by Accept-Encoding (RFC 9110, section 12.5.3).

    Args:
        values: the values of all Accept-Encoding fields.
        offers: the codings that the server has beside ``identity``, in lower case, the preferred one first.

    Returns:
        The acceptable coding with the highest weight; among equals the first of ``offers``, and ``identity`` after
        them. ``identity`` has the lowest weight if neither it nor ``*`` is listed, and is chosen if there is no
        field. None if nothing is acceptable: answer with 406, or send ``identity`` all the same.
    """
    weights: dict[str, int] = {}
    for value in values:
        for coding, weight in _codings(value):
            weights[coding] = max(weight, weights.get(coding, 0))
    others = weights.get("*")
    ranked = [(weights.get(offer, others or 0), offer) for offer in offers]
    ranked.append((weights.get(IDENTITY, _LEAST_WEIGHT if others is None else others), IDENTITY))
    return _best(ranked)


def choose_media_type(values: Iterable[str], offers: Sequence[str]) -> str | None:
    """Choose a media type by Accept (RFC 9110, section 12.5.1).

    Args:
        values: the values of all Accept fields.
        offers: the media types that the server has, in lower case, without parameters, the preferred one first.

    Returns:
        The acceptable media type with the highest weight; among equals the first of ``offers``. None if nothing is
        acceptable. If there is no field, everything is. The weight of a type is that of the most specific range
        that contains it. A range with parameters, such as ``text/html;charset=utf-8``, counts only if no range
        without parameters names the type.
    """
    weights: dict[tuple[str, bool], int] = {}
    given = list(values)
    for value in given:
        for media_range, has_parameters, weight in _media_ranges(value):
            key = media_range, has_parameters
            weights[key] = max(weight, weights.get(key, 0))
    default = 0 if given else _FULL_WEIGHT
    return _best([(_media_weight(weights, offer, default), offer) for offer in offers])


def _best(ranked: Sequence[tuple[int, str]]) -> str | None:
    weight, name = max(ranked, key=lambda entry: entry[0], default=(0, ""))
    return name if weight else None


# --------------------------------------------------------------------------------------------- members


def _codings(value: str) -> Iterator[tuple[str, int]]:
    for member in value.lower().split(","):
        found = _CODING.fullmatch(member.strip(" \t"))
        weight = _weight(found[2] or "1") if found else None
        if found and weight is not None:
            yield _ALIASES.get(found[1], found[1]), weight


def _media_ranges(value: str) -> Iterator[tuple[str, bool, int]]:
    """Parse an Accept field into media ranges, whether they have parameters, and weights."""
    for member in _MEMBER.findall(value):
        parsed = _media_range(member.strip(" \t"))
        if parsed is not None:
            yield parsed


def _media_range(member: str) -> tuple[str, bool, int] | None:
    found = _MEDIA_RANGE.match(member)
    if found is None:
        return None
    weight: int | None = _FULL_WEIGHT
    has_parameters = False
    at = found.end()
    while parameter := _PARAMETER.match(member, at):
        at = parameter.end()
        # The parameter q is the weight wherever it stands (RFC 9110, section 12.5.1).
        if parameter[1] in ("q", "Q"):
            weight = _weight(parameter[2])
        elif parameter[1]:
            has_parameters = True
    return (found[0].lower(), has_parameters, weight) if at == len(member) and weight is not None else None


def _weight(text: str) -> int | None:
    """Parse a weight (RFC 9110, section 12.4.2) into thousandths; None if it is malformed."""
    return round(float(text) * _FULL_WEIGHT) if _QVALUE.fullmatch(text) else None


def _media_weight(weights: dict[tuple[str, bool], int], offer: str, default: int) -> int:
    any_subtype = f"{offer.partition('/')[0]}/*"
    for key in ((offer, False), (offer, True), (any_subtype, False), ("*/*", False)):
        if key in weights:
            return weights[key]
    return default

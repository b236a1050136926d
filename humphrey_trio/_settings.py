"""Checks of the settings that an application passes: numbers, and objects of one type.

The messages name the setting as it is written, such as ``Limits(body=...)``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from difflib import get_close_matches
from math import inf

# What shows that a text was meant as a size, such as "2MB".
_SIZES = {"kb": "1000", "mb": "1000 * 1000", "kib": "1024", "mib": "1024 * 1024"}


def check_whole(name: str, value: object, least: int = 1, most: float = inf, hint: str = "") -> None:
    """Check a whole number.

    Args:
        name: the setting, such as ``Limits(body=...)``.
        value: its value.
        least, most: the smallest and the largest allowed number.
        hint: what else the message says, such as the meaning of None.

    Raises:
        TypeError: it is not an int.
        ValueError: it is out of range.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number, not {value!r}{_as_number(value)}")
    if not least <= value <= most:
        wanted = f"at least {least}" if most == inf else f"from {least} to {most}"
        raise ValueError(f"{name} must be {wanted}{hint}")


def check_seconds(name: str, value: object, *, zero: bool = False, finite: bool = False, hint: str = "") -> None:
    """Check a number of seconds.

    Args:
        name: the setting, such as ``Timeouts(idle=...)``.
        value: its value.
        zero: whether it may be zero.
        finite: whether ``math.inf`` is refused.
        hint: what else the message about the range says.

    Raises:
        TypeError: it is not a number.
        ValueError: it is out of range, or NaN.
    """
    wanted = f"a {'finite ' if finite else ''}number of seconds{', at least 0' if zero else ' above zero'}"
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{name} must be {wanted}, not {value!r}{_as_number(value)}")
    if not (value > 0 or (zero and value == 0)) or (finite and value == inf):
        raise ValueError(f"{name} must be {wanted}{hint}")


def check_bool(name: str, value: object) -> None:
    """Check a setting that is True or False.

    Raises:
        TypeError: it is neither.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {value!r}")


def check_type(name: str, value: object, kind: type, *, example: str = "...", optional: bool = False) -> None:
    """Check that a setting is an object of one type.

    Args:
        name: the setting, such as ``limits``.
        value: its value.
        kind: the type.
        example: the arguments of the type in the message.
        optional: whether None is allowed.

    Raises:
        TypeError: it is another object. The message says what to write.
    """
    if isinstance(value, kind) or (optional and value is None):
        return
    wanted, found = kind.__name__, type(value).__name__
    if isinstance(value, type) and issubclass(value, kind):
        found = f"the class {wanted}"
    none = " or None" if optional else ""
    raise TypeError(f"{name} is a {wanted}{none}, not {found}: write {name}={wanted}({example})")


def check_argument(call: str, value: object, kind: type, example: str = "...") -> None:
    """Check that the argument of a method is an object of one type.

    Args:
        call: the name of the method.
        value: the argument.
        kind: the type.
        example: the arguments of the type in the message.

    Raises:
        TypeError: it is another object. The message says what to write.
    """
    if not isinstance(value, kind):
        wanted = kind.__name__
        raise TypeError(f"{call} takes a {wanted}, not {type(value).__name__}: write {call}({wanted}({example}))")


def check_names(given: Iterable[str], known: Collection[str], what: str) -> None:
    """Check the names of keyword arguments.

    Args:
        given: the names.
        known: the allowed names.
        what: what takes them, for the message.

    Raises:
        TypeError: a name is not known. The message has a similar one, or all.
    """
    for name in given:
        if name not in known:
            similar = get_close_matches(name, known, 1)
            advice = f"did you mean {similar[0]}?" if similar else f"there are {', '.join(sorted(known))}"
            raise TypeError(f"{what} has no option {name}: {advice}")


def _as_number(value: object) -> str:
    """Return how to write a str as a number, if it looks like one."""
    if not isinstance(value, str):
        return ""
    text = value.strip().lower().replace(" ", "")
    digits = text.rstrip("kmib")
    if not (digits.isascii() and digits.isdigit()):
        return ""
    unit = text[len(digits) :]
    if not unit:
        return f": write {digits}"
    return f": write {digits} * {_SIZES[unit]}" if unit in _SIZES else ""

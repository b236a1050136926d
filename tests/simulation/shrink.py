"""Shortens a failing script: leaves out parts of it while it still fails."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, replace
from typing import Any

from .script import Act, Ask, ClientPlan, Script

#: The maximum number of runs to shorten one script.
BUDGET = 1500


def shrink(script: Script, violation_of: Callable[[Script], str | None], budget: int = BUDGET) -> Script:
    """Leave out actions and settings, one by one, as long as the script fails in the same way.

    Args:
        script: a script that fails.
        violation_of: the first violation of a script, or None; it is called up to ``budget`` times.
        budget: the maximum number of runs.

    Returns:
        A script that fails, of which no part could be left out, unless the budget was used up.
    """
    kind = _kind(violation_of(script))
    tried = 0
    shorter = True
    while shorter:
        shorter = False
        for candidate in _shorter(script):
            tried += 1
            if tried > budget:
                return script
            if _kind(violation_of(candidate)) == kind:
                script, shorter = candidate, True
                break
    return script


def _kind(violation: str | None) -> str | None:
    """The common part of violations that differ only in names and numbers."""
    if violation is None:
        return None
    return re.sub(r"\d+|'[^']*'|\[[^]]*\]", "", violation)[:60]


def _shorter(value: Any) -> Iterator[Any]:
    """Variants of a script, a client or an action without one part, or with one default setting."""
    for each in fields(value):
        found = getattr(value, each.name)
        if isinstance(found, tuple) and (not found or isinstance(found[0], (Act, Ask, ClientPlan, str))):
            for number in range(len(found)):
                yield replace(value, **{each.name: found[:number] + found[number + 1 :]})
            for number, part in enumerate(found):
                if not isinstance(part, str):
                    for shorter in _shorter(part):
                        changed = (*found[:number], shorter, *found[number + 1 :])
                        yield replace(value, **{each.name: changed})
        elif each.name == "setup":
            for shorter in _shorter(found):
                yield replace(value, setup=shorter)
        elif each.default is not MISSING and found != each.default:
            yield replace(value, **{each.name: each.default})

"""The shortest script that still fails: parts of a failing one are left out while it does."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, replace
from typing import Any

from .script import Act, ClientPlan, Script

#: Runs that are tried to make one script shorter.
BUDGET = 1500


def shrink(script: Script, violation_of: Callable[[Script], str | None], budget: int = BUDGET) -> Script:
    """Leave out actions one by one, and settings, as long as the script fails in the same way.

    Args:
        script: one that fails.
        violation_of: the first violation of a script, or None; it is called up to ``budget`` times.
        budget: as many scripts are tried.

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
    """What violations that differ in names and numbers only have in common."""
    if violation is None:
        return None
    return re.sub(r"\d+|'[^']*'|\[[^]]*\]", "", violation)[:60]


def _shorter(value: Any) -> Iterator[Any]:
    """A script, a client or an action without one of its parts, or with one setting as it is by default."""
    for each in fields(value):
        found = getattr(value, each.name)
        if isinstance(found, tuple) and (not found or isinstance(found[0], (Act, ClientPlan, str))):
            if each.name == "attempts" and len(found) == 1:
                continue
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

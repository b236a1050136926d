"""The two type variables of the library: what an application keeps, and what each stream keeps.

Both default to None (PEP 696), so that an application without state needs no annotation.
"""

from __future__ import annotations

import sys
from typing import Any

if sys.version_info >= (3, 13):
    from typing import TypeVar
else:
    from typing_extensions import TypeVar

State = TypeVar("State", default=None)
StreamState = TypeVar("StreamState", default=None)

#: Stands for a state that was not given; typed so that the type variable falls back to its default.
NO_STATE: Any = None

"""Type variables that several modules use."""

from __future__ import annotations

import sys

if sys.version_info >= (3, 13):
    from typing import TypeVar
else:
    from typing_extensions import TypeVar

T = TypeVar("T")
Default = TypeVar("Default")

# The state of an application and that of a stream. Their default is None (PEP 696), so an application without
# state needs no annotation.
State = TypeVar("State", default=None)
StreamState = TypeVar("StreamState", default=None)

# For classmethods that construct an application. The type variables of the class cannot be inferred there: where
# the class is named without arguments, as in ``AsyncWebsocketApp.new_unlinked(state)``, they have their defaults.
NewState = TypeVar("NewState", default=None)
NewStreamState = TypeVar("NewStreamState", default=None)

"""The type variables of the library: what an application keeps, and what each stream keeps.

They default to None (PEP 696), so that an application without state needs no annotation.
"""

from __future__ import annotations

import sys

if sys.version_info >= (3, 13):
    from typing import TypeVar
else:
    from typing_extensions import TypeVar

State = TypeVar("State", default=None)
StreamState = TypeVar("StreamState", default=None)

# The same for what makes an application. The class's own stand for their defaults where the class is named
# without arguments, as in ``AsyncWebsocketApp.new_unlinked(state)``.
NewState = TypeVar("NewState", default=None)
NewStreamState = TypeVar("NewStreamState", default=None)

"""The connection condition: a function of the application that decides which peers may connect.

It is called for each new connection before anything is received. It must not wait.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import trio

from .._failures import failure_of
from .._http._events import EventType
from .._naming import qualified_name

if TYPE_CHECKING:
    from .._http._address import Address
    from ._observers import Observers

logger = logging.getLogger("humphrey_trio.http")


class Condition:
    """The connection condition of one server.

    Args:
        function: returns whether a peer may connect; None if every peer may.
        observers: what the connections of the application report to.
    """

    __slots__ = ("_function", "_observers")

    def __init__(self, function: Callable[[Address], bool] | None, observers: Observers) -> None:
        self._function = function
        self._observers = observers

    def admits(self, peer: Address) -> bool:
        """Return whether a peer may connect. If it may not, it is counted and reported.

        If the function fails, the failure is logged, and the peer may not connect.
        """
        if self._function is None:
            return True
        try:
            admitted = _ask(self._function, peer)
        except BaseException as exc:
            report = partial(_log_failed, self._function)
            report(failure_of(exc, report))
            admitted = False
        if not admitted:
            self._observers.counters.count_denied()
            self._observers.report(EventType.CONNECTION_DENIED, peer)
        return admitted


# Unlike the accept loop, the function is not protected from KeyboardInterrupt.
@trio.lowlevel.disable_ki_protection
def _ask(function: Callable[[Address], bool], peer: Address) -> bool:
    answer = function(peer)
    if not isinstance(answer, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"a connection condition must return True or False, not {answer!r}")
    return answer


def _log_failed(function: object, failure: Exception) -> None:
    logger.error("the connection condition %s failed", qualified_name(function), exc_info=failure)

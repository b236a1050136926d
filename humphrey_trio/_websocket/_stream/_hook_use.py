"""What is known about connect hooks: which of them have a WebSocket app that runs.

A hook is a plain memory channel, which cannot store it. Routes ask before they use a hook.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, TypeAlias
from weakref import WeakKeyDictionary, WeakSet

import trio

from ..._trio_runs import current_run

if TYPE_CHECKING:
    from ._stream import WebsocketStream

    #: The send end of the channel from which an application receives its streams.
    Hook: TypeAlias = trio.MemorySendChannel[WebsocketStream]

# Seconds after which an app still runs because it was forgotten, and not because it is just about to end.
_FORGOTTEN_AFTER = 1.0


class HookUse:
    """A WebSocket app that runs, from the view of the routes of its hook.

    Attributes:
        run: the run of trio of the app.
    """

    __slots__ = ("_http_ended", "run")

    def __init__(self) -> None:
        self.run = current_run()
        self._http_ended = inf

    def note_http_end(self) -> None:
        """Note that an HTTP app with a route to the hook has shut down gracefully."""
        self._http_ended = trio.current_time()

    def take_forgotten(self) -> bool:
        """Return whether an HTTP app shut down a second ago. Returns True once for each."""
        forgotten = trio.current_time() >= self._http_ended + _FORGOTTEN_AFTER
        if forgotten:
            self._http_ended = inf
        return forgotten


_uses: WeakKeyDictionary[Hook, HookUse] = WeakKeyDictionary()
_ends: WeakKeyDictionary[Hook, float] = WeakKeyDictionary()  # the times at which apps have ended
# The servers, by the hooks of the apps that have ended their runs for them.
_ended: WeakKeyDictionary[Hook, WeakSet[object]] = WeakKeyDictionary()


def note_use(hook: Hook) -> HookUse:
    """Note that the app of a hook runs in this run of trio."""
    use = _uses[hook] = HookUse()
    return use


def forget_use(hook: Hook) -> None:
    """Note that the app of a hook runs no more."""
    _uses.pop(hook, None)
    _ends[hook] = trio.current_time()


def note_server_end(hook: Hook, server: object) -> None:
    """Note that the app of a hook has ended its run for a server, which may still have connections."""
    _ended.setdefault(hook, WeakSet()).add(server)


def has_ended_for(hook: Hook, server: object) -> bool:
    """Whether no run will take streams of a server, because the one for it has ended and there is no other."""
    return hook not in _uses and server in _ended.get(hook, ())


def use_of(hook: Hook) -> HookUse | None:
    """Return what is known about the app of a hook; None if it does not run, or if there is none."""
    return _uses.get(hook)


def is_forgotten_end(hook: Hook) -> bool:
    """Return whether the app of a hook ended more than a second ago, or nothing is known about it.

    With the same shutdown event, its HTTP app ends a moment later.
    """
    ended = _ends.get(hook)
    just_now = ended is not None and 0 <= trio.current_time() - ended < _FORGOTTEN_AFTER
    return not just_now and use_of(hook) is None

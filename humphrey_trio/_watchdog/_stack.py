"""The stack of a thread that runs trio, from the first call of the application on.

The thread continues to run while its frames are read. This module must never keep a frame, which would keep the
variables of a handler.
"""

from __future__ import annotations

import sys
from itertools import dropwhile
from traceback import FrameSummary, format_list, walk_stack
from typing import NamedTuple

#: The packages between the scheduler of trio and the application.
_INTERNAL = {"trio", "outcome", "humphrey_trio"}
#: Packages whose functions are on the stack while a debugger waits for its user.
_DEBUGGERS = {"bdb", "pdb", "debugpy", "pydevd", "_pydevd_bundle", "_pydevd_frame_eval"}
#: The function of trio that runs the steps of tasks.
_SCHEDULER = ("trio._core._run", "unrolled_run")


class Call(NamedTuple):
    """A call on a stack.

    Attributes:
        module: the module of the function, ``shop.views``.
        function: its qualified name.
        file: the path of its source.
        line: the line that runs.
    """

    module: str
    function: str
    file: str
    line: int

    @property
    def package(self) -> str:
        """The top-level package of the function."""
        return self.module.partition(".")[0]

    @property
    def is_internal(self) -> bool:
        """Whether the function belongs to trio or to this library."""
        return self.package in _INTERNAL

    def __str__(self) -> str:
        return f"{self.module}.{self.function} ({self.file}:{self.line})"


class Stack(NamedTuple):
    """The calls of a thread in a step of a task, from the outermost.

    The calls of the scheduler are left out, and so are those of this library that lead to the application.
    """

    calls: tuple[Call, ...]

    @classmethod
    def of_thread(cls, ident: int) -> Stack:
        """Look at a thread that runs trio.

        Args:
            ident: the identifier of the thread. The stack of a thread that has ended is empty.
        """
        frames = walk_stack(frame) if (frame := sys._current_frames().get(ident)) else ()
        # f_lineno is None between two lines.
        calls = [
            Call(
                frame.f_globals.get("__name__", "?"),
                code.co_qualname,
                code.co_filename,
                line or code.co_firstlineno,
            )
            for frame, line in frames
            for code in (frame.f_code,)
        ]
        return cls(tuple(_without_runners(calls[::-1])))

    @property
    def blocking(self) -> Call:
        """The function of the application that trio or this library has called; otherwise the innermost one."""
        called = [
            call
            for caller, call in zip((None, *self.calls), self.calls, strict=False)
            if not call.is_internal and (caller is None or caller.is_internal)
        ]
        return (called or self.calls)[-1]

    @property
    def in_debugger(self) -> bool:
        """Whether a debugger waits for its user."""
        return any(call.package in _DEBUGGERS for call in self.calls)

    def __str__(self) -> str:
        """The calls as in a traceback, with their lines of source."""
        lines = format_list([FrameSummary(call.file, call.line, call.function) for call in self.calls])
        return "".join(lines).rstrip("\n")


def _without_runners(calls: list[Call]) -> list[Call]:
    """Leave out the calls up to the scheduler, and those after it that are not the application's."""
    schedulers = [place for place, call in enumerate(calls) if (call.module, call.function) == _SCHEDULER]
    step = calls[schedulers[-1] + 1 :] if schedulers else calls
    return list(dropwhile(lambda call: call.is_internal, step)) or step

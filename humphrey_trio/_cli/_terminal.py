"""Restore the settings of the terminal. A debugger that is killed while it reads a line leaves it without echo."""

from __future__ import annotations

import os
import termios
from contextlib import suppress

_STANDARD_INPUT = 0


class Terminal:
    """The settings of the terminal at construction. Without a terminal as standard input, it does nothing."""

    __slots__ = ("_settings",)

    def __init__(self) -> None:
        self._settings: list[int | list[bytes | int]] | None = None
        with suppress(termios.error):
            self._settings = termios.tcgetattr(_STANDARD_INPUT)

    def restore(self) -> None:
        """Restore the settings, unless another job of the shell uses the terminal: it would stop this process."""
        with suppress(OSError, termios.error):
            if self._settings is not None and os.tcgetpgrp(_STANDARD_INPUT) == os.getpgrp():
                termios.tcsetattr(_STANDARD_INPUT, termios.TCSANOW, self._settings)

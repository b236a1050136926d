"""The settings of the terminal. A debugger that is killed while it reads a line leaves it without echo."""

from __future__ import annotations

import os
import termios
from contextlib import suppress

_STANDARD_INPUT = 0


class Terminal:
    """Restores the settings that the terminal of standard input has now. Does nothing if it is no terminal."""

    __slots__ = ("_settings",)

    def __init__(self) -> None:
        self._settings: list[int | list[bytes | int]] | None = None
        with suppress(termios.error):
            self._settings = termios.tcgetattr(_STANDARD_INPUT)

    def restore(self) -> None:
        """Restore them, unless another job of the shell uses the terminal: then this process would be stopped."""
        with suppress(OSError, termios.error):
            if self._settings is not None and os.tcgetpgrp(_STANDARD_INPUT) == os.getpgrp():
                termios.tcsetattr(_STANDARD_INPUT, termios.TCSANOW, self._settings)

"""A pipe by which a server process notices that its supervisor has ended, also if the supervisor was killed.

The supervisor holds the only write end, and never writes. When it ends, the kernel closes the write end. The
signal that Linux can send at the death of a parent (PR_SET_PDEATHSIG) was rejected: it is sent when the thread
ends that has started the process, and trio starts processes in short-lived threads.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Self

# Names the descriptor of the read end to the server process.
_VARIABLE = "HUMPHREY_TRIO_LIFELINE"
#: Seconds that a server has to end by itself when its supervisor has ended.
_GRACE = 2.0


class Lifeline:
    """The supervisor's side of the pipe. All its server processes, one after the other, share it.

    Attributes:
        descriptor: the read end, which server processes inherit.
    """

    __slots__ = ("_write_end", "descriptor")

    def __init__(self) -> None:
        self.descriptor, self._write_end = os.pipe()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)
        os.close(self._write_end)

    def environment(self) -> dict[str, str]:
        """Return the environment of a server process."""
        return os.environ | {_VARIABLE: str(self.descriptor)}


def end_with_supervisor() -> bool:
    """End this process when its supervisor ends: by SIGTERM, and two seconds later by SIGKILL.

    Called once, before the application is imported. It uses a thread, because a handler that blocks the event loop
    must not keep the process.

    Returns:
        Whether there is a supervisor.
    """
    descriptor = os.environ.pop(_VARIABLE, None)  # programs that this process starts must not inherit it
    if descriptor is None:
        return False
    os.set_inheritable(int(descriptor), False)
    threading.Thread(target=_follow, args=(int(descriptor),), daemon=True).start()
    return True


def _follow(descriptor: int) -> None:
    os.read(descriptor, 1)  # returns at the end of the pipe
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE)
    os.kill(os.getpid(), signal.SIGKILL)

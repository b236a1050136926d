"""The log of the command line: INFO and above, to standard error. What the application has configured is kept."""

from __future__ import annotations

import logging

_FORMAT = "%(asctime)s %(levelname)s %(message)s"


def configure_log(*, access_log: bool) -> None:
    """Configure ``logging``, after the application was imported.

    Args:
        access_log: whether each response is logged.
    """
    logging.basicConfig(level=logging.INFO, format=_FORMAT)  # does nothing if there is a handler already
    access = logging.getLogger("humphrey_trio.access")
    if access_log:
        access.setLevel(logging.INFO)
    elif access.level == logging.NOTSET:
        access.setLevel(logging.WARNING)

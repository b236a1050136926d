"""The log lines about the functions of an application that have failed for a stream."""

from __future__ import annotations

import logging

from ..._hints import add_hint
from ..._naming import qualified_name

logger = logging.getLogger("humphrey_trio.websocket")


def log_failure(kind: str, function: object, stream: object, failure: Exception) -> None:
    """Log a failure with its traceback.

    Args:
        kind: what has failed, such as ``"message handler"``.
        function: the function of the application; None if it is not known.
        stream: the stream, whose repr is logged.
        failure: the exception. It may get a hint.
    """
    add_hint(failure)
    name = kind if function is None else f"{kind} {qualified_name(function)}"
    logger.error("the %s failed for %r", name, stream, exc_info=failure)

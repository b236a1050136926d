"""The exceptions between the server and an ASGI app."""

from __future__ import annotations


class MessageError(RuntimeError):
    """An ASGI app has sent a message that is malformed, or that is not expected at this point.

    It is raised from ``send``.
    """


class ClientDisconnected(OSError):
    """The client of an ASGI app has left, so nothing can be sent to it.

    It is raised from ``send``. The specification calls for a subclass of ``OSError``. It is not logged.
    """


class LifespanError(Exception):
    """The lifespan of an ASGI app has failed: at its startup, at its shutdown, or between them.

    ``App.run`` ends with it. The ``__cause__`` is the exception of the app, if there is one.
    """


def only_disconnected(failure: Exception) -> bool:
    """Whether an exception of an app says only that its client has left."""
    if isinstance(failure, ExceptionGroup):
        return failure.split(ClientDisconnected)[1] is None  # pyright: ignore[reportUnknownMemberType]
    return isinstance(failure, ClientDisconnected)

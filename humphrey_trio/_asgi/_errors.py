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


#: What Starlette, FastAPI and Litestar raise in the code of their users after the disconnect.
_NAMES = ("ClientDisconnect", "WebSocketDisconnect")


def only_disconnected(failure: Exception) -> bool:
    """Whether an exception of an app says only that its client has left. Use it if the client has."""
    if isinstance(failure, ExceptionGroup):
        return failure.split(_is_disconnect)[1] is None  # pyright: ignore[reportUnknownMemberType]
    return _is_disconnect(failure)


def _is_disconnect(failure: Exception) -> bool:
    return isinstance(failure, ClientDisconnected) or type(failure).__name__ in _NAMES

"""The phases of an HTTP connection."""

from __future__ import annotations

import enum

#: Seconds that a new connection has for its first request, or for its TLS handshake, after a graceful shutdown has
#: begun. The request may already be in transit.
NEW_CONNECTION_GRACE = 1.0


class HttpPhase(enum.Enum):
    """The phase of a connection. It determines the effects of a deadline and of a graceful shutdown.

    ========= ======================================== ====================== =================================
    phase     deadline                                 when it passes         when a graceful shutdown begins
    ========= ======================================== ====================== =================================
    NEW       ``header``, from the accept on           the connection ends    the first request has a second
    IDLE      ``idle``                                 the connection ends    the connection ends
    READING   ``header`` or ``body``                   408                    the request is answered
    ANSWERING ``write``, while bytes wait to be sent   the peer is cut off    the response is sent
    ANSWERING the next sweep, while a handler waits    the client is watched  the same; events are ended
    OVERDUE   passed while READING
    EXPIRED   passed while NEW or IDLE
    ========= ======================================== ====================== =================================

    A connection is READING from the first byte of a request until the request is complete.
    """

    NEW = enum.auto()
    IDLE = enum.auto()
    READING = enum.auto()
    ANSWERING = enum.auto()
    OVERDUE = enum.auto()
    EXPIRED = enum.auto()

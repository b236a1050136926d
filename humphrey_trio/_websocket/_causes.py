"""The causes in close records: why a stream was closed, if the close code does not tell it."""

from __future__ import annotations

CONNECTION_BROKE = "the connection broke"
NO_CLOSE = "the connection ended without a Close"
VIOLATION = "the client violated the protocol or a limit"
#: Also the reason of a stream that is closed or cut off because its client does not read.
TOO_SLOW = "too slow"
OUTBOX_FULL = "its outbox was full"
DEADLINE_PASSED = "its deadline has passed"

HANDLER_FAILED = "its handler failed"
HANDLER_ENDED = "its handler has ended"
ROUTE_REFUSED = "its route has refused it"
TASK_FAILED = "one of its tasks failed"
STATE_FAILED = "its stream_state failed"

#: A graceful shutdown. Also the reason for which an upgrade is refused.
SHUTTING_DOWN = "the server is shutting down"
SERVER_CANCELLED = "the server was cancelled"
APP_CANCELLED = "the application was cancelled"

"""The seconds within which the library promises something, with the timeouts of ``pair``."""

from __future__ import annotations

#: The seconds that a drain and a hard stop may take, in addition to shielded handlers.
DRAIN_SECONDS, STOP_SECONDS = 8.0, 1.6
#: ``Timeouts.write``, ``Timeouts.body``, the interval of sweeps, and ``take_timeout``.
WRITE_SECONDS, BODY_SECONDS, SWEEP_SECONDS, TAKE_SECONDS = 3.0, 3.0, 0.6, 9.9
#: From the departure of a client to the cancellation of its handler: two sweeps until it is watched, and one more.
LEAVE_SECONDS = 0.8
#: The time after which the head of a streamed response is sent without a piece.
HEAD_SECONDS = 0.05

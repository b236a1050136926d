"""Close codes (RFC 6455, section 7.4)."""

from __future__ import annotations

NORMAL = 1000

GOING_AWAY = 1001

PROTOCOL_ERROR = 1002

NO_CODE = 1005

ABNORMAL = 1006

INVALID_PAYLOAD = 1007

POLICY_VIOLATION = 1008

TOO_BIG = 1009

INTERNAL_ERROR = 1011

TRY_AGAIN_LATER = 1013


def may_be_sent(code: int) -> bool:
    """Whether a Close frame may contain a code: 1000 to 1014 without the reserved ones, and 3000 to 4999.

    1004, 1005, 1006 and 1015 are never sent (RFC 6455, section 7.4.1). 1012 to 1014 were registered later.
    """
    return 3000 <= code <= 4999 or (1000 <= code <= 1014 and code not in (1004, NO_CODE, ABNORMAL))

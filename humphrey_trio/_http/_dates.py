"""HTTP dates (RFC 9110, section 5.6.7): written in one format, read in three. Times are seconds since 1970."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MONTH_NUMBERS = {name: number for number, name in enumerate(_MONTHS, 1)}

_DAY = f"(?:{'|'.join(_DAYS)})"
_LONG_DAY = "(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day"
_MONTH = f"(?P<month>{'|'.join(_MONTHS)})"
_TIME = "(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})"
_FORMATS = (
    # IMF-fixdate: Sun, 06 Nov 1994 08:49:37 GMT
    re.compile(rf"{_DAY}, (?P<day>[0-9]{{2}}) {_MONTH} (?P<year>[0-9]{{4}}) {_TIME} GMT"),
    # RFC 850: Sunday, 06-Nov-94 08:49:37 GMT
    re.compile(rf"{_LONG_DAY}, (?P<day>[0-9]{{2}})-{_MONTH}-(?P<year>[0-9]{{2}}) {_TIME} GMT"),
    # The format of asctime() in C: Sun Nov  6 08:49:37 1994
    re.compile(rf"{_DAY} {_MONTH} (?P<day>[0-9]{{2}}| [0-9]) {_TIME} (?P<year>[0-9]{{4}})"),
)
# Years. A two-digit year that appears to lie further in the future lies in the past.
_FUTURE = 50


@lru_cache(maxsize=256)
def format_date(timestamp: int) -> str:
    """Format a date as IMF-fixdate (RFC 9110, section 5.6.7). The results of the last calls are cached.

    Args:
        timestamp: whole seconds since 1970, from the year 1 to 9999.

    Raises:
        OverflowError: the date lies outside these years.
    """
    date = _EPOCH + timedelta(seconds=timestamp)
    day, month = _DAYS[date.weekday()], _MONTHS[date.month - 1]
    return f"{day}, {date.day:02} {month} {date.year:04} {date:%H:%M:%S} GMT"


def parse_date(text: str, *, now: datetime | None = None) -> int | None:
    """Parse a date in any of the three formats of RFC 9110, section 5.6.7.

    The day of the week is not compared with the date. A leap second is the first second of the next minute.

    Args:
        text: the value of a field, without white space at its ends.
        now: the time that two-digit years are relative to, in UTC; the current time if it is omitted. Such a year
            is the last one with these digits for which the date is at most 50 years in the future.

    Returns:
        Seconds since 1970, or None if the text is not a date.
    """
    for pattern in _FORMATS:
        if found := pattern.fullmatch(text):
            return _timestamp(found, now)
    return None


def _timestamp(found: re.Match[str], now: datetime | None) -> int | None:
    day, hour, minute, second = (int(found[name]) for name in ("day", "hour", "minute", "second"))
    if second > 60:
        return None
    rest = (_MONTH_NUMBERS[found["month"]], day, hour, minute, min(second, 59))
    year = int(found["year"])
    if len(found["year"]) == 2:
        year = _full_year(year, rest, now or datetime.now(UTC))
    try:
        return int(datetime(year, *rest, tzinfo=UTC).timestamp()) + (second == 60)
    except ValueError:
        return None  # such as 30 February, or the year 0


def _full_year(digits: int, rest: tuple[int, int, int, int, int], now: datetime) -> int:
    latest = (now.year + _FUTURE, now.month, now.day, now.hour, now.minute, now.second)
    year = latest[0] - (latest[0] - digits) % 100
    return year if (year, *rest) <= latest else year - 100

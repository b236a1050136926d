"""HTTP dates: the format that is written, and the three that are read."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from humphrey_trio._http._dates import format_date, parse_date

DATES = {
    1628437415: "Sun, 08 Aug 2021 15:43:35 GMT",
    1094474096: "Mon, 06 Sep 2004 12:34:56 GMT",
    1584716400: "Fri, 20 Mar 2020 15:00:00 GMT",
    1582979696: "Sat, 29 Feb 2020 12:34:56 GMT",
    -84337067: "Sun, 30 Apr 1967 21:02:13 GMT",
    -28504100829: "Fri, 28 Sep 1066 10:12:51 GMT",
    0: "Thu, 01 Jan 1970 00:00:00 GMT",
    -1: "Wed, 31 Dec 1969 23:59:59 GMT",
    951868799: "Tue, 29 Feb 2000 23:59:59 GMT",
    951868800: "Wed, 01 Mar 2000 00:00:00 GMT",
    1709164800: "Thu, 29 Feb 2024 00:00:00 GMT",
    1704067199: "Sun, 31 Dec 2023 23:59:59 GMT",
    4102444800: "Fri, 01 Jan 2100 00:00:00 GMT",
    253402300799: "Fri, 31 Dec 9999 23:59:59 GMT",
    -62135596800: "Mon, 01 Jan 0001 00:00:00 GMT",
}


@pytest.mark.parametrize(("timestamp", "text"), DATES.items())
def test_date_round_trip(timestamp: int, text: str) -> None:
    """A date is written as IMF-fixdate, and read again."""
    assert format_date(timestamp) == text
    assert parse_date(text) == timestamp


@pytest.mark.parametrize("timestamp", [-62135596801, 253402300800])
def test_dates_out_of_range(timestamp: int) -> None:
    """Years that four digits cannot hold are refused."""
    with pytest.raises(OverflowError):
        format_date(timestamp)


@pytest.mark.parametrize(
    "text",
    [
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Sun Nov  6 08:49:37 1994",
        "Mon, 06 Nov 1994 08:49:37 GMT",
    ],
)
def test_formats(text: str) -> None:
    """All formats of RFC 9110 are read; the day of the week does not count."""
    assert parse_date(text) == 784111777


@pytest.mark.parametrize(
    ("text", "timestamp"),
    [("Sun Nov 16 08:49:37 1994", 784975777), ("Sat, 31 Dec 2016 23:59:60 GMT", 1483228800)],
)
def test_details_of_formats(text: str, timestamp: int) -> None:
    """Two-digit days of asctime, and leap seconds, are read."""
    assert parse_date(text) == timestamp


@pytest.mark.parametrize(
    ("digits", "now", "year"),
    [
        ("94", (2026, 1, 1), 1994),
        ("26", (2026, 1, 1), 2026),
        ("75", (2026, 1, 1), 2075),
        ("76", (2026, 11, 7), 2076),
        ("76", (2026, 11, 5), 1976),
        ("77", (2026, 1, 1), 1977),
        ("00", (2026, 1, 1), 2000),
        ("01", (2099, 1, 1), 2101),
        ("99", (2100, 1, 1), 2099),
        ("50", (2000, 12, 31), 2050),
    ],
)
def test_years_of_two_digits(digits: str, now: tuple[int, int, int], year: int) -> None:
    """A two-digit year is the latest one that is at most 50 years in the future."""
    found = parse_date(f"Sunday, 06-Nov-{digits} 08:49:37 GMT", now=datetime(*now, tzinfo=UTC))
    assert found == datetime(year, 11, 6, 8, 49, 37, tzinfo=UTC).timestamp()


def test_years_of_two_digits_now() -> None:
    """Without a time they are relative to the current one."""
    year = datetime.now(UTC).year
    assert parse_date(f"Sunday, 06-Nov-{year % 100:02} 08:49:37 GMT") == parse_date(
        f"Sun, 06 Nov {year} 08:49:37 GMT"
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "garbage",
        "0",
        "1994-11-06T08:49:37Z",
        "Sun, 06 Nov 1994 08:49:37",
        "Sun, 06 Nov 1994 08:49:37 UTC",
        "Sun, 06 Nov 1994 08:49:37 +0000",
        "sun, 06 nov 1994 08:49:37 gmt",
        "Sun, 6 Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 94 08:49:37 GMT",
        "Sun,06 Nov 1994 08:49:37 GMT",
        " Sun, 06 Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 08:49:37 GMT\n",
        "Sun, 06 Nov 1994 08:49:37 GMT, Sun, 06 Nov 1994 08:49:37 GMT",
        "Sun, 30 Feb 1994 08:49:37 GMT",
        "Wed, 29 Feb 2023 08:49:37 GMT",
        "Sun, 00 Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 0000 08:49:37 GMT",
        "Sun, 06 Nov 1994 24:00:00 GMT",
        "Sun, 06 Nov 1994 08:60:37 GMT",
        "Sun, 06 Nov 1994 08:49:61 GMT",
        "Sun, 06 Nov 1994 08:49:3\u0667 GMT",
        "Sunday, 06-Nov-1994 08:49:37 GMT",
        "Tuesay, 06-Nov-94 08:49:37 GMT",
        "Monday, 29-Feb-23 08:49:37 GMT",
        "Sun Nov 6 08:49:37 1994",
        "Sun Nov  0 08:49:37 1994",
        "Sun Nov  6 08:49:37 1994 GMT",
    ],
)
def test_invalid_dates(text: str) -> None:
    """Text that is not a date is None."""
    assert parse_date(text) is None

"""How clients describe the past: bar sizes, durations and ends."""

import re
from datetime import datetime

from dpa.errors import DpaError
from dpa.simulation.tws.wire import read_moment

DAY = 86_400
_UNITS = {"S": 1, "D": DAY, "W": 7 * DAY, "M": 30 * DAY, "Y": 365 * DAY}
_BAR_SIZES = {
    **{f"{count} secs": count for count in (1, 5, 10, 15, 30)},
    "1 min": 60,
    **{f"{count} mins": 60 * count for count in (2, 3, 5, 10, 15, 20, 30)},
    "1 hour": 3600,
    **{f"{count} hours": 3600 * count for count in (2, 3, 4, 8)},
    "1 day": DAY,
    "1 week": 7 * DAY,
    "1 month": 30 * DAY,
}
_MISSPELT = {"1 sec": "1 secs", "1 mins": "1 min", "1 hours": "1 hour", "1 days": "1 day"}


class HistoryError(DpaError):
    """A historical request that is refused, with the code TWS gives."""

    def __init__(self, code: int, what: str) -> None:
        super().__init__(what)
        self.code = code


def bar_seconds(size: str) -> int:
    """Seconds of a bar, such as ``5 mins``."""
    seconds = _BAR_SIZES.get(_MISSPELT.get(size, size))
    if seconds is None:
        legal = ", ".join(_BAR_SIZES)
        raise HistoryError(
            321,
            "Error validating request.-'bW' : cause - Historical data bar size setting is "
            f"invalid. Legal ones are: {legal}",
        )
    return seconds


def seconds_of(duration: str) -> int:
    """Seconds of a duration, such as ``2 D``; a month has 30 days, a year 365."""
    found = re.fullmatch(r"(\d{1,6}) ?([SDWMY])", duration.strip(), re.ASCII)
    count = int(found[1]) if found else 0
    if found is None or not count:
        raise HistoryError(
            321,
            "Error validating request.-'bW' : cause - Historical data query duration is invalid: "
            f"{duration[:40]!r}",
        )
    if found[2] == "S" and count > DAY:
        raise HistoryError(
            321,
            "Error validating request.-'bW' : cause - Historical data requests for durations "
            "longer than 86400 seconds must be made in days.",
        )
    if found[2] == "D" and count > 365:
        raise HistoryError(
            321,
            "Error validating request.-'bW' : cause - Historical data requests for durations "
            "longer than 365 days must be made in years.",
        )
    return min(count, 100 * 365 * DAY) * _UNITS[found[2]]


def end_of(written: str, now: datetime) -> datetime:
    """End of a request, UTC; empty: now."""
    if not written:
        return now
    try:
        return read_moment(written)
    except ValueError as error:
        raise HistoryError(
            10314,
            "End Date/Time: The date, time, or time-zone entered is invalid. The correct format "
            "is yyyymmdd hh:mm:ss xx/xxxx",
        ) from error

"""Bar lengths: ``5m``, ``1h``, ``1d``. Whole minutes that divide a day, or one session."""

import re
from dataclasses import dataclass

from dpa.errors import ConfigError

MINUTE = 60
HOUR = 3_600
DAY = 86_400
_PATTERN = re.compile(r"(\d+)\s*(m|min|h|d)")
_UNIT = {"m": MINUTE, "min": MINUTE, "h": HOUR, "d": DAY}
_CURE = "use whole minutes or hours that divide a day (1m, 5m, 15m, 1h, 2h) or one session (1d)"


@dataclass(frozen=True, order=True)
class Interval:
    """Length of a bar.

    Parameters
    ----------
    seconds : int
        Length in seconds: whole minutes that divide a day. 86,400 means one bar per trading
        session, however long that session is.

    Raises
    ------
    ConfigError
        When the length is no such number.
    """

    seconds: int

    def __post_init__(self) -> None:
        whole = self.seconds > 0 and self.seconds % MINUTE == 0 and DAY % self.seconds == 0
        if not whole:
            raise ConfigError(f"a bar of {self.seconds} seconds is not supported", _CURE)

    @property
    def is_daily(self) -> bool:
        """True for one bar per session."""
        return self.seconds == DAY

    @property
    def minutes(self) -> int:
        """Length in minutes of an intraday bar; 1,440 for a daily one."""
        return self.seconds // MINUTE

    def __str__(self) -> str:
        if self.is_daily:
            return "1d"
        if self.seconds % HOUR == 0:
            return f"{self.seconds // HOUR}h"
        return f"{self.seconds // MINUTE}m"


def parse_interval(text: str) -> Interval:
    """The interval written as ``5m``, ``5min``, ``1h`` or ``1d``.

    Raises
    ------
    ConfigError
        For anything else: seconds, weeks, several days, lengths that do not divide a day.
    """
    match = _PATTERN.fullmatch(text.strip().lower())
    if match is None:
        raise ConfigError(f"interval {text!r} is not understood", _CURE)
    seconds = int(match[1]) * _UNIT[match[2]]
    try:
        return Interval(seconds)
    except ConfigError as e:
        raise ConfigError(f"interval {text!r} does not divide a day", _CURE) from e

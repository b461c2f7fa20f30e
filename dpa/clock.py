"""The one place that reads the wall clock; everything else is handed a clock."""

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """What is asked of a clock."""

    def now(self) -> datetime:
        """The moment, UTC, time zone attached."""
        ...

    def elapsed(self) -> float:
        """Seconds since some fixed moment; never runs backwards."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """The moment, UTC."""
        return datetime.now(UTC)

    def elapsed(self) -> float:
        """Seconds since an arbitrary moment; a change of the wall clock does not move it."""
        return time.monotonic()


class FixedClock:
    """A clock that stands still until it is told to move; for tests and replays.

    Parameters
    ----------
    moment : datetime
        What `now` answers, time zone attached.
    """

    def __init__(self, moment: datetime) -> None:
        self._start = moment.astimezone(UTC)
        self._seconds = 0.0

    def advance(self, seconds: float) -> None:
        """Move forwards by `seconds`."""
        self._seconds += seconds

    def now(self) -> datetime:
        """The moment the clock stands at, UTC."""
        return self._start + timedelta(seconds=self._seconds)

    def elapsed(self) -> float:
        """Seconds it was moved."""
        return self._seconds

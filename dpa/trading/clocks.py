"""A clock that a keeper of time moves: replays and tests run from one moment to the next."""

from datetime import UTC, datetime

from dpa.errors import DataError


class VirtualClock:
    """A clock that stands still until its keeper moves it.

    Parameters
    ----------
    moment : datetime
        What :meth:`now` answers at first, time zone attached.

    Raises
    ------
    DataError
        When `moment` has no time zone.
    """

    def __init__(self, moment: datetime) -> None:
        self._begun = self._now = _utc(moment)

    def now(self) -> datetime:
        """The moment the clock stands at, UTC."""
        return self._now

    def elapsed(self) -> float:
        """Seconds it was moved since the beginning."""
        return (self._now - self._begun).total_seconds()

    def move_to(self, moment: datetime) -> None:
        """Stand at `moment`; the same moment again is allowed.

        Raises
        ------
        DataError
            When it is before the moment at which the clock stands, or has no time zone.
        """
        moment = _utc(moment)
        if moment < self._now:
            raise DataError(
                f"clock: {moment} is before {self._now}", "time runs forwards; start a new clock"
            )
        self._now = moment


def _utc(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise DataError(f"clock: {moment} has no time zone", "give moments in UTC")
    return moment.astimezone(UTC)

"""Where each bar stands in its session, straight from the calendar."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dpa.errors import DataError
from dpa.market.calendars import (
    SECOND,
    Nanoseconds,
    TradingCalendar,
    nanoseconds,
    utc_index,
)
from dpa.market.intervals import MINUTE

Integers = NDArray[np.int64]
_YEARS = 10  # of one cached grid


@dataclass(frozen=True, eq=False)
class BarGrid:
    """Every bar of a venue over some decades, numbered in time order.

    Parameters
    ----------
    closes : int64 ndarray of shape (n_bars,)
        UTC nanoseconds.
    session : int64 ndarray of shape (n_bars,)
        Number of the bar's session, from 0.
    first : int64 ndarray of shape (n_sessions + 1,)
        Number of each session's first bar; the last entry is n_bars.
    minute : float64 ndarray of shape (n_bars,)
        Session minutes elapsed at the bar's close.
    length : float64 ndarray of shape (n_sessions,)
        Minutes of each session.
    month : int64 ndarray of shape (n_sessions,)
        Calendar month of each session, counted from year 0.
    """

    closes: Nanoseconds
    session: Integers
    first: Integers
    minute: NDArray[np.float64]
    length: NDArray[np.float64]
    month: Integers

    def positions(self, times: pd.DatetimeIndex) -> Integers:
        """Numbers of the bars that close at `times`, which must follow one another.

        Raises
        ------
        DataError
            Naming the first time that is no bar of the venue, is out of order, or follows a gap.
        """
        ticks = nanoseconds(times)
        place = np.minimum(np.searchsorted(self.closes, ticks), len(self.closes) - 1)
        wrong = np.flatnonzero(self.closes[place] != ticks)
        if len(wrong):
            raise DataError(
                f"bar {times[wrong[0]]}: is no bar of the calendar at this interval",
                "check interval and calendar, or load the data with 'dpa data import'",
            )
        jump = np.flatnonzero(np.diff(place) != 1)
        if len(jump):
            before, after = times[jump[0]], times[jump[0] + 1]
            what = "is out of order after" if after <= before else "leaves a gap after"
            raise DataError(
                f"bar {after}: {what} {before}",
                "give every bar of the sessions in order; on_session_grid() adds missing ones",
            )
        return place

    def time(self, position: int) -> pd.Timestamp:
        """Close of the bar numbered `position`, UTC."""
        return utc_index(self.closes[position : position + 1])[0]


@lru_cache(maxsize=16)
def _grid(calendar: str, interval: str, first_year: int, last_year: int) -> BarGrid:
    venue = TradingCalendar(calendar)
    bars = venue.bars(interval, f"{first_year}-01-01", f"{last_year}-12-31")
    numbers, first, session = np.unique(bars.session, return_index=True, return_inverse=True)
    spans = (bars.closes - bars.opens) / (MINUTE * SECOND)
    elapsed = np.cumsum(spans)
    before = elapsed[first] - spans[first]
    minute = elapsed - before[session]
    ends = np.append(first[1:], len(session)) - 1
    dates = bars.sessions[numbers]
    return BarGrid(
        bars.closes,
        session.astype(np.int64),
        np.append(first, len(session)).astype(np.int64),
        minute,
        minute[ends],
        (dates.year * 12 + dates.month).to_numpy().astype(np.int64),
    )


def bar_grid(calendar: str, interval: str, start: pd.Timestamp, end: pd.Timestamp) -> BarGrid:
    """The bars of a venue from the decade before `start` to the decade of `end`."""
    first = (start.year - 1) // _YEARS * _YEARS
    last = (end.year + 1) // _YEARS * _YEARS + _YEARS - 1
    return _grid(calendar, interval, first, last)


@dataclass(frozen=True, eq=False)
class SessionClock:
    """Where consecutive bars stand in their sessions.

    Parameters
    ----------
    grid : BarGrid
    position : int64 ndarray of shape (n_rows,)
        Number of each bar in the grid; consecutive.
    """

    grid: BarGrid
    position: Integers

    @classmethod
    def of(cls, times: pd.DatetimeIndex, interval: str, calendar: str) -> "SessionClock":
        """The clock of consecutive bars; errors as :meth:`BarGrid.positions`."""
        grid = bar_grid(calendar, interval, times[0], times[-1])
        return cls(grid, grid.positions(times))

    @property
    def session(self) -> Integers:
        """Number of the session of each bar."""
        return self.grid.session[self.position]

    @property
    def place(self) -> Integers:
        """Bars of the session before each bar: 0 for its first."""
        return self.position - self.grid.first[self.session]

    @property
    def minute(self) -> NDArray[np.float64]:
        """Session minutes elapsed at each bar's close."""
        return self.grid.minute[self.position]

    @property
    def length(self) -> NDArray[np.float64]:
        """Minutes of each bar's session; a half day has fewer."""
        return self.grid.length[self.session]

    def sessions_ago(self, sessions: int) -> Integers:
        """Rows back to the bar at the same place of an earlier session; -1 where it had none."""
        earlier = self.session - sessions
        known = earlier >= 0
        start = self.grid.first[np.maximum(earlier, 0)]
        count = self.grid.first[np.maximum(earlier, 0) + 1] - start
        place = self.place
        return np.where(known & (place < count), self.position - (start + place), -1)

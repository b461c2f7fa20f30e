"""History on the complete grid of session bars: a row for every bar the venue had.

On the grid a stretch of session time is the same number of rows whatever traded in it, nights and
weekends have none, and half days have fewer.
"""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dpa.errors import DataError
from dpa.market.calendars import SECOND, Bars, TradingCalendar, nanoseconds, utc_index
from dpa.market.disk_source import DiskSource
from dpa.market.intervals import MINUTE, parse_interval
from dpa.market.panel import BarSource, Floats, Panel
from dpa.market.selections import ShardSelection, bar_times

_MARGIN = pd.Timedelta(2, "D")  # no session lasts longer
_CURE = "check interval and calendar, or load the data with 'dpa data import'"


def on_session_grid(panel: Panel) -> Panel:
    """A panel with a row for every bar of its sessions.

    Parameters
    ----------
    panel : Panel
        Any bars of its calendar.

    Returns
    -------
    Panel
        From the first bar of the session in which `panel` begins to its last bar. Added rows hold
        NaN and no member. A complete panel is returned as it is.

    Raises
    ------
    DataError
        When a bar is none of the calendar's.
    """
    source = GridSource(panel)
    return source.window(0, source.n_bars)


def session_numbers(
    times: pd.DatetimeIndex, interval: str, calendar: str
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Which session each bar is in, and how much of it has passed.

    Parameters
    ----------
    times : DatetimeIndex of shape (n_bars,)
        Bar closes, UTC, increasing.
    interval, calendar : str
        As in :class:`~dpa.market.panel.Panel`.

    Returns
    -------
    session : int64 ndarray of shape (n_bars,)
        Number of the session, 0 for that of the first bar; sessions without a bar count.
    minute : float64 ndarray of shape (n_bars,)
        Session minutes from the open to the bar's close, breaks left out: 5.0 for the first
        ``5m`` bar, 390.0 for a day of XNYS, 210.0 for a half day.

    Raises
    ------
    DataError
        When a time is no bar of the calendar.
    """
    if len(times) == 0:
        return np.empty(0, np.int64), np.empty(0)
    bars = bars_around(times, interval, calendar)
    place = bar_places(times, bars)
    minutes = _minutes(bars, interval, calendar)
    before = np.cumsum(minutes) - minutes
    _, first = np.unique(bars.session, return_index=True)
    at_open = before[first][bars.session - bars.session[0]]
    session = bars.session[place] - bars.session[place[0]]
    return session, (before + minutes - at_open)[place]


def bars_around(times: pd.DatetimeIndex, interval: str, calendar: str) -> Bars:
    """Bars of the sessions in which `times`, UTC and increasing, lie, and of some around them."""
    return TradingCalendar(calendar).bars(interval, times[0] - _MARGIN, times[-1] + _MARGIN)


def bar_places(times: pd.DatetimeIndex, bars: Bars) -> NDArray[np.int64]:
    """Position of each time among the closes of `bars`, shape (n_times,).

    Raises
    ------
    DataError
        When a time is none of them.
    """
    closes = nanoseconds(times)
    place = np.searchsorted(bars.closes, closes)
    astray = np.append(bars.closes, -1)[place] != closes
    if astray.any():
        raise DataError(f"bar {times[int(np.argmax(astray))]} is none of the calendar's", _CURE)
    return place


def _minutes(bars: Bars, interval: str, calendar: str) -> Floats:
    """Session minutes of each bar: a daily one has none in the break."""
    if parse_interval(interval).is_daily:
        dates = bars.sessions[bars.session]
        of_session = TradingCalendar(calendar).session_minutes(dates[0], dates[-1])
        return of_session.to_numpy(np.float64)
    return (bars.closes - bars.opens) / (MINUTE * SECOND)


class GridSource:
    """A history on its session grid, window by window: a :class:`~dpa.market.panel.BarSource`.

    Bar numbers are those of the grid. Building it takes the bar times and nothing else, so the
    history is never in memory as a whole.

    Parameters
    ----------
    source : Panel, ShardSelection or BarSource
        A selection is read from its files, without Ray; see
        :class:`~dpa.market.disk_source.DiskSource`.
    times : DatetimeIndex of shape (n_source_bars,), optional
        Bar closes of `source`, UTC. Needed for a source that is neither of shards nor a Panel.

    Raises
    ------
    DataError
        When a bar of `source` is none of the calendar's.
    """

    def __init__(
        self, source: BarSource | ShardSelection, times: pd.DatetimeIndex | None = None
    ) -> None:
        self._source = DiskSource(source) if isinstance(source, ShardSelection) else source
        known = _times_of(self._source) if times is None else times
        if len(known) != self._source.n_bars or len(known) == 0:
            raise DataError(f"{len(known)} times for {self._source.n_bars} bars", "give each bar's")
        bars = bars_around(known, self.interval, self.calendar)
        place = bar_places(known, bars)
        first = int(np.searchsorted(bars.session, bars.session[place[0]]))
        self._closes = bars.closes[first : place[-1] + 1]
        self._rows = place - first  # of the source's bars in the grid

    @property
    def n_bars(self) -> int:
        """Number of bars of the grid."""
        return len(self._closes)

    @property
    def names(self) -> tuple[str, ...]:
        """Ticker symbols, in column order."""
        return self._source.names

    @property
    def interval(self) -> str:
        """Bar length."""
        return self._source.interval

    @property
    def calendar(self) -> str:
        """exchange_calendars code."""
        return self._source.calendar

    def times(self, start: int = 0, stop: int | None = None) -> pd.DatetimeIndex:
        """Closes of the bars ``start`` (inclusive) to ``stop`` (exclusive), UTC."""
        return utc_index(self._closes[start:stop])

    def window(self, start: int, stop: int) -> Panel:
        """Bars ``start`` (inclusive) to ``stop`` (exclusive); NaN and no member where none is.

        Raises
        ------
        DataError
            When the bars are outside the grid.
        """
        if not 0 <= start <= stop <= self.n_bars:
            raise DataError(f"grid: bars [{start}, {stop}) are outside [0, {self.n_bars})")
        low, high = (int(k) for k in np.searchsorted(self._rows, [start, stop]))
        if isinstance(self._source, Panel) and high - low == self.n_bars:
            return self._source
        found = self._source.window(low, high)
        if high - low == stop - start:
            return found
        rows = self._rows[low:high] - start

        def spread(values: NDArray[Any], empty: Any) -> NDArray[Any]:
            full = np.full((stop - start, found.n_assets), empty, dtype=values.dtype)
            full[rows] = values
            return full

        return Panel(
            self.times(start, stop),
            found.names,
            spread(found.prices, np.nan),
            spread(found.mask, False),
            found.interval,
            found.calendar,
            **{name: spread(values, np.nan) for name, values in found.extras().items()},
        )


def _times_of(source: BarSource) -> pd.DatetimeIndex:
    """Bar closes of a panel, a source of shards, or a grid over either."""
    if isinstance(source, Panel):
        return source.times
    if isinstance(source, GridSource):
        return source.times()
    selection = getattr(source, "selection", None)
    if not isinstance(selection, ShardSelection):
        raise DataError("the source does not tell its bar times", "give them with times=")
    return bar_times(selection)

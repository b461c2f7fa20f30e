"""Trading sessions of a venue and the bars in them: holidays, half days and clock changes."""

import re
import warnings
from dataclasses import dataclass
from functools import lru_cache

import exchange_calendars
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dpa.errors import ConfigError, DataError
from dpa.market.intervals import MINUTE, Interval, parse_interval

Nanoseconds = NDArray[np.int64]  # UTC instants since 1970
Date = str | pd.Timestamp
SECOND = 1_000_000_000
SECONDS_PER_YEAR = 365.2425 * 86_400  # mean Gregorian year
_WHOLE_DATE = re.compile("[0-9]{4}-[0-9]{2}-[0-9]{2}")
ANNUALISATION_YEARS = (2004, 2023)  # whole years, the same whatever the data are


@dataclass(frozen=True, eq=False)
class Bars:
    """Every bar of a stretch of sessions, in time order.

    Parameters
    ----------
    opens, closes : int64 ndarray of shape (n_bars,)
        Start and end of each bar, UTC nanoseconds. A bar is known at its close.
    session : int64 ndarray of shape (n_bars,)
        Position of the bar's session in `sessions`.
    sessions : DatetimeIndex of shape (n_sessions,)
        Session dates, naive midnight.
    """

    opens: Nanoseconds
    closes: Nanoseconds
    session: NDArray[np.int64]
    sessions: pd.DatetimeIndex


def nanoseconds(times: pd.Series | pd.DatetimeIndex) -> Nanoseconds:
    """Instants as UTC nanoseconds since 1970; naive ones are taken as UTC."""
    index = pd.DatetimeIndex(times)
    naive = index.tz_convert("UTC").tz_localize(None) if index.tz is not None else index
    return naive.as_unit("ns").asi8


def utc_index(nanoseconds: Nanoseconds) -> pd.DatetimeIndex:
    """Instants in UTC nanoseconds as a DatetimeIndex."""
    return pd.DatetimeIndex(nanoseconds.view("M8[ns]"), tz="UTC")


def as_date(value: Date, field: str = "date") -> pd.Timestamp:
    """The calendar day `value` names, naive midnight.

    Text is taken as YYYY-MM-DD and nothing else: half a date such as ``2013-06`` could mean its
    first day or its last.

    Raises
    ------
    ConfigError
        Naming `field`.
    """
    try:
        if isinstance(value, str) and not _WHOLE_DATE.fullmatch(value):
            raise ValueError("text in another form than YYYY-MM-DD")
        stamp = pd.DatetimeIndex([pd.Timestamp(value).as_unit("ns")]).tz_localize(None)
    except ValueError as e:
        raise ConfigError(f"{field}: {value!r} is not a date", "write YYYY-MM-DD") from e
    if stamp.hasnans:
        raise ConfigError(f"{field}: {value!r} is not a date", "write YYYY-MM-DD")
    return stamp.normalize()[0]


def _calendar(code: str, **bounds: pd.Timestamp) -> exchange_calendars.ExchangeCalendar:
    with warnings.catch_warnings():  # exchange_calendars 4.13 leans on what pandas 3.1 deprecates
        warnings.simplefilter("ignore", category=DeprecationWarning)
        return exchange_calendars.get_calendar(code, **bounds)


@lru_cache(maxsize=32)
def _schedule(code: str, first_year: int, last_year: int) -> pd.DataFrame:
    """Opens, breaks and closes by session of whole years, in the calendar's own bounds."""
    try:
        default = _calendar(code)
    except exchange_calendars.errors.InvalidCalendarName as e:
        raise ConfigError(
            f"data.calendar: {code!r} is not known",
            "use an exchange_calendars code such as XNYS, XLON, XTKS or 24/7",
        ) from e
    start, end = pd.Timestamp(first_year, 1, 1), pd.Timestamp(last_year, 12, 31)
    bound_min, bound_max = default.bound_min(), default.bound_max()
    start = start if bound_min is None else max(start, bound_min)
    end = end if bound_max is None else min(end, bound_max)
    if start >= end:
        raise DataError(
            f"calendar {code}: {first_year}-{last_year} is outside what it knows",
            "use data of other years or another calendar",
        )
    calendar = _calendar(code, start=start, end=end)
    schedule: pd.DataFrame = calendar.schedule
    return schedule


@lru_cache(maxsize=64)
def _bars(code: str, seconds: int, first_year: int, last_year: int) -> Bars:
    """Bars of all sessions of whole years; sessions with a break are cut at the break."""
    schedule = _schedule(code, first_year, last_year)
    opens, closes = nanoseconds(schedule["open"]), nanoseconds(schedule["close"])
    number = np.arange(len(opens))
    dates = pd.DatetimeIndex(schedule.index)
    interval = Interval(seconds)
    if interval.is_daily:
        return Bars(opens, closes, number, dates)
    paused = schedule["break_start"].notna().to_numpy()
    pause, resume = (nanoseconds(schedule[c][paused]) for c in ("break_start", "break_end"))
    begin = np.concatenate([opens, resume])
    end = closes.copy()
    end[paused] = pause
    end = np.concatenate([end, closes[paused]])
    session = np.concatenate([number, number[paused]])
    order = np.argsort(begin)
    begin, end, session = begin[order], end[order], session[order]
    length = seconds * SECOND
    count = -((begin - end) // length)  # ceil: the last bar ends with the session
    place = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    bar_opens = np.repeat(begin, count) + place * length
    bar_closes = np.minimum(bar_opens + length, np.repeat(end, count))
    return Bars(bar_opens, bar_closes, np.repeat(session, count), dates)


class TradingCalendar:
    """Sessions and bars of one venue; thin and cached over ``exchange_calendars``.

    Parameters
    ----------
    code : str
        exchange_calendars code, for example ``"XNYS"``.

    Raises
    ------
    ConfigError
        When the code is not known.
    """

    def __init__(self, code: str) -> None:
        self.code = code
        self._years(*ANNUALISATION_YEARS)

    def __repr__(self) -> str:
        return f"TradingCalendar({self.code!r})"

    @property
    def time_zone(self) -> str:
        """Time zone of the venue, IANA name."""
        return str(_calendar(self.code).tz)

    def _years(self, first: int, last: int) -> tuple[str, int, int]:
        # decades, so that neighbouring questions share one cached schedule
        key = (self.code, first - first % 10, last - last % 10 + 9)
        _schedule(*key)
        return key

    def sessions(self, start: Date, end: Date) -> pd.DatetimeIndex:
        """Session dates from `start` to `end`, both inclusive; naive midnight."""
        first, last = as_date(start), as_date(end)
        dates = pd.DatetimeIndex(_schedule(*self._years(first.year, last.year)).index)
        return dates[dates.searchsorted(first) : dates.searchsorted(last, side="right")]

    def session_close(self, session: Date) -> pd.Timestamp:
        """The moment `session` ends, UTC.

        Raises
        ------
        DataError
            When the venue does not trade on that date.
        """
        date = as_date(session)
        schedule = _schedule(*self._years(date.year, date.year))
        if date not in schedule.index:
            raise DataError(
                f"{date.date()} is not a session of {self.code}", "use a date on which it trades"
            )
        return utc_index(nanoseconds(schedule.loc[[date], "close"]))[0]

    def session_minutes(self, start: Date, end: Date) -> pd.Series:
        """Minutes of trading in each session from `start` to `end`, breaks left out."""
        dates = self.sessions(start, end)
        if dates.empty:
            return pd.Series(dtype="int64", index=dates)
        schedule = _schedule(*self._years(dates[0].year, dates[-1].year)).loc[dates]
        paused = schedule["break_start"].notna().to_numpy()
        open_for = nanoseconds(schedule["close"]) - nanoseconds(schedule["open"])
        pause = schedule[paused]
        open_for[paused] -= nanoseconds(pause["break_end"]) - nanoseconds(pause["break_start"])
        return pd.Series(open_for // (MINUTE * SECOND), index=dates, name="minutes")

    def bars(self, interval: Interval | str, start: Date, end: Date) -> Bars:
        """Bars of the sessions from `start` to `end`, both inclusive.

        Bars are aligned to the session's open; the last bar of a session (or of its morning)
        is shorter when `interval` does not divide it. Half days simply have fewer bars.
        """
        length = parse_interval(interval) if isinstance(interval, str) else interval
        first, last = as_date(start), as_date(end)
        code, *years = self._years(first.year, last.year)
        bars = _bars(code, length.seconds, *years)
        low, high = np.searchsorted(
            bars.session,
            [bars.sessions.searchsorted(first), bars.sessions.searchsorted(last, side="right")],
        )
        part = slice(int(low), int(high))
        return Bars(bars.opens[part], bars.closes[part], bars.session[part], bars.sessions)

    def bar_closes(self, interval: Interval | str, start: Date, end: Date) -> pd.DatetimeIndex:
        """Closes of the bars from `start` to `end`, UTC; see :meth:`bars`."""
        return utc_index(self.bars(interval, start, end).closes)

    def bars_per_year(self, interval: Interval | str) -> float:
        """Mean number of bars in a year, counted in the calendar over 2004-2023.

        About 252 for ``1d`` on XNYS and a little under 252 x 78 for ``5m``: half days count
        as what they are. Annualised figures of the same returns at two intervals agree.
        """
        length = parse_interval(interval) if isinstance(interval, str) else interval
        code, *years = self._years(*ANNUALISATION_YEARS)
        bars = _bars(code, length.seconds, *years)
        known = np.unique(bars.sessions.year)
        first, last = ANNUALISATION_YEARS
        # a calendar may know fewer years; its first and last may be cut short
        inside = [y for y in known if first <= y <= last]
        whole = inside if len(inside) == last - first + 1 else inside[1:-1]
        year = bars.sessions.year.to_numpy()[bars.session]
        return float(np.isin(year, whole).sum() / len(whole))

    def years_between(self, start: pd.Timestamp, end: pd.Timestamp) -> float:
        """Years from `start` to `end`, both instants in UTC, by elapsed time.

        Nights, weekends and holidays count: this is what interest and borrow accrue over.
        """
        return float((end - start).total_seconds() / SECONDS_PER_YEAR)

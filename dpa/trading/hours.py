"""When a venue trades: sessions, half days, breaks and clock changes, as moments in UTC."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import numpy as np
import pandas as pd

from dpa.market.calendars import TradingCalendar, nanoseconds, utc_index
from dpa.market.intervals import Interval, parse_interval
from dpa.trading.types import Instrument

_HALF_DAY = Interval(43_200)  # one bar of it is a whole session, or a whole half of one
_AROUND = pd.Timedelta(10, "D")  # no venue rests for longer
MINUTE = 60.0


@dataclass(frozen=True)
class Stretch:
    """An uninterrupted stretch of trading.

    Parameters
    ----------
    session : date
        The venue's date.
    opens, closes : datetime
        UTC; it trades from `opens`, and no more at `closes`.
    ends_session : bool
        Whether the session is over after it, rather than paused.
    """

    session: date
    opens: datetime
    closes: datetime
    ends_session: bool


class Hours:
    """Sessions of a venue, asked moment by moment.

    Parameters
    ----------
    calendar : str
        exchange_calendars code.

    Raises
    ------
    ConfigError
        When the code is not known.
    """

    def __init__(self, calendar: str) -> None:
        self.calendar = calendar
        self._calendar = TradingCalendar(calendar)
        self._known: dict[date, tuple[Stretch, ...]] = {}

    def at(self, moment: datetime) -> Stretch | None:
        """The stretch in which the venue trades at `moment`; none: it does not."""
        for stretch in self._around(moment):
            if stretch.opens <= moment < stretch.closes:
                return stretch
        return None

    def session_close(self, moment: datetime) -> datetime | None:
        """When the session of `moment` ends, also in its break; none outside sessions."""
        around = self._around(moment)
        for stretch in around:
            if stretch.ends_session and moment < stretch.closes:
                opened = min(s.opens for s in around if s.session == stretch.session)
                return stretch.closes if opened <= moment else None
        return None

    def session_of(self, bar_close: datetime) -> date | None:
        """The venue's date of a bar that closes at a moment of a session or at its end."""
        for stretch in self._around(bar_close):
            if stretch.opens < bar_close <= stretch.closes:
                return stretch.session
        return None

    def next_open(self, moment: datetime) -> datetime | None:
        """When trading begins next after `moment`."""
        found = [stretch.opens for stretch in self._around(moment) if stretch.opens > moment]
        return min(found, default=None)

    def minutes_between(self, start: datetime, end: datetime) -> float:
        """Minutes of trading from `start` to `end`; nights, weekends and breaks do not count."""
        if end <= start:
            return 0.0
        bars = self._calendar.bars(
            _HALF_DAY, pd.Timestamp(start.date()) - _AROUND, pd.Timestamp(end.date()) + _AROUND
        )
        first, last = nanoseconds(pd.DatetimeIndex([start, end]))
        inside = np.minimum(bars.closes, last) - np.maximum(bars.opens, first)
        return float(np.maximum(inside, 0).sum() / (MINUTE * 1e9))

    def closes_at(self, instrument: Instrument | None, moment: datetime) -> datetime | None:
        """When trading in an instrument ends that goes on at `moment`; none: it does not.

        The venue's calendar and the hours a broker tells must both agree; where they tell other
        ends, the earlier one counts.
        """
        end = self.session_close(moment) if self.at(moment) is not None else None
        hours = () if instrument is None else instrument.liquid_hours
        if end is None or not speak_of(hours, moment):
            return end
        told = [close for opens, close in hours if opens <= moment < close]
        return min(end, *told) if told else None

    def _around(self, moment: datetime) -> tuple[Stretch, ...]:
        day = moment.date()
        if day not in self._known:
            self._known = {day: self._load(day)}
        return self._known[day]

    def _load(self, day: date) -> tuple[Stretch, ...]:
        middle = pd.Timestamp(day)
        bars = self._calendar.bars(_HALF_DAY, middle - _AROUND, middle + _AROUND)
        opens, closes = utc_index(bars.opens), utc_index(bars.closes)
        last = np.append(np.diff(bars.session) > 0, True)
        return tuple(
            Stretch(
                bars.sessions[int(number)].date(),
                begin.to_pydatetime(),
                end.to_pydatetime(),
                bool(ends),
            )
            for number, begin, end, ends in zip(bars.session, opens, closes, last, strict=True)
        )


class BarCloses:
    """Closes of a venue's bars, one after another.

    Parameters
    ----------
    interval, calendar : str
        As in :class:`~dpa.market.panel.Panel`.
    """

    def __init__(self, interval: str, calendar: str) -> None:
        self._interval, self._venue = parse_interval(interval), TradingCalendar(calendar)
        self._day: date | None = None
        self._closes = pd.DatetimeIndex([])

    def after(self, moment: datetime) -> datetime | None:
        """The first close after `moment`; none when the calendar knows none."""
        if self._day != moment.date():
            self._day = moment.date()
            day = pd.Timestamp(self._day)
            bars = self._venue.bars(self._interval, day - _AROUND, day + _AROUND)
            self._closes = utc_index(bars.closes)
        place = int(self._closes.searchsorted(pd.Timestamp(moment), side="right"))
        if place >= len(self._closes):
            return None
        close: datetime = self._closes[place].to_pydatetime()
        return close


def speak_of(hours: Iterable[tuple[datetime, datetime]], moment: datetime) -> bool:
    """Whether hours told by a broker cover the day of `moment` at all; old ones tell nothing."""
    day = timedelta(days=1)
    told = tuple(hours)
    return bool(told) and min(told)[0] - day <= moment <= max(close for _, close in told) + day

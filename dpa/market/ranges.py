"""The dates a configuration asks for, as bar numbers."""

import numpy as np
import pandas as pd

from dpa.config import DataConfig
from dpa.errors import DataError
from dpa.market.calendars import Nanoseconds, TradingCalendar, as_date, nanoseconds
from dpa.market.panel import Panel


def date_span(config: DataConfig, calendar: str, closes: Nanoseconds) -> tuple[int, int]:
    """First bar and bar after the last whose date is within ``start`` and ``end``, inclusive.

    Parameters
    ----------
    config : DataConfig
        Holds the dates: days in the time zone of the venue.
    calendar : str
        exchange_calendars code of the venue.
    closes : int64 ndarray of shape (n_bars,)
        Bar closes, UTC nanoseconds, increasing. A bar that closes at midnight belongs to the
        day that ends there.
    """

    def first_after(field: str, date: str, days: int) -> int:
        day = as_date(date, field) + pd.Timedelta(days, "D")
        zone = TradingCalendar(calendar).time_zone
        midnight = nanoseconds(pd.DatetimeIndex([day]).tz_localize(zone))
        return int(np.searchsorted(closes, midnight[0], side="right"))

    start = 0 if config.start is None else first_after("data.start", config.start, 0)
    stop = len(closes) if config.end is None else first_after("data.end", config.end, 1)
    return start, stop


def between_dates(panel: Panel, config: DataConfig, origin: str) -> Panel:
    """The bars of `panel` within ``start`` and ``end``, both inclusive."""
    start, stop = date_span(config, panel.calendar, nanoseconds(panel.times))
    if start >= stop:
        raise no_bars(origin, config, panel.times[0], panel.times[-1])
    return panel.window(start, stop)


def no_bars(origin: str, config: DataConfig, first: pd.Timestamp, last: pd.Timestamp) -> DataError:
    """The error for an empty selection of dates."""
    return DataError(
        f"{origin}: no bar from {config.start or 'its start'} to {config.end or 'its end'}; "
        f"it covers {first.date()} to {last.date()}",
        "correct data.start and data.end",
    )

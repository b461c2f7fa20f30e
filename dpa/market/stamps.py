"""Time stamps as providers write them, turned into closes of session bars in UTC."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dpa.config import DataConfig
from dpa.errors import ConfigError, DataError
from dpa.market.calendars import SECOND, Bars, Nanoseconds, TradingCalendar, nanoseconds
from dpa.market.intervals import DAY, Interval, parse_interval

logger = logging.getLogger(__name__)

OFF_SESSION = -1
DOUBT = 5  # times as many prices at one edge of sessions tell what stamps mark
_MOST_OFF_SESSION = 0.05  # of daily prices; a wrong calendar or time zone gives far more
_FEW_DAYS = 2  # without a session are no pattern, however short the file
_DAILY_STEP = (20 * 3_600, 5 * DAY)  # a half day after a holiday; a long weekend

Fault = Callable[[str, int, DataError], None]


def refuse(kind: str, count: int, error: DataError) -> None:
    """Raise the error: what loading does with any fault."""
    raise error


def overlook(kind: str, count: int, error: DataError) -> None:
    """Go on without a word: for a second reading of what has been reported already."""


@dataclass(frozen=True, eq=False)
class Stamps:
    """Unique time stamps of a file, in increasing order, and how to speak of them.

    Parameters
    ----------
    times : DatetimeIndex of shape (n_stamps,)
        Strictly increasing; naive, or UTC.
    counts : int64 ndarray of shape (n_stamps,)
        How many prices carry each stamp.
    first_row : callable
        Row of the file (from 0) where a stamp occurs first.
    path : str
        The file, for messages.
    """

    times: pd.DatetimeIndex
    counts: NDArray[np.int64]
    first_row: Callable[[int], int]
    path: str

    def where(self, place: int) -> str:
        """``file, row 3 (2020-01-06)`` for the stamp at `place`."""
        stamp = self.times[place]
        whole = stamp == stamp.normalize()
        return f"{self.path}: row {self.first_row(place) + 1} ({stamp.date() if whole else stamp})"


def configured_interval(config: DataConfig) -> Interval | None:
    """The interval in `config`, if any; a :class:`ConfigError` naming the field."""
    if config.interval is None:
        return None
    try:
        return parse_interval(config.interval)
    except ConfigError as e:
        raise ConfigError(f"data.interval: {e.what}", e.cure) from e


def infer_interval(stamps: Stamps) -> Interval:
    """The commonest step between neighbouring stamps.

    Raises
    ------
    DataError
        When there are fewer than two stamps, or the step is no supported interval.
    """
    cure = "set data.interval (--interval 5m) to the length of a bar"
    if len(stamps.times) < 2:
        raise DataError(f"{stamps.path}: one time stamp does not tell the interval", cure)
    steps, counts = np.unique(np.diff(nanoseconds(stamps.times)), return_counts=True)
    step = int(steps[np.argmax(counts)]) // SECOND
    if _DAILY_STEP[0] <= step <= _DAILY_STEP[1]:
        return Interval(DAY)
    try:
        return Interval(step)
    except ConfigError as e:
        raise DataError(f"{stamps.path}: stamps are {step} s apart, no supported bar", cure) from e


def chosen_interval(stamps: Stamps, config: DataConfig) -> Interval:
    """The interval in `config`, checked against the stamps, or else the inferred one.

    Raises
    ------
    DataError
        When all stamps are several configured bars apart: bars known later would be shown early.
    """
    interval = configured_interval(config)
    if interval is None:
        return infer_interval(stamps)
    if not interval.is_daily and len(stamps.times) > 1:
        step = int(np.gcd.reduce(np.diff(nanoseconds(stamps.times)))) // SECOND
        if step > interval.seconds:
            raise DataError(
                f"{stamps.path}: stamps are multiples of {step} s apart, so bars are longer "
                f"than {interval}",
                "correct data.interval (--interval)",
            )
    return interval


def bar_closes(
    stamps: Stamps, interval: Interval, config: DataConfig, fault: Fault = refuse
) -> Nanoseconds:
    """Close of the bar each stamp stands for, UTC nanoseconds; ``OFF_SESSION`` where none.

    Parameters
    ----------
    stamps : Stamps
        As the file has them. Naive ones are in ``config.time_zone``, by default that of the
        calendar. Daily ones name a session
        by its date; whatever time of day they carry is ignored, and midnight in UTC is the
        date itself.
    interval : Interval
        Length of a bar.
    config : DataConfig
        Calendar, time zone, and whether intraday stamps mark starts or closes.
    fault : callable
        What to do about stamps inside a session that are no bar, or on the wrong side of it, and
        about daily prices of which many lie on days without a session.

    Returns
    -------
    int64 ndarray of shape (n_stamps,)
    """
    calendar = TradingCalendar(config.calendar)
    if interval.is_daily:
        closes = _daily_closes(stamps, calendar, config.time_zone or calendar.time_zone)
    else:
        closes = _intraday_closes(stamps, interval, calendar, config, fault)
    if (closes == OFF_SESSION).all():
        fault(
            "off_session",
            len(closes),
            DataError(
                f"{stamps.where(0)}: no time stamp falls in a session of {config.calendar}",
                "check data.calendar, data.time_zone, data.stamps and data.interval",
            ),
        )
    if interval.is_daily:
        _check_days(stamps, closes, calendar, fault)
    return closes


def _daily_closes(stamps: Stamps, calendar: TradingCalendar, zone: str) -> Nanoseconds:
    dates = session_dates(stamps.times, zone)
    bars = calendar.bars(Interval(DAY), dates[0], dates[-1])
    place = bars.sessions[bars.session].get_indexer(dates)
    return np.where(place >= 0, np.append(bars.closes, OFF_SESSION)[place], OFF_SESSION)


def _check_days(
    stamps: Stamps, closes: Nanoseconds, calendar: TradingCalendar, fault: Fault
) -> None:
    """Many prices on days without a session: dates are off by one, or of another venue."""
    outside = (closes == OFF_SESSION) & (stamps.counts > 0)
    count, total = int(stamps.counts[outside].sum()), int(stamps.counts.sum())
    if outside.sum() > _FEW_DAYS and count > _MOST_OFF_SESSION * total:
        first = int(np.argmax(outside))
        fault(
            "days",
            count,
            DataError(
                f"{stamps.where(first)}: no session of {calendar.code}, as for {count} of "
                f"{total} daily prices",
                "set data.calendar or data.time_zone (--calendar, --time-zone), or drop those rows",
            ),
        )


def session_dates(times: pd.DatetimeIndex, zone: str) -> pd.DatetimeIndex:
    """The dates daily stamps name: as written, or in `zone` when they are instants."""
    if times.tz is None:
        return times.normalize()
    naive = times.tz_convert("UTC").tz_localize(None)
    if (naive == naive.normalize()).all():
        return naive
    return times.tz_convert(_zone(zone)).tz_localize(None).normalize()


def _zone(zone: str) -> str:
    try:
        pd.Timestamp(0, tz=zone)
    except (KeyError, ValueError, OSError) as e:
        raise ConfigError(
            f"data.time_zone: {zone!r} is not known", "use an IANA name such as America/New_York"
        ) from e
    return zone


def _instants(stamps: Stamps, zone: str) -> Nanoseconds:
    """Stamps as UTC nanoseconds; naive ones are local to `zone`."""
    if stamps.times.tz is not None:
        return nanoseconds(stamps.times)
    local = stamps.times.tz_localize(_zone(zone), ambiguous="NaT", nonexistent="NaT")
    if local.hasnans:
        raise DataError(
            f"{stamps.where(int(np.argmax(local.isna())))}: falls in the hour of a clock change",
            "write time stamps with a UTC offset, or set data.time_zone",
        )
    return nanoseconds(local)


def _intraday_closes(
    stamps: Stamps, interval: Interval, calendar: TradingCalendar, config: DataConfig, fault: Fault
) -> Nanoseconds:
    instants = _instants(stamps, config.time_zone or calendar.time_zone)
    margin = pd.Timedelta(2, "D")
    bars = calendar.bars(interval, stamps.times[0] - margin, stamps.times[-1] + margin)
    if len(bars.closes) == 0:
        return np.full(len(instants), OFF_SESSION, dtype=np.int64)
    side = _side(stamps, instants, bars, config, fault)
    grid = bars.opens if side == "start" else bars.closes
    place = np.minimum(np.searchsorted(grid, instants), len(grid) - 1)
    hit = grid[place] == instants
    _check_alignment(stamps, instants, hit, bars, interval, fault)
    return np.where(hit, bars.closes[place], OFF_SESSION)


def _side(
    stamps: Stamps, instants: Nanoseconds, bars: Bars, config: DataConfig, fault: Fault
) -> str:
    """Whether stamps mark starts or closes: as configured, checked; or told from session edges.

    Stamps of bar starts taken for closes would show each price one bar too early.
    """
    edge = np.flatnonzero(np.diff(bars.session, prepend=-1, append=-1))
    first, last = bars.opens[edge[:-1]], bars.closes[edge[1:] - 1]
    at_open = int(stamps.counts[np.isin(instants, first)].sum())
    at_close = int(stamps.counts[np.isin(instants, last)].sum())
    if config.stamps == "auto":
        return _told_side(stamps, at_open, at_close)
    says_start = config.stamps == "start"
    wrong, right = (at_close, at_open) if says_start else (at_open, at_close)
    if wrong > 2 * right:
        other = "close" if says_start else "start"
        fault(
            "stamps",
            wrong,
            DataError(
                f"{stamps.path}: {at_open} prices are stamped at a session's open and "
                f"{at_close} at its close, so stamps mark the {other} of bars",
                f"set data.stamps: {other} (--stamps {other})",
            ),
        )
    return config.stamps


def _told_side(stamps: Stamps, at_open: int, at_close: int) -> str:
    """The side that the edges of sessions tell beyond doubt."""
    seen = f"{at_open} prices are stamped at a session's open and {at_close} at its close"
    more, less = max(at_open, at_close), min(at_open, at_close)
    if more <= DOUBT * less:
        raise DataError(
            f"{stamps.path}: {seen}, which does not tell what stamps mark",
            "set data.stamps (--stamps start, or --stamps close)",
        )
    side = "start" if at_open > at_close else "close"
    logger.warning("%s: %s, so they are taken to mark the %s of bars", stamps.path, seen, side)
    return side


def _check_alignment(
    stamps: Stamps,
    instants: Nanoseconds,
    hit: NDArray[np.bool_],
    bars: Bars,
    interval: Interval,
    fault: Fault,
) -> None:
    around = np.maximum(np.searchsorted(bars.opens, instants, side="right") - 1, 0)
    inside = (bars.opens[around] < instants) & (instants < bars.closes[around])
    astray = np.flatnonzero(inside & ~hit)
    if len(astray):
        fault(
            "misaligned",
            len(astray),
            DataError(
                f"{stamps.where(int(astray[0]))}: is inside a session but no edge of a "
                f"{interval} bar, like {len(astray) - 1} more",
                "set data.interval (--interval) to the length of the file's bars",
            ),
        )

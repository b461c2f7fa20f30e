"""Intervals as a dimension: minutes of session time, bars, and horizons, exactly converted.

Session time is time during which the venue trades: nights, weekends and holidays have none. Five
minutes before the close plus ten session minutes is five minutes after the next open.
"""

import itertools
import math
import re
from dataclasses import dataclass
from typing import Literal

from dpa.errors import ConfigError, DataError
from dpa.market.calendars import Date, TradingCalendar
from dpa.market.intervals import Interval, parse_interval

Rounding = Literal["ceil", "floor", "exact"]
INTRADAY_HORIZONS = ("5m", "10m", "15m", "30m", "60m", "1d")
DAILY_HORIZONS = ("1d", "2d", "5d", "10d", "21d")
_REGULAR_YEAR = ("2019-01-01", "2019-12-31")  # its median session is the venue's regular one
_HORIZON = re.compile(r"([1-9][0-9]*)\s*(m|min|h|d)")


@dataclass(frozen=True)
class IntervalSpec:
    """The length of a bar in both of its measures.

    Parameters
    ----------
    interval : Interval
        Length of a bar.
    session_minutes : int
        Minutes of the venue's regular session; half days have fewer.
    origin : {"data", "config", "default"}
        Who said so.
    """

    interval: Interval
    session_minutes: int
    origin: Literal["data", "config", "default"] = "data"

    @property
    def bar_minutes(self) -> int:
        """Session minutes of a bar: never more than a regular session has."""
        return min(self.interval.minutes, self.session_minutes)

    @property
    def bars_per_session(self) -> int:
        """Bars of a regular session without a break, the last one perhaps shorter."""
        return math.ceil(self.session_minutes / self.bar_minutes)


@dataclass(frozen=True, order=True)
class Horizon:
    """A length of session time over which a return is forecast.

    Parameters
    ----------
    minutes : int
        Session minutes; one day is one regular session.
    bars : int
        The same in bars.
    label : str
        As it is written, ``"30m"`` or ``"1d"``.
    """

    minutes: int
    bars: int
    label: str


def regular_session_minutes(calendar: str, dates: tuple[Date, Date] | None = None) -> int:
    """Minutes of a regular session of the venue, the median one: 390 for XNYS.

    Parameters
    ----------
    calendar : str
        exchange_calendars code.
    dates : tuple of two dates, optional
        First and last date that count, by default those of 2019. They matter for venues that
        changed their hours: XTKS had 300 minutes until 2024-11-01 and 330 since.

    Raises
    ------
    DataError
        When the venue has no session in between.
    """
    start, end = _REGULAR_YEAR if dates is None else dates
    minutes = TradingCalendar(calendar).session_minutes(start, end)
    if minutes.empty:
        raise DataError(f"{calendar}: no session from {start} to {end}", "give other dates")
    return int(minutes.median())


def get_interval_spec(
    data: str | None,
    config: str | None,
    default: str = "5m",
    calendar: str = "XNYS",
    dates: tuple[Date, Date] | None = None,
) -> IntervalSpec:
    """The interval the data say, else the one configured, else the default.

    Parameters
    ----------
    data : str, optional
        Interval of the data, such as a panel's.
    config : str, optional
        Interval of the settings.
    default : str
        Used when neither is given.
    calendar : str
        exchange_calendars code.
    dates : tuple of two dates, optional
        Of the data; see :func:`regular_session_minutes`.

    Raises
    ------
    ConfigError
        When data and settings contradict each other, or an interval is not understood.
    """
    if data is not None and config is not None and parse_interval(data) != _configured(config):
        raise ConfigError(
            f"data.interval: {config}, but the data hold {data} bars",
            "leave it out, or resample the data with 'dpa data resample'",
        )
    minutes = regular_session_minutes(calendar, dates)
    if data is not None:
        return IntervalSpec(parse_interval(data), minutes, "data")
    if config is not None:
        return IntervalSpec(_configured(config), minutes, "config")
    return IntervalSpec(parse_interval(default), minutes, "default")


def _configured(text: str) -> Interval:
    try:
        return parse_interval(text)
    except ConfigError as e:
        raise ConfigError(f"data.interval: {e.what}", e.cure) from e


def minutes_to_bars(minutes: float, spec: IntervalSpec, rounding: Rounding = "ceil") -> int:
    """Session minutes as bars: up for look-backs and purges, never less than one bar.

    Parameters
    ----------
    minutes : float
        Above zero.
    spec : IntervalSpec
    rounding : {"ceil", "floor", "exact"}

    Raises
    ------
    ConfigError
        When `minutes` is not above zero, or no whole number of bars where that is asked for.
    """
    if not 0 < minutes < math.inf:
        raise ConfigError(f"{minutes} minutes", "give a length above zero")
    bars = minutes / spec.bar_minutes
    if rounding == "exact" and bars != int(bars):
        raise ConfigError(
            f"{minutes:g} minutes are {bars:g} bars of {spec.interval}",
            f"use a multiple of {spec.bar_minutes} minutes, or data of shorter bars",
        )
    return max(1, math.floor(bars) if rounding == "floor" else math.ceil(bars))


def horizon_minutes_to_bars(minutes: int, spec: IntervalSpec) -> int:
    """Bars of a horizon, exactly.

    Raises
    ------
    ConfigError
        When the horizon is no whole number of bars.
    """
    return minutes_to_bars(minutes, spec, "exact")


def parse_horizon(text: str, spec: IntervalSpec) -> Horizon:
    """The horizon written as ``5m``, ``2h``, ``1d`` or ``21d``; a day is a regular session.

    Raises
    ------
    ConfigError
        For anything else, and where it is no whole number of bars.
    """
    word = text.strip().lower()
    match = _HORIZON.fullmatch(word)
    if match is None:
        raise ConfigError(
            f"horizon {text!r} is not understood", "write minutes, hours or sessions: 5m, 2h, 1d"
        )
    minutes = int(match[1]) * {"m": 1, "min": 1, "h": 60, "d": spec.session_minutes}[match[2]]
    try:
        return Horizon(minutes, horizon_minutes_to_bars(minutes, spec), word)
    except ConfigError as e:
        raise ConfigError(f"horizon {text}: {e.what}", e.cure) from e


def parse_horizons(texts: tuple[str, ...] | None, spec: IntervalSpec) -> tuple[Horizon, ...]:
    """Horizons in increasing length; without `texts` the usual ones that are whole bars.

    Raises
    ------
    ConfigError
        When one is not understood, or two are the same.
    """
    found = sorted(parse_horizon(text, spec) for text in (_usual(spec) if texts is None else texts))
    if not found:
        raise ConfigError(
            f"horizons.horizons: holds no horizon, and {spec.interval} bars have no usual one"
            if texts is None
            else "horizons.horizons: holds no horizon",
            f"give at least one, such as {2 * spec.bar_minutes}m",
        )
    for before, after in itertools.pairwise(found):
        if before.minutes == after.minutes:
            raise ConfigError(f"horizon {after.label} is given twice", "give each once")
    return tuple(found)


def _usual(spec: IntervalSpec) -> tuple[str, ...]:
    """The usual horizons of the interval that are a whole number of bars."""
    lengths = {"m": 1, "d": spec.session_minutes}
    usual = DAILY_HORIZONS if spec.interval.is_daily else INTRADAY_HORIZONS
    return tuple(
        text for text in usual if int(text[:-1]) * lengths[text[-1]] % spec.bar_minutes == 0
    )


def check_divides(fine: Interval, coarse: Interval) -> None:
    """:class:`DataError` unless whole bars of `fine` make one of `coarse`."""
    if coarse < fine or (not coarse.is_daily and coarse.seconds % fine.seconds):
        raise DataError(
            f"bars of {fine} do not make bars of {coarse}",
            f"choose a multiple of {fine} that divides a day, or 1d",
        )

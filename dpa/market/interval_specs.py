"""Intervals as a dimension: minutes of session time, bars, and horizons, exactly converted.

Session time is time during which the venue trades: nights, weekends and holidays have none. Five
minutes before the close plus ten session minutes is five minutes after the next open.
"""

import math
from dataclasses import dataclass
from typing import Literal

from dpa.errors import ConfigError, DataError
from dpa.market.calendars import TradingCalendar
from dpa.market.intervals import DAY, MINUTE, Interval, parse_interval

Rounding = Literal["ceil", "floor", "exact"]
INTRADAY_HORIZONS = ("5m", "10m", "15m", "30m", "60m", "1d")
DAILY_HORIZONS = ("1d", "2d", "5d", "10d", "21d")
_REGULAR_YEAR = ("2019-01-01", "2019-12-31")  # its median session is the venue's regular one


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
        """Session minutes of a bar: a daily bar has as many as a regular session."""
        return self.session_minutes if self.interval.is_daily else self.interval.minutes

    @property
    def bars_per_session(self) -> int:
        """Bars of a regular session, the last one perhaps shorter."""
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


def regular_session_minutes(calendar: str) -> int:
    """Minutes of a regular session of the venue, 390 for XNYS."""
    minutes = TradingCalendar(calendar).session_minutes(*_REGULAR_YEAR)
    return int(minutes.median())


def get_interval_spec(
    data: str | None,
    config: str | None,
    default: str = "5m",
    calendar: str = "XNYS",
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

    Raises
    ------
    ConfigError
        When data and settings contradict each other, or an interval is not understood.
    """
    if data is not None and config is not None and parse_interval(data) != parse_interval(config):
        raise ConfigError(
            f"data.interval: {config}, but the data hold {data} bars",
            "leave it out, or resample the data",
        )
    minutes = regular_session_minutes(calendar)
    if data is not None:
        return IntervalSpec(parse_interval(data), minutes, "data")
    if config is not None:
        return IntervalSpec(parse_interval(config), minutes, "config")
    return IntervalSpec(parse_interval(default), minutes, "default")


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
    number, unit = word.rstrip("abcdefghijklmnopqrstuvwxyz"), word.lstrip("0123456789")
    per_unit = {"m": 1, "min": 1, "h": 60, "d": spec.session_minutes}.get(unit)
    if per_unit is None or not number.isdigit() or int(number) < 1:
        raise ConfigError(
            f"horizon {text!r} is not understood", "write minutes, hours or sessions: 5m, 2h, 1d"
        )
    minutes = int(number) * per_unit
    try:
        return Horizon(minutes, horizon_minutes_to_bars(minutes, spec), word)
    except ConfigError as e:
        raise ConfigError(f"horizon {text}: {e.what}", e.cure) from e


def parse_horizons(texts: tuple[str, ...] | None, spec: IntervalSpec) -> tuple[Horizon, ...]:
    """Horizons in increasing length; without `texts` the usual ones of the interval.

    Raises
    ------
    ConfigError
        When one is not understood, or two are the same.
    """
    usual = DAILY_HORIZONS if spec.interval.is_daily else INTRADAY_HORIZONS
    given = tuple(parse_horizon(text, spec) for text in (usual if texts is None else texts))
    if not given:
        raise ConfigError("horizons.horizons: holds no horizon", "give at least one, such as 5m")
    found = sorted(given)
    for before, after in zip(found, found[1:], strict=False):
        if before.minutes == after.minutes:
            raise ConfigError(f"horizon {after.label} is given twice", "give each once")
    return tuple(found)


def check_divides(fine: Interval, coarse: Interval) -> None:
    """:class:`DataError` unless whole bars of `fine` make one of `coarse`."""
    if coarse < fine or (not coarse.is_daily and coarse.seconds % fine.seconds):
        raise DataError(
            f"bars of {fine} do not make bars of {coarse}",
            f"choose a multiple of {fine}, at most a session ({DAY // MINUTE} minutes)",
        )

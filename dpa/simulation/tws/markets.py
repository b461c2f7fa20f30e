"""What trades at the venue: bars, invented or recorded, cut into the moments they are made of.

A bar becomes four trades, at its open, its two extremes and its close, each in a five-second bar
of its own; the five-second bars between them are empty. Put together again they are the source's
bars, exactly: prices are never rounded, volumes are whole shares.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from dpa.config import DataConfig, Frozen
from dpa.errors import ConfigError, DataError
from dpa.market.calendars import TradingCalendar, utc_index
from dpa.market.intervals import parse_interval
from dpa.market.panel import Floats, Panel
from dpa.market.readers import load_wide_data
from dpa.market.session_grid import bar_places, bars_around, on_session_grid
from dpa.simulation.planted_bars import IntradayMarket, simulate_bars
from dpa.simulation.tws.words import SimBar

Ints = NDArray[np.int64]
SLOT = timedelta(seconds=5)
TRADES = 4  # of a bar: open, two extremes, close
_CLUSTER = 8  # planted names that belong together
_LEAST_SLOTS = 4


class Book(Frozen):
    """How quotes are made of trades; one object for every market."""

    half_spread_bps: float = Field(1.0, ge=0, le=1000, description="of the price, bps")
    displayed: float = Field(0.05, gt=0, le=1, description="shown size over the step's volume")
    least_size: int = Field(100, ge=1, description="shares shown at least")
    levels: int = Field(3, ge=1, le=100, description="prices a side has, each as deep as the first")
    quote_seconds: int = Field(
        15, ge=5, le=600, description="between quotes of every name, seconds, a multiple of 5"
    )
    working_seconds: float = Field(
        5.0, gt=0, le=600, description="between quotes of names with working orders, seconds"
    )
    empty_bars: bool = Field(
        True, description="five-second bars without a trade are published, too, as TWS does"
    )


@dataclass(frozen=True)
class Step:
    """A moment at which something is published.

    Parameters
    ----------
    moment : datetime
        End of its newest five-second bar; of the session's opening step, the open.
    bar : int
        Row of the source.
    first, last : int
        Five-second bars of it, counted from its open, that are published; `last` is below
        `first` in the opening step.
    part : int, optional
        Which trade of the bar falls into `last`; None: none does.
    """

    moment: datetime
    bar: int
    first: int
    last: int
    part: int | None

    @property
    def opening(self) -> bool:
        """The session opens: quotes, no trade yet."""
        return self.last < self.first


@dataclass(eq=False)
class Market:
    """Bars of every name, and which of them are still to come when the venue starts.

    Parameters
    ----------
    panel : Panel
        On the complete session grid: exactly the bars that are published.
    live_from : int
        First row that is traded; earlier ones are history.
    book : Book
    seed : int
        Of the sizes shown.
    """

    panel: Panel
    live_from: int = 0
    book: Book = field(default_factory=Book)
    seed: int = 0

    def __post_init__(self) -> None:
        bars = bars_around(self.panel.times, self.panel.interval, self.panel.calendar)
        place = bar_places(self.panel.times, bars)
        self.session: Ints = bars.session[place]
        self.opens: list[datetime] = list(utc_index(bars.opens[place]).to_pydatetime())
        self.closes: list[datetime] = list(utc_index(bars.closes[place]).to_pydatetime())
        if not 0 <= self.live_from < self.panel.n_bars:
            raise DataError(
                f"{self.live_from} of {self.panel.n_bars} bars are history", "give more"
            )
        if min(self._slots(bar) for bar in range(self.panel.n_bars)) < _LEAST_SLOTS:
            raise DataError("a bar is shorter than 20 seconds", "use longer bars")

    @property
    def interval_seconds(self) -> int:
        """Length of a bar."""
        return parse_interval(self.panel.interval).seconds

    @cached_property
    def paths(self) -> Floats:
        """Prices of the trades of each bar, shape (n_bars, 4, n_names)."""
        panel = self.panel
        opens, high, low = panel.open, panel.high, panel.low
        assert opens is not None
        assert high is not None
        assert low is not None
        rises = panel.prices >= opens
        first = np.where(rises, low, high)
        second = np.where(rises, high, low)
        return np.stack([opens, first, second, panel.prices], axis=1)

    @cached_property
    def volumes(self) -> Ints:
        """Shares of the trades of each bar, shape (n_bars, 4, n_names); they sum to the bar's."""
        assert self.panel.volume is not None
        total = np.nan_to_num(self.panel.volume).astype(np.int64)
        part = total // TRADES
        return np.stack([part, part, part, total - 3 * part], axis=1)

    def sizes(self, step: Step, part: int) -> Ints:
        """Shares shown at bid and ask from a step on, shape (2, n_names)."""
        random = np.random.default_rng([self.seed, step.bar, step.last + 1])
        spread = random.uniform(0.5, 1.5, (2, self.panel.n_assets))
        lots = np.rint(self.volumes[step.bar, part] * self.book.displayed * spread / 100.0)
        shown: Ints = np.maximum(lots.astype(np.int64) * 100, self.book.least_size)
        return shown

    def _slots(self, bar: int) -> int:
        return int((self.closes[bar] - self.opens[bar]) / SLOT)

    def slots(self, bar: int) -> tuple[int, int, int, int]:
        """Five-second bars, counted from the bar's open, in which its trades fall."""
        count = self._slots(bar)
        return 0, count // 3, 2 * count // 3, count - 1

    def steps(self) -> Iterator[Step]:
        """All moments from `live_from` on, in order."""
        apart = max(self.book.quote_seconds // 5, 1)
        for bar in range(self.live_from, self.panel.n_bars):
            opens = self.opens[bar]
            if bar == self.live_from or self.session[bar] != self.session[bar - 1]:
                yield Step(opens, bar, 0, -1, 0)
            part_of = {slot: part for part, slot in enumerate(self.slots(bar))}
            first = 0
            for last in sorted({*part_of, *range(apart - 1, self._slots(bar), apart)}):
                yield Step(opens + (last + 1) * SLOT, bar, first, last, part_of.get(last))
                first = last + 1

    @property
    def starts_at(self) -> datetime:
        """Open of the first session that is traded, UTC."""
        return self.opens[self.live_from]

    @property
    def ends_at(self) -> datetime:
        """Close of the last bar, UTC."""
        return self.closes[-1]


def decimal(value: float) -> Decimal:
    """The shortest decimal number that reads back as `value`."""
    return Decimal(repr(value))


def flat_bar(start: datetime, price: Decimal, volume: int = 0, count: int = 0) -> SimBar:
    """A bar of one price: of one trade, or of none."""
    return SimBar(start, price, price, price, price, volume, price, count)


def market_of(
    panel: Panel,
    history: int = 0,
    sessions: int | None = None,
    book: Book | None = None,
    seed: int = 0,
) -> Market:
    """A market of the bars of a panel.

    Parameters
    ----------
    panel : Panel
        Any bars of its calendar. Without an open, a bar opens at the close before it in its
        session; without a high and a low, they are those of open and close; volumes are rounded
        to whole shares, unknown ones are 0.
    history : int
        Sessions at the beginning that are past when the venue starts.
    sessions : int, optional
        Sessions traded after them; none: all.
    book : Book, optional
    seed : int
        Of the sizes shown.

    Raises
    ------
    DataError
        When there are not so many sessions.
    """
    grid = on_session_grid(panel)
    bars = bars_around(grid.times, grid.interval, grid.calendar)
    session = bars.session[bar_places(grid.times, bars)]
    first = np.flatnonzero(np.diff(session, prepend=-1))
    if history >= len(first):
        raise DataError(f"{len(first)} sessions of bars, {history} of them history", "give more")
    stop = grid.n_bars
    if sessions is not None and history + sessions < len(first):
        stop = int(first[history + sessions])
    cut = grid.window(0, stop)
    return Market(_whole(cut, session[:stop]), int(first[history]), book or Book(), seed)


def _whole(panel: Panel, session: Ints) -> Panel:
    """Every bar with an open, a high, a low and whole shares."""
    close = panel.prices
    there = np.isfinite(close)
    before = np.vstack([np.full((1, panel.n_assets), np.nan), close[:-1]])
    before[np.diff(session, prepend=-1) != 0] = np.nan

    def known(values: Floats | None, instead: Floats) -> Floats:
        given = instead if values is None else np.where(np.isfinite(values), values, instead)
        return np.where(there, given, np.nan)

    opens = known(panel.open, np.where(np.isfinite(before), before, close))
    highs = np.fmax(np.fmax(opens, close), known(panel.high, close))
    lows = np.fmin(np.fmin(opens, close), known(panel.low, close))
    volume = np.where(there, np.rint(known(panel.volume, np.zeros_like(close))), np.nan)
    return Panel(
        panel.times,
        panel.names,
        close,
        panel.mask,
        panel.interval,
        panel.calendar,
        dollar_volume=volume * close,
        open=opens,
        high=np.where(there, highs, np.nan),
        low=np.where(there, lows, np.nan),
        volume=volume,
    )


def planted_market(
    seed: int,
    names: int = 40,
    sessions: int = 1,
    history: int = 0,
    interval: str = "5m",
    start: str = "2024-06-17",
    book: Book | None = None,
    calendar: str = "XNYS",
) -> Market:
    """An invented market; the same seed gives the same bytes.

    Parameters
    ----------
    seed : int
        >= 0.
    names, sessions, history : int
        Names, sessions traded, and sessions before them.
    interval : str
    start : str
        First date, history included, YYYY-MM-DD.
    book : Book, optional
    calendar : str

    Raises
    ------
    ConfigError
        When a number is too small.
    """
    if seed < 0 or names < 1 or sessions < 1 or history < 0:
        raise ConfigError(
            f"planted: seed {seed}, {names} names, {history} + {sessions} sessions",
            "give a seed and a history of 0 or more, names and sessions of 1 or more",
        )
    config = IntradayMarket(
        n_clusters=math.ceil(names / _CLUSTER),
        names_per_cluster=min(names, _CLUSTER),
        n_sessions=history + sessions,
        interval=interval,
        calendar=calendar,
        start=start,
        volume_profile=0.5,
    )
    panel = simulate_bars(config, seed).panel
    return market_of(_first_names(panel, names), history, sessions, book, seed)


def _first_names(panel: Panel, count: int) -> Panel:
    if count == panel.n_assets:
        return panel
    extras = {name: values[:, :count] for name, values in panel.extras().items()}
    return Panel(
        panel.times,
        panel.names[:count],
        panel.prices[:, :count],
        panel.mask[:, :count],
        panel.interval,
        panel.calendar,
        **extras,
    )


def replayed_market(
    data: DataConfig,
    history: int = 0,
    sessions: int | None = None,
    book: Book | None = None,
    seed: int = 0,
) -> Market:
    """Recorded bars: a wide or long file, or a directory of shards.

    Parameters
    ----------
    data : DataConfig
        ``start`` is the first date that is traded: `history` sessions before it are read as well,
        as far as there are any. Without ``start``, the first `history` sessions are the past.
    history, sessions, book, seed
        See :func:`market_of`.

    Raises
    ------
    DataError, ConfigError
        When the data cannot be read or have not so many sessions.
    """
    if data.start is None:
        return market_of(load_wide_data(data), history, sessions, book, seed)
    venue = TradingCalendar(data.calendar)
    first = venue.sessions(data.start, "2100-01-01" if data.end is None else data.end)[:1]
    if first.empty:
        raise DataError(f"{data.calendar} has no session from {data.start} on", "give other dates")
    before = venue.sessions(first[0] - np.timedelta64(30 + 2 * history, "D"), first[0])
    begin = before[max(len(before) - 1 - history, 0)]
    panel = load_wide_data(data.model_copy(update={"start": begin.strftime("%Y-%m-%d")}))
    dates = panel.times.tz_convert(venue.time_zone).normalize().tz_localize(None)
    past = int(dates[dates < first[0]].nunique())
    return market_of(panel, past, sessions, book, seed)

"""Five-second bars of a broker become bars of the bundle's interval on the session's grid."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import pandas as pd

from dpa.errors import DataError
from dpa.market.calendars import TradingCalendar, utc_index
from dpa.market.intervals import parse_interval
from dpa.market.panel import Panel
from dpa.trading.feed import FeedBar

PIECE = timedelta(seconds=5)
LEAST_COVERED = 0.9  # share of its pieces that a bar must have been built from
NEWEST = 2 * PIECE  # before the close at the latest: then its newest piece must have begun
_AROUND = pd.Timedelta(10, "D")


@dataclass(frozen=True)
class Piece:
    """A short bar of one symbol, as brokers send them.

    Parameters
    ----------
    symbol : str
    start : datetime
        Its START, UTC, as IBKR stamps it.
    open, high, low, close : float
        USD. Where nothing was traded brokers repeat the last price.
    volume : float
        Shares; 0: nothing was traded.
    average : float
        Average price of what was traded, USD.
    """

    symbol: str
    start: datetime
    open: float
    high: float
    low: float
    close: float
    volume: float
    average: float

    @property
    def sound(self) -> bool:
        """Whether its numbers are those of a bar."""
        prices = (self.open, self.high, self.low, self.close)
        return (
            all(np.isfinite(price) and price > 0 for price in prices)
            and self.low <= min(self.open, self.close)
            and max(self.open, self.close) <= self.high
            and self.volume >= 0
        )


@dataclass
class _Building:
    """A bar of one symbol that is being built."""

    open: float = np.nan
    high: float = -np.inf
    low: float = np.inf
    close: float = np.nan
    volume: float = 0.0
    value: float = 0.0
    pieces: int = 0
    last: datetime | None = None

    def reaches(self, closes: datetime) -> bool:
        """Whether its newest piece is of the end of the bar."""
        return self.last is not None and self.last >= closes - NEWEST

    def take(self, piece: Piece) -> None:
        self.pieces, self.last = self.pieces + 1, piece.start
        if piece.volume <= 0:
            return
        if np.isnan(self.open):
            self.open = piece.open
        self.high, self.low = max(self.high, piece.high), min(self.low, piece.low)
        self.close = piece.close
        self.volume += piece.volume
        average = piece.average if piece.low <= piece.average <= piece.high else piece.close
        self.value += piece.volume * average


class BarBuilder:
    """Builds bars of all symbols and gives each once, when it is whole or overdue.

    Parameters
    ----------
    symbols : sequence of str
        Columns of the bars, in this order.
    interval : str
        Of the bars, such as ``5m``.
    calendar : str
        exchange_calendars code; bars lie on its session grid.
    wait_seconds : float
        Waited after a bar's close for pieces still missing; then it is overdue.
    begun : datetime
        Bars that opened before are not built: their beginning was not seen.

    Raises
    ------
    DataError
        When the interval is a day: nothing is gained by five-second bars.

    Notes
    -----
    A symbol has a bar where nine tenths of its pieces came, one of the last two among them, and
    anything was traded; it is *missing* where fewer came, or where none came at the end: its
    close would be the price of an earlier moment. Pieces of a bar that was given already are
    counted and dropped; a piece that comes a second time replaces nothing.
    """

    def __init__(
        self,
        symbols: Sequence[str],
        interval: str,
        calendar: str,
        wait_seconds: float,
        begun: datetime,
    ) -> None:
        length = parse_interval(interval)
        if length.is_daily:
            raise DataError(f"bars of {interval} are not built from pieces", "use a shorter one")
        self.symbols, self.interval, self.calendar = tuple(symbols), interval, calendar
        self._length = length
        self._wait = timedelta(seconds=wait_seconds)
        self._venue = TradingCalendar(calendar)
        self._grid_until = begun
        self._grid: list[tuple[datetime, datetime]] = []
        self._bars: dict[datetime, dict[str, _Building]] = {}
        self._opened: dict[datetime, datetime] = {}
        self._whole: set[datetime] = set()
        self._came_at: dict[datetime, datetime] = {}  # the newest piece of each bar
        self._given = begun  # close of the newest bar given; none opened before is built
        self._place = {symbol: k for k, symbol in enumerate(self.symbols)}
        self.dropped = 0
        self.unsound = 0

    def add(self, piece: Piece, at: datetime) -> None:
        """Take a piece that came at the moment `at`."""
        if piece.symbol not in self._place:
            return
        if not piece.sound:
            self.unsound += 1
            return
        bar = self._bar_of(piece.start)
        if bar is None:
            self.dropped += 1
            return
        closes = bar[1]
        building = self._bars.setdefault(closes, {}).setdefault(piece.symbol, _Building())
        if building.last is not None and piece.start <= building.last:
            self.dropped += 1
            return
        building.take(piece)
        self._came_at[closes] = at
        if self._is_whole(closes):
            self._whole.add(closes)

    def due(self, now: datetime) -> tuple[FeedBar, ...]:
        """Bars not given before that are whole, or overdue, at `now`; in order."""
        self._extend(now)
        found = []
        for _, closes in list(self._grid):
            if now < closes or (closes not in self._whole and now < closes + self._wait):
                break
            found.append(self._give(closes))
        return tuple(found)

    def next_due(self, now: datetime) -> datetime:
        """When the next bar will be due at the latest, UTC."""
        self._extend(now + timedelta(days=10))
        return self._grid[0][1] + self._wait

    def _give(self, closes: datetime) -> FeedBar:
        deadline = closes + self._wait
        wanted = LEAST_COVERED * ((closes - self._opened[closes]) / PIECE)
        came_at = self._came_at.pop(closes, deadline)
        known_at = max(closes, came_at) if closes in self._whole else max(deadline, came_at)
        self._whole.discard(closes)
        self._grid.pop(0)
        self._given = closes
        built = self._bars.pop(closes, {})
        n = len(self.symbols)
        rows = {name: np.full((1, n), np.nan) for name in ("open", "high", "low", "close")}
        volume, value = np.full((1, n), np.nan), np.full((1, n), np.nan)
        missing = []
        for symbol, k in self._place.items():
            bar = built.get(symbol)
            if bar is None or bar.pieces < wanted or not bar.reaches(closes):
                missing.append(symbol)
            elif bar.volume > 0:
                for name, array in rows.items():
                    array[0, k] = getattr(bar, name)
                volume[0, k], value[0, k] = bar.volume, bar.value
            else:
                volume[0, k] = value[0, k] = 0.0
        close = rows.pop("close")
        panel = Panel(
            pd.DatetimeIndex([closes]).as_unit("ns"),
            self.symbols,
            close,
            np.isfinite(close),
            self.interval,
            self.calendar,
            dollar_volume=value,
            volume=volume,
            **rows,
        )
        return FeedBar(panel, known_at, tuple(missing), known_at > deadline)

    def _is_whole(self, closes: datetime) -> bool:
        """Whether every symbol's last piece of a bar has come."""
        built, last = self._bars[closes], closes - PIECE
        return len(built) == len(self.symbols) and all(b.last == last for b in built.values())

    def _bar_of(self, start: datetime) -> tuple[datetime, datetime] | None:
        self._extend(start)
        for opens, closes in self._grid:
            if opens <= start < closes:
                return opens, closes
        return None

    def _extend(self, until: datetime) -> None:
        """Know the grid up to a while after `until`."""
        if until < self._grid_until and self._grid:
            return
        first, last = pd.Timestamp(self._given), pd.Timestamp(until) + _AROUND
        bars = self._venue.bars(
            self._length, first.tz_localize(None) - _AROUND, last.tz_localize(None)
        )
        opens, closes = utc_index(bars.opens), utc_index(bars.closes)
        chosen = opens >= first
        self._grid = [
            (begin.to_pydatetime(), end.to_pydatetime())
            for begin, end in zip(opens[chosen], closes[chosen], strict=True)
        ]
        self._opened = {end: begin for begin, end in self._grid}
        self._grid_until = self._grid[-1][1] if self._grid else until

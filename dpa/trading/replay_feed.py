"""Bars of the past as a feed: each at its close, with quotes made up from it or recorded."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dpa.clock import Clock
from dpa.errors import DataError
from dpa.market.calendars import nanoseconds
from dpa.market.panel import Panel
from dpa.serving.replay import LEAST_HALF_SPREAD_BPS, Bars
from dpa.trading.feed import FeedBar
from dpa.trading.types import Quote

MADE_UP_AGE = timedelta(milliseconds=50)  # of a quote made up from a close
CENT = Decimal("0.01")
COLUMNS = ("time", "symbol", "bid", "ask")


@dataclass(frozen=True, eq=False)
class RecordedQuotes:
    """Quotes as they were recorded.

    Parameters
    ----------
    frame : DataFrame
        Columns ``time`` (UTC, when it was known), ``symbol``, ``bid``, ``ask`` (USD) and, where
        there are any, ``bid_size``, ``ask_size`` (shares).

    Raises
    ------
    DataError
        When a column is missing or the times have no zone.
    """

    frame: pd.DataFrame

    def __post_init__(self) -> None:
        missing = [name for name in COLUMNS if name not in self.frame.columns]
        if missing:
            raise DataError(f"quotes: no column {missing[0]!r}", f"give {', '.join(COLUMNS)}")
        if getattr(self.frame["time"].dtype, "tz", None) is None:
            raise DataError("quotes: column 'time' has no time zone", "convert it to UTC")

    @classmethod
    def read(cls, path: Path) -> "RecordedQuotes":
        """Those of a Parquet file."""
        try:
            return cls(pd.read_parquet(path))
        except (OSError, ValueError) as e:
            raise DataError(f"{path}: cannot be read ({e})", "give a Parquet file") from e

    @cached_property
    def _parts(self) -> dict[str, tuple[NDArray[np.int64], pd.DataFrame]]:
        ordered = self.frame.sort_values("time", kind="stable")
        return {
            str(symbol): (nanoseconds(part["time"]), part.reset_index(drop=True))
            for symbol, part in ordered.groupby("symbol", sort=True)
        }

    def at(self, symbol: str, now: datetime) -> Quote | None:
        """The newest quote of a symbol at `now`; none before its first."""
        if symbol not in self._parts:
            return None
        times, part = self._parts[symbol]
        row = int(times.searchsorted(pd.Timestamp(now).value, side="right")) - 1
        if row < 0:
            return None
        record = part.iloc[row]
        return Quote(
            symbol,
            record["time"].to_pydatetime(),
            _price(record["bid"]),
            _price(record["ask"]),
            None,
            _shares(record.get("bid_size")),
            _shares(record.get("ask_size")),
        )


class ReplayFeed:
    """A :class:`~dpa.trading.feed.Feed` over bars in memory.

    Parameters
    ----------
    panel : Panel
        Bars; those before `first` are the past that average volumes and volatilities come from.
    clock : Clock
        Tells what is known by now: nothing of a bar before its close.
    first : int
        Row of the first bar that is given.
    half_spread_bps : float
        Of quotes made up around the newest close, bps of it; at least a tick is between them.
    quote_shares : int
        Sizes of quotes made up.
    quotes : RecordedQuotes, optional
        Used instead of made-up ones.
    known_after : timedelta
        From a bar's close until it is given.

    Notes
    -----
    A made-up quote is always 50 ms old: it stands for a market that does not move until the next
    bar. A name without a price at the newest bar keeps the quote of the last one it had, as old
    as that is.
    """

    def __init__(
        self,
        panel: Panel,
        clock: Clock,
        *,
        first: int = 0,
        half_spread_bps: float = 1.0,
        quote_shares: int = 10_000,
        quotes: RecordedQuotes | None = None,
        known_after: timedelta = timedelta(0),
    ) -> None:
        if not 0 <= first < panel.n_bars:
            raise DataError(f"replay: bar {first} is none of {panel.n_bars}", "give other dates")
        self._bars, self._clock, self._recorded = Bars(panel, half_spread_bps), clock, quotes
        self._known_after, self._quote_shares = known_after, quote_shares
        self._half = Decimal(str(max(half_spread_bps, LEAST_HALF_SPREAD_BPS))) / 10_000
        self._ticks = nanoseconds(panel.times)
        self._first = self._next = first
        self._columns: dict[str, int] = {name: k for k, name in enumerate(panel.names)}
        self._followed: tuple[str, ...] = ()
        self._seen: dict[str, tuple[float, int]] = {}  # newest close and its row
        self._looked = 0  # rows whose closes are in `_seen`
        # row of the newest close, its time, and bid, ask and last made up from it
        self._prices: dict[str, tuple[int, datetime, Decimal, Decimal, Decimal]] = {}
        self._shown: tuple[datetime, Mapping[str, Quote]] | None = None

    @property
    def symbols(self) -> tuple[str, ...]:
        """All that are followed, sorted."""
        return self._followed

    async def start(self, symbols: Sequence[str], held: Collection[str] = ()) -> None:
        """Follow symbols and what is held.

        Raises
        ------
        DataError
            When there are no bars of a symbol.
        """
        wanted = {*symbols, *(name for name in held if name in self._columns)}
        strange = sorted(wanted - set(self._columns))
        if strange:
            raise DataError(f"replay: no bars of {strange[0]!r}", "leave it out")
        self._followed, self._shown = tuple(sorted(wanted)), None

    async def stop(self) -> None:
        """Follow nothing."""
        self._followed = ()

    def due(self, now: datetime) -> tuple[FeedBar, ...]:
        """Bars whose close, and what is waited after it, lies at or before `now`."""
        found = []
        while self._followed and not self.ended:
            closes = self._panel.times[self._next].to_pydatetime()
            known_at = closes + self._known_after
            if known_at > now:
                break
            found.append(FeedBar(self._row(self._next), known_at))
            self._next += 1
        return tuple(found)

    @property
    def past(self) -> Panel:
        """The bars before the first that is given, of the symbols followed or of all."""
        past = self._panel.window(0, self._first)
        return _columns(past, self._followed or past.names, self._columns)

    @property
    def next_at(self) -> datetime | None:
        """When the next bar will be due; none when there is none."""
        if self.ended:
            return None
        moment: datetime = self._panel.times[self._next].to_pydatetime()
        return moment + self._known_after

    @property
    def _panel(self) -> Panel:
        return self._bars.panel

    def _row(self, row: int) -> Panel:
        return _columns(self._panel.window(row, row + 1), self._followed, self._columns)

    def quotes(self) -> Mapping[str, Quote]:
        """The newest quote of each symbol followed that has one."""
        now = self._clock.now()
        if self._recorded is not None:
            found = ((name, self._recorded.at(name, now)) for name in self._followed)
            return {name: quote for name, quote in found if quote is not None}
        if self._shown is None or self._shown[0] != now:
            self._look(now)
            made = {
                name: self._made_up(name, now, *self._seen[name])
                for name in self._followed
                if name in self._seen
            }
            self._shown = now, made
        return self._shown[1]

    def _look(self, now: datetime) -> None:
        """Take the closes of all bars closed by now."""
        known = int(self._ticks.searchsorted(pd.Timestamp(now).value, side="right"))
        for row in range(self._looked, known):
            prices = self._panel.prices[row]
            for k in np.flatnonzero(np.isfinite(prices)):
                self._seen[self._panel.names[k]] = float(prices[k]), row
        self._looked = max(self._looked, known)

    def _made_up(self, name: str, now: datetime, close: float, row: int) -> Quote:
        known = self._prices.get(name)
        if known is None or known[0] != row:
            then: datetime = self._panel.times[row].to_pydatetime()
            known = self._prices[name] = row, then, *_around(close, self._half)
        _, time, bid, ask, last = known
        if row == self._looked - 1:
            time = max(time, now - MADE_UP_AGE)
        size = self._quote_shares
        return Quote(name, time, bid if bid > 0 else None, ask, last, size, size)

    @property
    def newest_tick_at(self) -> datetime | None:
        """The newest moment at which anything was known."""
        times = [quote.time for quote in self.quotes().values()]
        return max(times, default=None)

    @property
    def ended(self) -> bool:
        """Whether no bar will ever come any more."""
        return self._next >= self._panel.n_bars

    def adv_usd(self, time: datetime) -> Mapping[str, float]:
        """Mean traded value a session, USD, of up to 20 sessions before that of bar `time`."""
        row = int(self._ticks.searchsorted(pd.Timestamp(time).value, side="right")) - 1
        if row < 0:
            return {}
        values = self._bars.adv_usd[self._bars.session[row]]
        return {name: float(values[self._columns[name]]) for name in self._followed}


def _around(close: float, half_spread: Decimal) -> tuple[Decimal, Decimal, Decimal]:
    """Bid and ask about a close, in whole cents and at least one apart, and the close."""
    price = Decimal(repr(close))
    half = max(price * half_spread, CENT / 2)
    bid = ((price - half) / CENT).to_integral_value("ROUND_HALF_EVEN") * CENT
    ask = ((price + half) / CENT).to_integral_value("ROUND_HALF_EVEN") * CENT
    return bid, max(ask, bid + CENT), price.quantize(CENT)


def _columns(panel: Panel, names: Sequence[str], places: Mapping[str, int]) -> Panel:
    columns = [places[name] for name in names]
    return Panel(
        panel.times,
        tuple(names),
        panel.prices[:, columns],
        panel.mask[:, columns],
        panel.interval,
        panel.calendar,
        **{name: array[:, columns] for name, array in panel.extras().items()},
    )


def _price(value: object) -> Decimal | None:
    number = float(value)  # type: ignore[arg-type]
    return Decimal(repr(number)) if np.isfinite(number) and number > 0 else None


def _shares(value: object) -> int:
    if value is None:
        return 0
    number = float(value)  # type: ignore[arg-type]
    return int(number) if np.isfinite(number) and number > 0 else 0

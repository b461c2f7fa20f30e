"""The market as it stands: quotes, the bar in the making, and what bars have been."""

import bisect
import itertools
import random
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dpa.market.calendars import TradingCalendar, nanoseconds, utc_index
from dpa.market.intervals import DAY, parse_interval
from dpa.simulation.tws.contracts import Hours
from dpa.simulation.tws.markets import SLOT, TRADES, Market, Step, decimal, flat_bar
from dpa.simulation.tws.words import Refused, SimBar, SimQuote

Level = tuple[Decimal, Decimal]
Key = TypeVar("Key")
_NONE = Decimal(0)
EASY_TO_BORROW = 10_000_000


class Tape:
    """Quotes and bars of a market, moved from step to step.

    Parameters
    ----------
    market : Market
    min_tick : Decimal
        Quotes are multiples of it.
    """

    def __init__(self, market: Market, min_tick: Decimal = Decimal("0.01")) -> None:
        names = market.panel.n_assets
        self.market, self.tick = market, min_tick
        self._bid = [0] * names  # in ticks; 0: none
        self._ask = [0] * names
        self._bid_size, self._ask_size = [0] * names, [0] * names
        self._last = [float("nan")] * names
        self._last_size, self._volume = [0] * names, [0] * names
        self._close = [float("nan")] * names
        self._time = [market.starts_at] * names
        self._taken = [[_NONE, _NONE] for _ in range(names)]  # at bid and ask since the last refill
        self._quotes: list[SimQuote | None] = [None] * names
        self._exact: list[Decimal | None] = [None] * names  # of the last prices
        self._prices: dict[int, Decimal] = {}  # of ticks
        self.halted: set[int] = set()
        self.borrow: dict[int, int] = {}
        self.bent: dict[int, str] = {}  # quotes a fault has spoilt: crossed, zero, none, stale
        self.thin: dict[int, int] = {}  # sizes a fault has set
        self.bar = market.live_from  # in the making
        self.parts = 0  # trades of it that were
        self.slot = 0  # five-second bars of it that were published
        self._part = 0  # the trade that sizes are made of
        self._random = random.Random(market.seed)
        self._remember_past()

    def _remember_past(self) -> None:
        """Last prices before the venue starts."""
        prices = self.market.panel.prices[: self.market.live_from]
        for place in range(prices.shape[1]):
            known = np.flatnonzero(np.isfinite(prices[:, place]))
            if len(known):
                self._last[place] = self._close[place] = float(prices[known[-1], place])

    def move(self, step: Step) -> list[int]:
        """Let the market come to a step; the places whose quote is new."""
        if step.bar != self.bar:
            self.bar, self.parts = step.bar, 0
        self.slot = step.last + 1
        if step.opening:
            self._close = list(self._last)
            self._volume = [0] * len(self._volume)
        if step.part is not None:
            self._trade(step, step.part)
        sizes = self.market.sizes(step, self._part).tolist()
        changed = []
        for place, bid in enumerate(self._bid):
            if bid and self.bent.get(place) != "stale":
                self._bid_size[place], self._ask_size[place] = sizes[0][place], sizes[1][place]
                self._refresh(place, step.moment)
                changed.append(place)
        return changed

    def _trade(self, step: Step, part: int) -> None:
        """Prices move; in the opening step nothing has traded yet."""
        self._part = part
        market = self.market
        path = market.paths[step.bar, part]
        mid = path / float(self.tick)
        wide = np.maximum(np.rint(mid * (2e-4 * market.book.half_spread_bps)), 1.0)
        bids = np.maximum(np.rint(np.nan_to_num(mid - wide / 2)), 1).astype(np.int64).tolist()
        spreads = np.nan_to_num(wide, nan=1.0).astype(np.int64).tolist()
        traded, prices = market.volumes[step.bar, part].tolist(), path.tolist()
        if not step.opening:
            self.parts = part + 1
        for place in np.flatnonzero(np.isfinite(path)).tolist():
            if not step.opening:
                self._last[place] = prices[place]
                self._exact[place] = None
                self._last_size[place] = traded[place]
                self._volume[place] += traded[place]
            if self.bent.get(place) != "stale":
                self._bid[place] = bids[place]
                self._ask[place] = bids[place] + spreads[place]

    def _refresh(self, place: int, moment: datetime) -> None:
        self._time[place] = moment
        self._taken[place] = [_NONE, _NONE]
        self._quotes[place] = None

    def stir(self, place: int, now: datetime) -> bool:
        """A new quote at the same prices, all its shares there again; False where it is stale."""
        if self.bent.get(place) == "stale" or not self._bid[place]:
            return False
        for sizes in (self._bid_size, self._ask_size):
            lots = round(sizes[place] * self._random.uniform(0.7, 1.4) / 100)
            sizes[place] = max(100 * lots, self.market.book.least_size)
        self._refresh(place, now)
        return True

    def forget(self, place: int) -> None:
        """Make the quote afresh: something about it has changed."""
        self._quotes[place] = None

    def set_quote(self, place: int, now: datetime, quote: SimQuote) -> None:
        """Put a quote there until the market's own next one."""
        bid, ask = quote.bid, quote.ask
        self._bid[place] = 0 if bid is None else int(bid / self.tick)
        self._ask[place] = 0 if ask is None else int(ask / self.tick)
        self._bid_size[place], self._ask_size[place] = quote.bid_size, quote.ask_size
        if quote.last is not None:
            self._last[place] = float(quote.last)
            self._exact[place] = None
        self._refresh(place, now)

    def quote(self, place: int) -> SimQuote:
        """Top of the book; None in it where there is nothing."""
        found = self._quotes[place]
        if found is None:
            found = self._quotes[place] = self._quote(place)
        return found

    def _quote(self, place: int) -> SimQuote:
        thin = self.thin.get(place)
        close = self._close[place]
        quote = SimQuote(
            self._time[place],
            self._price(self._bid[place]),
            self._price(self._ask[place]),
            self.last(place),
            self._bid_size[place] if thin is None else thin,
            self._ask_size[place] if thin is None else thin,
            self._last_size[place],
            self._volume[place],
            decimal(close) if close == close else None,
            place in self.halted,
            self.borrow.get(place, EASY_TO_BORROW),
        )
        return bend(quote, self.bent[place]) if place in self.bent else quote

    def _price(self, ticks: int) -> Decimal | None:
        if not ticks:
            return None
        price = self._prices.get(ticks)
        if price is None:
            price = self._prices[ticks] = ticks * self.tick
        return price

    def last(self, place: int) -> Decimal | None:
        """The newest trade's price, USD."""
        exact = self._exact[place]
        if exact is None:
            price = self._last[place]
            if price != price:
                return None
            exact = self._exact[place] = decimal(price)
        return exact

    def levels(self, place: int, buying: bool) -> Iterator[Level]:
        """Prices and shares an order meets, best first; nothing where the quote is not sound."""
        quote = self.quote(place)
        bid, ask = quote.bid, quote.ask
        if quote.halted or bid is None or ask is None or not 0 < bid < ask:
            return
        price, size = (ask, quote.ask_size) if buying else (bid, quote.bid_size)
        apart = (ask - bid) if buying else (bid - ask)
        taken = self._taken[place][buying]
        for _ in range(self.market.book.levels):
            left = max(size - taken, _NONE)
            taken = max(taken - size, _NONE)
            if left and price > 0:
                yield price, left
            price += apart

    def take(self, place: int, buying: bool, shares: Decimal) -> None:
        """Shares that were there are gone until :meth:`refill` or the next quote."""
        self._taken[place][buying] += shares

    def pieces(self, step: Step, place: int) -> list[SimBar]:
        """The five-second bars of a name that end with a step; asked for before :meth:`move`."""
        opens, last = self.market.opens[step.bar], self._last[place]
        found = []
        if self.market.book.empty_bars and last == last and not step.opening:
            price = decimal(last)
            found = [flat_bar(opens + k * SLOT, price) for k in range(step.first, step.last + 1)]
        if step.part is not None and not step.opening:
            traded = float(self.market.paths[step.bar, step.part, place])
            if traded == traded:
                volume = int(self.market.volumes[step.bar, step.part, place])
                start = opens + step.last * SLOT
                found[-1:] = [flat_bar(start, decimal(traded), volume, 1)]
        return found

    def source_bar(self, bar: int, place: int, parts: int = TRADES) -> SimBar | None:
        """A bar of the market after `parts` of its trades; none where the name had none."""
        prices = self.market.paths[bar, :parts, place].tolist()
        if prices[0] != prices[0]:
            return None
        volumes = self.market.volumes[bar, :parts, place].tolist()
        total = sum(volumes)
        value = sum(p * v for p, v in zip(prices, volumes, strict=True))
        average = value / total if total else sum(prices) / parts
        return SimBar(
            self.market.opens[bar],
            decimal(prices[0]),
            decimal(max(prices)),
            decimal(min(prices)),
            decimal(prices[-1]),
            total,
            decimal(average),
            parts,
        )


def bend(quote: SimQuote, how: str) -> SimQuote:
    """A quote as a broken feed shows it."""
    if how == "crossed":
        return replace(quote, bid=quote.ask, ask=quote.bid)
    if how == "zero":
        return replace(quote, bid=Decimal(0), ask=Decimal(0), bid_size=0, ask_size=0)
    if how == "none":
        return replace(quote, bid=None, ask=None, bid_size=0, ask_size=0)
    return quote


class Past:
    """Answers to requests for history, never with anything that has not been published yet.

    Parameters
    ----------
    tape : Tape
    hours : Hours
    """

    def __init__(self, tape: Tape, hours: Hours) -> None:
        self.tape, self.market, self.hours = tape, tape.market, hours
        self._groups: dict[int, tuple[NDArray[np.int64], list[datetime]]] = {}
        self._known = pd.DataFrame(self.market.panel.prices).ffill().to_numpy()

    def bars(
        self, place: int, now: datetime, end: datetime, duration_seconds: int, bar_seconds: int
    ) -> tuple[SimBar, ...] | Refused:
        """Bars that start before `end`, at most as far back as the duration says.

        Whole days of duration are sessions, as TWS counts them; the last bar may still be in the
        making, as TWS's is.
        """
        end = min(end, now)
        start = end - timedelta(seconds=duration_seconds)
        if duration_seconds % DAY == 0:
            start = self.hours.last_sessions(end, duration_seconds // DAY)
        source = self.market.interval_seconds
        if bar_seconds < source:
            if source % bar_seconds or bar_seconds % 5:
                return Refused(162, f"no bars of {bar_seconds} seconds from bars of {source}")
            found = self._short(place, start, end, bar_seconds)
        elif bar_seconds % source == 0 and bar_seconds <= DAY:
            found = self._long(place, start, end, bar_seconds)
        else:
            return Refused(162, f"no bars of {bar_seconds} seconds from bars of {source}")
        if not found:
            symbol = self.market.panel.names[place]
            words = "Historical Market Data Service error message:HMDS query returned no data"
            return Refused(162, f"{words}: {symbol}@SMART Trades")
        return tuple(found)

    def _parts(self, bar: int) -> int:
        """Trades of a bar that have been published."""
        tape = self.tape
        if bar < tape.bar:
            return TRADES
        return tape.parts if bar == tape.bar else 0

    def _rows(self, start: datetime, end: datetime) -> range:
        """Bars that have begun to be published and begin within the window, or run at its start."""
        opens, closes = self.market.opens, self.market.closes
        first = bisect.bisect_right(closes, start)
        stop = min(bisect.bisect_left(opens, end), self.tape.bar + 1)
        return range(first, stop)

    def _long(self, place: int, start: datetime, end: datetime, seconds: int) -> list[SimBar]:
        source = self.market.interval_seconds
        pieces = [(row, self._parts(row)) for row in self._rows(start, end)]
        bars = [
            (row, bar)
            for row, parts in pieces
            if parts and (bar := self.tape.source_bar(row, place, parts)) is not None
        ]
        if seconds == source:
            return [bar for _, bar in bars if bar.time >= start]
        number, starts = self._grouping(seconds)
        groups = _grouped((int(number[row]), bar) for row, bar in bars)
        return [joined(starts[k], members) for k, members in groups if starts[k] >= start]

    def _grouping(self, seconds: int) -> tuple[NDArray[np.int64], list[datetime]]:
        """Longer bar of each row, and where each longer bar starts."""
        if seconds not in self._groups:
            panel = self.market.panel
            interval = parse_interval("1d" if seconds == DAY else f"{seconds // 60}m")
            calendar = TradingCalendar(panel.calendar)
            zone = calendar.time_zone
            dates = panel.times.tz_convert(zone)
            bars = calendar.bars(
                interval, dates[0].date().isoformat(), dates[-1].date().isoformat()
            )
            number = np.searchsorted(bars.closes, nanoseconds(panel.times))
            self._groups[seconds] = number, list(utc_index(bars.opens).to_pydatetime())
        return self._groups[seconds]

    def _short(self, place: int, start: datetime, end: datetime, seconds: int) -> list[SimBar]:
        def pieces() -> Iterator[tuple[datetime, SimBar]]:
            for row in self._rows(start, end):
                opens = self.market.opens[row]
                for slot, piece in self._pieces(row, place):
                    begin = opens + timedelta(seconds=slot * 5 // seconds * seconds)
                    if start <= begin < end:
                        yield begin, piece

        return [joined(begin, bars) for begin, bars in _grouped(pieces())]

    def _pieces(self, row: int, place: int) -> Iterator[tuple[int, SimBar]]:
        """Five-second bars of a bar that have been published, by their number in it."""
        market, tape = self.market, self.tape
        prices = market.paths[row, :, place].tolist()
        volumes = market.volumes[row, :, place].tolist()
        opens, part_of = market.opens[row], {s: part for part, s in enumerate(market.slots(row))}
        count = tape.slot if row == tape.bar else market.slots(row)[-1] + 1
        last = float(self._known[row - 1, place]) if row else float("nan")
        for slot in range(count if row <= tape.bar else 0):
            part = part_of.get(slot)
            if part is not None and prices[part] == prices[part]:
                last = prices[part]
                yield slot, flat_bar(opens + slot * SLOT, decimal(last), volumes[part], 1)
            elif market.book.empty_bars and last == last:
                yield slot, flat_bar(opens + slot * SLOT, decimal(last))


def _grouped(
    pairs: Iterable[tuple[Key, SimBar]],
) -> Iterator[tuple[Key, list[SimBar]]]:
    """Neighbours with the same key together."""
    for key, members in itertools.groupby(pairs, key=lambda pair: pair[0]):
        yield key, [bar for _, bar in members]


def joined(start: datetime, bars: list[SimBar]) -> SimBar:
    """One bar of several, in order."""
    volume = sum(bar.volume for bar in bars)
    value = sum((bar.average * bar.volume for bar in bars), Decimal(0))
    plain = sum((bar.average for bar in bars), Decimal(0)) / len(bars)
    return SimBar(
        start,
        bars[0].open,
        max(bar.high for bar in bars),
        min(bar.low for bar in bars),
        bars[-1].close,
        volume,
        value / volume if volume else plain,
        sum(bar.count for bar in bars),
    )

"""Subscriptions of a session: what each last said, and what it says next."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from dpa.simulation.tws import replies
from dpa.simulation.tws.history import DAY
from dpa.simulation.tws.replies import Message
from dpa.simulation.tws.wire import Value, new_york
from dpa.simulation.tws.words import Contract, SimBar, SimQuote

LIVE, FROZEN, DELAYED, DELAYED_FROZEN = 1, 2, 3, 4
SHORTABLE_TICK = "236"  # what clients ask for to be told shares that can be borrowed
VOLUME_TICK = "233"
_EASY_TO_BORROW, _HARD_TO_BORROW, _NOT_SHORTABLE = 3.0, 2.0, 1.0
_EASY_SHARES = 1000
_TICK_KINDS = {"Last": 1, "AllLast": 2, "BidAsk": 3, "MidPoint": 4}


class Window:
    """Counts what happened in the last seconds.

    Parameters
    ----------
    seconds : float
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._moments: deque[float] = deque()

    def count(self, now: float) -> int:
        """How many there are at `now`."""
        while self._moments and now - self._moments[0] >= self._seconds:
            self._moments.popleft()
        return len(self._moments)

    def add(self, now: float) -> int:
        """Add one at `now`; how many there are with it."""
        self._moments.append(now)
        return self.count(now)


@dataclass
class MarketLine:
    """Quotes of a contract; after the first only what changed is told.

    Parameters
    ----------
    number : int
        Id of the request.
    contract : Contract
    generic : tuple of str
        Additional tick types that were asked for.
    asked : int
        Kind of data asked for: live, frozen, delayed, delayed and frozen.
    """

    number: int
    contract: Contract
    generic: tuple[str, ...]
    asked: int
    kind: int = 0
    _told: dict[int, tuple[Value, ...]] = field(default_factory=dict)

    def start(self) -> Message:
        """What comes before all ticks."""
        return (81, self.number, self.contract.min_tick, "9c0001", 3)

    def messages(self, quote: SimQuote, kind: int) -> Iterator[Message]:
        """Ticks that are news to the client, of data of a kind."""
        if kind != self.kind:
            self.kind = kind
            self._told.clear()
            yield (58, 1, self.number, kind)
        delayed = kind in (DELAYED, DELAYED_FROZEN)
        yield from self._price(66 if delayed else 1, quote.bid, quote.bid_size)
        yield from self._price(67 if delayed else 2, quote.ask, quote.ask_size)
        if quote.last is not None:
            yield from self._price(68 if delayed else 4, quote.last, quote.last_size)
            stamp = str(int(quote.time.timestamp()))
            traded = (quote.last, quote.last_size, quote.volume)
            yield from self._other(46, 88 if delayed else 45, stamp, traded)
        yield from self._other(2, 74 if delayed else 8, quote.volume)
        if quote.close is not None:
            price = (1, 6, self.number, 75 if delayed else 9, quote.close, 0, 0)
            if self._is_news(-9, (quote.close,)):
                yield price
        yield from self._other(45, 90 if delayed else 49, quote.halted)
        if not delayed:
            yield from self._asked_for(quote)

    def _asked_for(self, quote: SimQuote) -> Iterator[Message]:
        if SHORTABLE_TICK in self.generic:
            shares = quote.shortable
            hard = _HARD_TO_BORROW if shares > 0 else _NOT_SHORTABLE
            level = _EASY_TO_BORROW if shares >= _EASY_SHARES else hard
            yield from self._other(45, 46, level)
            yield from self._other(2, 89, shares)
        if VOLUME_TICK in self.generic and quote.last is not None:
            stamp = int(quote.time.timestamp() * 1000)
            text = f"{quote.last};{quote.last_size};{stamp};{quote.volume};;true"
            yield from self._other(46, 48, text, (quote.last, quote.last_size, quote.volume))

    def _price(self, tick: int, price: Decimal | None, size: int) -> Iterator[Message]:
        """A price with its size; no price is -1. Of a size alone only the size is told."""
        shown: tuple[Value, ...] = (-1, 0) if price is None else (price, size)
        before = self._told.get(tick)
        if not self._is_news(tick, shown):
            return
        if before is not None and before[0] == shown[0]:
            size_tick = {1: 0, 2: 3, 4: 5}.get(tick, tick + 3)
            yield (2, 6, self.number, size_tick, shown[1])
        else:
            yield (1, 6, self.number, tick, *shown, price is not None)

    def _other(
        self, message: int, tick: int, value: Value, changed: tuple[Value, ...] = ()
    ) -> Iterator[Message]:
        if self._is_news(tick, changed or (value,)):
            yield (message, 6, self.number, tick, value)

    def _is_news(self, tick: int, value: tuple[Value, ...]) -> bool:
        if self._told.get(tick) == value:
            return False
        self._told[tick] = value
        return True


@dataclass
class TickLine:
    """Every trade, quote or midpoint of a contract."""

    number: int
    contract: Contract
    kind: str
    _told: tuple[Value, ...] = ()

    @staticmethod
    def knows(kind: str) -> bool:
        """Whether there is such a kind."""
        return kind in _TICK_KINDS

    def messages(self, quote: SimQuote) -> Iterator[Message]:
        """The tick, where there is a new one."""
        bid, ask = quote.bid, quote.ask
        sizes = (quote.bid_size, quote.ask_size)
        rest: tuple[Value, ...] = ()
        news: tuple[Value, ...] = ()
        if self.kind in ("Last", "AllLast"):
            news = (quote.last, quote.last_size, quote.volume)
            if quote.last is not None:
                exchange = self.contract.primary_exchange
                rest = (quote.last, quote.last_size, 0, exchange, "")
        elif self.kind == "BidAsk":
            news = rest = (bid or 0, ask or 0, *sizes, 0)
        elif bid is not None and ask is not None:
            news = rest = ((bid + ask) / 2,)
        if rest and news != self._told:
            self._told = news
            stamp = int(quote.time.timestamp())
            yield (99, self.number, _TICK_KINDS[self.kind], stamp, *rest)


@dataclass(frozen=True)
class BarLine:
    """Bars of five seconds of a contract."""

    number: int
    contract: Contract


@dataclass
class HistoryLine:
    """A historical request that is kept up to date: five-second bars make its newest bar.

    Parameters
    ----------
    number : int
    contract : Contract
    bar_seconds : int
    epoch : bool
        Whether the client wants dates as seconds since 1970.
    newest : SimBar, optional
        Last bar of the answer; later ones start a whole number of bars after it.
    """

    number: int
    contract: Contract
    bar_seconds: int
    epoch: bool
    newest: SimBar | None

    def messages(self, bar: SimBar) -> Iterator[Message]:
        """The newest bar with a five-second bar in it; nothing where that had no trade."""
        if not bar.count:
            return
        start = self._start(bar.time)
        if self.newest is None or self.newest.time < start:
            self.newest = replace(bar, time=start)
        else:
            self.newest = _joined(self.newest, bar)
        date = replies.bar_date(self.newest, self.bar_seconds, self.epoch)
        yield replies.history_update(self.number, self.newest, date)

    def _start(self, moment: datetime) -> datetime:
        """Start of the bar that a moment falls into."""
        if self.bar_seconds >= DAY:
            same = self.newest and new_york(self.newest.time).date() == new_york(moment).date()
            return self.newest.time if self.newest and same else moment
        anchor = self.newest.time if self.newest else datetime.fromtimestamp(0, UTC)
        length = timedelta(seconds=self.bar_seconds)
        return max(anchor, anchor + (moment - anchor) // length * length)


def _joined(first: SimBar, second: SimBar) -> SimBar:
    volume = first.volume + second.volume
    value = first.average * first.volume + second.average * second.volume
    return SimBar(
        first.time,
        first.open,
        max(first.high, second.high),
        min(first.low, second.low),
        second.close,
        volume,
        value / volume if volume else second.close,
        first.count + second.count,
    )

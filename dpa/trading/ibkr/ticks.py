"""Ticks of a symbol become its newest quote, and short bars become pieces."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from dpa.clock import Clock
from dpa.errors import DataError
from dpa.trading.bars import PIECE, Piece
from dpa.trading.types import Quote

BID, ASK, LAST = frozenset({1, 66}), frozenset({2, 67}), frozenset({4, 68})
BID_SIZE, ASK_SIZE = frozenset({0, 69}), frozenset({3, 70})
DELAYED = frozenset(range(66, 77)) | {88, 90}
HALTED = frozenset({49, 90})
SHORTABLE, SHORTABLE_SHARES = 46, 89
EASY_TO_BORROW = 2.5  # tick 46 above it: shares are there without being located first
LIVE = 1  # type of market data; 2 frozen, 3 delayed, 4 delayed and frozen
_ALIKE = 1e300

Refused = Callable[[Any, int, str], None]  # stream, code, message


class QuoteStream:
    """The newest of one symbol's market.

    Parameters
    ----------
    symbol : str
    clock : Clock
    refused : callable
        Told this stream, code and message of an error.
    """

    def __init__(self, symbol: str, clock: Clock, refused: Refused) -> None:
        self.symbol, self.number = symbol, 0
        self.newest_at: datetime | None = None
        self._awaited = {"bid", "ask"}  # sides that were not told, or must be told anew
        self._interrupted = False
        self._clock = clock
        self._refused = refused
        self._prices: dict[str, Decimal | None] = {"bid": None, "ask": None, "last": None}
        self._sizes = {"bid_size": 0, "ask_size": 0}
        self._halted = False
        self._delayed = False
        self._rate: float | None = None
        self._shares: float | None = None
        self._quote: Quote | None = None

    @property
    def quote(self) -> Quote | None:
        """The newest; none before the first tick."""
        if self._quote is None and self.newest_at is not None:
            self._quote = Quote(
                symbol=self.symbol,
                time=self.newest_at,
                bid=self._prices["bid"],
                ask=self._prices["ask"],
                last=self._prices["last"],
                bid_size=self._sizes["bid_size"],
                ask_size=self._sizes["ask_size"],
                halted=self._halted,
                delayed=self._delayed or self.suspended,
                shortable=self._is_shortable(),
            )
        return self._quote

    def _is_shortable(self) -> bool:
        return (self._rate is None or self._rate > EASY_TO_BORROW) and self._shares != 0

    def _came(self) -> None:
        self.newest_at = self._clock.now()
        self._quote = None

    @property
    def suspended(self) -> bool:
        """Whether nothing that came before may be traded on, and not both sides came since."""
        return self._interrupted and self.half_told

    @property
    def half_told(self) -> bool:
        """Whether a side was not told yet; "there is none" is told."""
        return bool(self._awaited)

    def suspend(self) -> None:
        """Forget both sides: what came before may be traded on no more."""
        self._prices |= {"bid": None, "ask": None}
        self._sizes = {"bid_size": 0, "ask_size": 0}
        self._awaited, self._interrupted = {"bid", "ask"}, True
        self._quote = None

    def price(self, tick: int, price: float, size: float) -> None:
        """A price and its size; -1 and 0 mean that there is none."""
        name = "bid" if tick in BID else "ask" if tick in ASK else "last" if tick in LAST else ""
        if not name:
            return
        self._mark(tick)
        self._awaited.discard(name)
        self._prices[name] = Decimal(str(price)) if 0 < price < _ALIKE else None
        if name != "last":
            self._sizes[f"{name}_size"] = _whole(size)
        self._came()

    def size(self, tick: int, size: float) -> None:
        """A size that changed."""
        if tick == SHORTABLE_SHARES:
            self._shares, self._quote = size, None
            return
        name = "bid_size" if tick in BID_SIZE else "ask_size" if tick in ASK_SIZE else ""
        if name:
            self._mark(tick)
            self._sizes[name] = _whole(size)
            self._came()

    def generic(self, tick: int, value: float) -> None:
        """Halts (tick 49: above 0; -1 is unknown) and what can be borrowed (tick 46)."""
        if tick in HALTED:
            self._halted, self._quote = value > 0, None
        elif tick == SHORTABLE:
            self._rate, self._quote = value, None

    def data_type(self, kind: int) -> None:
        """Live, frozen or delayed."""
        self._delayed, self._quote = kind != LIVE, None

    def _mark(self, tick: int) -> None:
        if tick in DELAYED:
            self._delayed = True

    def bar(self, bar: Any) -> None:
        """Not of this stream."""

    def delayed(self) -> None:
        """TWS says that what comes is delayed."""
        self._delayed, self._quote = True, None

    def failed(self, code: int, message: str) -> None:
        """An error frame with the number of this stream."""
        self._refused(self, code, message)


def _whole(size: float) -> int:
    return int(size) if 0 < size < 1e15 else 0


class PieceStream:
    """Five-second bars of one symbol, live or from history kept up to date.

    History sends the newest bar again and again while it grows, and none where nothing is traded:
    a bar is given on when the next one begins or when its time is over, and bars without trades
    are put between.

    Parameters
    ----------
    symbol : str
    growing : bool
        Whether bars grow, as those from history do.
    take : callable
        Given each piece, once, in order.
    refused : callable
    """

    def __init__(
        self, symbol: str, growing: bool, take: Callable[[Piece], None], refused: Refused
    ) -> None:
        self.symbol, self.number = symbol, 0
        self._growing = growing
        self._take = take
        self._refused = refused
        self._held: Piece | None = None
        self._last: Piece | None = None  # given on

    def bar(self, bar: Any) -> None:
        """A bar, stamped with its start."""
        piece = Piece(
            symbol=self.symbol,
            start=bar_moment(bar.date),
            open=float(bar.open),
            high=float(bar.high),
            low=float(bar.low),
            close=float(bar.close),
            volume=max(float(bar.volume), 0.0),
            average=float(bar.average),
        )
        if not self._growing:
            self._take(piece)
            return
        newest = self._held or self._last
        if newest is not None and piece.start < newest.start:
            return
        if self._held is not None and piece.start > self._held.start:
            self._give()
        self._fill(piece.start)
        if self._last is None or piece.start > self._last.start:
            self._held = piece

    def flush(self, now: datetime, fill: bool) -> None:
        """Give on what has ended by `now`.

        Parameters
        ----------
        now : datetime
        fill : bool
            Whether silence means that nothing was traded.
        """
        if self._held is not None and self._held.start + PIECE <= now:
            self._give()
        if fill and self._held is None:
            self._fill(now)

    def _give(self) -> None:
        if self._held is not None:
            self._take(self._held)
            self._held, self._last = None, self._held

    def _fill(self, until: datetime) -> None:
        """Bars without trades from the last one given to `until`, within the session or not."""
        while self._last is not None and self._last.start + 2 * PIECE <= until:
            close = self._last.close
            start = self._last.start + PIECE
            self._last = Piece(self.symbol, start, close, close, close, close, 0.0, close)
            self._take(self._last)

    def price(self, tick: int, price: float, size: float) -> None:
        """Not of this stream."""

    def size(self, tick: int, size: float) -> None:
        """Not of this stream."""

    def generic(self, tick: int, value: float) -> None:
        """Not of this stream."""

    def data_type(self, kind: int) -> None:
        """Not of this stream."""

    def failed(self, code: int, message: str) -> None:
        """An error frame with the number of this stream."""
        self._refused(self, code, message)


def bar_moment(stamp: Any) -> datetime:
    """The start of a bar as TWS stamps it, UTC: seconds since 1970, or date, time and zone.

    Raises
    ------
    DataError
        It is neither.
    """
    text = str(stamp)
    if text.isdigit() and len(text) != 8:
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=int(text))
    try:
        date, time, zone = text.split(" ", 2)
        local = datetime.strptime(date + time, "%Y%m%d%H:%M:%S").replace(tzinfo=ZoneInfo(zone))
        return local.astimezone(UTC)
    except (ValueError, KeyError) as e:
        raise DataError(f"TWS: a bar is stamped {text!r}, which is no moment") from e

"""Quotes and bars from TWS: lines shared out, gaps mended, nothing delayed passed off as live."""

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from dpa.clock import Clock
from dpa.config import IbkrConfig
from dpa.errors import DataError, TransientError
from dpa.trading.bars import BarBuilder, Piece
from dpa.trading.feed import FeedBar
from dpa.trading.hours import speak_of
from dpa.trading.ibkr import codes
from dpa.trading.ibkr.callbacks import Listener
from dpa.trading.ibkr.client import TwsClient
from dpa.trading.ibkr.codes import LINK_CODES, LinkCode
from dpa.trading.ibkr.contracts import Contracts
from dpa.trading.ibkr.lines import Lines
from dpa.trading.ibkr.pace import Pace, Sleep, Urgency
from dpa.trading.ibkr.ticks import PieceStream, QuoteStream
from dpa.trading.types import Quote

SILENCE = timedelta(seconds=30)  # without any tick, then everything is subscribed anew
LIVELY = timedelta(minutes=10)  # without a silence, then the next one is the first again
LONGEST_SILENCE = timedelta(minutes=8)  # each one that follows is waited for twice as long
HALF_TOLD = timedelta(seconds=5)  # after a farm is well: then who lacks a side is asked for anew
RETRY = timedelta(seconds=60)  # until a refused symbol is tried again
_PERIOD_SECONDS = 600.0  # of the limit on requests for bars
_QUOTES = ("reqMktData", "cancelMktData")
_BARS = {
    "realtime": ("reqRealTimeBars", "cancelRealTimeBars"),
    "history": ("reqHistoricalData", "cancelHistoricalData"),
}
_LINED = (_QUOTES[0], _BARS["realtime"][0])  # what takes a line
_LIVE, _DELAYED = 1, 3
_GENERIC_TICKS = "236"  # what can be borrowed
_log = logging.getLogger(__name__)


class IbkrFeed(Listener):
    """A :class:`~dpa.trading.feed.Feed` from TWS, on the connection of the broker.

    Parameters
    ----------
    client : TwsClient
        Connected, and kept so, by :class:`~dpa.trading.ibkr.broker.IbkrBroker`.
    contracts : Contracts
        The broker's.
    settings : IbkrConfig
    interval, calendar : str
        Of the bars, as the bundle has them.
    wait_seconds : float
        Waited after a bar's close for symbols still missing.
    clock : Clock
    sleep : callable
    alert : callable
        Told in words that no quotes come; once for each connection.

    Notes
    -----
    Nothing wakes by itself: :meth:`due` looks after silence and refused symbols, so that it works
    the same by the wall clock and in a replay.
    """

    def __init__(
        self,
        client: TwsClient,
        contracts: Contracts,
        settings: IbkrConfig,
        interval: str,
        calendar: str,
        wait_seconds: float,
        clock: Clock,
        sleep: Sleep = asyncio.sleep,
        alert: Callable[[str], None] = _log.warning,
    ) -> None:
        self.ended = False
        self._alert = alert
        self._client, self._contracts, self._settings = client, contracts, settings
        self._interval, self._calendar = interval, calendar
        self._wait_seconds = wait_seconds
        self._clock = clock
        each = 2 if settings.bar_source == "realtime" else 1
        self._lines = Lines(settings.market_data_lines, each)
        self._bar_pace = Pace(settings.history_requests, clock, sleep, _PERIOD_SECONDS)
        self._symbols: tuple[str, ...] = ()
        self._held: frozenset[str] = frozenset()
        self._quotes: dict[str, QuoteStream] = {}
        self._pieces: dict[str, PieceStream] = {}
        self._numbers: dict[tuple[str, str], int] = {}  # (method, symbol) -> its stream
        self._unknown: set[str] = set()
        self._retry_at: dict[str, datetime] = {}
        self._builder: BarBuilder | None = None
        self._newest: datetime | None = None
        self._quiet_since: datetime | None = None
        self._patience = SILENCE  # grows with each silence, so that quotes may be few
        self._lively_since: datetime | None = None
        self._quote_work: asyncio.Task[None] | None = None
        self._bar_work: asyncio.Task[None] | None = None
        self._dark = False  # TWS has no quotes for us
        self._stale = False  # what is subscribed may not be what should be
        self._kind_told = False
        self._dropped: list[tuple[str, int]] = []  # (method, number) still to be cancelled
        self.refusals: dict[str, str] = {}
        client.listen(self)

    @property
    def symbols(self) -> tuple[str, ...]:
        """All that are followed, sorted."""
        return self._symbols

    @property
    def unfollowed(self) -> tuple[str, ...]:
        """Symbols without a line, sorted: they have no quotes and no bars."""
        return tuple(s for s in self._symbols if s not in self._quotes)

    @property
    def newest_tick_at(self) -> datetime | None:
        """When anything last came."""
        ticks = (stream.newest_at for stream in self._quotes.values())
        moments = [moment for moment in (*ticks, self._newest) if moment is not None]
        return max(moments, default=None)

    async def start(self, symbols: Sequence[str], held: Collection[str] = ()) -> None:
        """Follow symbols; those that are held come first where lines are few."""
        self._symbols, self._held = tuple(sorted(set(symbols))), frozenset(held)
        self._builder = BarBuilder(
            self._symbols, self._interval, self._calendar, self._wait_seconds, self._clock.now()
        )
        self._unknown = set()
        await self._learn(self._symbols)
        await self._mend()

    async def stop(self) -> None:
        """Follow nothing."""
        self._symbols = ()
        tasks = [task for task in (self._quote_work, self._bar_work) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for symbol in list(self._quotes):
            self._drop(symbol)
        if self._client.ready:
            await self._cancel_dropped()

    def hold(self, held: Collection[str]) -> None:
        """Positions have changed: they get quotes, at the cost of others where lines are few.

        What is held and is none of the symbols followed gets quotes, too, and no bars.
        """
        if self._held != frozenset(held):
            self._held = frozenset(held)
            self._mend()

    def due(self, now: datetime) -> tuple[FeedBar, ...]:
        """Bars not given before that are whole, or overdue, at `now`; each once, in order."""
        if self._builder is None:
            return ()
        for symbol, stream in self._pieces.items():
            stream.flush(now, self._is_lively(symbol, now))
        self._tend(now)
        return self._builder.due(now)

    def next_due(self, now: datetime) -> datetime | None:
        """When the next bar will be due at the latest."""
        return self._builder.next_due(now) if self._builder is not None else None

    def quotes(self) -> Mapping[str, Quote]:
        """The newest quote of each symbol that has one."""
        found = ((symbol, stream.quote) for symbol, stream in self._quotes.items())
        return {symbol: quote for symbol, quote in found if quote is not None}

    # subscriptions: state changes at once, messages follow in their own time

    def _mend(self) -> asyncio.Task[None]:
        """Begin to make what is subscribed what should be."""
        self._stale = True
        if self._quote_work is None or self._quote_work.done():
            self._quote_work = asyncio.get_running_loop().create_task(self._settle_quotes())
        return self._quote_work

    async def _settle_quotes(self) -> None:
        try:
            while self._stale:
                self._stale = False
                await self._settle_quotes_once()
        except (TransientError, DataError) as e:
            _log.warning("quotes: %s", e)  # a new connection subscribes anew
            return
        if self._bar_work is None or self._bar_work.done():
            self._bar_work = asyncio.get_running_loop().create_task(self._settle_bars())

    async def _settle_quotes_once(self) -> None:
        await self._learn(s for s in self._held if s not in self._symbols)
        chosen = self._chosen()
        for symbol in [s for s in self._quotes if s not in chosen]:
            self._drop(symbol)
        await self._cancel_dropped()
        if not self._kind_told:
            self._kind_told = True
            kind = _DELAYED if self._settings.delayed_data else _LIVE
            await self._client.send(Urgency.DATA, "reqMarketDataType", kind)
        self._quiet_since = self._clock.now()
        for symbol in chosen:
            if symbol not in self._quotes:
                await self._follow(symbol)
            if self._stale:
                return

    def _chosen(self) -> tuple[str, ...]:
        """Who has a line keeps it, as far as what is held leaves any."""
        others = sorted(s for s in self._held if s not in self._symbols and self._contracts.get(s))
        wanted = [s for s in (*self._symbols, *others) if s not in self._unknown]
        wanted.sort(key=lambda symbol: symbol not in self._quotes)
        return self._lines.choose(wanted, self._held)

    async def _learn(self, symbols: Iterable[str]) -> None:
        asked = [s for s in symbols if s not in self._unknown and self._contracts.get(s) is None]
        if asked:
            self._unknown |= set(asked) - set(await self._contracts.learn(asked))

    async def _follow(self, symbol: str) -> None:
        stream = QuoteStream(symbol, self._clock, self._quote_refused)
        contract = self._contracts.contract(symbol)
        self._quotes[symbol] = stream
        self.refusals.pop(symbol, None)
        await self._subscribe(
            *(self._quotes, symbol, stream, _QUOTES[0]), contract, _GENERIC_TICKS, False, False, []
        )

    async def _settle_bars(self) -> None:
        """Bars for all that have quotes, those that are held first, as fast as TWS allows."""
        try:
            while (symbol := self._without_bars()) is not None:
                await self._bar_pace.turn(Urgency.DATA)
                if symbol == self._without_bars():
                    await self._follow_bars(symbol)
        except (TransientError, DataError) as e:
            _log.warning("bars: %s", e)

    def _without_bars(self) -> str | None:
        lacking = (
            s
            for s in self._chosen()
            if s in self._symbols and s in self._quotes
            if s not in self._pieces and s not in self._retry_at
        )
        return next(lacking, None)

    async def _follow_bars(self, symbol: str) -> None:
        source = self._settings.bar_source
        stream = PieceStream(symbol, source == "history", self._take, self._bars_refused)
        contract = self._contracts.contract(symbol)
        request: tuple[Any, ...] = (contract, 5, "TRADES", True, [])
        if source == "history":
            request = (contract, "", "600 S", "5 secs", "TRADES", True, 2, True, [])
        self._pieces[symbol] = stream
        await self._subscribe(self._pieces, symbol, stream, _BARS[source][0], *request)

    async def _subscribe(
        self, kept: dict[str, Any], symbol: str, stream: Any, method: str, *request: Any
    ) -> None:
        """Begin a stream that is in `kept`; end it where it was dropped meanwhile."""
        try:
            number = await self._client.subscribe(stream, method, *request)
        except TransientError:
            if kept.get(symbol) is stream:
                del kept[symbol]
            raise
        stream.number = number
        if method in _LINED:
            self._lines.taken(number)
        if kept.get(symbol) is stream:
            self._numbers[method, symbol] = number
        else:
            self._dropped.append((method, number))

    def _drop(self, symbol: str) -> None:
        """Follow a symbol no more."""
        self._drop_quotes(symbol)
        self._pieces.pop(symbol, None)
        for method, _ in _BARS.values():
            self._forget(method, symbol)

    def _drop_quotes(self, symbol: str) -> None:
        self._quotes.pop(symbol, None)
        self._forget(_QUOTES[0], symbol)

    def _forget(self, method: str, symbol: str) -> None:
        number = self._numbers.pop((method, symbol), None)
        if number is not None:
            self._dropped.append((method, number))

    async def _cancel_dropped(self) -> None:
        while self._dropped:
            method, number = self._dropped.pop()
            await self._client.unsubscribe(number, _CANCELS[method])
            self._lines.given_back(number, self._client.next_request_id)

    def _forget_streams(self) -> None:
        """TWS has forgotten them, too."""
        for number in self._numbers.values():
            self._client.callbacks.streams.pop(number, None)
        self._numbers, self._quotes, self._pieces = {}, {}, {}
        self._dropped, self._retry_at = [], {}
        self._lines.forget()
        self._kind_told = False

    def _take(self, piece: Piece) -> None:
        self._newest = self._clock.now()
        if self._builder is not None:
            self._builder.add(piece, self._newest)

    # what goes wrong

    def _quote_refused(self, stream: QuoteStream, code: int, message: str) -> None:
        symbol = stream.symbol
        if code == codes.LINE_LIMIT:
            self._out_of_lines(stream)
        elif self._quotes.get(symbol) is not stream:
            return
        elif code == codes.DELAYED_SHOWN:
            stream.delayed()
        elif code == codes.NO_CONTRACT:
            self._give_up(symbol, code, message)
        elif not codes.is_remark(code):
            if code == codes.COMPETING_SESSION or code in codes.NOT_SUBSCRIBED:
                stream.suspend()
            self._refuse(symbol, code, message)

    def _bars_refused(self, stream: PieceStream, code: int, message: str) -> None:
        """Pacing, or a query that TWS has lost: tried again after a while."""
        symbol = stream.symbol
        if code == codes.LINE_LIMIT:
            self._out_of_lines(stream)
        elif self._pieces.get(symbol) is stream and not codes.is_remark(code):
            del self._pieces[symbol]
            self._numbers.pop((_BARS[self._settings.bar_source][0], symbol), None)
            self._client.callbacks.streams.pop(stream.number, None)
            self._refuse(symbol, code, message)

    def _refuse(self, symbol: str, code: int, message: str) -> None:
        self.refusals[symbol] = f"{code}: {message}"
        self._retry_at[symbol] = self._clock.now() + RETRY
        _log.warning("%s: TWS %d: %s", symbol, code, message)

    def _give_up(self, symbol: str, code: int, message: str) -> None:
        self.refusals[symbol] = f"{code}: {message}"
        self._unknown.add(symbol)
        self._drop(symbol)
        self._mend()

    def _out_of_lines(self, stream: QuoteStream | PieceStream) -> None:
        """No line for this stream: TWS has fewer than we thought."""
        before = self._lines.most
        self._lines.refused(stream.number)
        self._client.callbacks.streams.pop(stream.number, None)
        symbol = stream.symbol
        _log.warning("%s: no line left; %d of %d can be used", symbol, self._lines.most, before)
        if stream in (self._quotes.get(symbol), self._pieces.get(symbol)):
            self.refusals[symbol] = f"{codes.LINE_LIMIT}: no line left"
            self._drop(symbol)
        self._mend()

    def _tend(self, now: datetime) -> None:
        """Mend what went silent, or was refused a while ago."""
        if not self._client.ready or not self._symbols:
            return
        self._watch_liveliness(now)
        newest = max(filter(None, (self.newest_tick_at, self._quiet_since)), default=None)
        if self._quotes and newest is not None and now - newest > self._patience:
            if self._in_session(now):
                self._end_silence(now, newest)
            return
        overdue = [symbol for symbol, moment in self._retry_at.items() if now >= moment]
        if overdue:
            self._again(overdue)
        self._ask_both_sides(now)

    def _watch_liveliness(self, now: datetime) -> None:
        """Quotes that have come without a silence for a while: the next one is met at once."""
        moves = self.newest_tick_at is not None and now - self.newest_tick_at <= SILENCE
        self._lively_since = (self._lively_since or now) if moves else None
        if self._lively_since is not None and now - self._lively_since >= LIVELY:
            self._patience = SILENCE

    def _end_silence(self, now: datetime, newest: datetime) -> None:
        """Subscribe everything anew; what that brings is no sign that quotes move again."""
        words = f"no quote moved since {newest:%H:%M:%S} UTC: everything is subscribed anew"
        if self._patience == SILENCE:
            self._alert(words)
        else:
            _log.warning("%s", words)
        self._patience = min(2 * self._patience, LONGEST_SILENCE)
        self._quiet_since = now
        self._again(list(self._quotes))

    def _ask_both_sides(self, now: datetime) -> None:
        """Quotes are subscribed anew of which not both sides came for a while."""
        if self._dark or self._quiet_since is None or not self._in_session(now):
            return
        waited = now - self._quiet_since
        half = [
            symbol
            for symbol, stream in self._quotes.items()
            if stream.half_told
            and symbol not in self._retry_at
            and waited >= (HALF_TOLD if stream.suspended else SILENCE)
        ]
        for symbol in half:
            self._drop_quotes(symbol)
        if half:
            self._mend()

    def _again(self, symbols: Sequence[str]) -> None:
        for symbol in symbols:
            self._retry_at.pop(symbol, None)
            self._drop(symbol)
        self._mend()

    def _is_lively(self, symbol: str, now: datetime) -> bool:
        """Whether a symbol without trades has none: its quotes move."""
        quotes = self._quotes.get(symbol)
        if quotes is None or quotes.suspended or quotes.newest_at is None:
            return False
        return now - quotes.newest_at <= SILENCE

    def _in_session(self, now: datetime) -> bool:
        instruments = (self._contracts.get(symbol) for symbol in self._quotes)
        hours = [span for i in instruments if i is not None for span in i.liquid_hours]
        return not speak_of(hours, now) or any(opens <= now < closes for opens, closes in hours)

    def link_lost(self, why: str) -> None:
        """Nothing that came before may be traded on."""
        self._dark = True
        for stream in self._quotes.values():
            stream.suspend()

    def link_opened(self, data_lost: bool) -> None:
        """Subscribe anew where TWS has forgotten us; elsewhere the silence is watched."""
        if not self._symbols:
            return
        self._dark, self._patience = False, SILENCE
        if data_lost:
            self._forget_streams()
            self._mend()
        else:
            self._quiet_since = self._clock.now()

    def notice(self, request_id: int, code: int, message: str) -> None:
        """Lost servers and farms: quotes count again when they move again."""
        link = LINK_CODES.get(code)
        if link is LinkCode.DOWN or code == codes.QUOTE_FARM_DOWN:
            self._dark = True
            for stream in self._quotes.values():
                stream.suspend()
        elif code == codes.QUOTE_FARM_UP:
            self._dark, self._patience = False, SILENCE
            self._quiet_since = self._clock.now()


_CANCELS = dict([_QUOTES, *_BARS.values()])

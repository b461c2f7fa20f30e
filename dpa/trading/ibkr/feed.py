"""Quotes and bars from TWS: lines shared out, gaps mended, nothing delayed passed off as live."""

import asyncio
import logging
from collections.abc import Collection, Coroutine, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from dpa.clock import Clock
from dpa.config import IbkrConfig
from dpa.errors import DataError, TransientError
from dpa.trading.bars import BarBuilder, Piece
from dpa.trading.feed import FeedBar
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
RETRY = timedelta(seconds=60)  # until a refused symbol is tried again
_PERIOD_SECONDS = 600.0  # of the limit on requests for bars
_QUOTES = ("reqMktData", "cancelMktData")
_BARS = {
    "realtime": ("reqRealTimeBars", "cancelRealTimeBars"),
    "history": ("reqHistoricalData", "cancelHistoricalData"),
}
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
    ) -> None:
        self.ended = False
        self._client, self._contracts, self._settings = client, contracts, settings
        self._interval, self._calendar = interval, calendar
        self._wait_seconds = wait_seconds
        self._clock = clock
        self._lines = Lines(settings.market_data_lines)
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
        self._work: asyncio.Task[None] | None = None
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
        now = self._clock.now()
        self._builder = BarBuilder(
            self._symbols, self._interval, self._calendar, self._wait_seconds, now
        )
        await self._contracts.learn([s for s in self._symbols if self._contracts.get(s) is None])
        self._unknown = {s for s in self._symbols if self._contracts.get(s) is None}
        await self._subscribe_all()

    async def stop(self) -> None:
        """Follow nothing."""
        self._symbols = ()
        if self._work is not None:
            self._work.cancel()
            await asyncio.gather(self._work, return_exceptions=True)
        if self._client.ready:
            for (method, _), number in list(self._numbers.items()):
                await self._client.unsubscribe(number, _CANCELS[method])
        self._forget_streams()

    async def hold(self, held: Collection[str]) -> None:
        """Positions have changed: they get lines, at the cost of others."""
        self._held = frozenset(held)
        if any(s in self._held for s in self.unfollowed):
            await self._share_out()

    def due(self, now: datetime) -> tuple[FeedBar, ...]:
        """Bars not given before that are whole, or overdue, at `now`; each once, in order."""
        if self._builder is None:
            return ()
        for stream in self._pieces.values():
            stream.flush(now)
        self._tend(now)
        return self._builder.due(now)

    def next_due(self, now: datetime) -> datetime | None:
        """When the next bar will be due at the latest."""
        return self._builder.next_due(now) if self._builder is not None else None

    def quotes(self) -> Mapping[str, Quote]:
        """The newest quote of each symbol that has one."""
        found = ((symbol, stream.quote) for symbol, stream in self._quotes.items())
        return {symbol: quote for symbol, quote in found if quote is not None}

    # subscriptions

    async def _subscribe_all(self) -> None:
        self._forget_streams()
        kind = _DELAYED if self._settings.delayed_data else _LIVE
        await self._client.send(Urgency.DATA, "reqMarketDataType", kind)
        await self._share_out()

    def _forget_streams(self) -> None:
        for number in self._numbers.values():
            self._client.callbacks.streams.pop(number, None)
        self._numbers, self._quotes, self._pieces = {}, {}, {}
        self._retry_at = {}
        self._quiet_since = None

    async def _share_out(self) -> None:
        """Lines to those who should have them; bars follow, as fast as TWS allows."""
        wanted = [s for s in self._symbols if s not in self._unknown]
        chosen = self._lines.choose(wanted, self._held)
        for symbol in [s for s in self._quotes if s not in chosen]:
            await self._drop(symbol)
        for symbol in chosen:
            if symbol not in self._quotes:
                await self._follow(symbol)
        self._quiet_since = self._clock.now()
        self._begin(self._follow_bars())

    async def _follow(self, symbol: str) -> None:
        stream = QuoteStream(symbol, self._clock, self._quote_refused)
        self._quotes[symbol] = stream
        contract = self._contracts.contract(symbol)
        number = await self._client.subscribe(
            stream, _QUOTES[0], contract, _GENERIC_TICKS, False, False, []
        )
        self._numbers[_QUOTES[0], symbol] = number

    async def _follow_bars(self) -> None:
        source = self._settings.bar_source
        method = _BARS[source][0]
        for symbol in self._lines.choose(list(self._quotes), self._held):
            if symbol in self._pieces:
                continue
            await self._bar_pace.turn(Urgency.DATA)
            if symbol not in self._quotes:
                continue
            stream = PieceStream(symbol, source == "history", self._take, self._bars_refused)
            contract = self._contracts.contract(symbol)
            request: tuple[Any, ...] = (contract, 5, "TRADES", True, [])
            if source == "history":
                request = (contract, "", "60 S", "5 secs", "TRADES", True, 2, True, [])
            self._pieces[symbol] = stream
            self._numbers[method, symbol] = await self._client.subscribe(stream, method, *request)

    async def _drop(self, symbol: str) -> None:
        self._quotes.pop(symbol, None)
        self._pieces.pop(symbol, None)
        for method, cancel in _CANCELS.items():
            number = self._numbers.pop((method, symbol), None)
            if number is not None:
                await self._client.unsubscribe(number, cancel)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something beside; what was being done is given up."""
        if self._work is not None:
            self._work.cancel()

        async def guarded() -> None:
            try:
                await work
            except (TransientError, DataError) as e:
                _log.warning("quotes and bars: %s", e)  # a new connection subscribes anew

        self._work = asyncio.get_running_loop().create_task(guarded())

    def _take(self, piece: Piece) -> None:
        self._newest = self._clock.now()
        if self._builder is not None:
            self._builder.add(piece, self._newest)

    # what goes wrong

    def _quote_refused(self, symbol: str, code: int, message: str) -> None:
        stream = self._quotes.get(symbol)
        if stream is None:
            return
        if code == codes.DELAYED_SHOWN:
            stream.delayed()
        elif code == codes.LINE_LIMIT:
            self._out_of_lines(symbol)
        elif code == codes.NO_CONTRACT:
            self._give_up(symbol, code, message)
        elif code == codes.COMPETING_SESSION or code in codes.NOT_SUBSCRIBED:
            stream.suspend()
            self._refuse(symbol, code, message)
        elif not codes.is_remark(code):
            self._refuse(symbol, code, message)

    def _bars_refused(self, symbol: str, code: int, message: str) -> None:
        """Pacing, or a query that TWS has lost: tried again after a while."""
        if codes.is_remark(code):
            return
        self._pieces.pop(symbol, None)
        number = self._numbers.pop((_BARS[self._settings.bar_source][0], symbol), None)
        self._client.callbacks.streams.pop(number or 0, None)
        self._refuse(symbol, code, message)

    def _refuse(self, symbol: str, code: int, message: str) -> None:
        self.refusals[symbol] = f"{code}: {message}"
        self._retry_at[symbol] = self._clock.now() + RETRY
        _log.warning("%s: TWS %d: %s", symbol, code, message)

    def _give_up(self, symbol: str, code: int, message: str) -> None:
        self._refuse(symbol, code, message)
        self._retry_at.pop(symbol, None)
        self._unknown.add(symbol)
        self._begin(self._drop(symbol))

    def _out_of_lines(self, symbol: str) -> None:
        """No line for this symbol: there are only as many as were asked for before it."""
        number = self._numbers.pop((_QUOTES[0], symbol), 0)
        self._client.callbacks.streams.pop(number, None)
        self._quotes.pop(symbol, None)
        self._pieces.pop(symbol, None)
        in_use = sum(k[0] == _QUOTES[0] and other < number for k, other in self._numbers.items())
        before = self._lines.most
        self._lines.refused(in_use)
        _log.warning("%s: no line left; %d of %d can be used", symbol, self._lines.most, before)
        if symbol in self._held:
            self._begin(self._share_out())

    def _tend(self, now: datetime) -> None:
        """Mend what went silent, or was refused a while ago."""
        if not self._client.ready or (self._work is not None and not self._work.done()):
            return
        newest = max(filter(None, (self.newest_tick_at, self._quiet_since)), default=None)
        if self._quotes and newest is not None and now - newest > SILENCE:
            if self._in_session(now):
                _log.warning("no tick since %s: everything is subscribed anew", newest)
                self._begin(self._again())
            return
        overdue = [symbol for symbol, moment in self._retry_at.items() if now >= moment]
        if overdue:
            self._begin(self._retry(overdue))

    def _in_session(self, now: datetime) -> bool:
        instruments = (self._contracts.get(symbol) for symbol in self._quotes)
        hours = (span for i in instruments if i is not None for span in i.liquid_hours)
        return any(opens <= now < closes for opens, closes in hours)

    async def _again(self) -> None:
        for (method, _), number in list(self._numbers.items()):
            await self._client.unsubscribe(number, _CANCELS[method])
        await self._subscribe_all()

    async def _retry(self, symbols: Sequence[str]) -> None:
        for symbol in symbols:
            self._retry_at.pop(symbol, None)
            stream = self._quotes.get(symbol)
            if stream is not None and (stream.suspended or stream.newest_at is None):
                await self._drop(symbol)
        await self._share_out()

    def link_lost(self, why: str) -> None:
        """Nothing that came before may be traded on."""
        for stream in self._quotes.values():
            stream.suspend()

    def link_opened(self, data_lost: bool) -> None:
        """Subscribe anew where TWS has forgotten us; elsewhere the silence is watched."""
        if not self._symbols:
            return
        if data_lost:
            self._begin(self._subscribe_all())
        else:
            self._quiet_since = self._clock.now()

    def notice(self, request_id: int, code: int, message: str) -> None:
        """Lost servers and farms: quotes count again when they move again."""
        link = LINK_CODES.get(code)
        if link is LinkCode.DOWN or code == codes.QUOTE_FARM_DOWN:
            for stream in self._quotes.values():
                stream.suspend()
        elif code == codes.QUOTE_FARM_UP:
            self._quiet_since = self._clock.now()


_CANCELS = dict([_QUOTES, *_BARS.values()])

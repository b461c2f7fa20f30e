"""History from TWS: planned, paced, and taken up again where it was broken off."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pandas as pd

from dpa.clock import Clock
from dpa.config import IbkrConfig
from dpa.errors import ConfigError, DataError, TransientError
from dpa.market.calendars import TradingCalendar
from dpa.market.intervals import DAY, MINUTE, Interval
from dpa.trading.ibkr import codes
from dpa.trading.ibkr.callbacks import RequestFailed
from dpa.trading.ibkr.client import TwsClient
from dpa.trading.ibkr.contracts import Contracts
from dpa.trading.ibkr.history_store import HistoryBar, HistoryPiece, HistoryStore
from dpa.trading.ibkr.pace import Pace, Sleep, Urgency
from dpa.trading.ibkr.ticks import bar_moment

CLIENT_OFFSET = 2  # a download has a client id of its own, so that trading may go on beside it
_ALIGNED_MINUTES = (30, 15, 10, 5, 3, 2, 1)  # bars of TWS that lie on the grid of a session
_PERIOD_SECONDS = 600.0
_SAME_CONTRACT, _SAME_CONTRACT_SECONDS = 5, 2.0  # TWS allows fewer than 6 in 2 s
_SAME_REQUEST_SECONDS = 15.0
_ATTEMPTS = 5
_BACK_OFF_SECONDS = 60.0
_AT_ONCE = 4
_NO_DATA = ("no data", "query returned no data")
_log = logging.getLogger(__name__)


def source_interval(interval: Interval) -> Interval:
    """Length of the bars to download: TWS aligns others than these to the hour, not the session.

    Raises
    ------
    ConfigError
        No such bars make up `interval`.
    """
    if interval.is_daily:
        return interval
    for minutes in _ALIGNED_MINUTES:
        if interval.minutes % minutes == 0:
            return Interval(minutes * MINUTE)
    raise ConfigError(f"interval {interval}: TWS has no bars for it", "use whole minutes")


def bar_size(interval: Interval) -> str:
    """As TWS writes it."""
    if interval.seconds == DAY:
        return "1 day"
    return "1 min" if interval.minutes == 1 else f"{interval.minutes} mins"


def plan(symbols: Sequence[str], interval: Interval, first: date, last: date) -> list[HistoryPiece]:
    """Pieces of a day, a week, a month or a year, as long as TWS gives at once.

    They do not depend on `first`: asking for more later asks for nothing twice.
    """
    spans = []
    day = first
    while day <= last:
        begin, end = _span(interval, day)
        spans.append((begin, end))
        day = end + timedelta(days=1)
    return [HistoryPiece(symbol, *span) for symbol in symbols for span in spans]


def _span(interval: Interval, day: date) -> tuple[date, date]:
    if interval.is_daily:
        return date(day.year, 1, 1), date(day.year, 12, 31)
    if interval.minutes >= 30:
        begin = day.replace(day=1)
        return begin, (begin + timedelta(days=32)).replace(day=1) - timedelta(days=1)
    if interval.minutes >= 3:
        begin = day - timedelta(days=day.weekday())
        return begin, begin + timedelta(days=6)
    return day, day


def duration(piece: HistoryPiece) -> str:
    """How far back from its end a piece reaches, as TWS writes it."""
    days = (piece.last - piece.first).days + 1
    return "1 Y" if days > 31 else f"{days} D"


@dataclass
class Progress:
    """How far a download is.

    Parameters
    ----------
    wanted, done, kept : int
        Pieces in all, those there now, and those that were there before.
    failed : dict of str to str
        Symbols that were given up, and why.
    """

    wanted: int
    done: int = 0
    kept: int = 0
    failed: dict[str, str] = field(default_factory=dict)


class HistoryPace:
    """TWS's rules for history, all at once: per ten minutes, per contract, and for repetitions."""

    def __init__(self, most: int, clock: Clock, sleep: Sleep) -> None:
        self._all = Pace(most, clock, sleep, _PERIOD_SECONDS)
        self._contracts: dict[str, Pace] = {}
        self._asked: dict[str, float] = {}
        self._clock, self._sleep = clock, sleep

    async def turn(self, piece: HistoryPiece) -> None:
        """Come back when the piece may be asked for."""
        before = self._asked.get(piece.key)
        if before is not None:
            wait = before + _SAME_REQUEST_SECONDS - self._clock.elapsed()
            if wait > 0:
                await self._sleep(wait)
        pace = self._contracts.setdefault(
            piece.symbol,
            Pace(_SAME_CONTRACT, self._clock, self._sleep, _SAME_CONTRACT_SECONDS),
        )
        await pace.turn(Urgency.DATA)
        await self._all.turn(Urgency.DATA)
        self._asked[piece.key] = self._clock.elapsed()


class HistoryDownload:
    """Gets pieces into a store.

    Parameters
    ----------
    client : TwsClient
    store : HistoryStore
    settings : IbkrConfig
    clock : Clock
    sleep : callable
    told : callable
        Called with the progress after each piece.

    Notes
    -----
    Prices are trades in regular hours, adjusted for splits and not for dividends: TWS gives
    dividend-adjusted prices only up to now, which cannot be taken up again later.
    """

    def __init__(
        self,
        client: TwsClient,
        store: HistoryStore,
        settings: IbkrConfig,
        clock: Clock,
        sleep: Sleep = asyncio.sleep,
        told: Callable[[Progress], None] = lambda _: None,
    ) -> None:
        self._client, self._store, self._settings = client, store, settings
        self._contracts = Contracts(client)
        self._pace = HistoryPace(settings.history_requests, clock, sleep)
        self._clock, self._sleep, self._told = clock, sleep, told
        self._venue = TradingCalendar(store.calendar)
        self._connecting = asyncio.Lock()

    async def run(self, pieces: Sequence[HistoryPiece]) -> Progress:
        """Download what is missing of `pieces`; every finished one is kept whatever happens."""
        progress = Progress(len(pieces))
        todo = [piece for piece in pieces if not self._store.has(piece)]
        progress.kept = progress.done = len(pieces) - len(todo)
        self._told(progress)
        queue = iter(todo)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(_AT_ONCE):
                    group.create_task(self._work(queue, progress))
        except BaseExceptionGroup as e:
            raise e.exceptions[0] from e
        return progress

    async def _work(self, queue: Any, progress: Progress) -> None:
        for piece in queue:
            if piece.symbol in progress.failed:
                continue
            why = await self._piece(piece)
            if why:
                progress.failed[piece.symbol] = why
                _log.warning("%s: %s", piece.symbol, why)
            else:
                progress.done += 1
            self._told(progress)

    async def _piece(self, piece: HistoryPiece) -> str:
        """Download one; why not, in words, or nothing."""
        why = ""
        for attempt in range(_ATTEMPTS):
            try:
                await self._connect()
                if self._contracts.get(piece.symbol) is None:
                    await self._contracts.learn([piece.symbol])
                if self._contracts.get(piece.symbol) is None:
                    return "TWS does not know it"
                await self._pace.turn(piece)
                self._store.keep(piece, await self._ask(piece), self._is_final(piece))
                return ""
            except RequestFailed as e:
                why = str(e)
                if e.code == codes.HISTORY_ERROR and any(n in why.lower() for n in _NO_DATA):
                    self._store.keep(piece, (), self._is_final(piece))
                    return ""
                if e.code not in (codes.HISTORY_ERROR, codes.NO_SUCH_QUERY, codes.RATE_BROKEN):
                    return why
            except TransientError as e:
                why = str(e)
            _log.info("%s: %s; tried again", piece.key, why)
            await self._sleep(_BACK_OFF_SECONDS * 2**attempt)
        return why

    async def _connect(self) -> None:
        async with self._connecting:
            if not self._client.ready:
                await self._client.open()

    async def _ask(self, piece: HistoryPiece) -> list[HistoryBar]:
        end = f"{piece.last:%Y%m%d} 23:59:59 {self._venue.time_zone}"
        answer = await self._client.ask(
            self._client.new_id(),
            "reqHistoricalData",
            self._contracts.contract(piece.symbol),
            *(end, duration(piece), bar_size(self._store.interval), "TRADES", True, 2, False, []),
            seconds=max(self._settings.ask_seconds, 60.0),
        )
        bars = [self._bar(bar) for bar in answer]
        inside = [bar for bar in bars if piece.first <= _day(bar.start) <= piece.last]
        return sorted(inside, key=lambda bar: bar.start)

    def _bar(self, bar: Any) -> HistoryBar:
        text = str(bar.date)
        if len(text) == 8 and text.isdigit():
            start = self._session_open(text)
        else:
            start = bar_moment(bar.date)
        numbers = [float(getattr(bar, n)) for n in ("open", "high", "low", "close")]
        if not all(0 < number < 1e12 for number in numbers):
            raise DataError(f"TWS: a bar of {start} has prices {numbers}", "download it again")
        nanoseconds = int(start.timestamp()) * 1_000_000_000
        average = float(bar.average) if float(bar.average) > 0 else numbers[3]
        open_, high, low, close = numbers
        volume = max(float(bar.volume), 0.0)
        return HistoryBar(nanoseconds, open_, high, low, close, volume, average)

    def _session_open(self, day: str) -> datetime:
        stamp = pd.Timestamp(day)
        opens = self._venue.bars(Interval(DAY), stamp, stamp).opens
        if not len(opens):
            raise DataError(f"TWS: a daily bar of {day}, when {self._venue.code} was closed")
        return datetime.fromtimestamp(int(opens[0]) / 1e9, UTC)

    def _is_final(self, piece: HistoryPiece) -> bool:
        """Whether nothing can be added to it: its last session is over."""
        sessions = self._venue.sessions(pd.Timestamp(piece.first), pd.Timestamp(piece.last))
        over = timedelta(hours=1)  # late prints
        if sessions.empty:
            return True
        close = self._venue.session_close(sessions[-1]).to_pydatetime()
        return bool(self._clock.now() > close + over)


def _day(nanoseconds: int) -> date:
    return datetime.fromtimestamp(nanoseconds / 1e9, UTC).date()

"""Loops that run an engine: by the wall clock, by a keeper of time, and through a replay.

The step is the same in all of them: look after the connection, show the quotes to a broker that
is made up here, let the engine do what is due. What a step raises is surfaced and halts trading,
and the loop goes on, so that cancels still leave and a person finds it alive.
"""

import asyncio
import gc
import json
import logging
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Protocol, Self

from dpa.clock import Clock
from dpa.config import Settings
from dpa.errors import ClusterUnavailable, ConfigError, HaltError, OutcomeUnknown, TransientError
from dpa.trading.clocks import VirtualClock
from dpa.trading.engine import Engine
from dpa.trading.events import Alert, Event, Severity
from dpa.trading.feed import Feed, FeedBar, SharesLines
from dpa.trading.repeats import Repeats
from dpa.trading.switch import Level, Switch
from dpa.trading.types import Instrument, Quote

BY = "runner"
FIRST_RETRY = 1.0  # seconds; doubled each time
LONGEST_SLEEP = 1.0  # seconds between steps by the wall clock
BETWEEN_SESSIONS, IN_SESSION = timedelta(hours=6), timedelta(hours=20)  # age of what is known
AGAIN = timedelta(minutes=10)  # until symbols are asked about again that were not told
log = logging.getLogger("dpa.trading")


class Link(Protocol):
    """What a runner asks of a broker."""

    @property
    def connected(self) -> bool: ...
    async def alive(self, timeout_seconds: float) -> bool: ...
    async def close(self) -> None: ...
    async def instruments(self, symbols: Sequence[str]) -> dict[str, Instrument]: ...


class Starts(Protocol):
    """What a runner asks of a dealer."""

    async def start(self) -> object: ...


class Runner:
    """Runs an engine step by step.

    Parameters
    ----------
    engine : Engine
    dealer : Starts
        Connects and reconciles; also after a connection was lost.
    broker : Link
    switch : Switch
    clock : Clock
    settings : Settings
        ``ibkr.heartbeat_seconds``, ``ask_seconds`` and ``retry_seconds`` count.
    publish : callable
    uniform : callable
        A random number between two, for pauses between attempts to connect.
    before_step : callable, optional
        Called with the moment before the engine steps: shows quotes to a paper broker.
    learn : callable, optional
        Asks what is known of symbols; the broker, where none is given.

    Notes
    -----
    Brokers tell hours for a few days only, so symbols are asked about anew between sessions.
    """

    def __init__(
        self,
        engine: Engine,
        dealer: Starts,
        broker: Link,
        switch: Switch,
        clock: Clock,
        settings: Settings,
        publish: Callable[[Event], None],
        *,
        uniform: Callable[[float, float], float],
        before_step: Callable[[datetime], None] | None = None,
        learn: Callable[[Sequence[str]], Awaitable[Mapping[str, Instrument]]] | None = None,
    ) -> None:
        self._engine, self._dealer, self._broker = engine, dealer, broker
        self._switch, self._clock, self._settings = switch, clock, settings
        self._publish, self._uniform, self._before_step = publish, uniform, before_step
        self._learn = learn or broker.instruments
        self._asked_at = self._retry_at = self._learned_at = clock.now()
        self._attempts = 0
        self._repeats = Repeats()
        self.steps = 0
        self.failures = 0

    async def step(self) -> None:
        """Do all that is due; never raises but when it is cancelled."""
        self.steps += 1
        try:
            await self._tend()
            if self._before_step is not None:
                self._before_step(self._clock.now())
            await self._engine.step()
            self._tell_what_is_over()
        except (TransientError, OutcomeUnknown, ClusterUnavailable) as e:
            self._failed(Severity.WARNING, str(e))
        except Exception as e:  # the edge of the process: surfaced, and trading halts
            log.exception("a step failed")
            self._stop_trading(f"{type(e).__name__}: {e}")

    def _stop_trading(self, why: str) -> None:
        try:
            if self._switch.level < Level.HALTED:
                self._switch.halt(BY, why)
        except HaltError as e:
            log.critical("the switch cannot be written: %s", e)
        self._failed(Severity.CRITICAL, f"trading is halted: {why}")

    def _failed(self, severity: Severity, what: str) -> None:
        """Tell a step that failed; the same failure again at growing intervals, with a count."""
        self.failures += 1
        now = self._clock.now()
        times = self._repeats.met(f"{severity.name}: {what}", now)
        if times == 1:
            self._alert(severity, "step-failed", what)
        elif times:
            self._publish(Alert(now, severity, "step-failed", f"{what} ({times} times by now)",
                                {"times": times}))  # fmt: skip

    def _tell_what_is_over(self) -> None:
        now = self._clock.now()
        for words, met in self._repeats.over(now):
            what = f"steps work again; {met.times} failed since {met.first:%H:%M:%S} UTC: {words}"
            self._publish(Alert(now, Severity.WARNING, "step-works", what, {"times": met.times}))

    def _alert(self, severity: Severity, kind: str, what: str) -> None:
        self._publish(Alert(self._clock.now(), severity, kind, what))

    # the connection

    async def _tend(self) -> None:
        """Ask now and then whether the broker is still there; connect again where it is not."""
        now, ibkr = self._clock.now(), self._settings.ibkr
        heartbeat = timedelta(seconds=ibkr.heartbeat_seconds)
        if self._broker.connected and now - self._asked_at >= heartbeat:
            await self.check_alive()
        if not self._broker.connected and now >= self._retry_at:
            await self._connect()
        if self._broker.connected and now - self._learned_at >= self._learned_for():
            await self._learn_anew(now)

    def _learned_for(self) -> timedelta:
        """How long what is known of symbols is used."""
        return IN_SESSION if self._engine.in_session else BETWEEN_SESSIONS

    async def _learn_anew(self, now: datetime) -> None:
        self._learned_at = now
        known = self._engine.instruments
        try:
            found = await self._learn(sorted(known))
        except TransientError as e:
            self._alert(Severity.WARNING, "symbols-not-told", f"hours may be old: {e}")
            self._learned_at = now - BETWEEN_SESSIONS + AGAIN
            return
        gone = sorted(set(known) - set(found))
        known.update(found)
        if gone:
            words = f"the broker knows {', '.join(gone[:3])} no more ({len(gone)} such)"
            self._alert(Severity.WARNING, "symbols-gone", words)

    async def check_alive(self) -> bool:
        """Ask whether the broker answers; a connection that is silent is ended."""
        self._asked_at = self._clock.now()
        seconds = self._settings.ibkr.ask_seconds
        if not self._broker.connected or await self._broker.alive(seconds):
            return self._broker.connected
        what = f"the broker did not answer within {seconds:g} s; the connection is opened anew"
        self._alert(Severity.WARNING, "broker-silent", what)
        await self._broker.close()
        return False

    async def _connect(self) -> None:
        self._attempts += 1
        longest = self._settings.ibkr.retry_seconds
        wait = min(FIRST_RETRY * 2 ** min(self._attempts - 1, 20), longest)
        try:
            await self._dealer.start()
        except TransientError as e:
            severity = Severity.CRITICAL if wait >= longest else Severity.WARNING
            self._alert(severity, "broker-away", f"attempt {self._attempts}: {e}")
            self._wait(wait)
        except BaseException:
            self._wait(longest)
            raise
        else:
            self._attempts = 0
            self._asked_at = self._clock.now()

    def _wait(self, seconds: float) -> None:
        pause = self._uniform(0.5 * seconds, seconds)
        self._retry_at = self._clock.now() + timedelta(seconds=pause)

    def next_at(self) -> datetime:
        """When there is something to do again, at the latest."""
        now = self._clock.now()
        if not self._broker.connected:
            return max(self._retry_at, now + timedelta(seconds=0.1))
        heartbeat = timedelta(seconds=self._settings.ibkr.heartbeat_seconds)
        return min(self._engine.next_at(), max(self._asked_at + heartbeat, now + heartbeat / 2))

    # loops

    async def run_live(
        self, stop: asyncio.Event, sleep: Callable[[float], Awaitable[None]]
    ) -> None:
        """Step by the wall clock until `stop` is set.

        Parameters
        ----------
        stop : Event
        sleep : callable
            Waits so many seconds.
        """
        with _short_collections():
            while not stop.is_set():
                await self.step()
                seconds = (self.next_at() - self._clock.now()).total_seconds()
                wait = min(max(seconds, 0.0), LONGEST_SLEEP)
                await _first(sleep(wait), self._engine.wake.wait(), stop.wait())

    async def run_replay(
        self,
        clock: VirtualClock,
        feed: Feed,
        stop: asyncio.Event,
        *,
        settle: timedelta = timedelta(minutes=6),
        pause: Callable[[timedelta], Awaitable[None]] | None = None,
    ) -> None:
        """Step from one simulated moment to the next until the feed ends.

        Parameters
        ----------
        clock : VirtualClock
            The one everything runs by.
        feed : Feed
        stop : Event
        settle : timedelta
            Goes on for so long after the last bar, for orders that work.
        pause : callable, optional
            Called with each jump of time; for a replay at a speed that can be watched.
        """
        end: datetime | None = None
        while not stop.is_set():
            await self.step()
            await asyncio.sleep(0)  # others of this loop have their turn: commands, pages
            following = self.next_at()
            if feed.ended:
                end = end or clock.now() + settle
                if following > end:
                    return
            if pause is not None:
                await pause(following - clock.now())
            clock.move_to(max(following, clock.now()))

    async def run_virtual(
        self, clock: VirtualClock, keeper: "TimeKeeper", stop: asyncio.Event
    ) -> None:
        """Step at the moments a keeper of time tells, until it says that there are no more.

        Before each step a question to the broker and its answer make sure that everything the
        broker said at this moment has come; after it another one, that all sent was answered.

        Raises
        ------
        TransientError
            When the keeper goes away.
        """
        await keeper.attend()
        while not stop.is_set():
            moment = await keeper.moment()
            clock.move_to(max(moment.now, clock.now()))
            await self.check_alive()
            await self.step()
            await self.check_alive()
            if moment.ended:
                return
            await keeper.done(self.next_at())


@contextmanager
def _short_collections() -> Iterator[None]:
    """Leave what is here now out of collections of garbage: no bar waits for a long one."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


async def _first(*waits: Awaitable[Any]) -> None:
    """Return when the first of some waits ends, and end the others."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class MomentFeed:
    """A feed in virtual time: what came since the moment before is dated by the moment it is for.

    A gateway that keeps time says what is new first and the moment after that, so quotes arrive
    while the clock still stands at the moment before.

    Parameters
    ----------
    feed : Feed
    clock : Clock
    """

    def __init__(self, feed: Feed, clock: Clock) -> None:
        self._feed, self._clock = feed, clock
        self._known: dict[str, tuple[Quote, Quote]] = {}  # as it came, as it is dated

    @property
    def symbols(self) -> tuple[str, ...]:
        """See :class:`~dpa.trading.feed.Feed`."""
        return self._feed.symbols

    async def start(self, symbols: Sequence[str], held: Collection[str] = ()) -> None:
        """See :class:`~dpa.trading.feed.Feed`."""
        await self._feed.start(symbols, held)

    async def stop(self) -> None:
        """See :class:`~dpa.trading.feed.Feed`."""
        await self._feed.stop()

    def hold(self, held: Collection[str]) -> None:
        """See :class:`~dpa.trading.feed.SharesLines`."""
        if isinstance(self._feed, SharesLines):
            self._feed.hold(held)

    def due(self, now: datetime) -> tuple[FeedBar, ...]:
        """See :class:`~dpa.trading.feed.Feed`."""
        return self._feed.due(now)

    def quotes(self) -> Mapping[str, Quote]:
        """The newest quote of each symbol, dated by the moment at which it was first seen."""
        now, found = self._clock.now(), {}
        for symbol, quote in self._feed.quotes().items():
            known = self._known.get(symbol)
            if known is None or known[0] != quote:
                known = quote, replace(quote, time=max(quote.time, now))
                self._known[symbol] = known
            found[symbol] = known[1]
        return found

    @property
    def newest_tick_at(self) -> datetime | None:
        """See :class:`~dpa.trading.feed.Feed`."""
        return max((dated.time for _, dated in self._known.values()), default=None)

    @property
    def ended(self) -> bool:
        """See :class:`~dpa.trading.feed.Feed`."""
        return self._feed.ended


@dataclass(frozen=True)
class Moment:
    """What a keeper of time says.

    Parameters
    ----------
    now : datetime
        UTC.
    ended : bool
        Whether it is the last one.
    """

    now: datetime
    ended: bool


class TimeKeeper:
    """The control channel of a gateway that keeps time: JSON, an object a line.

    Parameters
    ----------
    reader, writer
        Streams of the connection.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def connect(cls, host: str, port: int, token: str) -> Self:
        """Connect, and say the token.

        Raises
        ------
        TransientError
            When nobody listens.
        """
        try:
            reader, writer = await asyncio.open_connection(host, port)
        except OSError as e:
            raise TransientError(f"{host}:{port}: no gateway keeps time there ({e})") from e
        keeper = cls(reader, writer)
        await keeper._say({"token": token})
        return keeper

    async def attend(self) -> None:
        """From now on time waits for :meth:`done`."""
        await self._say({"op": "attend"})

    async def moment(self) -> Moment:
        """The next moment, when it comes.

        Raises
        ------
        TransientError
            When the gateway goes away.
        ConfigError
            When it refuses.
        """
        said = await self._hear()
        if said.get("op") != "time":
            raise ConfigError(f"the gateway's control channel says {said}", "check its token")
        return Moment(datetime.fromisoformat(str(said["now"])), bool(said["ended"]))

    async def done(self, next_at: datetime | None) -> None:
        """Let time go on, at the latest to `next_at`; none: as far as it likes."""
        await self._say({"op": "done", "next": None if next_at is None else next_at.isoformat()})

    async def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        """Ask something else; before :meth:`attend` only.

        Raises
        ------
        TransientError
            When the gateway goes away.
        """
        await self._say({"op": op, **fields})
        return await self._hear()

    async def close(self) -> None:
        """Attend no more."""
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except OSError:
            return

    async def _say(self, words: Mapping[str, Any]) -> None:
        self._writer.write(json.dumps(words).encode() + b"\n")
        try:
            await self._writer.drain()
        except OSError as e:
            raise TransientError(f"the gateway that keeps time went away ({e})") from e

    async def _hear(self) -> dict[str, Any]:
        try:
            line = await self._reader.readline()
        except (OSError, ValueError) as e:
            raise TransientError(f"the gateway that keeps time went away ({e})") from e
        if not line:
            raise TransientError("the gateway that keeps time went away")
        said: dict[str, Any] = json.loads(line)
        return said

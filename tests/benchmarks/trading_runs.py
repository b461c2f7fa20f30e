"""A trader on a simulated TWS in another process, put together for the benchmarks of trading.

Everything between the bar and the socket is the product's; what stands in for the rest says so.
"""

import os

for _library in ("OMP", "OPENBLAS", "MKL"):
    os.environ.setdefault(f"{_library}_NUM_THREADS", "1")

import asyncio  # noqa: E402
import multiprocessing  # noqa: E402
import time  # noqa: E402
from collections.abc import AsyncIterator, Callable, Iterator, Mapping  # noqa: E402
from contextlib import asynccontextmanager, contextmanager  # noqa: E402
from dataclasses import dataclass, field  # noqa: E402
from datetime import datetime, timedelta  # noqa: E402
from decimal import Decimal  # noqa: E402
from multiprocessing.connection import Connection  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402

from dpa.clock import SystemClock  # noqa: E402
from dpa.config import IbkrConfig, Settings  # noqa: E402
from dpa.market.panel import Panel  # noqa: E402
from dpa.simulation.tws.gateway import Gateway  # noqa: E402
from dpa.simulation.tws.markets import planted_market  # noqa: E402
from dpa.simulation.tws.session import Session  # noqa: E402
from dpa.simulation.tws.venue import SimVenue  # noqa: E402
from dpa.simulation.tws.words import Traits  # noqa: E402
from dpa.trading.dealer import Dealer  # noqa: E402
from dpa.trading.engine import Engine  # noqa: E402
from dpa.trading.events import Alert, Severity  # noqa: E402
from dpa.trading.feed import FeedBar  # noqa: E402
from dpa.trading.ibkr.broker import IbkrBroker  # noqa: E402
from dpa.trading.ibkr.client import TwsClient  # noqa: E402
from dpa.trading.journal import Journal  # noqa: E402
from dpa.trading.runner import Runner  # noqa: E402
from dpa.trading.switch import Switch  # noqa: E402
from dpa.trading.types import Quote  # noqa: E402

INTERVAL, CALENDAR, NEWEST = "5m", "XNYS", 176  # ib_insync reads no later server version
NO_LIMIT = 1_000_000
PLACE, CANCEL, GLOBAL_CANCEL = "3", "4", "58"  # message ids


def machine() -> str:
    """Cores and the load now, in words."""
    one, five, _ = os.getloadavg()
    return f"{os.cpu_count()} cores, load {one:.2f} now and {five:.2f} over 5 minutes"


# the gateway, in a process of its own


class GatewayProcess:
    """A simulated TWS whose time stands still at the first quotes of its session.

    Parameters
    ----------
    names : int
        Symbols it lists.
    """

    def __init__(self, names: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, names), daemon=True)
        self._process.start()
        theirs.close()
        self.port, self.now, self.quotes = self._ours.recv()

    def ask(self, what: str, *given: Any) -> Any:
        """Ask for `what`; the answer."""
        self._ours.send((what, *given))
        return self._ours.recv()

    def limit(self, messages_per_second: int) -> None:
        """Messages a client may send; checked on each."""
        self.ask("limit", messages_per_second)

    def messages(self) -> list[tuple[float, str, int]]:
        """Moment, message id, and how many that makes in a second; each once."""
        found: list[tuple[float, str, int]] = self.ask("messages")
        return found

    def endings(self) -> list[float]:
        """Moments at which orders ended since asked last."""
        found: list[float] = self.ask("endings")
        return found

    @property
    def live(self) -> int:
        """Orders that work."""
        return int(self.ask("live"))

    def refusals(self) -> int:
        """How often it said that there were too many messages."""
        return int(self.ask("refusals"))

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.join()


@contextmanager
def gateway_process(names: int) -> Iterator[GatewayProcess]:
    """A gateway, until the end."""
    running = GatewayProcess(names)
    try:
        yield running
    finally:
        running.close()


def _serve(pipe: Connection, names: int) -> None:
    asyncio.run(_serving(pipe, names))


async def _serving(pipe: Connection, names: int) -> None:
    market = planted_market(seed=7, names=names, history=1, interval=INTERVAL)
    traits = Traits(lines=4 * names, messages_per_second=NO_LIMIT)
    venue = SimVenue(market, traits, deposit=Decimal(10**9))
    while not venue.tape.parts:
        venue.advance()
    messages: list[tuple[float, str, int]] = []
    endings: list[float] = []
    refused = [0]
    read, in_pace, ended = Session._read, Session._in_pace, venue.book.ended
    newest = [""]

    def watched_read(session: Session, body: bytes) -> None:
        newest[0] = body.split(b"\0", 1)[0].decode("latin-1")
        read(session, body)

    def watched_pace(session: Session) -> bool:
        allowed = in_pace(session)
        count = len(session._recent._moments)
        messages.append((time.monotonic(), newest[0], count))
        refused[0] += not allowed
        return allowed

    def watched_end(work: Any) -> None:
        endings.append(time.monotonic())
        ended(work)

    Session._read, Session._in_pace = watched_read, watched_pace  # type: ignore[method-assign]
    venue.book.ended = watched_end  # type: ignore[method-assign]

    def taken(kept: list[Any]) -> list[Any]:
        found = list(kept)
        kept.clear()
        return found

    def limit(most: int) -> None:
        traits.messages_per_second = most

    answers: dict[str, Callable[..., Any]] = {
        "limit": limit,
        "messages": lambda: taken(messages),
        "endings": lambda: taken(endings),
        "live": lambda: len(venue.book.live()),
        "refusals": lambda: refused[0],
    }
    async with Gateway(venue, versions=(157, NEWEST)) as gateway:
        gone = asyncio.Event()

        def heard() -> None:
            try:
                what, *given = pipe.recv()
            except EOFError:
                gone.set()
                return
            pipe.send(answers[what](*given))

        asyncio.get_running_loop().add_reader(pipe.fileno(), heard)
        quotes = {name: venue.tape.quote(k) for k, name in enumerate(market.panel.names)}
        told = {name: (quote.bid, quote.ask) for name, quote in quotes.items()}
        pipe.send((gateway.port, venue.clock.now(), told))
        await gone.wait()


# time, bars and decisions


class ShiftedClock:
    """The machine's clock in a session of the venue; it can jump ahead.

    Parameters
    ----------
    moment : datetime
        What it shows now.
    """

    def __init__(self, moment: datetime) -> None:
        self._machine = SystemClock()
        self._ahead = moment - self._machine.now()

    def now(self) -> datetime:
        """The moment, UTC."""
        return self._machine.now() + self._ahead

    def elapsed(self) -> float:
        """Seconds by the machine."""
        return self._machine.elapsed()

    def jump(self, moment: datetime) -> None:
        """Show another moment from now on."""
        self._ahead = moment - self._machine.now()

    def monotonic_at(self, moment: datetime) -> float:
        """When :func:`time.monotonic` gives when this clock shows `moment`."""
        return time.monotonic() + (moment - self.now()).total_seconds()


class StandInFeed:
    """A bar of all symbols at each close at once, and quotes that are never older than a second.

    Parameters
    ----------
    clock : ShiftedClock
    quotes : mapping of str to (Decimal, Decimal)
        Bid and ask.
    """

    def __init__(self, clock: ShiftedClock, quotes: Mapping[str, tuple[Decimal, Decimal]]) -> None:
        self._clock, self.prices = clock, dict(quotes)
        self.symbols: tuple[str, ...] = tuple(sorted(quotes))
        self.ended = False
        self.closes: datetime | None = None  # of the next bar
        self.raised = Decimal(1)  # all quotes are multiplied by it
        self._shown: dict[str, Quote] = {}
        self._random = np.random.default_rng(3)

    async def start(self, symbols: Any, held: Any = ()) -> None:
        """Nothing to do."""

    async def stop(self) -> None:
        """Nothing to do."""

    def due(self, now: datetime) -> tuple[FeedBar, ...]:
        """The bar whose close has come."""
        if self.closes is None or now < self.closes:
            return ()
        closes, self.closes = self.closes, None
        mids = np.array([float(sum(self.prices[s])) / 2 for s in self.symbols])
        close = np.round(mids * self._random.uniform(0.999, 1.001, mids.size), 2)[None, :]
        panel = _bar(closes, self.symbols, close)
        return (FeedBar(panel, now),)

    def quotes(self) -> Mapping[str, Quote]:
        """Made anew each second."""
        now = self._clock.now()
        first = next(iter(self._shown.values()), None)
        if first is None or not timedelta(0) <= now - first.time < timedelta(seconds=1):
            self.renew()
        return self._shown

    def renew(self) -> None:
        """Make all quotes anew."""
        now, k = self._clock.now(), self.raised
        self._shown = {
            s: Quote(s, now, b * k, a * k, b * k, 10_000, 10_000)
            for s, (b, a) in self.prices.items()
        }

    @property
    def newest_tick_at(self) -> datetime | None:
        """When quotes were made."""
        return next((quote.time for quote in self._shown.values()), None)


def _bar(closes: datetime, names: tuple[str, ...], close: Any) -> Panel:
    return Panel(
        pd.DatetimeIndex([closes]).as_unit("ns"),
        names,
        close,
        np.ones(close.shape, dtype=bool),
        INTERVAL,
        CALENDAR,
        open=close,
        high=close,
        low=close,
        volume=np.full(close.shape, 1e4),
    )


class StandInDecider:
    """Wants `target` shares of every symbol, and says so at once."""

    def __init__(self) -> None:
        self.target = 0.0
        self._records: dict[float, list[dict[str, Any]]] = {}

    async def decide(self, request: Any) -> Mapping[str, Any]:
        """The decision as the graph gives it, as far as the engine reads it."""
        if self.target not in self._records:
            self._records[self.target] = [
                {"symbol": s, "target_shares": self.target, "action": "none", "reason": None}
                for s in request.names
            ]
        return {
            "id": f"d-{request.time.isoformat()}",
            "account": request.account,
            "time": request.time.isoformat(),
            "risk": {"level": "NORMAL", "why": ""},
            "symbols": self._records[self.target],
        }


# the trader


def bench_settings(**trading: Any) -> Settings:
    """Settings under which any number of orders a bar passes; those that matter are printed."""
    tree = {
        "trading": {"reconcile_minutes": 1440, "most_orders_per_session": 10**6, **trading},
        "risk": {"max_orders_per_minute": 100_000, "max_gross": 10, "max_net": 10},
    }
    return Settings.model_validate(tree)


def default_settings() -> Settings:
    """The defaults, but for the money; reconciliations are left out of what is timed."""
    tree = {"trading": {"reconcile_minutes": 1440}, "risk": {"max_gross": 10, "max_net": 10}}
    return Settings.model_validate(tree)


@dataclass(eq=False)
class Desk:
    """A trader at work.

    Attributes
    ----------
    sent : list of (float, str)
        When each message was handed to the kernel, by :func:`time.monotonic`, and its id.
    alerts : list of Alert
    """

    gateway: GatewayProcess
    clock: ShiftedClock
    feed: StandInFeed
    decider: StandInDecider
    broker: IbkrBroker
    journal: Journal
    switch: Switch
    dealer: Dealer
    engine: Engine
    runner: Runner
    sent: list[tuple[float, str]] = field(default_factory=list)
    alerts: list[Alert] = field(default_factory=list)

    def watch_socket(self) -> None:
        """Keep when messages leave."""
        connection = self.broker.client._client.conn
        original = connection.sendMsg

        def watched(message: bytes) -> None:
            original(message)
            kind = message[4:8].split(b"\0", 1)[0].decode("latin-1")
            self.sent.append((time.monotonic(), kind))

        connection.sendMsg = watched

    async def until(
        self, true: Callable[[], bool], seconds: float = 60.0, awake: bool = False
    ) -> None:
        """Wait until something is so; `awake`: the trader steps meanwhile, due or not."""
        ends = time.monotonic() + seconds
        while not true():
            if time.monotonic() > ends:
                live = len(self.dealer.live_orders)
                raise TimeoutError(f"{live} live orders, alerts {self.alerts[-3:]}")
            if awake:
                self.engine.wake.set()
            await asyncio.sleep(0.02 if awake else 0.005)

    async def quiet(self) -> None:
        """Nothing works, and all that was said has been heard."""
        await self.dealer.cancel_all()
        self.engine.wake.set()
        await self.until(lambda: not self.dealer.live_orders)
        assert await self.broker.alive(10.0)
        self.sent.clear()


@asynccontextmanager
async def desk(
    gateway: GatewayProcess, folder: Path, settings: Settings, pace: int, running: bool = True
) -> AsyncIterator[Desk]:
    """A trader in this process; with the loop that runs it by the wall clock."""
    clock = ShiftedClock(gateway.now)
    config = IbkrConfig(ibkr_port=gateway.port, account=None)
    broker = IbkrBroker(config, clock, TwsClient(config, clock, pace))
    switch, alerts = Switch(folder / "switch.json", clock), []
    names = sorted(gateway.quotes)

    def publish(event: Any) -> None:
        if isinstance(event, Alert) and event.severity >= Severity.WARNING:
            alerts.append(event)

    with Journal(folder / "journal.sqlite", clock) as journal:
        await broker.connect(journal.order_id_mark)
        instruments = await broker.instruments(names)
        assert len(instruments) == len(names), (len(instruments), len(names))
        dealer = Dealer(broker, journal, switch, clock, settings, publish, instruments)
        found = await dealer.start()
        assert found.complete, found
        feed, decider = StandInFeed(clock, gateway.quotes), StandInDecider()
        engine = Engine(
            feed, decider, dealer, instruments, switch, journal, clock, settings,
            INTERVAL, CALENDAR, publish, feed_kind="aggregated",
        )  # fmt: skip
        runner = Runner(
            engine, dealer, broker, switch, clock, settings, publish,
            uniform=lambda low, high: high,
        )  # fmt: skip
        made = Desk(
            gateway, clock, feed, decider, broker, journal, switch, dealer, engine, runner,
            alerts=alerts,
        )  # fmt: skip
        made.watch_socket()
        stop = asyncio.Event()
        loop = asyncio.create_task(runner.run_live(stop, asyncio.sleep)) if running else None
        try:
            yield made
        finally:
            stop.set()
            engine.wake.set()
            if loop is not None:
                await loop
            await broker.close()
        assert broker.client.unreadable == 0
        assert runner.failures == 0

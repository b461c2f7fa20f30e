"""A trader on a real socket, in simulated time, that can be killed and started again.

Everything is real: the venue and its gateway, the client library, broker, feed, journal, switch
and dealer. Only time is simulated: it moves from one event of the venue to the next, and pauses of
the broker last as long as they say in it.
"""

import asyncio
import json
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

from dpa.clock import SystemClock
from dpa.config import IbkrConfig, Settings
from dpa.simulation.tws.gateway import Gateway
from dpa.simulation.tws.markets import Market, planted_market
from dpa.simulation.tws.script import read_fault
from dpa.simulation.tws.venue import SimVenue
from dpa.simulation.tws.words import SimOrder
from dpa.trading.broker import BrokerEvent, Notice
from dpa.trading.dealer import Dealer
from dpa.trading.events import Alert, Refused
from dpa.trading.feed import FeedBar
from dpa.trading.ibkr.broker import IbkrBroker
from dpa.trading.ibkr.client import TwsClient
from dpa.trading.ibkr.feed import IbkrFeed
from dpa.trading.identity import intent_id
from dpa.trading.journal import Journal
from dpa.trading.reconcile import Reconciliation
from dpa.trading.switch import Level, Switch
from dpa.trading.types import Execution, Instrument, Intent, Order, Purpose, Quote, Side, Style
from tests.trading.dealing import settings as wide_settings
from tests.trading.ibkr.rig import VenueTime

ASK_SECONDS = 5.0  # by the machine's clock; tests of silence shorten it
ZERO = Decimal(0)
Steps = Callable[[str], None]
T = TypeVar("T")
TABLE = "DPA_FAULT_FACTS"  # names a file that gets a line of JSON for every scenario


def run(scenario: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """A scenario in an event loop of its own."""
    return asyncio.run(asyncio.wait_for(scenario(), 120))


class Pauses:
    """Sleeping by the venue's time."""

    def __init__(self, venue: SimVenue) -> None:
        self._venue = venue
        self._waiting: list[tuple[datetime, asyncio.Future[None]]] = []

    async def sleep(self, seconds: float) -> None:
        """Wait until the venue's time has moved so far."""
        due = self._venue.clock.now() + timedelta(seconds=seconds)
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((due, future))
        self._venue.wake_at(due)
        await future

    @property
    def any(self) -> bool:
        """Whether anybody sleeps."""
        return any(not future.done() for _, future in self._waiting)

    def end_due(self) -> bool:
        """Wake whoever is due; whether there was one."""
        now = self._venue.clock.now()
        due = [future for moment, future in self._waiting if moment <= now and not future.done()]
        self._waiting = [
            (moment, future)
            for moment, future in self._waiting
            if moment > now and not future.done()
        ]
        for future in due:
            future.set_result(None)
        return bool(due)


@dataclass
class Trader:
    """One life of the trading process."""

    broker: IbkrBroker
    dealer: Dealer
    journal: Journal
    switch: Switch
    feed: IbkrFeed
    events: list[BrokerEvent]
    told: list[Any]


@dataclass
class Floor:
    """A venue, its gateway, and a trader at it."""

    folder: Path
    venue: SimVenue
    gateway: Gateway
    settings: Settings
    clock: VenueTime
    steps: Steps | None = None
    ibkr: dict[str, Any] = field(default_factory=dict)
    lives: list[Trader] = field(default_factory=list)
    bars: list[FeedBar] = field(default_factory=list)
    unreadable: int = 0
    checks: int = 0
    at_connect: Callable[[], None] = lambda: None

    # the trader of now

    @property
    def trader(self) -> Trader:
        return self.lives[-1]

    @property
    def broker(self) -> IbkrBroker:
        return self.trader.broker

    @property
    def dealer(self) -> Dealer:
        return self.trader.dealer

    @property
    def journal(self) -> Journal:
        return self.trader.journal

    @property
    def switch(self) -> Switch:
        return self.trader.switch

    @property
    def feed(self) -> IbkrFeed:
        return self.trader.feed

    @property
    def told(self) -> list[Any]:
        """Everything published, by all traders."""
        return [event for life in self.lives for event in life.told]

    @property
    def alerts(self) -> list[str]:
        """Kinds of alerts, in order."""
        return [event.kind for event in self.told if isinstance(event, Alert)]

    @property
    def refusals(self) -> list[str]:
        """Codes of refusals, in order, also of those that came later."""
        return [event.code for event in self.told if isinstance(event, Refused)]

    @property
    def codes(self) -> list[int]:
        """Codes of notices that the brokers told."""
        return [e.code for life in self.lives for e in life.events if isinstance(e, Notice)]

    @property
    def names(self) -> tuple[str, ...]:
        return self.venue.market.panel.names

    @property
    def now(self) -> datetime:
        return self.clock.now()

    # lives

    async def begin(self, instruments: bool = True) -> Reconciliation:
        """A trader starts: what a process does from its first line."""
        pauses = Pauses(self.venue)
        given = {"ibkr_port": self.gateway.port, "connect_seconds": 5.0, "ask_seconds": ASK_SECONDS}
        config = IbkrConfig.model_validate(given | {"retry_seconds": 4.0} | self.ibkr)
        broker = IbkrBroker(
            config, self.clock, TwsClient(config, self.clock, 0), pauses.sleep, lambda: 0.5
        )
        self._pauses = pauses
        events: list[BrokerEvent] = []
        told: list[Any] = []
        broker.listen(events.append)
        journal = Journal(self.folder / "journal.sqlite", self.clock, self.steps)
        switch = Switch(self.folder / "switch.json", self.clock)
        known: dict[str, Instrument] = {}
        dealer = Dealer(broker, journal, switch, self.clock, self.settings, told.append, known)
        feed = IbkrFeed(
            *(broker.client, broker.contracts, broker.settings, "5m", "XNYS", 2.0, self.clock),
            pauses.sleep,
        )
        self.lives.append(Trader(broker, dealer, journal, switch, feed, events, told))
        self.at_connect()
        await broker.connect(order_id_above=journal.order_id_mark)
        if instruments:
            known |= await broker.instruments(self.names)
        found = await dealer.start()
        await feed.start(self.names, dealer.positions)
        await self.hear()
        return found

    def hurry(self, seconds: float) -> None:
        """Let this trader wait no longer for answers and connections, by the machine's clock."""
        quick = self.broker.settings.model_copy(
            update={"ask_seconds": seconds, "connect_seconds": seconds}
        )
        self.broker.settings = self.broker.client.settings = quick

    async def die(self) -> None:
        """The trader is gone: nothing is cancelled, what it had heard and not booked is lost."""
        if not self.lives:
            return
        life = self.trader
        works = [life.feed._quote_work, life.feed._bar_work, life.feed._bar_pace._pump]
        for work in works:
            if work is not None:
                work.cancel()
        await life.broker.close()
        life.journal.close()
        self.unreadable += life.broker.client.unreadable
        for _ in range(5000):
            if not self.gateway.sessions:
                return
            await asyncio.sleep(0.001)
        raise AssertionError(f"still connected: {self.gateway.sessions}")

    async def again(self) -> Reconciliation:
        """Dies, and is started again."""
        await self.die()
        return await self.begin()

    # time

    async def hear(self) -> None:
        """All that was sent is read, all that was said is heard."""
        for _ in range(2):
            await self._idle()
            speaks = self.broker.client.ready and not self.venue.traits.mute
            if speaks and not await self.broker.alive(self.broker.settings.ask_seconds):
                self.broker._wake.set()  # its watch asks now, not at the next heartbeat
            await self.gateway.settled()

    async def _idle(self) -> None:
        """The broker waits for time to pass: it connects no more, and asks nothing."""
        for _ in range(2000):
            if self._pauses.any or self.broker._keeper is None or self.broker._refused:
                return
            await asyncio.sleep(0.002)
        raise AssertionError("the broker does not come to rest")

    async def beat(self) -> None:
        """What the trader does at this moment."""
        self.bars += self.feed.due(self.now)
        await self.dealer.beat(self.now, self.quotes())
        await self.hear()

    async def go_on(self, seconds: float, until: Callable[[], bool] | None = None) -> None:
        """Let time pass, event by event; at most so long where something is waited for."""
        end = self.now + timedelta(seconds=seconds)
        self.venue.wake_at(end)
        while self.now < end and not (until is not None and until()):
            if not self.venue.advance():
                return
            self._pauses.end_due()
            await asyncio.sleep(0)
            await self.hear()
            await self.beat()

    async def wait_for(self, true: Callable[[], bool], seconds: float = 600.0) -> None:
        """Let time pass until something is so."""
        await self.go_on(seconds, true)
        assert true(), "it did not come to pass"

    def fault(self, **entry: Any) -> None:
        """Something goes wrong."""
        self.venue.faults.add(read_fault(entry))

    # orders

    def quotes(self) -> dict[str, Quote]:
        return dict(self.feed.quotes())

    def intent(
        self,
        shares: int = 100,
        symbol: str | None = None,
        decision: str = "d1",
        style: Style = Style.MARKET,
        away: bool = False,
        seconds: float = 60.0,
        **changes: Any,
    ) -> Intent:
        """An intent; negative `shares` sell; `away`: at a limit that the market never meets."""
        symbol = symbol or self.names[0]
        side = Side.BUY if shares > 0 else Side.SELL
        held = self.dealer.positions.get(symbol, ZERO)
        reducing = held * side.sign < 0 and abs(shares) <= abs(held)
        purpose = Purpose.EXIT if reducing else Purpose.ENTER
        quote = self.quotes().get(symbol)
        mid = (quote.mid if quote is not None else None) or self.last(symbol)
        limit = None
        if away:
            style, limit = (
                Style.LIMIT,
                (mid * (1 - Decimal("0.05") * side.sign)).quantize(Decimal("0.01")),
            )
        account = self.broker.account
        made = Intent(
            id=intent_id(account, decision, symbol, side, purpose),
            account=account,
            decision=decision,
            symbol=symbol,
            side=side,
            shares=abs(shares),
            style=style,
            purpose=purpose,
            decided_at=self.now,
            expires_at=self.now + timedelta(seconds=seconds),
            reference=mid,
            limit=limit,
        )
        return replace(made, **changes)

    def last(self, symbol: str) -> Decimal:
        """Newest trade, USD."""
        return self.venue.price(self.con_id(symbol))

    def con_id(self, symbol: str) -> int:
        contract = self.venue.listing.find(0, symbol)
        assert contract is not None
        return contract.con_id

    async def submit(self, *intents: Intent) -> list[str]:
        """Send; codes of what was refused at once."""
        refusals = await self.dealer.submit(intents, self.quotes())
        await self.hear()
        return [refusal.code.value for refusal in refusals]

    def order(self, intent: Intent) -> Order:
        """Its newest attempt, as the journal has it."""
        found = self.journal.order(intent.id)
        assert found is not None
        return found

    # truth

    def at_venue(self, intent: Intent) -> list[SimOrder]:
        """Orders of an intent that reached the venue."""
        return [work.order for work in self.venue.book.all if work.order.ref == intent.id]

    def held(self, symbol: str | None = None) -> Decimal:
        """Shares that the venue holds for the account."""
        return self.venue.accounts[self.broker.account].shares(self.con_id(symbol or self.names[0]))

    def check(self, *intents: Intent, refused: Iterable[Intent] = (), fees: bool = True) -> None:
        """One order an intent, none of those refused; the ledger is the venue's truth."""
        for intent in intents:
            orders = self.at_venue(intent)
            assert len(orders) == 1, f"{len(orders)} orders at the venue for {intent.id}"
            assert orders[0].filled <= intent.shares
        for intent in refused:
            assert not self.at_venue(intent)
        self.check_books(fees)

    def check_books(self, fees: bool = True) -> None:
        """Positions, fills and money to the share and the cent; nothing made up."""
        truth = self.venue.truth()
        books = truth["accounts"][self.broker.account]
        ledger = self.dealer.ledger
        held = {
            symbol: Decimal(p["shares"])
            for symbol, p in books["positions"].items()
            if Decimal(p["shares"])
        }
        assert self.dealer.positions == held
        for symbol in held:
            cost = Decimal(books["positions"][symbol]["average_cost"])
            assert abs(ledger.position(symbol).average_cost - cost) < Decimal("1e-9")
        mine = {e.exec_id: _numbers(e) for e in self.journal.executions()}
        theirs = {
            e["exec_id"]: (e["symbol"], e["side"], Decimal(e["shares"]), Decimal(e["price"]))
            for e in truth["executions"]
            if e["account"] == self.broker.account
        }
        assert mine.items() <= theirs.items(), "a fill that the venue does not have"
        assert newest_revisions(theirs) <= set(mine), "a fill is missing"
        if fees:
            assert ledger.cash == Decimal(books["cash"])
            assert ledger.fees == Decimal(books["fees"])
        live = {w.order.ref for w in self.venue.book.live() if w.order.ref}
        assert live == {o.ref for o in self.dealer.live_orders if o.state.may_fill}
        assert self.journal.verify() == ()
        self.checks += 1

    def write_facts(self) -> None:
        """Add a line to the file that the table of faults is made of, where one is wanted."""
        if os.environ.get(TABLE) and self.lives:
            with open(os.environ[TABLE], "a", encoding="utf-8") as file:
                file.write(json.dumps(self.facts()) + "\n")

    def facts(self) -> dict[str, Any]:
        """What happened, in numbers, for the table of faults."""
        state = self.switch.read()
        halts = [e.what for e in self.told if isinstance(e, Alert) and e.kind == "halted"]
        works = [work.order for work in self.venue.book.all if work.order.ref]
        return {
            "test": os.environ.get("PYTEST_CURRENT_TEST", ""),
            "intents": len({order.ref for order in self.journal.orders()}),
            "at_venue": len(works),
            "twice": len(works) - len({order.ref for order in works}),
            "fills": len(self.venue.executions()),
            "refused": dict(Counter(self.refusals)),
            "alerts": sorted(set(self.alerts)),
            "lives": len(self.lives),
            "books_equal": self.checks,
            "level": state.level.name,
            "why": halts[-1] if halts else state.why,
        }

    async def check_halt(self, lasts: bool = True) -> None:
        """Trading is halted; where it lasts, starting again does not lift it."""
        assert self.switch.level is Level.HALTED, self.switch.read()
        if lasts:
            await self.again()
            assert self.switch.level is Level.HALTED
        before = len(self.venue.book.all)
        assert await self.submit(self.intent(decision="after the halt")) == ["level"]
        assert len(self.venue.book.all) == before

    def check_running(self) -> None:
        assert self.switch.level is Level.RUNNING, self.switch.read()


def _numbers(fill: Execution) -> tuple[str, str, Decimal, Decimal]:
    return fill.symbol, "BOT" if fill.side is Side.BUY else "SLD", fill.shares, fill.price


def newest_revisions(exec_ids: Iterable[str]) -> set[str]:
    """The highest revision of each fill."""
    found: dict[str, str] = {}
    for exec_id in sorted(exec_ids, key=lambda e: int(e.rpartition(".")[2])):
        found[exec_id.rpartition(".")[0]] = exec_id
    return set(found.values())


def market(**given: Any) -> Market:
    """An invented market of four names."""
    return planted_market(
        **({"seed": 11, "names": 4, "sessions": 1, "history": 1, "interval": "5m"} | given)
    )


@asynccontextmanager
async def floor(
    folder: Path,
    venue: SimVenue | None = None,
    begin: bool = True,
    trading: dict[str, Any] | None = None,
    steps: Steps | None = None,
    unreadable: int = 0,
    opened: bool = True,
    **ibkr: Any,
) -> AsyncIterator[Floor]:
    """A trader that is ready, with a flat account; at the end nothing was unreadable to anybody.

    Parameters
    ----------
    folder : Path
    venue : SimVenue, optional
    begin : bool
        Start the trader.
    trading : dict, optional
        Settings of ``trading`` and ``risk``.
    steps : callable, optional
        Of the journal.
    unreadable : int
        Messages that the client may have failed to read.
    opened : bool
        Go to the first minute of the session.
    **ibkr
        Settings of ``ibkr``.
    """
    venue = venue or SimVenue(market())
    venue.traits.messages_per_second = 1_000_000
    while opened and not venue.tape.parts:
        venue.advance()
    async with Gateway(venue, pacing=SystemClock()) as gateway:
        made = Floor(
            folder,
            venue,
            gateway,
            wide_settings(**({"quote_seconds": 20.0} | (trading or {}))),
            VenueTime(venue),
            steps,
            ibkr,
        )
        try:
            if begin:
                found = await made.begin()
                assert found.clean, found
                if opened:
                    await made.go_on(30)
                    assert made.dealer.ready
            yield made
            made.write_facts()
        finally:
            await made.die()
        assert made.unreadable == unreadable
    gateway.check()

"""A venue, its gateway, and a broker that is connected to it with an unmodified client library."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, TypeVar

from dpa.clock import Clock, SystemClock
from dpa.config import IbkrConfig
from dpa.simulation.tws.gateway import Gateway
from dpa.simulation.tws.markets import Market, planted_market
from dpa.simulation.tws.script import read_fault
from dpa.simulation.tws.venue import SimVenue
from dpa.simulation.tws.words import SimOrder, Traits
from dpa.trading.broker import (
    BrokerEvent,
    BrokerSnapshot,
    LinkChanged,
    Notice,
    OrderSaid,
)
from dpa.trading.ibkr.broker import IbkrBroker
from dpa.trading.ibkr.client import LIBRARIES, TwsClient, library_name
from dpa.trading.types import (
    Commission,
    Execution,
    Instrument,
    Intent,
    Order,
    OrderState,
    Purpose,
    Side,
    Style,
)

BOUND = 10.0  # seconds; of waits that should take none
NEWEST = {"ib_insync": 176, "ib_async": 178}[library_name()]
VERSIONS = [version for version in (157, 164, 176, 178) if version <= NEWEST]
ACCOUNT = "DU1234567"
T = TypeVar("T")
Found = TypeVar("Found", bound=BrokerEvent)

__all__ = ["BOUND", "LIBRARIES", "NEWEST", "VERSIONS", "Rig", "rig", "run"]


def run(scenario: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """A scenario in an event loop of its own."""
    return asyncio.run(asyncio.wait_for(scenario(), 60))


@dataclass
class VenueTime(Clock):
    """The venue's moments; pauses and paces by the machine's clock."""

    venue: SimVenue
    _real: SystemClock = field(default_factory=SystemClock)

    def now(self) -> datetime:
        return self.venue.clock.now()

    def elapsed(self) -> float:
        return self._real.elapsed()


@dataclass
class Rig:
    """What a scenario works with."""

    venue: SimVenue
    gateway: Gateway
    broker: IbkrBroker
    clock: Clock
    events: list[BrokerEvent] = field(default_factory=list)
    _number: int = 0

    @property
    def symbol(self) -> str:
        return self.venue.market.panel.names[0]

    async def settle(self) -> None:
        """All that was sent is read, and all that was answered is heard."""
        for _ in range(2):
            assert await self.broker.alive(BOUND)
            await self.gateway.settled()

    async def until(self, true: Callable[[], bool]) -> None:
        """Wait until something is so."""

        async def wait() -> None:
            while not true():
                await asyncio.sleep(0.002)

        await asyncio.wait_for(wait(), BOUND)

    async def advance(self, steps: int = 1) -> None:
        """Let the venue go on."""
        for _ in range(steps):
            self.venue.advance()
            await self.settle()

    def fault(self, **entry: Any) -> None:
        """Something goes wrong."""
        self.venue.faults.add(read_fault(entry))

    def undo_faults(self) -> None:
        """All limits and silences end."""
        traits = self.venue.traits
        traits.withhold.clear()
        traits.swallow.clear()
        traits.mute = False

    def heard(self, kind: type[Found]) -> list[Found]:
        """Events of a kind, oldest first."""
        return [event for event in self.events if isinstance(event, kind)]

    def said(self, order: Order) -> list[OrderSaid]:
        """What was said of an order."""
        return [word for word in self.heard(OrderSaid) if word.order_id == order.order_id]

    def states(self, order: Order) -> list[OrderState]:
        """States that were said of an order, without repetitions."""
        states = [word.state for word in self.said(order)]
        return [s for k, s in enumerate(states) if k == 0 or states[k - 1] is not s]

    def fills(self) -> dict[str, Execution]:
        """Fills by stem, the newest revision."""
        fills: dict[str, Execution] = {}
        for fill in self.heard(Execution):
            before = fills.get(fill.stem)
            if before is None or fill.revision >= before.revision:
                fills[fill.stem] = fill
        return fills

    def filled(self) -> Decimal:
        """Shares bought less shares sold."""
        return sum((f.side.sign * f.shares for f in self.fills().values()), Decimal(0))

    def order(
        self,
        side: Side = Side.BUY,
        shares: int = 100,
        style: Style = Style.LIMIT,
        limit: Decimal | str | None = None,
        symbol: str | None = None,
        away: bool = False,
        number: int = 0,
    ) -> Order:
        """A planned order: at the far side of the quote, or `away` from the market."""
        self._number += 1
        symbol = symbol or self.symbol
        contract = self.venue.listing.find(0, symbol)
        assert contract is not None
        quote = self.venue.quote(contract)
        assert quote is not None
        assert quote.bid is not None
        assert quote.ask is not None
        far = quote.ask if side is Side.BUY else quote.bid
        if away:
            far = (far * Decimal("0.9" if side is Side.BUY else "1.1")).quantize(Decimal("0.01"))
        if limit is not None:
            far = Decimal(limit)
        limited = style in (Style.LIMIT, Style.ADAPTIVE)
        now = self.clock.now()
        intent = Intent(
            id=f"dpa-{self._number:024x}",
            account=self.broker.account,
            decision="d",
            symbol=symbol,
            side=side,
            shares=shares,
            style=style,
            purpose=Purpose.ENTER,
            decided_at=now,
            expires_at=now + timedelta(seconds=60),
            reference=far,
            limit=far if limited else None,
        )
        return Order(intent, 1, number or self.broker.next_order_id, limit=intent.limit)

    async def place(self, **given: Any) -> Order:
        """Plan an order, send it, hear what is said."""
        order = self.order(**given)
        await self.broker.place(order)
        await self.settle()
        return order

    def truth(self, order: Order) -> list[SimOrder]:
        """Orders at the venue with the reference of an order."""
        return [work.order for work in self.venue.book.all if work.order.ref == order.ref]

    def held(self, symbol: str | None = None) -> Decimal:
        """Shares that the venue holds for the account."""
        contract = self.venue.listing.find(0, symbol or self.symbol)
        assert contract is not None
        return self.venue.accounts[self.broker.account].shares(contract.con_id)


def venue_of(traits: Traits | None = None, market: Market | None = None, **given: Any) -> SimVenue:
    """An invented market at its first quotes."""
    if market is None:
        market = planted_market(seed=7, names=4, sessions=1, history=2, interval="30m")
    venue = SimVenue(market, traits=traits, **given)
    while not venue.tape.parts:
        venue.advance()
    return venue


@asynccontextmanager
async def rig(
    version: int = NEWEST,
    venue: SimVenue | None = None,
    connect: bool = True,
    unreadable: int = 0,
    order_id_above: int = 0,
    paced: bool = False,
    **settings: Any,
) -> AsyncIterator[Rig]:
    """A broker at a gateway; at the end neither may have failed to read anything."""
    venue = venue or venue_of()
    if not paced:
        venue.traits.messages_per_second = 1_000_000
    clock = VenueTime(venue)
    async with Gateway(venue, versions=(157, version), pacing=SystemClock()) as gateway:
        config = IbkrConfig(ibkr_port=gateway.port, connect_seconds=5, ask_seconds=5)
        config = config.model_copy(update={"retry_seconds": 0.02} | settings)
        broker = IbkrBroker(config, clock, TwsClient(config, clock, 45 if paced else 0))
        made = Rig(venue, gateway, broker, clock)
        broker.listen(made.events.append)
        try:
            if connect:
                await broker.connect(order_id_above)
                await broker.instruments(venue.market.panel.names)
            yield made
        finally:
            await broker.close()
        assert broker.client.unreadable == unreadable
    gateway.check()


def limit_of(order: Order, limit: Decimal) -> Order:
    """The order with another limit."""
    return replace(order, limit=limit)


def links(events: list[BrokerEvent]) -> list[bool]:
    """Whether the connection was up, each time it changed."""
    return [event.up for event in events if isinstance(event, LinkChanged)]


def codes(events: list[BrokerEvent]) -> list[int]:
    """Codes of notices."""
    return [event.code for event in events if isinstance(event, Notice)]


def fees(snapshot: BrokerSnapshot) -> dict[str, Commission]:
    """Fees of a snapshot by execution."""
    return {fee.exec_id: fee for fee in snapshot.commissions}


def known(instruments: dict[str, Instrument]) -> list[str]:
    """Symbols of instruments."""
    return sorted(instruments)

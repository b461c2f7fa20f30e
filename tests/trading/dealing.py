"""A dealer with all its real parts, and a broker that tells the truth badly.

Import it: ``from tests.trading.dealing import ...``.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

from dpa.config import Settings
from dpa.errors import OutcomeUnknown, TransientError
from dpa.market.costs import CostModel
from dpa.trading.broker import (
    Account,
    BrokerEvent,
    BrokerSnapshot,
    LinkChanged,
    Margin,
    Notice,
    OrderSaid,
    always,
)
from dpa.trading.clocks import VirtualClock
from dpa.trading.dealer import Dealer
from dpa.trading.events import Alert
from dpa.trading.identity import intent_id
from dpa.trading.journal import Journal
from dpa.trading.paper import PaperBroker
from dpa.trading.switch import Switch
from dpa.trading.types import (
    Commission,
    Execution,
    Instrument,
    Intent,
    Order,
    OrderState,
    Position,
    Purpose,
    Quote,
    Side,
    Style,
)

T = TypeVar("T")
OPENS = datetime(2024, 7, 1, 13, 30, tzinfo=UTC)
CLOSES = datetime(2024, 7, 1, 20, 0, tzinfo=UTC)
NOON = datetime(2024, 7, 1, 16, 0, tzinfo=UTC)
ACCOUNT = "PAPER"
SYMBOLS = ("AAPL", "BRK.B", "MSFT", "XOM")


def run(awaitable: Awaitable[T]) -> T:
    """Run to the end on a loop of its own."""

    async def wrapped() -> T:
        return await awaitable

    return asyncio.run(wrapped())


def instrument(symbol: str, **changes: Any) -> Instrument:
    """A stock in its session."""
    made = Instrument(
        symbol=symbol,
        con_id=1 + hash(symbol) % 1000,
        exchange="SMART",
        primary_exchange="NYSE",
        currency="USD",
        min_tick=Decimal("0.01"),
        lot=1,
        time_zone="America/New_York",
        liquid_hours=((OPENS, CLOSES),),
    )
    return replace(made, **changes)


INSTRUMENTS = {symbol: instrument(symbol) for symbol in SYMBOLS}


def quote(symbol: str, at: datetime, bid: str = "99.90", ask: str = "100.10", **more: Any) -> Quote:
    """A sound quote."""
    size = {"bid_size": 1000, "ask_size": 1000}
    return Quote(symbol, at, Decimal(bid), Decimal(ask), **(size | more))


def quotes(at: datetime, symbols: Sequence[str] = SYMBOLS, **more: Any) -> dict[str, Quote]:
    """Sound quotes of all symbols."""
    return {symbol: quote(symbol, at, **more) for symbol in symbols}


def intent(
    symbol: str = "AAPL",
    shares: int = 100,
    purpose: Purpose = Purpose.ENTER,
    decision: str = "d1",
    at: datetime = NOON,
    **changes: Any,
) -> Intent:
    """An intent; negative `shares` sell."""
    side = Side.BUY if shares > 0 else Side.SELL
    made = Intent(
        id=intent_id(ACCOUNT, decision, symbol, side, purpose),
        account=ACCOUNT,
        decision=decision,
        symbol=symbol,
        side=side,
        shares=abs(shares),
        style=Style.MARKET,
        purpose=purpose,
        decided_at=at,
        expires_at=at + timedelta(seconds=60),
        reference=Decimal("100"),
    )
    return replace(made, **changes)


def settings(**changes: Any) -> Settings:
    """Settings with limits out of the way, and `trading` as asked."""
    risk = {
        "max_order_usd": 1e7,
        "max_name_weight": 1.0,
        "max_gross": 10.0,
        "max_net": 10.0,
        "max_orders_per_minute": 100000,
    }
    risk |= {name: changes.pop(name) for name in tuple(changes) if name in risk}
    return Settings.model_validate({"risk": risk, "trading": changes})


@dataclass
class Desk:
    """A dealer, its parts, and what it published."""

    folder: Path
    clock: VirtualClock
    settings: Settings
    broker: Any
    journal: Journal
    switch: Switch
    dealer: Dealer
    told: list[Any]

    @property
    def alerts(self) -> list[str]:
        """Kinds of alerts, in order."""
        return [event.kind for event in self.told if isinstance(event, Alert)]

    def quotes(self, **more: Any) -> dict[str, Quote]:
        """Quotes of now."""
        return quotes(self.clock.now(), **more)

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.move_to(self.clock.now() + timedelta(seconds=seconds))

    async def beat(self, seconds: float = 0.0, **more: Any) -> None:
        """Let time pass, give the paper broker its quotes, and beat."""
        self.wait(seconds)
        if isinstance(self.broker, PaperBroker):
            self.broker.on_quotes(self.quotes(**more), self.clock.now())
        await self.dealer.beat(self.clock.now(), self.quotes(**more))

    async def send(self, *intents: Intent, **more: Any) -> list[str]:
        """Submit; codes of refusals."""
        found = await self.dealer.submit(intents, self.quotes(**more))
        return [refusal.code.value for refusal in found]

    def order(self, wanted: Intent) -> Order:
        """The newest attempt of an intent."""
        found = self.journal.order(wanted.id)
        assert found is not None
        return found

    def close(self) -> None:
        """Close the journal."""
        self.journal.close()


def paper(
    folder: Path,
    clock: VirtualClock,
    instruments: Mapping[str, Instrument] = INSTRUMENTS,
    **more: Any,
) -> PaperBroker:
    """A paper broker with the default costs."""
    costs = CostModel(Settings().costs)
    return PaperBroker(folder / "paper.sqlite", clock, costs, instruments, account=ACCOUNT, **more)


def desk(
    folder: Path,
    broker: Any = None,
    clock: VirtualClock | None = None,
    instruments: Mapping[str, Instrument] = INSTRUMENTS,
    steps: Callable[[str], None] | None = None,
    **changes: Any,
) -> Desk:
    """A dealer over what is in `folder`; the paper broker unless another one is given."""
    clock = clock or VirtualClock(NOON)
    told: list[Any] = []
    asked = settings(**changes)
    journal = Journal(folder / "journal.sqlite", clock, steps)
    switch = Switch(folder / "switch.json", clock)
    broker = broker or paper(folder, clock, instruments)
    dealer = Dealer(broker, journal, switch, clock, asked, told.append, instruments)
    return Desk(folder, clock, asked, broker, journal, switch, dealer, told)


@dataclass
class Held:
    """An order that arrived at the scripted broker."""

    order: Order
    perm_id: int
    state: OrderState = OrderState.WORKING
    code: int = 0
    message: str = ""


@dataclass
class Truth:
    """What happened at the broker, whatever anybody was told of it."""

    held: list[Held] = field(default_factory=list)
    fills: dict[str, Execution] = field(default_factory=dict)
    fees: dict[str, Commission] = field(default_factory=dict)
    stems: dict[int, list[str]] = field(default_factory=dict)
    numbers: int = 0

    def of(self, ref: str) -> list[Held]:
        """Orders that arrived for an intent."""
        return [held for held in self.held if held.order.ref == ref]

    def working(self) -> list[Held]:
        """Orders that may fill."""
        return [held for held in self.held[-200:] if not held.state.is_final]

    def filled(self, held: Held) -> Decimal:
        """Shares filled of an order."""
        stems = self.stems.get(held.perm_id, ())
        return sum((self.fills[stem].shares for stem in stems), Decimal(0))

    def positions(self) -> dict[str, Decimal]:
        """Shares by symbol, flat ones left out."""
        shares: dict[str, Decimal] = {}
        for e in self.fills.values():
            shares[e.symbol] = shares.get(e.symbol, Decimal(0)) + e.side.sign * e.shares
        return {symbol: n for symbol, n in shares.items() if n}

    def ended_early(self) -> list[Held]:
        """The newest orders that were cancelled before they were filled."""
        found = [h for h in self.held[-200:] if h.state is OrderState.CANCELLED]
        return [h for h in found if self.filled(h) < h.order.intent.shares]


class ScriptedBroker:
    """A broker whose answers wait until a test delivers, repeats, reorders or loses them.

    Parameters
    ----------
    clock : VirtualClock
    truth : Truth
        Outlives connections and traders.
    prompt : bool
        Deliver every event at once.
    """

    name = "scripted"
    account = ACCOUNT

    def __init__(self, clock: VirtualClock, truth: Truth, prompt: bool = True) -> None:
        self.clock, self.truth, self.prompt = clock, truth, prompt
        self.connected = False
        self.pending: list[BrokerEvent] = []
        self.handlers: list[Callable[[BrokerEvent], None]] = []
        self.next_place = "arrive"
        self.next_cancel = "arrive"
        self.meanwhile: Callable[[], None] | None = None  # while the next message waits
        self.missing: tuple[str, ...] = ()
        self.external: list[OrderSaid] = []
        self.extra: dict[str, Decimal] = {}
        self.booked = Decimal(0)  # cash of no trade
        self.floor = 1
        self.mute = False
        self.kept = 1000  # orders and fills that a snapshot tells of, the newest
        self.lies = 0  # coming snapshots that are complete and leave out all orders and fills
        self.sent: list[tuple[datetime, str, str]] = []
        self.snapshots = 0

    @property
    def next_order_id(self) -> int:
        return self.floor

    def listen(self, handler: Callable[[BrokerEvent], None]) -> None:
        self.handlers.append(handler)

    async def connect(self, order_id_above: int = 0) -> None:
        self.connected = True
        self.tell(LinkChanged(True, "connected"))

    async def close(self) -> None:
        self.connected = False

    async def alive(self, timeout_seconds: float) -> bool:
        return self.connected and not self.mute

    async def instruments(self, symbols: Sequence[str]) -> dict[str, Instrument]:
        return {symbol: INSTRUMENTS[symbol] for symbol in symbols if symbol in INSTRUMENTS}

    async def what_if(self, order: Order) -> Margin:
        return Margin(Decimal(1), Decimal(1), Decimal(2))

    def tell(self, *events: BrokerEvent) -> None:
        """Tell now, or when a test delivers."""
        if self.prompt:
            for event in events:
                self.deliver(event)
        else:
            self.pending += events

    def deliver(self, event: BrokerEvent) -> None:
        """Hand an event to the trader."""
        for handler in self.handlers:
            handler(event)

    def said(self, held: Held, **changes: Any) -> OrderSaid:
        """The truth about an order."""
        filled = self.truth.filled(held)
        word = OrderSaid(
            ref=held.order.ref,
            order_id=held.order.order_id,
            client_id=17,
            perm_id=held.perm_id,
            account=ACCOUNT,
            symbol=held.order.intent.symbol,
            state=held.state,
            filled=filled,
            remaining=held.order.intent.shares - filled,
            code=held.code,
            message=held.message,
        )
        return replace(word, **changes)

    async def place(self, order: Order, still: Callable[[], bool] = always) -> None:
        how, self.next_place = self.next_place, "arrive"
        if how == "transient":
            raise TransientError("nothing was sent")
        self._turn(still)
        self.sent.append((self.clock.now(), "place", order.ref))
        if how == "bug":
            raise RuntimeError("a bug")
        if how in ("arrive", "unknown-arrived", "silent", "reject"):
            self.truth.numbers += 1
            held = Held(order, 1000 + self.truth.numbers)
            self.truth.held.append(held)
            if how == "reject":
                held.state, held.code, held.message = OrderState.REJECTED, 201, "no margin"
            if how != "silent":
                self.tell(self.said(held))
        if how == "notice":  # refused before it became an order
            self.tell(Notice(110, "price off the tick", order.order_id))
        if how.startswith("unknown"):
            raise OutcomeUnknown("the socket broke")

    def _turn(self, still: Callable[[], bool]) -> None:
        """Something happens while a message waits for its turn."""
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            meanwhile()
        if not still():
            raise TransientError("it may be sent no more")

    async def modify(
        self, order: Order, limit: Decimal, still: Callable[[], bool] = always
    ) -> None:
        self._turn(still)
        self.sent.append((self.clock.now(), "modify", order.ref))

    async def cancel(self, order: Order) -> None:
        how, self.next_cancel = self.next_cancel, "arrive"
        self.sent.append((self.clock.now(), "cancel", order.ref))
        found = [h for h in self.truth.working() if h.order.order_id == order.order_id]
        if how == "lost":
            return
        if found:
            self.end(found[0])
        else:
            self.tell(Notice(10147, "not found", order.order_id))

    async def cancel_all(self) -> None:
        self.sent.append((self.clock.now(), "cancel_all", ""))
        for held in self.truth.working():
            self.end(held)

    def end(self, held: Held, state: OrderState = OrderState.CANCELLED) -> None:
        """An order ends."""
        held.state = state
        self.tell(self.said(held))

    def fill(self, held: Held, shares: int, price: str = "100") -> Execution:
        """Part of an order is filled; possibly after it was cancelled."""
        self.truth.numbers += 1
        execution = Execution(
            exec_id=f"00.{self.truth.numbers:06d}.01",
            account=ACCOUNT,
            symbol=held.order.intent.symbol,
            side=held.order.intent.side,
            shares=Decimal(shares),
            price=Decimal(price),
            time=self.clock.now(),
            ref=held.order.ref,
            order_id=held.order.order_id,
            client_id=17,
            perm_id=held.perm_id,
        )
        self.truth.fills[execution.stem] = execution
        self.truth.stems.setdefault(held.perm_id, []).append(execution.stem)
        fee = Commission(execution.exec_id, Decimal("0.35"))
        self.truth.fees[execution.exec_id] = fee
        if self.truth.filled(held) >= held.order.intent.shares:
            held.state = OrderState.FILLED
        self.tell(execution, self.said(held), fee)
        return execution

    def correct(self, stem: str, shares: int, price: str) -> Execution:
        """A fill is corrected."""
        before = self.truth.fills[stem]
        number = before.revision + 1
        after = replace(
            before,
            exec_id=f"{stem}.{number:02d}",
            shares=Decimal(shares),
            price=Decimal(price),
        )
        self.truth.fills[stem] = after
        self.tell(after)
        return after

    def drop_link(self) -> None:
        """The connection breaks; what was not delivered is lost."""
        self.connected = False
        self.pending.clear()
        self.deliver(LinkChanged(False, "reset"))

    def restore_link(self) -> None:
        """It is back."""
        self.connected = True
        self.deliver(LinkChanged(True, "connected again"))

    async def snapshot(self) -> BrokerSnapshot:
        self.snapshots += 1
        if not self.connected:
            raise TransientError("not connected")
        self.lies, lies = max(self.lies - 1, 0), self.lies > 0
        today = () if lies else tuple(self.truth.fills.values())[-self.kept :]
        held = [] if lies else self.truth.held
        positions = dict(self.truth.positions())
        for symbol, more in self.extra.items():
            positions[symbol] = positions.get(symbol, Decimal(0)) + more
        return BrokerSnapshot(
            time=self.clock.now(),
            complete=not self.missing,
            missing=self.missing,
            positions=tuple(
                Position(ACCOUNT, symbol, shares, Decimal(100))
                for symbol, shares in positions.items()
            ),
            open_orders=(
                *(self.said(h) for h in self.truth.working() if not lies),
                *self.external,
            ),
            completed_orders=tuple(self.said(h) for h in held[-self.kept :] if h.state.is_final),
            executions=today,
            commissions=tuple(self.truth.fees.values())[-self.kept :],
            account=Account(ACCOUNT, Decimal(1_000_000), self.cash()),
        )

    def cash(self) -> Decimal:
        """After all fills and fees, and what was booked besides."""
        paid = sum(e.side.sign * e.shares * e.price for e in self.truth.fills.values())
        fees = sum(fee.amount for fee in self.truth.fees.values())
        return Decimal(1_000_000) - paid - fees + self.booked


def scripted(folder: Path, prompt: bool = True, **changes: Any) -> tuple[Desk, ScriptedBroker]:
    """A dealer over a scripted broker."""
    clock = VirtualClock(NOON)
    broker = ScriptedBroker(clock, Truth(), prompt)
    return desk(folder, broker, clock, **changes), broker

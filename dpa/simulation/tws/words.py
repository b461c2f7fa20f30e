"""What the two halves of the gateway say to each other: sessions speak the wire, the venue trades.

Shares, prices and money are ``Decimal``; moments are UTC with a time zone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Protocol

from dpa.clock import Clock


@dataclass(frozen=True)
class Contract:
    """A stock that the venue lists.

    Parameters
    ----------
    con_id : int
    symbol : str
        As TWS writes it: ``BRK B``, not ``BRK.B``.
    primary_exchange, trading_class : str
    min_tick, size_increment : Decimal
    name : str
    liquid_hours, trading_hours : tuple of (datetime, datetime)
        UTC, sorted; today and the days after.
    """

    con_id: int
    symbol: str
    primary_exchange: str
    trading_class: str
    min_tick: Decimal = Decimal("0.01")
    size_increment: Decimal = Decimal(1)
    name: str = ""
    liquid_hours: tuple[tuple[datetime, datetime], ...] = ()
    trading_hours: tuple[tuple[datetime, datetime], ...] = ()


@dataclass
class SimOrder:
    """An order at the venue; the venue changes it, sessions show it.

    Parameters
    ----------
    client_id, order_id, perm_id : int
    contract : Contract
    fields : mapping of str to str
        All fields of the request, as :func:`dpa.simulation.tws.requests.read_order` names them.
    status : str
        As TWS writes it: PendingSubmit, PreSubmitted, Submitted, Filled, Cancelled, Inactive.
    filled, average_price, last_price : Decimal
    commission : Decimal, optional
    why_held : str
        Such as ``locate``.
    parent_id : int
    completed_at : datetime, optional
    """

    client_id: int
    order_id: int
    perm_id: int
    contract: Contract
    fields: Mapping[str, str]
    account: str
    action: str
    order_type: str
    quantity: Decimal
    limit: Decimal | None
    tif: str
    ref: str
    status: str = "PendingSubmit"
    filled: Decimal = Decimal(0)
    average_price: Decimal = Decimal(0)
    last_price: Decimal = Decimal(0)
    commission: Decimal | None = None
    why_held: str = ""
    parent_id: int = 0
    completed_at: datetime | None = None

    @property
    def remaining(self) -> Decimal:
        """Shares not filled."""
        return self.quantity - self.filled

    @property
    def done(self) -> bool:
        """Whether the venue works it no more."""
        return self.status in ("Filled", "Cancelled", "ApiCancelled", "Inactive")


@dataclass(frozen=True)
class SimExecution:
    """A fill at the venue."""

    exec_id: str
    order_id: int
    client_id: int
    perm_id: int
    account: str
    contract: Contract
    side: str  # BOT or SLD
    shares: Decimal
    price: Decimal
    time: datetime
    cumulative: Decimal
    average_price: Decimal
    ref: str
    liquidation: int = 0


@dataclass(frozen=True)
class SimCommission:
    """The fee of a fill."""

    exec_id: str
    amount: Decimal
    currency: str = "USD"
    realized: Decimal | None = None


@dataclass(frozen=True)
class SimPosition:
    """What an account holds of a contract."""

    account: str
    contract: Contract
    shares: Decimal
    average_cost: Decimal
    market_price: Decimal
    realized: Decimal


@dataclass(frozen=True)
class SimQuote:
    """Top of the book."""

    time: datetime
    bid: Decimal | None
    ask: Decimal | None
    last: Decimal | None
    bid_size: int
    ask_size: int
    last_size: int
    volume: int
    close: Decimal | None  # of the session before
    halted: bool = False
    shortable: int = 10_000_000  # shares that can be borrowed


@dataclass(frozen=True)
class SimBar:
    """A bar; `time` is its START, as TWS stamps it."""

    time: datetime
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: int
    average: Decimal
    count: int


@dataclass(frozen=True)
class SimMargin:
    """Answer to what-if, USD."""

    initial_before: Decimal
    maintenance_before: Decimal
    equity_before: Decimal
    initial_after: Decimal
    maintenance_after: Decimal
    equity_after: Decimal
    commission: Decimal


@dataclass(frozen=True)
class Refused:
    """A request that the venue refuses: an error frame with that code goes to the client."""

    code: int
    message: str


@dataclass
class Traits:
    """How the gateway as a whole behaves; faults change it.

    Parameters
    ----------
    accounts : tuple of str
    lines : int
        Market data lines a client may have; more are refused with 101.
    messages_per_second : int
        More are refused with 100; a client that goes on is disconnected.
    history_requests : int
        In ten minutes; more are refused with 162.
    read_only : bool
        Orders are refused with 321.
    subscribed : bool
        Without, live data is refused with 354 and delayed data is given.
    mute : bool
        Accepts everything and never answers.
    swallow : set of int
        Ids of requests that are read and forgotten.
    withhold : set of int
        Ids of messages that are never sent (61, 62, 53, 55, 11, 59 ...).
    lag_seconds : float
        Added before each message goes out.
    servers : bool
        Whether the gateway has a connection to the broker's servers; what it greets with says so.
    """

    accounts: tuple[str, ...] = ("DU1234567",)
    lines: int = 100
    messages_per_second: int = 50
    history_requests: int = 60
    read_only: bool = False
    subscribed: bool = True
    mute: bool = False
    swallow: set[int] = field(default_factory=set)
    withhold: set[int] = field(default_factory=set)
    lag_seconds: float = 0.0
    servers: bool = True


class Listener(Protocol):
    """A connected client, as the venue sees it; a session implements it. Nothing here blocks."""

    client_id: int

    def open_order(self, order: SimOrder, margin: SimMargin | None = None) -> None: ...
    def order_status(self, order: SimOrder) -> None: ...
    def execution(self, execution: SimExecution, request_id: int = -1) -> None: ...
    def commission(self, commission: SimCommission) -> None: ...
    def error(self, request_id: int, code: int, message: str) -> None: ...
    def position(self, position: SimPosition) -> None: ...
    def portfolio(self, position: SimPosition) -> None: ...
    def account_values(self, account: str) -> None: ...
    def quote(self, contract: Contract, quote: SimQuote) -> None: ...
    def realtime_bar(self, contract: Contract, bar: SimBar) -> None: ...
    def history_bar(self, contract: Contract, bar: SimBar) -> None: ...
    def disconnect(self, reset: bool) -> None: ...


class Venue(Protocol):
    """Matching, accounts and markets behind the sessions."""

    traits: Traits
    clock: Clock

    def attach(self, listener: Listener) -> Refused | None:
        """A client has started; 326 where its id is in use."""
        ...

    def detach(self, listener: Listener) -> None: ...
    def next_order_id(self, client_id: int) -> int: ...
    def find(self, con_id: int, symbol: str) -> Contract | None: ...
    def place(
        self, client_id: int, order_id: int, contract: Contract, fields: Mapping[str, str]
    ) -> Refused | None:
        """A new order, a modification or, with ``whatIf``, a question."""
        ...

    def cancel(self, client_id: int, order_id: int) -> Refused | None: ...
    def cancel_all(self) -> None: ...
    def open_orders(self, client_id: int | None) -> tuple[SimOrder, ...]: ...
    def completed_orders(self) -> tuple[SimOrder, ...]: ...
    def executions(self) -> tuple[tuple[SimExecution, SimCommission | None], ...]:
        """Of today, all revisions, oldest first, with their fees where they were reported."""
        ...

    def positions(self) -> tuple[SimPosition, ...]: ...
    def account_values(self, account: str) -> tuple[tuple[str, str, str], ...]:
        """(tag, value, currency), as TWS names them: NetLiquidation, TotalCashValue ..."""
        ...

    def quote(self, contract: Contract) -> SimQuote | None: ...
    def history(
        self,
        contract: Contract,
        end: datetime,
        duration_seconds: int,
        bar_seconds: int,
        regular_hours: bool,
    ) -> tuple[SimBar, ...] | Refused: ...

"""Words of trading: intents, orders, fills, positions. Values only; nothing here talks to anyone.

Shares are whole numbers in intents and orders and ``Decimal`` in what a broker says. Money and
prices are ``Decimal``, USD. Moments are UTC with a time zone.
"""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

Money = Decimal


class Side(StrEnum):
    """Direction of an order."""

    BUY = "buy"
    SELL = "sell"

    @property
    def sign(self) -> int:
        """1 for a purchase, -1 for a sale."""
        return 1 if self is Side.BUY else -1


class Style(StrEnum):
    """How an order is worked."""

    MARKET = "market"
    LIMIT = "limit"  # one limit for its whole life
    ADAPTIVE = "adaptive"  # from the mid towards the far side, a step at a time
    CLOSE = "close"  # at the closing auction, where the venue has one


class Tif(StrEnum):
    """How long a broker keeps an order; always sent."""

    DAY = "DAY"
    IOC = "IOC"
    GTC = "GTC"


class Purpose(StrEnum):
    """Why an order exists."""

    ENTER = "enter"
    INCREASE = "increase"
    REDUCE = "reduce"
    EXIT = "exit"
    AGE = "age"  # held for too long
    SESSION_END = "session_end"
    RISK = "risk"  # the state of the account flattens
    FLATTEN = "flatten"  # a person asked
    MANUAL = "manual"

    @property
    def adds(self) -> bool:
        """Whether it may add risk."""
        return self in (Purpose.ENTER, Purpose.INCREASE)


class OrderState(StrEnum):
    """What is known of an order.

    ``planned`` (committed, nothing sent) → ``sent`` (bytes may have left, no word yet) →
    ``working`` → one of the final states. ``unknown``: sent, and the broker has not said what
    became of it; it is asked, never sent again.
    """

    PLANNED = "planned"
    SENT = "sent"
    WORKING = "working"
    CANCELLING = "cancelling"
    UNKNOWN = "unknown"
    FILLED = "filled"
    CANCELLED = "cancelled"
    REJECTED = "rejected"
    ABSENT = "absent"  # proved never to have reached the broker

    @property
    def is_final(self) -> bool:
        """Whether nothing but late fills and corrections can follow."""
        return self in _FINAL

    @property
    def may_fill(self) -> bool:
        """Whether a broker may still fill it, as far as we know."""
        return self in _LIVE


_FINAL = frozenset(
    {OrderState.FILLED, OrderState.CANCELLED, OrderState.REJECTED, OrderState.ABSENT}
)
_LIVE = frozenset({OrderState.SENT, OrderState.WORKING, OrderState.CANCELLING, OrderState.UNKNOWN})


@dataclass(frozen=True)
class Intent:
    """What is to be traded and why; made by a decision, before anybody is asked.

    Parameters
    ----------
    id : str
        Function of account, decision, symbol, side and purpose: the same intent has the same id
        on every machine. It is the ``orderRef`` of its orders.
    account : str
        Account at the broker.
    decision : str
        Id of the decision; of the command where a person asked.
    symbol : str
    side : Side
    shares : int
        Above 0.
    style : Style
    purpose : Purpose
    decided_at : datetime
        Moment of the decision.
    expires_at : datetime
        It is cancelled then.
    reference : Decimal
        Mid price at the decision, USD: costs are measured against it.
    limit : Decimal, optional
        Worst price allowed, USD; none for market and closing orders.
    expected_cost_bps : float
        One way, bps of notional, from the shared cost object; NaN: not known.
    """

    id: str
    account: str
    decision: str
    symbol: str
    side: Side
    shares: int
    style: Style
    purpose: Purpose
    decided_at: datetime
    expires_at: datetime
    reference: Decimal
    limit: Decimal | None = None
    expected_cost_bps: float = float("nan")

    @property
    def signed_shares(self) -> int:
        """Shares, negative for a sale."""
        return self.side.sign * self.shares


@dataclass(frozen=True)
class Order:
    """One attempt to carry out an intent at a broker. There is never a second live one.

    Parameters
    ----------
    intent : Intent
    attempt : int
        From 1. Another one is made only after the one before was proved ``absent``.
    order_id : int
        Number at the broker, above every number used before by this client id.
    state : OrderState
    limit : Decimal, optional
        Newest limit sent, USD.
    perm_id : int
        The broker's own number for it, its identity across sessions; 0: not told yet.
    reason : str
        Of a final state, in words.
    reported : Decimal
        Most shares the broker has said are filled, whether or not their executions have come.
    """

    intent: Intent
    attempt: int
    order_id: int
    state: OrderState = OrderState.PLANNED
    limit: Decimal | None = None
    perm_id: int = 0
    reason: str = ""
    reported: Decimal = Decimal(0)

    @property
    def ref(self) -> str:
        """``orderRef``: the id of the intent."""
        return self.intent.id


@dataclass(frozen=True)
class Instrument:
    """What a broker says of a symbol.

    Parameters
    ----------
    symbol : str
        As dpa names it, such as ``BRK.B``.
    con_id : int
        The broker's number.
    exchange, primary_exchange, currency : str
    min_tick : Decimal
        Prices are multiples of it, USD.
    lot : int
        Shares are multiples of it, at least 1.
    time_zone : str
    liquid_hours : tuple of (datetime, datetime)
        UTC, sorted: when it trades in a regular session, as far as the broker tells.
    has_close : bool
        Whether the venue takes orders for a closing auction.
    """

    symbol: str
    con_id: int
    exchange: str
    primary_exchange: str
    currency: str
    min_tick: Decimal
    lot: int
    time_zone: str
    liquid_hours: tuple[tuple[datetime, datetime], ...] = ()
    has_close: bool = True


@dataclass(frozen=True)
class Execution:
    """A fill, as a broker tells it. A correction has the same stem and a higher revision.

    Parameters
    ----------
    exec_id : str
        Such as ``0000e0d5.00000001.01.01``: the stem, a dot and the revision.
    account, symbol : str
    side : Side
    shares : Decimal
        Above 0; 0 in a correction that takes the fill back.
    price : Decimal
        USD.
    time : datetime
    ref : str
        ``orderRef``; empty for orders that are not ours.
    order_id, client_id, perm_id : int
    liquidation : bool
        The broker closed a position by itself.
    """

    exec_id: str
    account: str
    symbol: str
    side: Side
    shares: Decimal
    price: Money
    time: datetime
    ref: str = ""
    order_id: int = 0
    client_id: int = 0
    perm_id: int = 0
    liquidation: bool = False

    @property
    def stem(self) -> str:
        """What all revisions of a fill share."""
        return self.exec_id.rpartition(".")[0] or self.exec_id

    @property
    def revision(self) -> int:
        """Number of the revision; the highest counts."""
        last = self.exec_id.rpartition(".")[2]
        return int(last) if last.isdigit() and self.exec_id != last else 0


@dataclass(frozen=True)
class Commission:
    """The fee of a fill; comes before or after it, or never.

    Parameters
    ----------
    exec_id : str
    amount : Decimal
        Of `currency`, positive: paid.
    currency : str
    """

    exec_id: str
    amount: Money
    currency: str = "USD"


@dataclass(frozen=True)
class Position:
    """Shares of a symbol in an account, negative when short.

    Parameters
    ----------
    account, symbol : str
    shares : Decimal
    average_cost : Decimal
        USD a share, without fees; 0 when flat.
    """

    account: str
    symbol: str
    shares: Decimal
    average_cost: Money


@dataclass(frozen=True)
class Quote:
    """The newest of a symbol's market; prices None where there is none.

    Parameters
    ----------
    symbol : str
    time : datetime
        When it became known here.
    bid, ask, last : Decimal, optional
        USD; sizes and prices of -1 and 0 that a broker sends for "none" are None here.
    bid_size, ask_size : int
        Shares.
    halted : bool
    delayed : bool
        Delayed or frozen data: shown, never traded on.
    shortable : bool
        Whether shares can be borrowed now; True where the broker does not say.
    """

    symbol: str
    time: datetime
    bid: Money | None = None
    ask: Money | None = None
    last: Money | None = None
    bid_size: int = 0
    ask_size: int = 0
    halted: bool = False
    delayed: bool = False
    shortable: bool = True

    @property
    def sound(self) -> bool:
        """Whether it may be traded on: real-time, not halted, ask > bid > 0."""
        bid, ask = self.bid, self.ask
        good = bid is not None and ask is not None and ask > bid > 0
        return good and not self.halted and not self.delayed

    @property
    def mid(self) -> Money | None:
        """Mean of bid and ask; none without both."""
        return None if self.bid is None or self.ask is None else (self.bid + self.ask) / 2

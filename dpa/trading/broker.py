"""What trading asks of a broker, and what a broker tells.

One rule: whoever listens may not block. Events are delivered in the order in which the broker
told them, from the event loop that :meth:`Broker.connect` ran on.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Protocol

from dpa.trading.types import (
    Commission,
    Execution,
    Instrument,
    Money,
    Order,
    OrderState,
    Position,
)


@dataclass(frozen=True)
class OrderSaid:
    """What a broker says of an order: a hint, unless `state` is final and nothing contradicts it.

    Parameters
    ----------
    ref : str
        ``orderRef``; empty when it is not ours.
    order_id, client_id, perm_id : int
    account, symbol : str
    state : OrderState
        ``working``, ``cancelling``, ``filled``, ``cancelled`` or ``rejected``; ``unknown`` where
        the broker's word is none of these.
    filled, remaining : Decimal
        Shares.
    why_held : str
        Such as ``locate``: accepted, and waiting.
    code : int
        The broker's error code; 0: none.
    message : str
    """

    ref: str
    order_id: int
    client_id: int
    perm_id: int
    account: str
    symbol: str
    state: OrderState
    filled: Decimal = Decimal(0)
    remaining: Decimal = Decimal(0)
    why_held: str = ""
    code: int = 0
    message: str = ""


@dataclass(frozen=True)
class Notice:
    """Something a broker reports about an order, a request or itself.

    Parameters
    ----------
    code : int
    message : str
    order_id : int
        -1: of no order.
    """

    code: int
    message: str
    order_id: int = -1


@dataclass(frozen=True)
class LinkChanged:
    """The connection.

    Parameters
    ----------
    up : bool
        Whether orders can be sent. After it comes up again everything must be reconciled.
    why : str
    data_lost : bool
        Subscriptions were lost and must be made again.
    """

    up: bool
    why: str
    data_lost: bool = False


BrokerEvent = OrderSaid | Execution | Commission | Notice | LinkChanged


@dataclass(frozen=True)
class Account:
    """Money of an account.

    Parameters
    ----------
    name : str
    nav, cash, buying_power : Decimal, optional
        USD; None where the broker has not said.
    """

    name: str
    nav: Money | None
    cash: Money | None
    buying_power: Money | None = None


@dataclass(frozen=True)
class BrokerSnapshot:
    """All a broker holds, asked for afresh.

    Parameters
    ----------
    time : datetime
    complete : bool
        Whether every part ended as it should. An incomplete one never means flat.
    missing : tuple of str
        Parts that did not end: ``positions``, ``open orders``, ``completed orders``,
        ``executions``, ``account``.
    positions : tuple of Position
        Of all accounts; flat ones may be left out.
    open_orders, completed_orders : tuple of OrderSaid
        Of every client id.
    executions : tuple of Execution
        Of today, as far as the broker keeps them.
    commissions : tuple of Commission
    account : Account
    """

    time: datetime
    complete: bool
    missing: tuple[str, ...]
    positions: tuple[Position, ...]
    open_orders: tuple[OrderSaid, ...]
    completed_orders: tuple[OrderSaid, ...]
    executions: tuple[Execution, ...]
    commissions: tuple[Commission, ...]
    account: Account


@dataclass(frozen=True)
class Margin:
    """What an order would do to the account, USD.

    Parameters
    ----------
    initial, maintenance : Decimal
        Requirements after it.
    equity : Decimal
        With loan value, after it.
    commission : Decimal, optional
    """

    initial: Money
    maintenance: Money
    equity: Money
    commission: Money | None = None

    @property
    def allowed(self) -> bool:
        """Whether the equity covers the initial requirement."""
        return self.equity >= self.initial


def always() -> bool:
    """Whether something may still be sent, where nobody says otherwise: yes."""
    return True


class Broker(Protocol):
    """Somewhere orders are sent.

    All methods raise :class:`~dpa.errors.TransientError` when nothing was sent and trying again
    is safe, :class:`~dpa.errors.OutcomeUnknown` when something may have been sent, and
    :class:`~dpa.errors.HaltError` when nobody may trade here.
    """

    @property
    def name(self) -> str:
        """``paper`` or ``ibkr``."""
        ...

    @property
    def account(self) -> str:
        """The account traded; known after :meth:`connect`."""
        ...

    @property
    def connected(self) -> bool:
        """Whether orders can be sent now."""
        ...

    @property
    def next_order_id(self) -> int:
        """Lowest number the broker would take for a new order."""
        ...

    def listen(self, handler: Callable[[BrokerEvent], None]) -> None:
        """Call `handler` with every event from now on."""
        ...

    async def connect(self, order_id_above: int = 0) -> None:
        """Open the connection; refuse what is no paper account.

        Parameters
        ----------
        order_id_above : int
            Highest order number ever used; later numbers are above it.
        """
        ...

    async def close(self) -> None:
        """Close it; working orders stay at the broker."""
        ...

    async def snapshot(self) -> BrokerSnapshot:
        """Ask for everything; incomplete where a part did not come."""
        ...

    async def instruments(self, symbols: Sequence[str]) -> dict[str, Instrument]:
        """What is known of symbols; those nobody knows are left out."""
        ...

    async def place(self, order: Order, still: Callable[[], bool] = always) -> None:
        """Send an order. Returning means that bytes were handed over, not that they arrived.

        Parameters
        ----------
        order : Order
        still : callable
            Whether it may still be sent; asked after all waiting, right before the bytes are
            handed over. Where it says no, nothing is sent.
        """
        ...

    async def modify(
        self, order: Order, limit: Decimal, still: Callable[[], bool] = always
    ) -> None:
        """Ask for another limit; `still` as in :meth:`place`."""
        ...

    async def cancel(self, order: Order) -> None:
        """Ask for an order's end."""
        ...

    async def cancel_all(self) -> None:
        """Ask for the end of every order of every client."""
        ...

    async def what_if(self, order: Order) -> Margin:
        """Ask what an order would do to margins, without placing it."""
        ...

    async def alive(self, timeout_seconds: float) -> bool:
        """Whether it answers at all."""
        ...

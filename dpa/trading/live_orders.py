"""Our orders that may still change a position: the journal's, kept at hand.

Every change goes to the journal first, then here, then to whoever listens.
"""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

from dpa.clock import Clock
from dpa.trading.events import Event, OrderChanged
from dpa.trading.journal import Journal
from dpa.trading.types import Order


class LiveOrders:
    """The newest attempts of live intents.

    Parameters
    ----------
    journal : Journal
    clock : Clock
    publish : callable
        Is handed an :class:`~dpa.trading.events.OrderChanged` for every change.
    """

    def __init__(self, journal: Journal, clock: Clock, publish: Callable[[Event], None]) -> None:
        self._journal, self._clock, self._publish = journal, clock, publish
        self._orders: dict[str, Order] = {}
        self._refs: dict[str, set[str]] = {}
        self._word_at: dict[str, datetime] = {}
        self._sent_at: dict[str, datetime] = {}
        self._filled_at: dict[str, datetime] = {}
        self.load()

    def load(self) -> None:
        """Read all from the journal."""
        self._orders = {order.ref: order for order in self._journal.orders(live_only=True)}
        self._refs = {}
        for order in self._orders.values():
            self._refs.setdefault(order.intent.symbol, set()).add(order.ref)
        now = self._clock.now()
        for ref, order in self._orders.items():
            self._word_at.setdefault(ref, now)
            if order.state.may_fill:
                self._sent_at.setdefault(ref, now)

    def __iter__(self) -> Iterator[Order]:
        return iter(tuple(self._orders.values()))

    def __len__(self) -> int:
        return len(self._orders)

    def __contains__(self, ref: object) -> bool:
        return ref in self._orders

    def get(self, ref: str) -> Order | None:
        """A live order of ours."""
        return self._orders.get(ref)

    def find(self, ref: str) -> Order | None:
        """The newest attempt of an intent, live or not."""
        return self._orders.get(ref) or self._journal.order(ref)

    @property
    def symbols(self) -> set[str]:
        """Those with a live order."""
        return set(self._refs)

    def count(self, symbol: str) -> int:
        """Live orders of a symbol; more than one is wrong."""
        return len(self._refs.get(symbol, ()))

    def keep(self, *orders: Order, why: str = "") -> None:
        """Keep what became of orders."""
        self._journal.order_changed(*orders, why=why)
        for order in orders:
            self.took(order, why)

    def took(self, order: Order, why: str = "") -> None:
        """Take note of an order that the journal keeps already."""
        before, now = self._orders.get(order.ref), self._clock.now()
        if order.state.is_final and not self._journal.owed(order):
            self._remove(order)
            self._word_at.pop(order.ref, None)
            self._sent_at.pop(order.ref, None)
        else:
            self._orders[order.ref] = order
            self._refs.setdefault(order.intent.symbol, set()).add(order.ref)
            self._word_at.setdefault(order.ref, now)
        if order != before:
            self._publish(OrderChanged(now, order, why or order.reason))

    def _remove(self, order: Order) -> None:
        self._orders.pop(order.ref, None)
        refs = self._refs.get(order.intent.symbol, set())
        refs.discard(order.ref)
        if not refs:
            self._refs.pop(order.intent.symbol, None)

    def placed(self, ref: str) -> None:
        """It goes to the broker now."""
        self._word_at[ref] = self._sent_at[ref] = self._clock.now()

    def heard(self, ref: str) -> None:
        """The broker spoke of it, or was spoken to about it, now."""
        if ref in self._orders:
            self._word_at[ref] = self._clock.now()

    def filled(self, symbol: str) -> None:
        """A fill of the symbol was booked now."""
        self._filled_at[symbol] = self._clock.now()

    def silent_since(self, order: Order) -> datetime:
        """When it was last spoken of or sent, or this program began."""
        return self._word_at.get(order.ref, self._clock.now())

    def sent_before(self, order: Order, moment: datetime) -> bool:
        """Whether it was sent before `moment`; what was sent before a restart, at the restart."""
        return self._sent_at.get(order.ref, self._clock.now()) <= moment

    def new_attempt(self, order: Order) -> None:
        """Keep another attempt of an intent."""
        self._journal.new_attempt(order)
        self._sent_at.pop(order.ref, None)
        self._word_at[order.ref] = self._clock.now()
        self.took(order, "the attempt before never reached the broker")

    def quiet(self, symbol: str, since: timedelta) -> bool:
        """Whether a symbol has no live order that was sent, and no fill younger than `since`."""
        if any(self._orders[ref].state.may_fill for ref in self._refs.get(symbol, ())):
            return False
        newest = self._filled_at.get(symbol)
        return newest is None or self._clock.now() - newest >= since

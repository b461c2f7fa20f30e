"""The broker's truth beside ours: what each of our orders has become, and what nobody explains.

Pure. The executions of a snapshot are booked first, as fills that came late; what is compared here
are orders and positions. The rules:

- An incomplete snapshot proves nothing: no order is gone, no position is flat.
- An order that was never acknowledged, is in none of open orders, completed orders and executions
  of every client, and was sent long enough ago, is *absent*: found so again by a later look, it
  never reached the broker (:mod:`dpa.trading.settling`).
- An order that was acknowledged once and is nowhere now, and at a later look, has ended unseen, the
  broker's lists being of today only: it is *gone*, and never sent again. What it filled shows in
  the positions.
- Positions differ: a *break*. Where an order may still fill or a fill is only moments old, the two
  sides may have been asked at different moments: the break is *suspected*, and asked about again.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from dpa.trading.broker import BrokerSnapshot, OrderSaid
from dpa.trading.identity import is_ours
from dpa.trading.types import Execution, Order, OrderState


class BreakKind(StrEnum):
    """What is wrong."""

    POSITION = "position"  # the broker holds something else than the ledger
    DUPLICATE = "duplicate"  # two orders at the broker for one intent
    UNKNOWN_REF = "unknown-ref"  # our kind of order, and the journal does not know it
    OVERFILLED = "overfilled"  # more shares than were intended


@dataclass(frozen=True)
class Break:
    """A difference that nothing explains.

    Parameters
    ----------
    kind : BreakKind
    symbol : str
    ours, theirs : Decimal
        Shares.
    ref : str
        Of the order; empty for positions.
    """

    kind: BreakKind
    symbol: str
    ours: Decimal
    theirs: Decimal
    ref: str = ""

    def __str__(self) -> str:
        match self.kind:
            case BreakKind.POSITION:
                return f"{self.symbol}: the ledger has {self.ours}, the broker {self.theirs}"
            case BreakKind.DUPLICATE:
                return f"{self.symbol}: two orders at the broker for intent {self.ref}"
            case BreakKind.UNKNOWN_REF:
                return f"{self.symbol}: order {self.ref} is not in the journal"
            case BreakKind.OVERFILLED:
                return f"{self.symbol}: {self.theirs} filled of {self.ours} for intent {self.ref}"


@dataclass(frozen=True)
class Books:
    """Our side.

    Parameters
    ----------
    account : str
    orders : mapping of str to Order
        Newest attempt by ref: all live ones, and all that the snapshot speaks of.
    filled : mapping of str to Decimal
        Shares executed by ref, most of any revision.
    positions : mapping of str to Decimal
        Shares by symbol, from the ledger.
    ended : collection of str
        Refs that were final before the broker was asked: only those can be found alive again.
    provable : callable
        Whether an order was sent long enough ago that its absence means something.
    quiet : callable
        Whether a symbol has no order that may fill, and no fill of only moments ago.
    """

    account: str
    orders: Mapping[str, Order]
    filled: Mapping[str, Decimal]
    positions: Mapping[str, Decimal]
    ended: Collection[str]
    provable: Callable[[Order], bool]
    quiet: Callable[[str], bool]


@dataclass(frozen=True)
class Reconciliation:
    """What a comparison found.

    Parameters
    ----------
    time : datetime
    complete : bool
    missing : tuple of str
    breaks : tuple of Break
        Trading halts on any.
    suspected : tuple of Break
        To be asked about again before any order is sent.
    words : tuple of (Order, OrderSaid)
        What the broker says of our orders.
    revived : tuple of (Order, OrderSaid)
        Orders we held final that are open at the broker.
    strays : tuple of OrderSaid
        Open orders that should not be there: second ones of an intent, and such of our kind that
        the journal does not know. They are to be cancelled.
    absent, gone, waiting : tuple of Order
        Nowhere at the broker, as if they had never reached it; ended unseen; too fresh to say.
    external : tuple of OrderSaid
        Open orders of a person or of another program in the account.
    adopted : tuple of Execution
        Fills learned of only now.
    """

    time: datetime
    complete: bool
    missing: tuple[str, ...] = ()
    breaks: tuple[Break, ...] = ()
    suspected: tuple[Break, ...] = ()
    words: tuple[tuple[Order, OrderSaid], ...] = ()
    revived: tuple[tuple[Order, OrderSaid], ...] = ()
    strays: tuple[OrderSaid, ...] = ()
    absent: tuple[Order, ...] = ()
    gone: tuple[Order, ...] = ()
    waiting: tuple[Order, ...] = ()
    external: tuple[OrderSaid, ...] = ()
    adopted: tuple[Execution, ...] = ()

    @property
    def clean(self) -> bool:
        """Whether orders may be sent on it."""
        return self.complete and not self.breaks and not self.suspected


def compare(
    snapshot: BrokerSnapshot, books: Books, adopted: tuple[Execution, ...] = ()
) -> Reconciliation:
    """Compare a snapshot, its executions booked already, with our books."""
    opened, strays, external, breaks = _sort_open(snapshot.open_orders, books)
    completed = _sort_completed(snapshot.completed_orders, books)
    words: list[tuple[Order, OrderSaid]] = []
    revived: list[tuple[Order, OrderSaid]] = []
    for ref, word in {**completed, **opened}.items():
        order = books.orders[ref]
        final = order.state.is_final and order.state is not OrderState.FILLED
        back = ref in opened and final and ref in books.ended
        (revived if back else words).append((order, word))
    breaks += _overfilled(books)
    found = Reconciliation(
        snapshot.time,
        snapshot.complete,
        snapshot.missing,
        tuple(breaks),
        words=tuple(words),
        revived=tuple(revived),
        strays=tuple(strays),
        external=tuple(external),
        adopted=adopted,
    )
    return _with_absences(found, snapshot, books) if snapshot.complete else found


def _sort_open(
    open_orders: Collection[OrderSaid], books: Books
) -> tuple[dict[str, OrderSaid], list[OrderSaid], list[OrderSaid], list[Break]]:
    ours: dict[str, OrderSaid] = {}
    strays: list[OrderSaid] = []
    external: list[OrderSaid] = []
    breaks: list[Break] = []
    for word in sorted(open_orders, key=lambda w: w.order_id):
        order = books.orders.get(word.ref)
        if order is not None and word.ref not in ours and same_attempt(order, word):
            ours[word.ref] = word
        elif order is not None or is_ours(word.ref):
            strays.append(word)
            kind = BreakKind.UNKNOWN_REF if order is None else BreakKind.DUPLICATE
            zero = Decimal(0)
            breaks.append(Break(kind, word.symbol, zero, word.remaining, word.ref))
        else:
            external.append(word)
    return ours, strays, external, breaks


def _sort_completed(words: Collection[OrderSaid], books: Books) -> dict[str, OrderSaid]:
    """By ref, what is about the newest attempt.

    Where a list of ended orders tells no number that we know, its word may be of an attempt before:
    it is believed only once a newest attempt that lives would have been seen elsewhere.
    """
    found: dict[str, OrderSaid] = {}
    for word in words:
        order = books.orders.get(word.ref)
        if order is None or not same_attempt(order, word):
            continue
        surely = order.attempt == 1 or word.order_id > 0 or (order.perm_id and word.perm_id)
        if surely or books.provable(order):
            found[word.ref] = word
    return found


def same_attempt(order: Order, word: OrderSaid) -> bool:
    """Whether a word is about this attempt of its intent.

    The broker's own number decides where both know it; lists of ended orders have no order id.
    """
    if order.perm_id and word.perm_id:
        return order.perm_id == word.perm_id
    return word.order_id <= 0 or word.order_id == order.order_id


def _overfilled(books: Books) -> list[Break]:
    return [
        Break(BreakKind.OVERFILLED, o.intent.symbol, Decimal(o.intent.shares), filled, ref)
        for ref, o in books.orders.items()
        if (filled := books.filled.get(ref, Decimal(0))) > o.intent.shares
    ]


def _with_absences(found: Reconciliation, snapshot: BrokerSnapshot, books: Books) -> Reconciliation:
    spoken_of = {order.ref for order, _ in (*found.words, *found.revived)}
    spoken_of |= {word.ref for word in found.strays}
    absent, gone, waiting = [], [], []
    for ref, order in books.orders.items():
        if ref in spoken_of or not order.state.may_fill:
            continue
        acknowledged = order.perm_id or order.state in (OrderState.WORKING, OrderState.CANCELLING)
        traded = books.filled.get(ref, Decimal(0)) > 0
        if not books.provable(order):
            waiting.append(order)
        elif acknowledged or traded:
            gone.append(order)
        else:
            absent.append(order)
    breaks, suspected = _positions(snapshot, books)
    return replace(
        found,
        breaks=(*found.breaks, *breaks),
        suspected=tuple(suspected),
        absent=tuple(absent),
        gone=tuple(gone),
        waiting=tuple(waiting),
    )


def _positions(snapshot: BrokerSnapshot, books: Books) -> tuple[list[Break], list[Break]]:
    theirs = {p.symbol: p.shares for p in snapshot.positions if p.account == books.account}
    breaks: list[Break] = []
    suspected: list[Break] = []
    for symbol in sorted({*theirs, *books.positions}):
        mine = books.positions.get(symbol, Decimal(0))
        told = theirs.get(symbol, Decimal(0))
        if mine != told:
            found = Break(BreakKind.POSITION, symbol, mine, told)
            (breaks if books.quiet(symbol) else suspected).append(found)
    return breaks, suspected

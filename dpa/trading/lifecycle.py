"""What a word of the broker, a fill or an act of ours makes of an order. Pure functions.

States only move forwards, so that words which come late, twice or in another order end in the
same state::

    planned < sent < unknown < absent < working < cancelling < cancelled < rejected < filled

``unknown`` and ``absent`` are what *we* think where the broker is silent, so that any word of the
broker ends them. A final state ends an order only when all fills that the broker spoke of have
come (:func:`owed`): until then it counts as live. Two acts of ours move back, both after the
broker was asked: :func:`doubted` and :func:`revived`.
"""

from dataclasses import replace
from decimal import Decimal

from dpa.trading.broker import OrderSaid
from dpa.trading.copies import altered
from dpa.trading.types import Order, OrderState

_ORDER = (
    OrderState.PLANNED,
    OrderState.SENT,
    OrderState.UNKNOWN,
    OrderState.ABSENT,
    OrderState.WORKING,
    OrderState.CANCELLING,
    OrderState.CANCELLED,
    OrderState.REJECTED,
    OrderState.FILLED,
)
_RANK = {state: rank for rank, state in enumerate(_ORDER)}

_DOUBTED = (OrderState.WORKING, OrderState.CANCELLING)

HINT_CODES = frozenset({103, 104, 105, 161, 329, 399, 10147, 10148, 10311, 10349})
"""Codes with which a client calls an order cancelled that the broker may still work."""


def is_hint(word: OrderSaid) -> bool:
    """Whether a final word may be a client's guess: ask the broker, believe nothing."""
    return word.state in (OrderState.CANCELLED, OrderState.REJECTED) and word.code in HINT_CODES


def told(order: Order, word: OrderSaid) -> Order:
    """The order after a word of the broker.

    Parameters
    ----------
    order : Order
    word : OrderSaid
        One of this order; a hint (:func:`is_hint`) and ``unknown`` change its state only from
        ``planned`` to ``sent``.

    Returns
    -------
    Order
        The same object when nothing changed.
    """
    believed = not is_hint(word) and word.state is not OrderState.UNKNOWN
    state = later(order.state, word.state if believed else OrderState.SENT)
    moved = replace(
        order,
        state=state,
        perm_id=order.perm_id or word.perm_id,
        reported=max(order.reported, word.filled),
        reason=_reason(order, state, word if believed else None),
    )
    return order if moved == order else moved


def _reason(order: Order, state: OrderState, word: OrderSaid | None) -> str:
    if word is None or state is not word.state or not state.is_final or state is OrderState.FILLED:
        return order.reason if state is order.state else ""
    said = f"{word.code}: {word.message}" if word.code else word.message
    return max(order.reason, said, key=_telling) if state is order.state else said


def _telling(reason: str) -> tuple[bool, str]:
    """What says more comes last: a reason with the broker's code before a mere status."""
    return reason[:1].isdigit(), reason


def filled(order: Order, shares: Decimal) -> Order:
    """The order after executions.

    Parameters
    ----------
    order : Order
    shares : Decimal
        Sum over its fills of the most shares any revision has had: a fill that was taken back
        does not make the order live again.
    """
    state = later(order.state, OrderState.WORKING) if shares > 0 else order.state
    if shares >= order.intent.shares:
        state = OrderState.FILLED
    if state is order.state:
        return order
    return replace(order, state=state, reason="")


def sent(order: Order) -> Order:
    """Before its bytes are handed over."""
    return _moved(order, OrderState.SENT)


def cancelling(order: Order) -> Order:
    """Before its end is asked for."""
    return _moved(order, OrderState.CANCELLING)


def doubted(order: Order, why: str) -> Order:
    """Nobody knows what became of it: ``unknown``, unless it is final or was never sent."""
    if order.state is OrderState.PLANNED or order.state.is_final:
        return order
    return replace(order, state=OrderState.UNKNOWN, reason=why)


def absent(order: Order, why: str) -> Order:
    """Proved never to have reached the broker, from ``sent`` or ``unknown``; else unchanged."""
    if order.state not in (OrderState.SENT, OrderState.UNKNOWN):
        return order
    return replace(order, state=OrderState.ABSENT, reason=why)


def given_up(order: Order, why: str) -> Order:
    """Ended before anything was sent: ``planned`` to ``cancelled``; else unchanged."""
    if order.state is not OrderState.PLANNED:
        return order
    return replace(order, state=OrderState.CANCELLED, reason=why)


def revived(order: Order, word: OrderSaid) -> Order:
    """A final order which a complete list of the broker's open orders shows alive.

    The only way back from a final state; :meth:`dpa.trading.journal.Journal.order_revived` keeps
    it. ``filled`` stays: its executions are there.
    """
    if not order.state.is_final or order.state is OrderState.FILLED:
        return told(order, word)
    reported = max(order.reported, word.filled)
    return replace(
        order,
        state=OrderState.WORKING,
        perm_id=order.perm_id or word.perm_id,
        reported=reported,
        reason="",
    )


def owed(order: Order, shares: Decimal) -> Decimal:
    """Shares the broker said are filled whose executions have not come.

    Parameters
    ----------
    order : Order
    shares : Decimal
        As in :func:`filled`.
    """
    said = order.reported
    if order.state is OrderState.FILLED:
        said = max(said, Decimal(order.intent.shares))
    return max(said - shares, Decimal(0))


def is_live(order: Order, shares: Decimal) -> bool:
    """Whether it may still change the position: not final, or fills are owed."""
    return not order.state.is_final or owed(order, shares) > 0


def can_become(before: OrderState, after: OrderState) -> bool:
    """Whether an order may move so without being revived."""
    doubt = after is OrderState.UNKNOWN and before in _DOUBTED
    return doubt or _RANK[after] >= _RANK[before]


def later(one: OrderState, other: OrderState) -> OrderState:
    """The state that comes later of two."""
    return max(one, other, key=_RANK.__getitem__)


def _moved(order: Order, state: OrderState) -> Order:
    state = later(order.state, state)
    return order if state is order.state else altered(order, state=state)

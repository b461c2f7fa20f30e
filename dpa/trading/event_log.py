"""Every event of the bus as a line of the log, with the ids it belongs to.

The log only tells; the journal is what counts. So this is never on the order path: events wait
for their turn, and the loop has its own between two of them.
"""

import asyncio
import logging
from collections.abc import Iterator
from contextvars import Context
from typing import Any

from dpa.trading.events import (
    BarTaken,
    Charged,
    Decided,
    Event,
    Filled,
    Intended,
    LevelChanged,
    LinkWent,
    NotDecided,
    OrderChanged,
    Reconciled,
    Refused,
    Valued,
)
from dpa.trading.types import Intent, Order, OrderState

log = logging.getLogger("dpa.trading.events")
Line = tuple[int, str, dict[str, Any]]
KINDS = (
    BarTaken,
    Charged,
    Decided,
    Filled,
    Intended,
    LevelChanged,
    LinkWent,
    NotDecided,
    OrderChanged,
    Reconciled,
    Refused,
    Valued,
)


class EventLog:
    """A handler of the bus: subscribe :meth:`take` for :data:`KINDS`. Alerts log themselves."""

    def __init__(self) -> None:
        self._told: dict[str, OrderState] = {}  # of live orders: limits that move are not told

    async def take(self, event: Event) -> None:
        """Log an event, then let others have their turn."""
        for level, words, ids in self._lines(event):
            extra = {"at": event.at, **ids}
            # not with the ids of whoever published first: this runs in a task of that context
            Context().run(log.log, level, "%s", words, extra=extra)
        await asyncio.sleep(0)

    def _lines(self, event: Event) -> Iterator[Line]:
        match event:
            case Intended(intents=intents):
                yield from (_intent(intent) for intent in intents)
            case OrderChanged(order=order, why=why):
                if self._moved(order):
                    yield logging.INFO, order_words(order, why), _ids_of(order.intent, order)
            case Refused(intent=intent, what=what, code=code):
                yield logging.WARNING, f"refused ({code}): {what}", _ids_of(intent)
            case Filled():
                yield _fill(event)
            case Charged(commission=fee):
                words = f"fee of {fee.amount} {fee.currency}"
                yield logging.INFO, words, {"exec_id": fee.exec_id}
            case _:
                yield from _about_the_day(event)

    def _moved(self, order: Order) -> bool:
        before = self._told.get(order.ref)
        if order.state.is_final:
            self._told.pop(order.ref, None)
        else:
            self._told[order.ref] = order.state
        return before is not order.state


def _about_the_day(event: Event) -> Iterator[Line]:
    match event:
        case BarTaken(time=time, symbols=symbols, missing=missing, late=late):
            words = f"bar taken: {symbols} symbols, {len(missing)} missing"
            yield logging.INFO, words + (", late" if late else ""), {"bar": time}
        case Decided(binds=binds, because=because):
            words = f"decision of the bar {event.time.isoformat()} binds {binds}"
            words += f" ({because})" if because else ""
            words += f"; risk {event.level}" + (f": {event.why}" if event.why else "")
            ids = {"account": event.account, "bar": event.time, "decision_id": event.decision}
            yield logging.INFO, words, ids
        case NotDecided(why=why, in_a_row=n):
            words = f"no decision, {n} bars in a row: {why}"
            yield logging.WARNING, words, {"bar": event.time}
        case Valued(account=account, nav=nav, gross=gross):
            yield logging.INFO, f"NAV {nav:.2f} USD, gross {gross:.1%}", {"account": account}
        case LevelChanged(level=level, by=by, why=why):
            yield logging.WARNING, f"trading is {level} ({by}: {why})", {}
        case LinkWent(up=up, why=why):
            words = f"the link to the broker is {'up' if up else 'down'}: {why}"
            yield logging.WARNING, words, {}
        case Reconciled(complete=complete, breaks=breaks):
            words = "reconciled" if complete else "reconciled, but the broker did not tell all"
            words += f"; {len(breaks)} breaks: {'; '.join(breaks[:3])}" if breaks else ""
            yield (logging.WARNING if breaks or not complete else logging.INFO), words, {}


def _intent(intent: Intent) -> Line:
    return logging.INFO, f"intends to {intent_words(intent)}", _ids_of(intent)


def _fill(event: Filled) -> Line:
    execution = event.execution
    words = f"filled: {execution.side} {execution.shares} {execution.symbol} at {execution.price}"
    ids = {
        "account": execution.account,
        "decision_id": event.decision,
        "intent_id": execution.ref,
        "order_id": execution.order_id,
        "exec_id": execution.exec_id,
        "symbol": execution.symbol,
    }
    return logging.INFO, words, ids


def _ids_of(intent: Intent, order: Order | None = None) -> dict[str, Any]:
    ids = {
        "account": intent.account,
        "decision_id": intent.decision,
        "intent_id": intent.id,
        "symbol": intent.symbol,
    }
    return ids if order is None else {**ids, "order_id": order.order_id}


def intent_words(intent: Intent) -> str:
    """What is to be traded: ``buy 100 AAA (enter), adaptive, at worst 10.02 USD``."""
    words = f"{intent.side} {intent.shares} {intent.symbol} ({intent.purpose}), {intent.style}"
    return words + ("" if intent.limit is None else f", at worst {intent.limit} USD")


def order_words(order: Order, why: str = "") -> str:
    """How an order stands: ``order 5 is working, limit 10.02 USD``."""
    words = f"order {order.order_id} is {order.state}"
    words += "" if order.limit is None else f", limit {order.limit} USD"
    words += f", attempt {order.attempt}" if order.attempt > 1 else ""
    return words + (f": {why}" if why else "")

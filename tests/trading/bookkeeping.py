"""Intents, orders and executions for the tests of the books."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from dpa.clock import FixedClock
from dpa.trading.broker import OrderSaid
from dpa.trading.identity import intent_id
from dpa.trading.types import (
    Commission,
    Execution,
    Intent,
    Order,
    OrderState,
    Purpose,
    Side,
    Style,
)

ACCOUNT = "DU1"
NOON = datetime(2026, 3, 2, 17, 0, tzinfo=UTC)


def a_clock() -> FixedClock:
    return FixedClock(NOON)


def an_intent(symbol: str = "AAA", shares: int = 100, **changes: Any) -> Intent:
    side = changes.pop("side", Side.BUY)
    decision = changes.pop("decision", "d1")
    purpose = changes.pop("purpose", Purpose.ENTER)
    built = Intent(
        id=intent_id(changes.get("account", ACCOUNT), decision, symbol, side, purpose),
        account=ACCOUNT,
        decision=decision,
        symbol=symbol,
        side=side,
        shares=shares,
        style=Style.ADAPTIVE,
        purpose=purpose,
        decided_at=NOON,
        expires_at=NOON + timedelta(minutes=1),
        reference=Decimal("10.005"),
        limit=Decimal("10.05"),
        expected_cost_bps=3.25,
    )
    return replace(built, **changes)


def an_order(intent: Intent | None = None, order_id: int = 1, **changes: Any) -> Order:
    return replace(Order(intent or an_intent(), 1, order_id), **changes)


def an_execution(
    stem: str, shares: object = 10, price: object = "10.00", revision: int = 1, **changes: Any
) -> Execution:
    built = Execution(
        exec_id=f"{stem}.{revision:02d}",
        account=ACCOUNT,
        symbol="AAA",
        side=Side.BUY,
        shares=Decimal(str(shares)),
        price=Decimal(str(price)),
        time=NOON,
        ref=an_intent().id,
        order_id=1,
        client_id=17,
        perm_id=7001,
    )
    return replace(built, **changes)


def a_fee(
    stem: str, amount: object = "0.35", revision: int = 1, currency: str = "USD"
) -> Commission:
    return Commission(f"{stem}.{revision:02d}", Decimal(str(amount)), currency)


def a_word(state: OrderState, filled: object = 0, **changes: Any) -> OrderSaid:
    built = OrderSaid(
        ref=an_intent().id,
        order_id=1,
        client_id=17,
        perm_id=7001,
        account=ACCOUNT,
        symbol="AAA",
        state=state,
        filled=Decimal(str(filled)),
    )
    return replace(built, **changes)

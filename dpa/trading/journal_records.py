"""The words of trading as JSON, for the lines of the journal, and back."""

import math
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import fields
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson

from dpa.trading.ledger import Baseline
from dpa.trading.types import (
    Commission,
    Execution,
    Intent,
    Order,
    OrderState,
    Position,
    Purpose,
    Side,
    Style,
)

Json = dict[str, Any]
Row = Mapping[str, Any] | sqlite3.Row
_NO_COST = next(f.default for f in fields(Intent) if f.name == "expected_cost_bps")


@lru_cache(maxsize=256)
def moment(time: datetime) -> str:
    """ISO 8601, UTC, always with microseconds, so that text sorts like time.

    Raises
    ------
    ValueError
        It has no time zone.
    """
    if time.tzinfo is None:
        raise ValueError(f"a moment without a time zone: {time}")
    return time.astimezone(UTC).isoformat(timespec="microseconds")


def number(amount: Decimal) -> str:
    """Exact text of a finite number.

    Raises
    ------
    ValueError
        It is not finite.
    """
    if not amount.is_finite():
        raise ValueError(f"not a finite number: {amount}")
    return str(amount)


def dumps(facts: Mapping[str, Any]) -> str:
    """JSON, keys sorted; Decimal, moments, enumerations and paths become text, NaN null."""
    return orjson.dumps(
        facts,
        default=_plain,
        option=orjson.OPT_SORT_KEYS | orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_SERIALIZE_NUMPY,
    ).decode()


def loads(text: str) -> Json:
    """A JSON object."""
    facts: Json = orjson.loads(text)
    return facts


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return moment(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (Decimal, Path)):
        return str(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    raise TypeError(f"not for the journal: {type(value).__name__} {value!r}")


def intent_record(intent: Intent) -> Json:
    """An intent as JSON."""
    record: Json = {
        "id": intent.id,
        "account": intent.account,
        "decision": intent.decision,
        "symbol": intent.symbol,
        "side": intent.side.value,
        "shares": intent.shares,
        "style": intent.style.value,
        "purpose": intent.purpose.value,
        "decided_at": moment(intent.decided_at),
        "expires_at": moment(intent.expires_at),
        "reference": number(intent.reference),
        "limit": None if intent.limit is None else number(intent.limit),
    }
    cost = float(intent.expected_cost_bps)
    if math.isfinite(cost):
        record["expected_cost_bps"] = cost
    return record


def to_intent(record: Json) -> Intent:
    """An intent from JSON."""
    return Intent(
        id=record["id"],
        account=record["account"],
        decision=record["decision"],
        symbol=record["symbol"],
        side=Side(record["side"]),
        shares=record["shares"],
        style=Style(record["style"]),
        purpose=Purpose(record["purpose"]),
        decided_at=datetime.fromisoformat(record["decided_at"]),
        expires_at=datetime.fromisoformat(record["expires_at"]),
        reference=Decimal(record["reference"]),
        limit=_decimal(record["limit"]),
        expected_cost_bps=record.get("expected_cost_bps", _NO_COST),
    )


def order_record(order: Order, told: Decimal, live: bool) -> Json:
    """An order as JSON, without its intent.

    Parameters
    ----------
    order : Order
    told : Decimal
        As in :func:`dpa.trading.lifecycle.filled`.
    live : bool
        :func:`dpa.trading.lifecycle.is_live`.
    """
    return {
        "ref": order.ref,
        "attempt": order.attempt,
        "order_id": order.order_id,
        "account": order.intent.account,
        "symbol": order.intent.symbol,
        "state": order.state.value,
        "limit": None if order.limit is None else number(order.limit),
        "perm_id": order.perm_id,
        "reason": order.reason,
        "reported": number(order.reported),
        "told": number(told),
        "live": int(live),
    }


def to_order(intent: Intent, record: Row) -> Order:
    """An order from JSON or from a row of the table ``orders``."""
    return Order(
        intent=intent,
        attempt=record["attempt"],
        order_id=record["order_id"],
        state=OrderState(record["state"]),
        limit=_decimal(record["limit"]),
        perm_id=record["perm_id"],
        reason=record["reason"],
        reported=Decimal(record["reported"]),
    )


def execution_record(execution: Execution) -> Json:
    """An execution as JSON."""
    return {
        "exec_id": execution.exec_id,
        "account": execution.account,
        "symbol": execution.symbol,
        "side": execution.side.value,
        "shares": number(execution.shares),
        "price": number(execution.price),
        "time": moment(execution.time),
        "ref": execution.ref,
        "order_id": execution.order_id,
        "client_id": execution.client_id,
        "perm_id": execution.perm_id,
        "liquidation": int(execution.liquidation),
    }


def to_execution(record: Row) -> Execution:
    """An execution from JSON or from a row of the table ``executions``."""
    return Execution(
        exec_id=record["exec_id"],
        account=record["account"],
        symbol=record["symbol"],
        side=Side(record["side"]),
        shares=Decimal(record["shares"]),
        price=Decimal(record["price"]),
        time=datetime.fromisoformat(record["time"]),
        ref=record["ref"],
        order_id=record["order_id"],
        client_id=record["client_id"],
        perm_id=record["perm_id"],
        liquidation=bool(record["liquidation"]),
    )


def commission_record(commission: Commission) -> Json:
    """A fee as JSON."""
    return {
        "exec_id": commission.exec_id,
        "amount": number(commission.amount),
        "currency": commission.currency,
    }


def to_commission(record: Row) -> Commission:
    """A fee from JSON or from a row of the table ``commissions``."""
    return Commission(record["exec_id"], Decimal(record["amount"]), record["currency"])


def position_record(position: Position) -> Json:
    """A position as JSON."""
    return {
        "account": position.account,
        "symbol": position.symbol,
        "shares": number(position.shares),
        "average_cost": number(position.average_cost),
    }


def to_position(record: Json) -> Position:
    """A position from JSON."""
    shares, cost = Decimal(record["shares"]), Decimal(record["average_cost"])
    return Position(record["account"], record["symbol"], shares, cost)


def to_baseline(row: Row, known: Iterable[Execution]) -> Baseline:
    """A baseline from a row of the table ``baselines``.

    Parameters
    ----------
    row : mapping
    known : iterable of Execution
        Those that were known then, lower revisions first.
    """
    return Baseline(
        tuple(to_position(record) for record in loads(row["positions"])["of"]),
        Decimal(row["cash"]),
        {execution.stem: execution for execution in known},
        datetime.fromisoformat(row["time"]),
    )


def _decimal(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)

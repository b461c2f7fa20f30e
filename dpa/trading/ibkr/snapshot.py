"""Everything TWS holds, asked for afresh; a part that does not end is missing, never empty."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from dpa.clock import Clock
from dpa.errors import TransientError
from dpa.trading.broker import BrokerSnapshot, OrderSaid
from dpa.trading.ibkr.callbacks import RequestFailed
from dpa.trading.ibkr.client import TwsClient
from dpa.trading.ibkr.contracts import decimal
from dpa.trading.ibkr.pace import Urgency
from dpa.trading.ibkr.words import (
    TAGS,
    Known,
    other_currency,
    read_account,
    read_completed,
    read_execution,
    read_order,
)
from dpa.trading.types import Commission, Position

Name = Callable[[Any], str]
OrderKey = tuple[int, int]
PARTS = ("positions", "open orders", "completed orders", "executions", "account")


def order_key(order_id: int, client_id: int, perm_id: int) -> OrderKey:
    """Identity of an order: client and number, or the permanent number of one made by hand."""
    return (client_id, order_id) if order_id > 0 else (-1, perm_id)


async def take(
    client: TwsClient, clock: Clock, account: str, name: Name, fees: dict[str, Commission]
) -> BrokerSnapshot:
    """Ask for all parts at once.

    Parameters
    ----------
    client : TwsClient
    clock : Clock
    account : str
    name : callable
        Symbol of a contract.
    fees : dict of str to Commission
        All that were heard on this connection, by execution; they are told beside the executions.
    """
    missing: list[str] = []

    async def part(what: str, asked: Awaitable[list[Any]]) -> list[Any]:
        try:
            return await asked
        except (TransientError, RequestFailed):
            missing.append(what)
            return []

    if client.library is None:
        raise TransientError("TWS: not connected")
    everything = client.library.execution_filter()
    summary = client.new_id()
    positions, opened, completed, executions, values = await asyncio.gather(
        part("positions", client.ask("positions", "reqPositions")),
        part("open orders", client.ask("open orders", "reqAllOpenOrders")),
        part("completed orders", client.ask("completed orders", "reqCompletedOrders", False)),
        part("executions", client.ask(client.new_id(), "reqExecutions", everything)),
        part("account", client.ask(summary, "reqAccountSummary", "All", ",".join(TAGS))),
    )
    await part("account", _no_more(client, summary))
    if client.unreadable:
        missing.append("unreadable messages")
    working, ended = _orders(opened, name)
    fills = tuple(read_execution(name(c), e) for c, e in executions)
    return BrokerSnapshot(
        time=clock.now(),
        complete=not missing,
        missing=tuple(dict.fromkeys(missing)),
        positions=_positions(positions, name),
        open_orders=working,
        completed_orders=(*(read_completed(name(c), o, s) for c, o, s in completed), *ended),
        executions=fills,
        commissions=tuple(fees[f.exec_id] for f in fills if f.exec_id in fees),
        account=read_account(account, values),
    )


async def ask_open_orders(client: TwsClient, name: Name) -> tuple[OrderSaid, ...]:
    """Ask which orders are open, of every client and account.

    Raises
    ------
    TransientError
        TWS did not tell.
    """
    try:
        told = await client.ask("open orders", "reqAllOpenOrders")
    except RequestFailed as e:
        raise TransientError(f"TWS did not tell which orders are open: {e.what}") from e
    return _orders(told, name)[0]


async def currency(client: TwsClient, account: str) -> str:
    """Ask which currency an account is in; empty: USD, or not told."""
    number = client.new_id()
    try:
        values = await client.ask(number, "reqAccountSummary", "All", ",".join(TAGS))
        await _no_more(client, number)
    except (TransientError, RequestFailed):
        return ""
    return other_currency(account, values)


async def _no_more(client: TwsClient, summary: int) -> list[Any]:
    await client.send(Urgency.QUESTION, "cancelAccountSummary", summary)
    return []


def _positions(told: list[Any], name: Name) -> tuple[Position, ...]:
    """The newest of each account and contract: an update may come between the parts."""
    newest = {
        (a, int(c.conId)): Position(a, name(c), decimal(n), decimal(p)) for a, c, n, p in told
    }
    return tuple(p for p in newest.values() if p.shares)


def _orders(told: list[Any], name: Name) -> tuple[tuple[OrderSaid, ...], tuple[OrderSaid, ...]]:
    """Working and ended orders, each with the newest status that came beside it."""
    known: dict[OrderKey, Known] = {}
    for kind, *rest in told:
        if kind == "order":
            contract, order, state = rest
            seen = read_order(name(contract), order, state)
            key = order_key(seen.order_id, seen.client_id, seen.perm_id)
            before = known.get(key)
            if before is not None:
                seen.filled, seen.remaining = before.filled, before.remaining
            known[key] = seen
        else:
            word = rest[0]
            found = known.get(order_key(*word[:3]))
            if found is not None:
                found.heard(word)
    working = tuple(k.said() for k in known.values() if not k.state.is_final)
    return working, tuple(k.said() for k in known.values() if k.state.is_final)

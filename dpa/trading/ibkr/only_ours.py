"""Cancelling where accounts are that nobody may touch: order by order, and only those of ours.

TWS cancels an order for the client that placed it, or all orders of the whole login at once. The
second is for logins on which nobody else has an order.
"""

from collections.abc import Callable, Sequence
from typing import Any

from dpa.errors import DpaError, TransientError
from dpa.trading.broker import OrderSaid
from dpa.trading.ibkr.client import TwsClient
from dpa.trading.ibkr.pace import Urgency
from dpa.trading.ibkr.safety import is_ours
from dpa.trading.ibkr.snapshot import ask_open_orders

_SHOWN = 5  # orders named in a message


async def cancel_ours(client: TwsClient, name: Callable[[Any], str]) -> None:
    """Cancel the orders of our account alone, where others have orders; else do nothing.

    Parameters
    ----------
    client : TwsClient
        Connected, to a login that may not be traded.
    name : callable
        Symbol of a contract.

    Raises
    ------
    TransientError
        TWS did not tell which orders are open, or orders are left: which, and whose.
    """
    working = await ask_open_orders(client, name)
    others = [word for word in working if not is_ours(client.settings, word.account)]
    if not others:
        return
    ours = [word for word in working if is_ours(client.settings, word.account)]
    left = [f"left alone: {_list(others)}"]
    for client_id in sorted({word.client_id for word in ours}):
        words = [word for word in ours if word.client_id == client_id]
        try:
            await _cancel(client, client_id, words)
        except DpaError as e:
            left.append(f"not cancelled: {_list(words)} of client {client_id} ({e.what})")
    raise TransientError(
        f"this login has orders of accounts that may not be traded; {'; '.join(left)}",
        "cancel in TWS what must not stay",
    )


async def _cancel(client: TwsClient, client_id: int, words: Sequence[OrderSaid]) -> None:
    """Cancel orders in the name of the client that placed them."""
    if client_id == client.client_id:
        await _send(client, words)
        return
    theirs = TwsClient(client.settings, client.clock, client_id=client_id)
    try:
        await theirs.open()
        await _send(theirs, words)
        if not await theirs.round_trip(client.settings.ask_seconds):
            raise TransientError("TWS did not answer")
    finally:
        theirs.close()


async def _send(client: TwsClient, words: Sequence[OrderSaid]) -> None:
    for word in words:
        await client.send(Urgency.CANCEL, "cancelOrder", word.order_id, "")


def _list(words: Sequence[OrderSaid]) -> str:
    named = [f"{w.account} {w.symbol} {w.ref or f'order {w.perm_id}'}" for w in words[:_SHOWN]]
    more = [f"{len(words) - _SHOWN} more"] if len(words) > _SHOWN else []
    return ", ".join(named + more)

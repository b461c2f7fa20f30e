"""A journal against the truth of a simulated gateway: what differs, in words."""

from collections import Counter
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from dpa.trading.identity import is_ours
from dpa.trading.journal_reader import JournalReader


def differences(journal: JournalReader, truth: Mapping[str, Any], account: str) -> tuple[str, ...]:
    """What the books of an account and the gateway's do not agree on; empty: nothing.

    Parameters
    ----------
    journal : JournalReader
    truth : mapping
        What the control channel of the gateway answers to ``state``.
    account : str
    """
    return (
        *_orders(journal, truth, account),
        *_executions(journal, truth, account),
        *_positions(journal, truth, account),
    )


def _orders(journal: JournalReader, truth: Mapping[str, Any], account: str) -> list[str]:
    found = []
    told = [o for o in truth["orders"] if o["account"] == account and is_ours(o["ref"])]
    for ref, count in Counter(order["ref"] for order in told).items():
        if count > 1:
            found.append(f"intent {ref}: the gateway has {count} orders of it")
        if journal.intent(ref) is None:
            found.append(f"intent {ref}: the journal does not know it")
    return found


def _executions(journal: JournalReader, truth: Mapping[str, Any], account: str) -> list[str]:
    known = {execution.exec_id: execution for execution in journal.executions()}
    found = []
    for told in truth["executions"]:
        if told["account"] != account:
            continue
        mine = known.get(told["exec_id"])
        if mine is None:
            found.append(f"fill {told['exec_id']}: the journal does not have it")
        elif (mine.shares, mine.price) != (Decimal(told["shares"]), Decimal(told["price"])):
            found.append(
                f"fill {told['exec_id']}: {mine.shares} at {mine.price} in the journal, "
                f"{told['shares']} at {told['price']} at the gateway"
            )
    return found


def _positions(journal: JournalReader, truth: Mapping[str, Any], account: str) -> list[str]:
    books = truth["accounts"][account]
    ledger = journal.ledger(account)
    mine = {symbol: held.shares for symbol, held in ledger.positions.items()}
    theirs = {
        symbol.replace(" ", "."): Decimal(held["shares"])
        for symbol, held in books["positions"].items()
        if Decimal(held["shares"])
    }
    found = [
        f"{symbol}: {mine.get(symbol, 0)} shares in the journal, {theirs.get(symbol, 0)} there"
        for symbol in sorted({*mine, *theirs})
        if mine.get(symbol, 0) != theirs.get(symbol, 0)
    ]
    if ledger.cash != Decimal(books["cash"]):
        found.append(f"cash: {ledger.cash} USD in the journal, {books['cash']} at the gateway")
    return found

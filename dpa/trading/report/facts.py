"""What a journal tells of a stretch of time, as the report of a session needs it."""

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from dpa.trading.book_of_accounts import VALUE
from dpa.trading.cash import cash_difference
from dpa.trading.journal_reader import JournalReader
from dpa.trading.ledger import Fill
from dpa.trading.types import Intent, Money, Order, Position

NOTES = (
    "alert",
    "bar",
    "decided",
    "left-out",
    "level",
    "link",
    "not-decided",
    "reconciled",
    "refusal",
    "valued",
)


@dataclass(frozen=True)
class Note:
    """Something kept in the journal that is no order.

    Parameters
    ----------
    at : datetime
    kind : str
        One of :data:`NOTES`.
    facts : dict
    """

    at: datetime
    kind: str
    facts: dict[str, Any]


@dataclass(frozen=True)
class SessionFacts:
    """All a report is made of.

    Parameters
    ----------
    account : str
    begun, ended : datetime
        Of the stretch; UTC.
    intents : tuple of Intent
        Decided in it.
    orders : tuple of Order
        All attempts at them.
    fills : tuple of Fill
        In it, by moment, with what each realised.
    earlier : tuple of Fill
        Before it.
    positions : mapping of str to Position
        In the end.
    marks : mapping of str to Decimal
        Newest prices of what is held, USD.
    foreign_fees : int
        Fees in other currencies, which are in no sum.
    cash_difference : Decimal
        Cash that the broker has and the ledger has not, USD, as it was compared last.
    notes : tuple of Note
        In it, in order.
    """

    account: str
    begun: datetime
    ended: datetime
    intents: tuple[Intent, ...]
    orders: tuple[Order, ...]
    fills: tuple[Fill, ...]
    earlier: tuple[Fill, ...] = ()
    positions: dict[str, Position] = field(default_factory=dict)
    marks: dict[str, Money] = field(default_factory=dict)
    foreign_fees: int = 0
    cash_difference: Money = Decimal(0)
    notes: tuple[Note, ...] = ()

    def of(self, kind: str) -> tuple[Note, ...]:
        """Notes of a kind."""
        return tuple(note for note in self.notes if note.kind == kind)


def read_facts(
    journal: JournalReader, account: str, begun: datetime, ended: datetime
) -> SessionFacts:
    """What a journal tells of an account from `begun` to `ended`, the latter excluded.

    Parameters
    ----------
    journal : JournalReader
        May be written meanwhile.
    account : str
    begun, ended : datetime
        UTC.
    """
    with journal.snapshot():
        ledger = journal.ledger(account)
        intents = tuple(
            i for i in journal.intents() if i.account == account and begun <= i.decided_at < ended
        )
        known = {intent.id for intent in intents}
        orders = tuple(order for order in journal.orders() if order.ref in known)
        notes = tuple(
            Note(event.time, event.kind, event.facts)
            for event in journal.events()
            if event.kind in NOTES and begun <= event.time < ended
        )
        kept = journal.value(f"{VALUE}:{account}") or {}
        cash = cash_difference(journal, account)
    fills = tuple(fill for fill in ledger.fills if fill.execution.time < ended)
    return SessionFacts(
        account,
        begun,
        ended,
        intents,
        orders,
        tuple(fill for fill in fills if fill.execution.time >= begun),
        tuple(fill for fill in fills if fill.execution.time < begun),
        dict(ledger.positions),
        {symbol: Decimal(price) for symbol, price in kept.get("prices", {}).items()},
        len(ledger.foreign_fees),
        cash,
        notes,
    )

"""What can be asked of a journal, also while a trader writes it."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from dpa.trading import journal_tables as tables
from dpa.trading import lifecycle
from dpa.trading.journal_check import MOST_FINDINGS, Finding, findings, read_baseline
from dpa.trading.journal_records import loads, to_commission, to_execution, to_intent, to_order
from dpa.trading.ledger import Baseline, Ledger, filled_shares, told_shares
from dpa.trading.types import Commission, Execution, Intent, Order


@dataclass(frozen=True)
class Event:
    """A line of the journal.

    Parameters
    ----------
    number : int
        From 1, without gaps.
    time : datetime
        UTC, by the journal's clock.
    kind : str
        One of `STEPS`, or a note's own kind.
    facts : dict
        As JSON has them.
    """

    number: int
    time: datetime
    kind: str
    facts: dict[str, Any]


class JournalReader:
    """What can be asked; sees what was committed when asked.

    Parameters
    ----------
    path : Path

    Raises
    ------
    HaltError
        The file is missing, damaged, or of another version, with the cure.
    """

    def __init__(self, path: Path) -> None:
        self._begin(path, tables.open_reader(path))

    def _begin(self, path: Path, db: sqlite3.Connection) -> None:
        self.path = path
        self._db = db
        self._lock = threading.RLock()

    def intent(self, ref: str) -> Intent | None:
        """An intent by its id."""
        found = self._rows("SELECT body FROM intents WHERE id = ?", ref)
        return to_intent(loads(found[0]["body"])) if found else None

    def intents(self) -> tuple[Intent, ...]:
        """All, in the order in which they were committed."""
        found = self._rows("SELECT body FROM intents ORDER BY rowid")
        return tuple(to_intent(loads(row["body"])) for row in found)

    def order(self, ref: str) -> Order | None:
        """The newest attempt of an intent."""
        found = self.attempts(ref)
        return found[-1] if found else None

    def order_by_id(self, order_id: int) -> Order | None:
        """An attempt by its number at the broker."""
        found = self._orders("WHERE orders.order_id = ?", order_id)
        return found[0] if found else None

    def attempts(self, ref: str) -> tuple[Order, ...]:
        """All attempts of an intent, oldest first."""
        return self._orders("WHERE orders.ref = ? ORDER BY attempt", ref)

    def orders(self, live_only: bool = False) -> tuple[Order, ...]:
        """All attempts, oldest first.

        Parameters
        ----------
        live_only : bool
            Those that may still change a position: not final, or final with fills that the
            broker spoke of and whose executions have not come (:func:`lifecycle.is_live`).
        """
        only = "WHERE orders.live" if live_only else ""
        return self._orders(f"{only} ORDER BY orders.event, orders.rowid")

    def filled(self, ref: str) -> Decimal:
        """Shares of an intent that count as filled, over all attempts, corrections applied."""
        return filled_shares(self._executions("WHERE ref = ?", ref))

    def owed(self, order: Order) -> Decimal:
        """Shares the broker said are filled whose executions have not come."""
        return lifecycle.owed(order, self._told(order))

    def executions(self) -> tuple[Execution, ...]:
        """All that were told, revisions too, in the order in which they came."""
        return self._executions("ORDER BY event")

    def external(self) -> tuple[Execution, ...]:
        """Those of no intent of ours, in the order in which they came."""
        return self._executions("WHERE attempt IS NULL ORDER BY event")

    def commissions(self) -> tuple[Commission, ...]:
        """All that were told, in the order in which they came."""
        return tuple(
            to_commission(row) for row in self._rows("SELECT * FROM commissions ORDER BY event")
        )

    def accounts(self) -> tuple[str, ...]:
        """Those that occur, sorted."""
        found = self._rows(
            "SELECT account FROM intents UNION SELECT account FROM executions "
            "UNION SELECT account FROM baselines ORDER BY account"
        )
        return tuple(row["account"] for row in found)

    def ledger(self, account: str) -> Ledger:
        """The books of an account. The writer keeps its own up to date: never change it."""
        with self.snapshot(), tables.halting(self.path):
            since, baseline = read_baseline(self._db, account)
            told = self._executions("WHERE account = ? AND event > ?", account, since)
            return Ledger(account, baseline, told, self.commissions())

    def baseline(self, account: str) -> Baseline | None:
        """What counting began with; None before :meth:`Journal.set_baseline`."""
        with self.snapshot(), tables.halting(self.path):
            return read_baseline(self._db, account)[1]

    @property
    def order_id_mark(self) -> int:
        """Highest order number ever used; 0: none."""
        return self._number(tables.MARK)

    @property
    def token(self) -> int:
        """Newest fencing token; 0: no lease was ever taken."""
        return self._number(tables.TOKEN)

    @property
    def last_event(self) -> int:
        """Number of the newest event; 0: none."""
        return int(self._rows("SELECT coalesce(max(number), 0) FROM events")[0][0])

    def value(self, name: str) -> Any:
        """A JSON value kept under a name; None where there is none."""
        found = self._rows('SELECT value FROM "values" WHERE name = ?', name)
        return loads(found[0]["value"])["of"] if found else None

    def events(self, kind: str | None = None, after: int = 0) -> Iterator[Event]:
        """Lines of the journal with a number above `after`, of one kind or all."""
        only = "" if kind is None else "AND kind = :kind"
        query = f"SELECT * FROM events WHERE number > :after {only} ORDER BY number LIMIT 1000"
        while rows := self._rows(query, {"after": after, "kind": kind}):
            for row in rows:
                time = datetime.fromisoformat(row["time"])
                yield Event(row["number"], time, row["kind"], loads(row["facts"]))
            after = rows[-1]["number"]

    def verify(self) -> tuple[Finding, ...]:
        """All that is wrong: chain of hashes, tables against events, orders against intents and
        fills, ledger against a rebuilt one. Empty: all is well."""
        with self.snapshot():
            return tuple(islice(findings(self._db), MOST_FINDINGS))

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _rows(self, query: str, *values: Any) -> list[sqlite3.Row]:
        given = values[0] if values and isinstance(values[0], dict) else values
        with self._lock, tables.halting(self.path):
            return self._db.execute(query, given).fetchall()

    def _orders(self, rest: str, *values: Any) -> tuple[Order, ...]:
        query = f"SELECT orders.*, body FROM orders JOIN intents ON intents.id = ref {rest}"
        return tuple(
            to_order(to_intent(loads(row["body"])), row) for row in self._rows(query, *values)
        )

    def _executions(self, rest: str, *values: Any) -> tuple[Execution, ...]:
        found = self._rows(f"SELECT * FROM executions {rest}", *values)
        return tuple(to_execution(row) for row in found)

    def _told(self, order: Order) -> Decimal:
        which = "WHERE ref = ? AND attempt = ?"
        return told_shares(self._executions(which, order.ref, order.attempt))

    def _number(self, name: str) -> int:
        found = self._rows("SELECT number FROM numbers WHERE name = ?", name)
        return int(found[0]["number"]) if found else 0

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """All reads within see the same moment, whatever a trader writes meanwhile."""
        with self._lock:
            if self._db.in_transaction:
                yield
                return
            with tables.halting(self.path):
                self._db.execute("BEGIN")
            try:
                yield
            finally:
                self._db.execute("ROLLBACK")

"""Everything this program decided, sent and was told, kept so that a crash loses nothing.

One SQLite file: an append-only list of events, each with the hash of the one before it, and
tables of the present state that are folds of these events. What a method wrote is on the disk
when it returns. One process writes; any number read meanwhile (:meth:`Journal.reader`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from dpa.clock import Clock
from dpa.trading.ledger import Baseline, Ledger
from dpa.trading.types import Commission, Execution, Intent, Money, Order, Position

STEPS = (
    "intents",
    "order",
    "attempt",
    "execution",
    "commission",
    "note",
    "value",
    "mark",
    "baseline",
    "token",
)
"""Names given to `steps` after each durable write; ``writing NAME`` comes just before it."""


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


@dataclass(frozen=True)
class Finding:
    """Something :meth:`JournalReader.verify` found wrong.

    Parameters
    ----------
    what : str
    where : str
        Event, order or execution.
    """

    what: str
    where: str


class JournalReader:
    """What can be asked; sees what was committed when asked.

    Parameters
    ----------
    path : Path

    Raises
    ------
    HaltError
        The file is missing, damaged or newer than this program, with the cure.
    """

    def __init__(self, path: Path) -> None:
        raise NotImplementedError

    def intent(self, ref: str) -> Intent | None:
        """An intent by its id."""
        raise NotImplementedError

    def intents(self) -> tuple[Intent, ...]:
        """All, in the order in which they were committed."""
        raise NotImplementedError

    def order(self, ref: str) -> Order | None:
        """The newest attempt of an intent."""
        raise NotImplementedError

    def order_by_id(self, order_id: int) -> Order | None:
        """An attempt by its number at the broker."""
        raise NotImplementedError

    def attempts(self, ref: str) -> tuple[Order, ...]:
        """All attempts of an intent, oldest first."""
        raise NotImplementedError

    def orders(self, live_only: bool = False) -> tuple[Order, ...]:
        """All attempts, oldest first.

        Parameters
        ----------
        live_only : bool
            Those that may still change a position: not final, or final with fills that the
            broker spoke of and whose executions have not come (:func:`lifecycle.is_live`).
        """
        raise NotImplementedError

    def filled(self, ref: str) -> Decimal:
        """Shares of an intent that count as filled, over all attempts, corrections applied."""
        raise NotImplementedError

    def owed(self, order: Order) -> Decimal:
        """Shares the broker said are filled whose executions have not come."""
        raise NotImplementedError

    def executions(self) -> tuple[Execution, ...]:
        """All that were told, revisions too, in the order in which they came."""
        raise NotImplementedError

    def external(self) -> tuple[Execution, ...]:
        """Those of no intent of ours."""
        raise NotImplementedError

    def commissions(self) -> tuple[Commission, ...]:
        """All that were told, in the order in which they came."""
        raise NotImplementedError

    def accounts(self) -> tuple[str, ...]:
        """Those that occur, sorted."""
        raise NotImplementedError

    def ledger(self, account: str) -> Ledger:
        """The books of an account. The writer's own is kept up to date by it: read only."""
        raise NotImplementedError

    def baseline(self, account: str) -> Baseline | None:
        """What counting began with; None before :meth:`Journal.set_baseline`."""
        raise NotImplementedError

    @property
    def order_id_mark(self) -> int:
        """Highest order number ever used; 0: none."""
        raise NotImplementedError

    @property
    def token(self) -> int:
        """Newest fencing token; 0: no lease was ever taken."""
        raise NotImplementedError

    def value(self, name: str) -> Any:
        """A JSON value kept under a name; None where there is none."""
        raise NotImplementedError

    def events(self, kind: str | None = None, after: int = 0) -> Iterator[Event]:
        """Lines of the journal with a number above `after`, of one kind or all."""
        raise NotImplementedError

    def verify(self) -> tuple[Finding, ...]:
        """All that is wrong: chain of hashes, tables against events, orders against intents and
        fills, ledger against a rebuilt one. Empty: all is well."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the file."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Journal(JournalReader):
    """The writer.

    Every method that writes raises :class:`~dpa.errors.HaltError` when the disk is full, the
    file is damaged, or another process wrote or took over since: send nothing then. A method
    that raised has written nothing.

    Parameters
    ----------
    path : Path
        Made whole or not at all, mode 0600, where it does not exist.
    clock : Clock
    steps : callable, optional
        Called with the name of each write, see `STEPS`; for tests that crash there.
    """

    def __init__(
        self, path: Path, clock: Clock, steps: Callable[[str], None] | None = None
    ) -> None:
        raise NotImplementedError

    @staticmethod
    def reader(path: Path) -> JournalReader:
        """Read a journal, also while another process writes it."""
        return JournalReader(path)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All writes within are one: on the disk together, or none of them. May be nested."""
        raise NotImplementedError

    def commit_intents(
        self, intents: Sequence[Intent], orders: Sequence[Order]
    ) -> tuple[Intent, ...]:
        """Keep intents and the first attempts of carrying them out, in one transaction.

        Parameters
        ----------
        intents : sequence of Intent
            One whose id is there already is left out, and so is its order.
        orders : sequence of Order
            ``planned``, attempt 1, at most one an intent; their numbers raise the mark.

        Returns
        -------
        tuple of Intent
            Those that are new.

        Raises
        ------
        HaltError
            An order belongs to none of the intents, its number is not above the mark, or its
            symbol has another live order in the account.
        """
        raise NotImplementedError

    def order_changed(self, *orders: Order, why: str = "") -> None:
        """Keep what became of orders; those that did not change are left out.

        Raises
        ------
        HaltError
            An order is unknown, or would move back (:func:`lifecycle.can_become`).
        """
        raise NotImplementedError

    def order_revived(self, order: Order, why: str) -> None:
        """Keep that a final order was found alive among the broker's open orders."""
        raise NotImplementedError

    def new_attempt(self, order: Order) -> None:
        """Keep another attempt of an intent, after the one before was proved ``absent``."""
        raise NotImplementedError

    def executed(self, execution: Execution) -> bool:
        """Keep a fill or a correction; False when it is known.

        The order it belongs to moves in the same transaction (:func:`lifecycle.filled`). One
        whose `ref` is of no intent is kept as external; it counts in the ledger all the same.
        """
        raise NotImplementedError

    def charged(self, commission: Commission) -> bool:
        """Keep a fee; False when it is known. It may come before its execution."""
        raise NotImplementedError

    def note(self, kind: str, facts: Mapping[str, Any]) -> int:
        """Keep something worth knowing later; returns its number.

        Parameters
        ----------
        kind : str
            None of `STEPS` but ``note``.
        facts : mapping
            What JSON has, and Decimal, moments and enumerations, which become text.
        """
        raise NotImplementedError

    def raise_order_id_mark(self, number: int) -> None:
        """At least `number` from now on."""
        raise NotImplementedError

    def set_baseline(
        self, account: str, positions: Sequence[Position], cash: Money, why: str
    ) -> None:
        """Count from these positions on; executions known by now are covered by them."""
        raise NotImplementedError

    def set_value(self, name: str, value: Any) -> None:
        """Keep a small JSON value under a name; the same value again writes nothing."""
        raise NotImplementedError

    def take_over(self, holder: str) -> int:
        """Raise the token and hold it; whoever held one before can write no more."""
        raise NotImplementedError

"""Positions, cash, profit and fees, folded from fills that this program was told of itself.

The sum does not depend on the order in which executions, corrections and commissions came: a
fill counts once, with its highest revision, at its own moment.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from operator import attrgetter

from dpa.trading.types import Commission, Execution, Money, Position

USD = "USD"
_ZERO = Decimal(0)
_QUANTUM = Decimal("1e-12")  # USD; what a division leaves is rounded to it, so that sums are exact
_Key = tuple[datetime, str]


@dataclass(frozen=True)
class Fill:
    """A fill that counts, in the ledger.

    Parameters
    ----------
    execution : Execution
        Its highest revision.
    realised : Decimal
        Profit against the average cost, USD, without fees.
    fee : Decimal, optional
        USD; None: not told yet, or told in another currency.
    position : Decimal
        Shares afterwards.
    """

    execution: Execution
    realised: Money
    fee: Money | None
    position: Decimal


@dataclass(frozen=True)
class Baseline:
    """What an account held when counting began.

    Parameters
    ----------
    positions : tuple of Position
    cash : Decimal
        USD.
    covered : mapping of str to Execution
        By stem: the fills these positions hold already. Only a later correction of one counts,
        by its difference.
    time : datetime, optional
    """

    positions: tuple[Position, ...] = ()
    cash: Money = _ZERO
    covered: Mapping[str, Execution] = field(default_factory=dict)
    time: datetime | None = None


@dataclass(frozen=True, slots=True)
class _Held:
    """Shares, what they cost in all, and the profit realised so far."""

    shares: Decimal = _ZERO
    basis: Money = _ZERO
    realised: Money = _ZERO

    def traded(self, signed: Decimal, price: Money) -> "_Held":
        """After a trade: what is closed leaves at the average cost."""
        if self.shares * signed >= 0:
            return _Held(self.shares + signed, self.basis + signed * price, self.realised)
        closed = min(abs(signed), abs(self.shares)).copy_sign(signed)
        left = self.shares + closed
        released = self.basis if left == 0 else _rounded(-self.basis * closed / self.shares)
        opened = signed - closed
        return _Held(
            left + opened,
            self.basis - released + opened * price,
            self.realised - closed * price - released,
        )


class _Book:
    """One symbol: fills by moment, and what was held after each."""

    def __init__(self, start: _Held) -> None:
        self.start = start
        self.keys: list[_Key] = []
        self.fills: list[Execution] = []
        self.after: list[_Held] = []

    @property
    def now(self) -> _Held:
        return self.after[-1] if self.after else self.start

    def put(self, execution: Execution) -> None:
        key = _key(execution)
        place = bisect_left(self.keys, key)
        self.keys.insert(place, key)
        self.fills.insert(place, execution)
        self._fold(place)

    def take(self, execution: Execution) -> None:
        place = bisect_left(self.keys, _key(execution))
        del self.keys[place], self.fills[place]
        self._fold(place)

    def settle(self, before: datetime) -> list[Execution]:
        place = bisect_left(self.keys, (before, ""))
        if not place:
            return []
        self.start, settled = self.after[place - 1], self.fills[:place]
        for rows in (self.keys, self.fills, self.after):
            del rows[:place]
        return settled

    def restart(self, start: _Held) -> None:
        self.start = start
        self._fold(0)

    def _fold(self, first: int) -> None:
        held = self.after[first - 1] if first else self.start
        del self.after[first:]
        for execution in self.fills[first:]:
            held = held.traded(_signed(execution), execution.price)
            self.after.append(held)


class Ledger:
    """Books of one account.

    Parameters
    ----------
    account : str
    baseline : Baseline, optional
        None: flat, without cash.
    executions : iterable of Execution
        In any order, with repeats and corrections.
    commissions : iterable of Commission
    """

    def __init__(
        self,
        account: str,
        baseline: Baseline | None = None,
        executions: Iterable[Execution] = (),
        commissions: Iterable[Commission] = (),
    ) -> None:
        self.account = account
        self.baseline = baseline or Baseline()
        self._covered = self.baseline.covered
        self._corrected: dict[str, Execution] = {}  # covered fills that were corrected since
        self._counted: dict[str, Execution] = {}
        self._told: dict[str, Commission] = {}
        self._settled_before: datetime | None = None
        self._unpaid: list[str] = []  # of settled fills, as in fees_pending
        self._foreign: list[Commission] = []  # of settled fills
        self.oldest: datetime | None = None
        self.newest: datetime | None = None
        self._flow = _ZERO
        self._fees = _ZERO
        self._opening = {p.symbol: p for p in self.baseline.positions if p.account == account}
        self._books = {symbol: _Book(self._start(symbol)) for symbol in self._opening}
        self._positions: dict[str, Position] | None = None  # as they are; none: work them out
        for commission in commissions:
            self.charge(commission)
        for execution in sorted(executions, key=attrgetter("time")):
            self.execute(execution)

    def execute(self, execution: Execution) -> bool:
        """Book a fill or its correction; False when it was known or an older revision.

        Raises
        ------
        ValueError
            It is of another account.
        """
        if execution.account != self.account:
            raise ValueError(f"an execution of {execution.account} in the books of {self.account}")
        stem = execution.stem
        covered = self._covered.get(stem)
        old = self._corrected.get(stem, covered) if covered else self._counted.get(stem)
        if old is not None and execution.revision <= old.revision:
            return False
        self._positions = None
        self._flow -= _paid(execution) - (_paid(old) if old else _ZERO)
        if covered:
            self._corrected[stem] = execution
            for symbol in {covered.symbol, execution.symbol}:
                self._book(symbol).restart(self._start(symbol))
        else:
            if old is None:
                self._fees += self._fee(stem)
            else:
                self._book(old.symbol).take(old)
            self._counted[stem] = execution
            self._book(execution.symbol).put(execution)
            self.oldest = min(self.oldest or execution.time, execution.time)
            self.newest = max(self.newest or execution.time, execution.time)
        return True

    def charge(self, commission: Commission) -> bool:
        """Book a fee; False when it was known. It may come before its execution."""
        stem, revision = _split(commission.exec_id)
        old = self._told.get(stem)
        if old is not None and revision <= _split(old.exec_id)[1]:
            return False
        before = self._fee(stem)
        self._told[stem] = commission
        if stem in self._counted:
            self._fees += self._fee(stem) - before
        return True

    def settle(self, before: datetime) -> None:
        """Forget the single fills before a moment; every sum stays, and memory is bounded.

        What is told of them later cannot be booked any more: see :meth:`can_book`.
        """
        for book in self._books.values():
            for execution in book.settle(before):
                del self._counted[execution.stem]
                told = self._told.pop(execution.stem, None)
                if told is None and execution.shares:
                    self._unpaid.append(execution.exec_id)
                elif told is not None and told.currency != USD:
                    self._foreign.append(told)
        self._settled_before = self.oldest = before

    def can_book(self, told: Execution | Commission, repeated: bool) -> bool:
        """Whether it can be booked though fills were settled; else make the books anew.

        Parameters
        ----------
        told : Execution or Commission
        repeated : bool
            Whether another revision, or for a fee the fill, was told before.
        """
        stem = _split(told.exec_id)[0]
        if self._settled_before is None or stem in self._counted:
            return True
        late = isinstance(told, Execution) and told.time < self._settled_before
        return not late and not repeated and stem not in self._covered

    @property
    def positions(self) -> dict[str, Position]:
        """By symbol, sorted; flat ones are left out."""
        if self._positions is None:
            found = (self.position(symbol) for symbol in sorted(self._books))
            self._positions = {held.symbol: held for held in found if held.shares}
        return dict(self._positions)

    def position(self, symbol: str) -> Position:
        """Of a symbol, flat where there is none."""
        book = self._books.get(symbol)
        held = book.now if book else _Held()
        cost = held.basis / held.shares if held.shares else _ZERO
        return Position(self.account, symbol, held.shares, cost)

    @property
    def cash(self) -> Money:
        """USD, after fees."""
        return self.baseline.cash + self._flow - self.fees

    @property
    def realised(self) -> Money:
        """Profit of what was closed, USD, before fees."""
        return sum((book.now.realised for book in self._books.values()), _ZERO)

    @property
    def fees(self) -> Money:
        """Fees told so far, USD."""
        return self._fees

    @property
    def fees_pending(self) -> tuple[str, ...]:
        """Ids of executions whose fee was not told, sorted."""
        unpaid = (
            execution.exec_id
            for stem, execution in self._counted.items()
            if execution.shares and stem not in self._told
        )
        return tuple(sorted((*self._unpaid, *unpaid)))

    @property
    def foreign_fees(self) -> tuple[Commission, ...]:
        """Fees in other currencies, by id; they are in no sum."""
        told = (self._told[stem] for stem in self._counted if stem in self._told)
        foreign = (c for c in told if c.currency != USD)
        return tuple(sorted((*self._foreign, *foreign), key=attrgetter("exec_id")))

    @property
    def fills(self) -> tuple[Fill, ...]:
        """What counts, by moment; taken back, settled and earlier than the baseline left out."""
        found = [fill for book in self._books.values() for fill in self._fills(book)]
        return tuple(sorted(found, key=lambda fill: _key(fill.execution)))

    def unrealised(self, marks: Mapping[str, Money]) -> Money | None:
        """Profit of open positions at prices, USD; None where the price of one is missing."""
        value = self._value(marks)
        if value is None:
            return None
        return value - sum((book.now.basis for book in self._books.values()), _ZERO)

    def nav(self, marks: Mapping[str, Money]) -> Money | None:
        """Cash and positions at prices, USD; None where the price of one is missing."""
        value = self._value(marks)
        return None if value is None else self.cash + value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ledger) and self._state() == other._state()

    __hash__ = None  # type: ignore[assignment]

    def _state(self) -> tuple[object, ...]:
        return (
            self.account,
            self.positions,
            self.cash,
            self.realised,
            self.fees,
            self.fees_pending,
            self.foreign_fees,
        )

    def _value(self, marks: Mapping[str, Money]) -> Money | None:
        total = _ZERO
        for symbol, held in self.positions.items():
            mark = marks.get(symbol)
            if mark is None or not mark.is_finite():
                return None
            total += held.shares * mark
        return total

    def _fills(self, book: _Book) -> Iterable[Fill]:
        before = book.start
        for execution, held in zip(book.fills, book.after, strict=True):
            if execution.shares:
                told = self._told.get(execution.stem)
                fee = told.amount if told is not None and told.currency == USD else None
                yield Fill(execution, held.realised - before.realised, fee, held.shares)
            before = held

    def _fee(self, stem: str) -> Money:
        told = self._told.get(stem)
        return told.amount if told is not None and told.currency == USD else _ZERO

    def _book(self, symbol: str) -> _Book:
        book = self._books.get(symbol)
        if book is None:
            book = self._books[symbol] = _Book(self._start(symbol))
        return book

    def _start(self, symbol: str) -> _Held:
        opening = self._opening.get(symbol)
        held = _Held()
        if opening is not None:
            held = _Held(opening.shares, _rounded(opening.shares * opening.average_cost))
        for stem in sorted(self._corrected):
            old, new = self._covered[stem], self._corrected[stem]
            if old.symbol == symbol:
                held = held.traded(-_signed(old), old.price)
            if new.symbol == symbol:
                held = held.traded(_signed(new), new.price)
        return held


def told_shares(executions: Iterable[Execution]) -> Decimal:
    """Sum over fills of the most shares any revision has had; see :func:`lifecycle.filled`."""
    most: dict[str, Decimal] = {}
    for execution in executions:
        most[execution.stem] = max(most.get(execution.stem, _ZERO), execution.shares)
    return sum(most.values(), _ZERO)


def filled_shares(executions: Iterable[Execution]) -> Decimal:
    """Sum over fills of the shares of the highest revision."""
    newest: dict[str, Execution] = {}
    for execution in executions:
        known = newest.get(execution.stem)
        if known is None or execution.revision > known.revision:
            newest[execution.stem] = execution
    return sum((execution.shares for execution in newest.values()), _ZERO)


def _signed(execution: Execution) -> Decimal:
    return execution.shares if execution.side.sign > 0 else -execution.shares


def _paid(execution: Execution) -> Money:
    return _signed(execution) * execution.price


def _rounded(money: Money) -> Money:
    rounded = money.quantize(_QUANTUM)
    return money if money == rounded else rounded


def _key(execution: Execution) -> _Key:
    return execution.time, execution.stem


def _split(exec_id: str) -> tuple[str, int]:
    stem, _, last = exec_id.rpartition(".")
    if not stem:
        return exec_id, 0
    return stem, int(last) if last.isdigit() else 0

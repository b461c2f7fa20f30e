"""What the paper broker keeps: its orders, fills, shares and cash, in a SQLite file of its own.

A broker outlives its clients, so this file outlives the trader: after a crash the trader finds its
orders and fills as it would at any broker. A file that another process changed is read anew.
"""

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from pathlib import Path

from dpa.errors import HaltError
from dpa.trading.types import Commission, Execution, Money, OrderState, Side, Style

_TABLES = """
CREATE TABLE IF NOT EXISTS orders (order_id INTEGER PRIMARY KEY, facts TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS fills (number INTEGER PRIMARY KEY, facts TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS money (name TEXT PRIMARY KEY, amount TEXT NOT NULL) STRICT;
"""
_VERSION = 1


@dataclass(frozen=True)
class PaperOrder:
    """An order at the paper broker.

    Parameters
    ----------
    order_id, perm_id : int
    ref, symbol : str
    side : Side
    style : Style
    shares : int
    limit : Decimal, optional
    state : OrderState
        ``working`` or final.
    filled : int
    placed_at : datetime
    ends_at : datetime, optional
        End of its session; none where no hours are known.
    ended_at : datetime, optional
    why_held, reason : str
    code : int
    """

    order_id: int
    perm_id: int
    ref: str
    symbol: str
    side: Side
    style: Style
    shares: int
    limit: Money | None
    state: OrderState
    placed_at: datetime
    filled: int = 0
    ends_at: datetime | None = None
    ended_at: datetime | None = None
    why_held: str = ""
    reason: str = ""
    code: int = 0

    @property
    def left(self) -> int:
        """Shares not filled."""
        return self.shares - self.filled


@dataclass(frozen=True)
class Holding:
    """Shares held and what they cost on average, USD a share without fees."""

    shares: Decimal = Decimal(0)
    cost: Money = Decimal(0)

    def after(self, signed: Decimal, price: Money) -> "Holding":
        """Return the holding after a trade of signed shares."""
        shares = self.shares + signed
        if shares == 0:
            return Holding()
        if self.shares * signed >= 0:  # the same way: the mean
            return Holding(shares, (self.cost * self.shares + price * signed) / shares)
        return Holding(shares, self.cost if self.shares * shares > 0 else price)


@dataclass
class _State:
    orders: dict[int, PaperOrder] = field(default_factory=dict)
    fills: list[tuple[Execution, Commission]] = field(default_factory=list)
    holdings: dict[str, Holding] = field(default_factory=dict)
    cash: Money = Decimal(0)
    working: set[int] = field(default_factory=set)


class PaperBook:
    """The file.

    Parameters
    ----------
    path : Path
    account : str
    cash : Decimal
        USD a new account begins with.

    Raises
    ------
    HaltError
        The file is damaged, or of another account or version.
    """

    def __init__(self, path: Path, account: str, cash: Money) -> None:
        self.path, self.account, self._begin = path, account, cash
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        self._base = sqlite3.connect(path, isolation_level=None, timeout=10.0)
        try:
            self._open()
        except sqlite3.DatabaseError as e:
            raise HaltError(f"{path}: {e}", "move the file away: a new account begins") from e

    def _open(self) -> None:
        self._base.execute("PRAGMA journal_mode=WAL")
        self._base.execute("PRAGMA synchronous=FULL")
        (version,) = self._base.execute("PRAGMA user_version").fetchone()
        if version not in (0, _VERSION):
            raise HaltError(f"{self.path}: version {version}, not {_VERSION}", "update dpa")
        self._base.executescript(_TABLES)
        self._base.execute(f"PRAGMA user_version={_VERSION}")
        with self._base_transaction():
            for name, value in (("account", self.account), ("cash", str(self._begin))):
                self._base.execute("INSERT OR IGNORE INTO money VALUES (?, ?)", (name, value))
        self._version = -1
        self._read()

    def _read(self) -> bool:
        """Read the file anew where it changed; whether it had."""
        (version,) = self._base.execute("PRAGMA data_version").fetchone()
        if version == self._version:
            return False
        state = _State()
        for (text,) in self._base.execute("SELECT facts FROM orders ORDER BY order_id"):
            _put(state, _order(json.loads(text)))
        money = dict(self._base.execute("SELECT name, amount FROM money"))
        if money["account"] != self.account:
            raise HaltError(
                f"{self.path}: account {money['account']}, not {self.account}",
                "give each account a file of its own",
            )
        state.cash = Decimal(money["cash"])
        for (text,) in self._base.execute("SELECT facts FROM fills ORDER BY number"):
            execution, commission = _fill(json.loads(text), self.account)
            state.fills.append((execution, commission))
            _hold(state, execution)
        self._state, self._version = state, int(version)
        return True

    def refresh(self) -> tuple[PaperOrder, ...]:
        """Read what another process changed; returns the orders that are not as they were."""
        before = self._state.orders
        if not self._read():
            return ()
        return tuple(o for n, o in self._state.orders.items() if before.get(n) != o)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All changes within are kept together, or not at all."""
        with self._base_transaction():
            self._read()
            try:
                yield
            except BaseException:
                self._version = -1
                raise

    @contextmanager
    def _base_transaction(self) -> Iterator[None]:
        self._base.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._base.execute("ROLLBACK")
            raise
        self._base.execute("COMMIT")

    @property
    def cash(self) -> Money:
        """USD, after fees."""
        return self._state.cash

    @property
    def holdings(self) -> dict[str, Holding]:
        """By symbol, flat ones left out."""
        return {s: h for s, h in self._state.holdings.items() if h.shares}

    def holding(self, symbol: str) -> Holding:
        """What is held of a symbol."""
        return self._state.holdings.get(symbol, Holding())

    def shares(self, symbol: str) -> Decimal:
        """Shares held of a symbol, signed."""
        return self.holding(symbol).shares

    @property
    def working(self) -> tuple[PaperOrder, ...]:
        """Orders that work, oldest first."""
        return tuple(self._state.orders[number] for number in sorted(self._state.working))

    @property
    def orders(self) -> tuple[PaperOrder, ...]:
        """All orders, by number."""
        return tuple(self._state.orders[number] for number in sorted(self._state.orders))

    def order(self, order_id: int) -> PaperOrder | None:
        """An order by its number."""
        return self._state.orders.get(order_id)

    @property
    def fills(self) -> tuple[tuple[Execution, Commission], ...]:
        """All fills with their fees, oldest first."""
        return tuple(self._state.fills)

    @property
    def next_order_id(self) -> int:
        """Above every number used."""
        return max(self._state.orders, default=0) + 1

    def keep(self, order: PaperOrder) -> PaperOrder:
        """Keep an order as it is now."""
        facts = json.dumps(_order_facts(order))
        self._base.execute("INSERT OR REPLACE INTO orders VALUES (?, ?)", (order.order_id, facts))
        _put(self._state, order)
        return order

    def fill(
        self, order: PaperOrder, shares: int, price: Money, fee: Money, time: datetime
    ) -> tuple[PaperOrder, Execution, Commission]:
        """Keep a fill, and what it makes of order, shares and cash."""
        number = len(self._state.fills) + 1
        execution = Execution(
            exec_id=f"paper.{number:08d}.01",
            account=self.account,
            symbol=order.symbol,
            side=order.side,
            shares=Decimal(shares),
            price=price,
            time=time,
            ref=order.ref,
            order_id=order.order_id,
            perm_id=order.perm_id,
        )
        commission = Commission(execution.exec_id, fee)
        facts = json.dumps(_fill_facts(execution, commission))
        self._base.execute("INSERT INTO fills VALUES (?, ?)", (number, facts))
        self._state.fills.append((execution, commission))
        _hold(self._state, execution)
        self._state.cash -= order.side.sign * shares * price + fee
        self._base.execute("UPDATE money SET amount=? WHERE name='cash'", (str(self._state.cash),))
        filled = order.filled + shares
        done = filled == order.shares
        state = OrderState.FILLED if done else OrderState.WORKING
        after = replace(order, filled=filled, state=state, ended_at=time if done else None)
        return self.keep(after), execution, commission

    def close(self) -> None:
        """Close the file."""
        self._base.close()


def _put(state: _State, order: PaperOrder) -> None:
    state.orders[order.order_id] = order
    if order.state is OrderState.WORKING:
        state.working.add(order.order_id)
    else:
        state.working.discard(order.order_id)


def _hold(state: _State, execution: Execution) -> None:
    held = state.holdings.get(execution.symbol, Holding())
    signed = execution.side.sign * execution.shares
    state.holdings[execution.symbol] = held.after(signed, execution.price)


def _order_facts(order: PaperOrder) -> dict[str, object]:
    facts = dict(vars(order))
    for name in ("placed_at", "ends_at", "ended_at"):
        facts[name] = None if facts[name] is None else facts[name].isoformat()
    facts["limit"] = None if order.limit is None else str(order.limit)
    return facts


def _order(facts: dict[str, str]) -> PaperOrder:
    read: dict[str, object] = dict(facts)
    for name in ("placed_at", "ends_at", "ended_at"):
        read[name] = None if facts[name] is None else datetime.fromisoformat(facts[name])
    read["limit"] = None if facts["limit"] is None else Decimal(facts["limit"])
    read["side"], read["style"] = Side(facts["side"]), Style(facts["style"])
    read["state"] = OrderState(facts["state"])
    return PaperOrder(**read)  # type: ignore[arg-type]


def _fill_facts(execution: Execution, commission: Commission) -> dict[str, object]:
    return {
        "exec_id": execution.exec_id,
        "symbol": execution.symbol,
        "side": execution.side,
        "shares": str(execution.shares),
        "price": str(execution.price),
        "time": execution.time.isoformat(),
        "ref": execution.ref,
        "order_id": execution.order_id,
        "perm_id": execution.perm_id,
        "fee": str(commission.amount),
    }


def _fill(facts: dict[str, str], account: str) -> tuple[Execution, Commission]:
    execution = Execution(
        exec_id=facts["exec_id"],
        account=account,
        symbol=facts["symbol"],
        side=Side(facts["side"]),
        shares=Decimal(facts["shares"]),
        price=Decimal(facts["price"]),
        time=datetime.fromisoformat(facts["time"]),
        ref=facts["ref"],
        order_id=int(facts["order_id"]),
        perm_id=int(facts["perm_id"]),
    )
    return execution, Commission(facts["exec_id"], Decimal(facts["fee"]))

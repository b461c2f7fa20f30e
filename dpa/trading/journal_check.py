"""What can be wrong with a journal, and how it is found."""

import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal

from dpa.trading import journal_tables as tables
from dpa.trading import lifecycle
from dpa.trading.journal_records import (
    loads,
    to_baseline,
    to_commission,
    to_execution,
    to_intent,
    to_order,
)
from dpa.trading.ledger import Baseline, Ledger, filled_shares, told_shares
from dpa.trading.types import Execution, Intent

MOST_FINDINGS = 1000
_SHOWN = 3  # columns of a row that differs


@dataclass(frozen=True)
class Finding:
    """Something wrong with a journal.

    Parameters
    ----------
    what : str
    where : str
        Event, order or execution.
    """

    what: str
    where: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


def findings(db: sqlite3.Connection) -> Iterator[Finding]:
    """All that is wrong with an open journal; the caller holds one read transaction.

    Yields
    ------
    Finding
        A damaged file ends the search.
    """
    try:
        damage = [row[0] for row in db.execute("PRAGMA integrity_check(10)") if row[0] != "ok"]
        if damage:
            yield from (Finding(f"the file is damaged: {said}", "file") for said in damage)
            return
        folded = tables.memory()
        try:
            broken = list(_chain(db, folded))
            yield from broken
            if not broken:
                yield from _tables(db, folded)
        finally:
            folded.close()
        yield from _orders(db)
        yield from _ledgers(db)
    except sqlite3.DatabaseError as e:
        yield Finding(f"the file is damaged: {e}", "file")


def _chain(db: sqlite3.Connection, folded: sqlite3.Connection) -> Iterator[Finding]:
    before, expected = tables.GENESIS, 1
    folded.execute("BEGIN")
    for number, time, kind, facts, kept in db.execute("SELECT * FROM events ORDER BY number"):
        where = f"event {number}"
        if number != expected:
            yield Finding(f"events {expected} to {number - 1} are missing", where)
            return
        if tables.digest(before, number, time, kind, facts) != kept:
            yield Finding("its hash does not fit: it, or one before it, was altered", where)
            return
        try:
            tables.apply(folded, number, time, kind, loads(facts))
        except (ValueError, KeyError, sqlite3.Error) as e:
            yield Finding(f"it cannot be folded: {e}", where)
            return
        before, expected = kept, number + 1
    folded.execute("COMMIT")


def _tables(db: sqlite3.Connection, folded: sqlite3.Connection) -> Iterator[Finding]:
    for table in tables.TABLES:
        there, right = _by_key(db, table), _by_key(folded, table)
        for key in sorted(there.keys() | right.keys()):
            where = f"{table} {' '.join(map(str, key))}"
            if key not in right:
                yield Finding("no event made it", where)
            elif key not in there:
                yield Finding("it is gone from the tables", where)
            elif there[key] != right[key]:
                differ = [name for name, value in right[key].items() if there[key][name] != value]
                said = ", ".join(
                    f"{name} is {there[key][name]!r}, by the events {right[key][name]!r}"
                    for name in differ[:_SHOWN]
                )
                yield Finding(said, where)


def _by_key(db: sqlite3.Connection, table: str) -> dict[tuple[object, ...], dict[str, object]]:
    columns = db.execute(f"SELECT name, pk FROM pragma_table_info('{table}') ORDER BY cid")
    known = [(row[0], row[1]) for row in columns]
    key = [name for name, _ in sorted((c for c in known if c[1]), key=lambda column: column[1])]
    rows = (
        dict(zip((name for name, _ in known), row, strict=True))
        for row in db.execute(f'SELECT * FROM "{table}"')
    )
    return {tuple(row[name] for name in key): row for row in rows}


def _orders(db: sqlite3.Connection) -> Iterator[Finding]:
    rows = db.execute("SELECT body FROM intents")
    intents = {intent.id: intent for intent in (to_intent(loads(row[0])) for row in rows)}
    fills: dict[tuple[str, int], list[Execution]] = defaultdict(list)
    for row in db.execute("SELECT * FROM executions WHERE attempt IS NOT NULL"):
        fills[row["ref"], row["attempt"]].append(to_execution(row))
    live: dict[tuple[str, str], str] = {}
    mark = db.execute("SELECT number FROM numbers WHERE name = ?", (tables.MARK,)).fetchone()
    for row in db.execute("SELECT * FROM orders ORDER BY event"):
        ref, where = row["ref"], f"order {row['ref']} attempt {row['attempt']}"
        intent = intents.get(ref)
        if intent is None:
            yield Finding("it has no intent", where)
            continue
        if row["order_id"] > (mark[0] if mark else 0):
            yield Finding(f"its number {row['order_id']} is above the mark", where)
        order, told = to_order(intent, row), told_shares(fills[ref, row["attempt"]])
        if Decimal(row["told"]) != told or bool(row["live"]) != lifecycle.is_live(order, told):
            yield Finding(f"{row['told']} shares told by the table, {told} by executions", where)
        if lifecycle.is_live(order, told):
            place = intent.account, intent.symbol
            if place in live:
                said = f"{intent.symbol} has another live order, {live[place]}"
                yield Finding(said, where)
            live[place] = ref
    yield from _fills(intents, fills)


def _fills(
    intents: dict[str, Intent], fills: dict[tuple[str, int], list[Execution]]
) -> Iterator[Finding]:
    by_intent: dict[str, list[Execution]] = defaultdict(list)
    for (ref, _), executions in fills.items():
        by_intent[ref] += executions
    for ref, executions in by_intent.items():
        intent, shares = intents.get(ref), filled_shares(executions)
        if intent is not None and shares > intent.shares:
            yield Finding(f"overfilled: {shares} shares of {intent.shares}", f"intent {ref}")
        for execution in executions:
            where = f"execution {execution.exec_id}"
            if intent is None:
                yield Finding("it has no intent", where)
            elif (execution.account, execution.symbol, execution.side) != (
                intent.account,
                intent.symbol,
                intent.side,
            ):
                said = f"{execution.account} {execution.side} {execution.symbol}"
                yield Finding(f"{said} is not what its intent asked for", where)


def _ledgers(db: sqlite3.Connection) -> Iterator[Finding]:
    """Books made at once must equal books kept line by line, in the order of the lines."""
    lines = db.execute(
        "SELECT event, 'execution' AS kind, exec_id FROM executions "
        "UNION ALL SELECT event, 'commission', exec_id FROM commissions ORDER BY 1"
    ).fetchall()
    executions = {r["exec_id"]: to_execution(r) for r in db.execute("SELECT * FROM executions")}
    fees = {r["exec_id"]: to_commission(r) for r in db.execute("SELECT * FROM commissions")}
    came = {row["exec_id"]: row["event"] for row in lines if row["kind"] == "execution"}
    for account in sorted({execution.account for execution in executions.values()}):
        of_account = [e for e in executions.values() if e.account == account]
        since, baseline = read_baseline(db, account)
        counted = [e for e in of_account if came[e.exec_id] > since]
        at_once = Ledger(account, baseline, counted, fees.values())
        by_line = Ledger(account, baseline)
        for row in lines:
            execution = executions.get(row["exec_id"])
            if row["kind"] == "commission":
                by_line.charge(fees[row["exec_id"]])
            elif execution is not None and execution.account == account and row["event"] > since:
                by_line.execute(execution)
        if at_once != by_line:
            yield Finding("the order of its lines changes the books", f"ledger {account}")


def read_baseline(db: sqlite3.Connection, account: str) -> tuple[int, Baseline | None]:
    """The baseline of an account and the number of its event; 0 and None without one."""
    row = db.execute("SELECT * FROM baselines WHERE account = ?", (account,)).fetchone()
    if row is None:
        return 0, None
    known: Iterable[sqlite3.Row] = db.execute(
        "SELECT * FROM executions WHERE account = ? AND event < ? ORDER BY revision",
        (account, row["event"]),
    )
    return row["event"], to_baseline(row, (to_execution(r) for r in known))

"""``dpa journal``: what was decided, sent and filled, read while a trader may be writing it."""

import argparse
import csv
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from dpa.errors import UserError
from dpa.text import columns
from dpa.trading.journal import FILE_NAME, Journal, JournalReader
from dpa.trading.journal_records import dumps, moment
from dpa.trading.ledger import Fill, Ledger
from dpa.trading.types import Execution, Order

VENUE = ZoneInfo("America/New_York")
_CENTS = Decimal("0.01")
_COSTS = Decimal("0.0001")

Row = dict[str, Any]


def show_command(arguments: argparse.Namespace) -> None:
    """Print orders, fills, positions and profit."""
    with _opened(arguments) as journal, journal.snapshot():
        chosen = _Choice.of(arguments, journal)
        orders = _orders(journal, chosen, arguments.live)
        ledgers = [journal.ledger(account) for account in chosen.accounts(journal)]
        fills = _fills(journal, ledgers, chosen)
        if arguments.json:
            positions = [row for ledger in ledgers for row in _positions(ledger, chosen)]
            money = [_money(ledger, chosen) for ledger in ledgers]
            said = {"orders": orders, "fills": fills, "positions": positions, "accounts": money}
            print(json.dumps(said, indent=2))
            return
        _print_rows("orders", _ORDER_COLUMNS, orders)
        if not arguments.live:
            _print_rows("fills", _FILL_COLUMNS, fills)
        for ledger in ledgers:
            _print_books(ledger, chosen)


def verify_command(arguments: argparse.Namespace) -> int:
    """Look for damage; 1 where there is any."""
    path = find_journal(arguments)
    with Journal.reader(path) as journal:
        found = journal.verify()
        last = 0 if found else journal.last_event
    for finding in found:
        print(f"{path}: {finding}")
    if not found:
        print(f"{path}: good, {last} events")
    return 1 if found else 0


def export_command(arguments: argparse.Namespace) -> None:
    """Write rows to a file, whole or not at all."""
    out: Path = arguments.out
    write = _WRITERS.get(out.suffix)
    if write is None:
        raise UserError(
            f"{out}: cannot be written as {out.suffix or 'a file without an ending'}",
            f"end its name in {', '.join(_WRITERS)}",
        )
    if not out.parent.is_dir():
        raise UserError(f"{out}: there is no folder {out.parent}", "make it first")
    with _opened(arguments) as journal, journal.snapshot():
        chosen = _Choice.of(arguments, journal)
        rows, names = _rows(journal, chosen, arguments.what)
    _write_whole(out, lambda path: write(path, rows, names))
    print(f"{out}: {len(rows)} {arguments.what}")


def find_journal(arguments: argparse.Namespace) -> Path:
    """The journal that was named, or the only one in the storage.

    Raises
    ------
    UserError
        There is none, or there are several.
    """
    if arguments.journal is not None:
        return _existing(arguments.journal)
    folder = Path(arguments.storage) / "trading"
    found = sorted(folder.glob(f"**/{FILE_NAME}"))
    if len(found) > 1 and arguments.account:
        found = [path for path in found if path.parent.name == arguments.account] or found
    if not found:
        raise UserError(
            f"{folder}: there is no journal", "name one with --journal, or the --storage"
        )
    if len(found) > 1:
        raise UserError(
            f"{folder}: several journals: {', '.join(str(path) for path in found)}",
            "name one with --journal, or the --account",
        )
    return found[0]


def _existing(path: Path) -> Path:
    if path.is_dir():
        path = path / FILE_NAME
    if not path.exists():
        raise UserError(f"{path}: there is no journal", "see the --journal and --storage given")
    return path


def _opened(arguments: argparse.Namespace) -> JournalReader:
    return Journal.reader(find_journal(arguments))


@dataclass(frozen=True)
class _Choice:
    """What was asked for."""

    account: str | None
    symbol: str | None
    session: date | None

    @classmethod
    def of(cls, arguments: argparse.Namespace, journal: JournalReader) -> "_Choice":
        account, symbol = arguments.account, arguments.symbol
        known = journal.accounts()
        if account is not None and account not in known:
            raise UserError(
                f"{journal.path}: nothing of account {account}",
                f"there is {', '.join(known) or 'none yet'}",
            )
        return cls(account, symbol, _session(arguments.session, journal))

    def takes(self, account: str, symbol: str, time: datetime) -> bool:
        return (
            self.account in (None, account)
            and self.symbol in (None, symbol)
            and self.session in (None, time.astimezone(VENUE).date())
        )

    def accounts(self, journal: JournalReader) -> tuple[str, ...]:
        return journal.accounts() if self.account is None else (self.account,)


def _session(text: str | None, journal: JournalReader) -> date | None:
    if text is None:
        return None
    if text == "latest":
        times = [order.intent.decided_at for order in journal.orders()]
        times += [execution.time for execution in journal.executions()]
        return max(times).astimezone(VENUE).date() if times else None
    try:
        return date.fromisoformat(text)
    except ValueError as e:
        raise UserError(
            f"--session {text!r} is no date", "write it as 2026-03-02, or 'latest'"
        ) from e


def _orders(journal: JournalReader, chosen: _Choice, live: bool) -> list[Row]:
    return [
        _order(journal, order)
        for order in journal.orders(live_only=live)
        if chosen.takes(order.intent.account, order.intent.symbol, order.intent.decided_at)
    ]


def _order(journal: JournalReader, order: Order) -> Row:
    intent = order.intent
    return {
        "decided_at": moment(intent.decided_at),
        "account": intent.account,
        "symbol": intent.symbol,
        "side": intent.side.value,
        "shares": intent.shares,
        "filled": str(journal.filled(intent.id)),
        "owed": str(journal.owed(order)),
        "style": intent.style.value,
        "limit": _text(order.limit),
        "reference": str(intent.reference),
        "state": order.state.value,
        "reason": order.reason,
        "purpose": intent.purpose.value,
        "decision": intent.decision,
        "ref": order.ref,
        "attempt": order.attempt,
        "order_id": order.order_id,
        "perm_id": order.perm_id,
    }


def _fills(journal: JournalReader, ledgers: list[Ledger], chosen: _Choice) -> list[Row]:
    external = {execution.stem for execution in journal.external()}
    found = [fill for ledger in ledgers for fill in ledger.fills]
    return [
        _fill(fill, fill.execution.stem in external)
        for fill in sorted(found, key=lambda fill: (fill.execution.time, fill.execution.stem))
        if _takes(chosen, fill.execution)
    ]


def _takes(chosen: _Choice, execution: Execution) -> bool:
    return chosen.takes(execution.account, execution.symbol, execution.time)


def _fill(fill: Fill, external: bool) -> Row:
    execution = fill.execution
    return {
        "time": moment(execution.time),
        "account": execution.account,
        "symbol": execution.symbol,
        "side": execution.side.value,
        "shares": str(execution.shares),
        "price": str(execution.price),
        "realised": str(fill.realised),
        "fee": _text(fill.fee),
        "position": str(fill.position),
        "exec_id": execution.exec_id,
        "ref": execution.ref,
        "order_id": execution.order_id,
        "perm_id": execution.perm_id,
        "external": external,
        "liquidation": execution.liquidation,
    }


def _positions(ledger: Ledger, chosen: _Choice) -> list[Row]:
    return [
        {
            "account": ledger.account,
            "symbol": held.symbol,
            "shares": str(held.shares),
            "average_cost": str(held.average_cost),
        }
        for held in ledger.positions.values()
        if chosen.symbol in (None, held.symbol)
    ]


def _money(ledger: Ledger, chosen: _Choice) -> Row:
    fills = [fill for fill in ledger.fills if _takes(chosen, fill.execution)]
    return {
        "account": ledger.account,
        "cash": str(ledger.cash),
        "realised": str(sum((fill.realised for fill in fills), Decimal(0))),
        "fees": str(sum((fill.fee or Decimal(0) for fill in fills), Decimal(0))),
        "fees_pending": sum(fill.fee is None for fill in fills),
    }


def _text(amount: Decimal | None) -> str | None:
    return None if amount is None else str(amount)


_ORDER_COLUMNS = [
    "time",
    "symbol",
    "side",
    "shares",
    "filled",
    "style",
    "limit",
    "state",
    "purpose",
    "ref",
    "reason",
]
_FILL_COLUMNS = [
    "time",
    "symbol",
    "side",
    "shares",
    "price",
    "realised",
    "fee",
    "position",
    "exec_id",
    "note",
]


def _print_rows(title: str, names: list[str], rows: list[Row]) -> None:
    print(f"{title}: {len(rows) or 'none'}")
    if rows:
        print(columns(names, [[_cell(name, row) for name in names] for row in rows]))
    print()


def _cell(name: str, row: Row) -> str:
    if name == "time":
        time = datetime.fromisoformat(row.get("time") or row["decided_at"])
        return time.astimezone(VENUE).strftime("%Y-%m-%d %H:%M:%S")
    if name == "note":
        external = "not ours" if row["external"] else ""
        return "liquidation" if row["liquidation"] else external
    if name == "realised":
        return _money_text(row[name])
    if name == "filled" and row["owed"] != "0":
        return f"{row[name]} ({row['owed']} owed)"
    value = row[name]
    return "-" if value is None else str(value)


def _money_text(text: str) -> str:
    return f"{Decimal(text).quantize(_CENTS):,}"


def _print_books(ledger: Ledger, chosen: _Choice) -> None:
    held, money = _positions(ledger, chosen), _money(ledger, chosen)
    rows = [
        [row["symbol"], row["shares"], f"{Decimal(row['average_cost']).quantize(_COSTS):,}"]
        for row in held
    ]
    print(f"positions of {ledger.account}: {len(rows) or 'none'}")
    if rows:
        print(columns(["symbol", "shares", "average_cost"], rows))
    when = f" of session {chosen.session}" if chosen.session else ""
    pending = f"; fees not told yet: {money['fees_pending']}" if money["fees_pending"] else ""
    print(f"cash {_money_text(money['cash'])} USD")
    print(
        f"realised{when} {_money_text(money['realised'])} USD before fees of "
        f"{_money_text(money['fees'])} USD{pending}"
    )
    print()


def _rows(journal: JournalReader, chosen: _Choice, what: str) -> tuple[list[Row], list[str]]:
    if what == "events":
        return list(_events(journal, chosen)), ["number", "time", "kind", "facts"]
    if what == "orders":
        return _orders(journal, chosen, live=False), _ORDER_NAMES
    ledgers = [journal.ledger(account) for account in chosen.accounts(journal)]
    return _fills(journal, ledgers, chosen), _FILL_NAMES


_ORDER_NAMES = [
    "decided_at",
    "account",
    "symbol",
    "side",
    "shares",
    "filled",
    "owed",
    "style",
    "limit",
    "reference",
    "state",
    "reason",
    "purpose",
    "decision",
    "ref",
    "attempt",
    "order_id",
    "perm_id",
]
_FILL_NAMES = [
    "time",
    "account",
    "symbol",
    "side",
    "shares",
    "price",
    "realised",
    "fee",
    "position",
    "exec_id",
    "ref",
    "order_id",
    "perm_id",
    "external",
    "liquidation",
]


def _events(journal: JournalReader, chosen: _Choice) -> Iterator[Row]:
    if chosen.symbol or chosen.account:
        raise UserError("events are not of one symbol or account", "leave --symbol and --account")
    for event in journal.events():
        if chosen.session in (None, event.time.astimezone(VENUE).date()):
            yield {
                "number": event.number,
                "time": moment(event.time),
                "kind": event.kind,
                "facts": dumps(event.facts),
            }


def _write_whole(out: Path, write: Callable[[Path], None]) -> None:
    handle, temporary = tempfile.mkstemp(dir=out.parent, prefix=f".{out.name}.")
    os.close(handle)
    try:
        write(Path(temporary))
        os.replace(temporary, out)
    except OSError as e:
        raise UserError(f"{out}: cannot be written ({e.strerror})", "look at the disk") from e
    finally:
        Path(temporary).unlink(missing_ok=True)


def _write_csv(path: Path, rows: list[Row], names: list[str]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path.write_text(text.getvalue(), encoding="utf-8")


def _write_lines(path: Path, rows: list[Row], names: list[str]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _write_parquet(path: Path, rows: list[Row], names: list[str]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(name, _parquet_type(name, pa)) for name in names])
    pq.write_table(pa.Table.from_pylist([_typed(row) for row in rows], schema), path)


_TIMES = ("time", "decided_at")
_WHOLE = ("attempt", "order_id", "perm_id", "number")
_TRUTHS = ("external", "liquidation")
_EXACT = ["filled", "owed", "limit", "reference", "shares", "price", "realised", "fee", "position"]
_PLACES, _DIGITS = 12, 38


def _parquet_type(name: str, pa: Any) -> Any:
    if name in _TIMES:
        return pa.timestamp("us", "UTC")
    if name in _WHOLE:
        return pa.int64()
    if name in _TRUTHS:
        return pa.bool_()
    return pa.decimal128(_DIGITS, _PLACES) if name in _EXACT else pa.string()


def _typed(row: Row) -> Row:
    changed = dict(row)
    for name, value in row.items():
        if name in _TIMES:
            changed[name] = datetime.fromisoformat(value)
        elif name in _EXACT and value is not None:
            changed[name] = round(Decimal(value), _PLACES)
    return changed


_WRITERS: dict[str, Callable[[Path, list[Row], list[str]], None]] = {
    ".parquet": _write_parquet,
    ".csv": _write_csv,
    ".jsonl": _write_lines,
}

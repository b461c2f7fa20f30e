"""The file of the journal: its tables, its versions, and what an event does to the tables.

Every table but ``events`` is a fold of the events by :func:`apply`, so that they can be made
again and compared.
"""

import hashlib
import os
import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

from dpa.errors import HaltError
from dpa.trading.journal_records import Json, dumps

APPLICATION = 0x64706A6C  # "dpjl", in the head of the file
BUSY_MILLISECONDS = 2000
GENESIS = b"\0" * 32

_FIRST = """
CREATE TABLE events (
    number INTEGER PRIMARY KEY, time TEXT NOT NULL, kind TEXT NOT NULL, facts TEXT NOT NULL,
    hash BLOB NOT NULL
) STRICT;
CREATE INDEX events_kind ON events (kind, number);
CREATE TRIGGER events_kept BEFORE DELETE ON events
    BEGIN SELECT RAISE(ABORT, 'events are never deleted'); END;
CREATE TRIGGER events_unchanged BEFORE UPDATE ON events
    BEGIN SELECT RAISE(ABORT, 'events are never changed'); END;

CREATE TABLE intents (
    id TEXT PRIMARY KEY, account TEXT NOT NULL, symbol TEXT NOT NULL, decision TEXT NOT NULL,
    shares INTEGER NOT NULL, decided_at TEXT NOT NULL, event INTEGER NOT NULL, body TEXT NOT NULL
) STRICT;
CREATE TABLE orders (
    ref TEXT NOT NULL REFERENCES intents (id), attempt INTEGER NOT NULL,
    order_id INTEGER NOT NULL UNIQUE, account TEXT NOT NULL, symbol TEXT NOT NULL,
    state TEXT NOT NULL, "limit" TEXT, perm_id INTEGER NOT NULL, reason TEXT NOT NULL,
    reported TEXT NOT NULL, told TEXT NOT NULL, live INTEGER NOT NULL, event INTEGER NOT NULL,
    PRIMARY KEY (ref, attempt)
) STRICT;
CREATE INDEX orders_live ON orders (event) WHERE live;
CREATE TABLE executions (
    exec_id TEXT PRIMARY KEY, stem TEXT NOT NULL, revision INTEGER NOT NULL,
    account TEXT NOT NULL, symbol TEXT NOT NULL, side TEXT NOT NULL, shares TEXT NOT NULL,
    price TEXT NOT NULL, time TEXT NOT NULL, ref TEXT NOT NULL, attempt INTEGER,
    order_id INTEGER NOT NULL, client_id INTEGER NOT NULL, perm_id INTEGER NOT NULL,
    liquidation INTEGER NOT NULL, event INTEGER NOT NULL
) STRICT;
CREATE INDEX executions_ref ON executions (ref, attempt);
CREATE INDEX executions_stem ON executions (stem);
CREATE INDEX executions_account ON executions (account, event);
CREATE TABLE commissions (
    exec_id TEXT PRIMARY KEY, amount TEXT NOT NULL, currency TEXT NOT NULL, event INTEGER NOT NULL
) STRICT;
CREATE TABLE baselines (
    account TEXT PRIMARY KEY, event INTEGER NOT NULL, time TEXT NOT NULL, cash TEXT NOT NULL,
    positions TEXT NOT NULL
) STRICT;
CREATE TABLE "values" (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE numbers (name TEXT PRIMARY KEY, number INTEGER NOT NULL) STRICT;
"""

MIGRATIONS: tuple[str, ...] = (_FIRST,)
"""Script `k` leads from ``user_version`` k to k + 1."""

TABLES = ("intents", "orders", "executions", "commissions", "baselines", "values", "numbers")
"""Those that are folds."""

MARK, TOKEN = "order_id_mark", "token"

_INSERT_INTENT = (
    "INSERT INTO intents VALUES (:id, :account, :symbol, :decision, :shares, :decided_at, "
    ":event, :body)"
)
_INSERT_ORDER = (
    "INSERT INTO orders VALUES (:ref, :attempt, :order_id, :account, :symbol, :state, :limit, "
    ":perm_id, :reason, :reported, :told, :live, :event)"
)
_UPDATE_ORDER = (
    'UPDATE orders SET state = :state, "limit" = :limit, perm_id = :perm_id, reason = :reason, '
    "reported = :reported, told = :told, live = :live WHERE ref = :ref AND attempt = :attempt"
)
_INSERT_EXECUTION = (
    "INSERT INTO executions VALUES (:exec_id, :stem, :revision, :account, :symbol, :side, "
    ":shares, :price, :time, :ref, :attempt, :order_id, :client_id, :perm_id, :liquidation, "
    ":event) ON CONFLICT (exec_id) DO UPDATE SET ref = excluded.ref, attempt = excluded.attempt"
)


def apply(db: sqlite3.Connection, event: int, time: str, kind: str, facts: Json) -> None:
    """What an event does to the tables; nothing for a note."""
    fold = _FOLDS.get(kind)
    if fold is not None:
        fold(db, event, time, facts)


def _intents(db: sqlite3.Connection, event: int, time: str, facts: Json) -> None:
    rows = [{**record, "body": dumps(record), "event": event} for record in facts["intents"]]
    db.executemany(_INSERT_INTENT, rows)
    _new_orders(db, event, facts["orders"])


def _attempt(db: sqlite3.Connection, event: int, time: str, facts: Json) -> None:
    _new_orders(db, event, [facts["order"]])


def _new_orders(db: sqlite3.Connection, event: int, records: list[Json]) -> None:
    db.executemany(_INSERT_ORDER, [{**record, "event": event} for record in records])
    if records:
        _raise_number(db, MARK, max(record["order_id"] for record in records))


def _orders(db: sqlite3.Connection, event: int, time: str, facts: Json) -> None:
    db.executemany(_UPDATE_ORDER, facts["orders"])


def _execution(db: sqlite3.Connection, event: int, time: str, facts: Json) -> None:
    db.execute(_INSERT_EXECUTION, {**facts["execution"], "event": event})
    if facts["order"] is not None:
        db.execute(_UPDATE_ORDER, facts["order"])


def _commission(db: sqlite3.Connection, event: int, time: str, facts: Json) -> None:
    db.execute(
        "INSERT INTO commissions VALUES (:exec_id, :amount, :currency, :event)",
        {**facts, "event": event},
    )


def _baseline(db: sqlite3.Connection, event: int, time: str, facts: Json) -> None:
    db.execute(
        "INSERT OR REPLACE INTO baselines VALUES (?, ?, ?, ?, ?)",
        (facts["account"], event, time, facts["cash"], dumps({"of": facts["positions"]})),
    )


def _value(db: sqlite3.Connection, event: int, time: str, facts: Json) -> None:
    text = dumps({"of": facts["value"]})
    db.execute('INSERT OR REPLACE INTO "values" VALUES (?, ?)', (facts["name"], text))


def _mark(db: sqlite3.Connection, event: int, time: str, facts: Json) -> None:
    _raise_number(db, MARK, facts["number"])


def _token(db: sqlite3.Connection, event: int, time: str, facts: Json) -> None:
    _raise_number(db, TOKEN, facts["token"])


def _raise_number(db: sqlite3.Connection, name: str, number: int) -> None:
    db.execute(
        "INSERT INTO numbers VALUES (?, ?) "
        "ON CONFLICT (name) DO UPDATE SET number = max(number, excluded.number)",
        (name, number),
    )


_FOLDS: dict[str, Callable[[sqlite3.Connection, int, str, Json], None]] = {
    "intents": _intents,
    "attempt": _attempt,
    "order": _orders,
    "execution": _execution,
    "commission": _commission,
    "baseline": _baseline,
    "value": _value,
    "mark": _mark,
    "token": _token,
}


def digest(before: bytes, number: int, time: str, kind: str, facts: str) -> bytes:
    """Hash of an event and, through the one before, of all before it."""
    line = "\n".join((str(number), time, kind, facts))
    return hashlib.sha256(before + line.encode()).digest()


class Halting:
    """Turns what SQLite complains about into words, with the cure; see :func:`halting`."""

    __slots__ = ("_path",)

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, sqlite3.Error):
            raise _halt(self._path, error) from error
        if isinstance(error, OSError):
            raise HaltError(
                f"{self._path}: {(error.strerror or str(error)).lower()}",
                "look at the disk, the folder and its rights",
            ) from error


def halting(path: Path) -> Halting:
    """Turn what SQLite complains about into words, with the cure; asked thousands of times."""
    return Halting(path)


def _halt(path: Path, error: sqlite3.Error) -> HaltError:
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith("SQLITE_FULL"):
        return HaltError(
            f"{path}: the disk is full; nothing of this step was kept",
            "free space and start the trader again",
        )
    if name.startswith("SQLITE_IOERR"):
        return HaltError(
            f"{path}: the disk failed ({name}); nothing of this step was kept",
            "look at the space and the health of the disk, then start the trader again",
        )
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return HaltError(
            f"{path}: another process is writing this journal",
            "let one trader run only; see 'dpa trade status'",
        )
    if name.startswith("SQLITE_READONLY"):
        return HaltError(f"{path}: not writable", "give its owner the right to write")
    if name.startswith("SQLITE_CANTOPEN"):
        return HaltError(f"{path}: cannot be opened", "look at its folder and its rights")
    return HaltError(
        f"{path}: the journal is damaged ({error})",
        "keep the file, restore its newest good copy, and reconcile with the broker before trading",
    )


def open_reader(path: Path) -> sqlite3.Connection:
    """Open for reading; a :class:`HaltError` where that is not possible."""
    if not path.exists():
        raise HaltError(f"{path}: there is no journal", "name the journal of a trader")
    _refuse_empty(path)
    with halting(path):
        db = _connect(f"file:{quote(str(path.resolve()))}?mode=ro", uri=True)
        _refuse_strangers(db, path)
        version = db.execute("PRAGMA user_version").fetchone()[0]
    if version < len(MIGRATIONS):
        db.close()
        raise HaltError(
            f"{path}: written by an older dpa (version {version} of {len(MIGRATIONS)})",
            "start the trader once, which brings it up to date",
        )
    return db


def open_writer(path: Path) -> sqlite3.Connection:
    """Open for writing, brought up to date; made whole or not at all where there is none."""
    with halting(path):
        made = path.with_name(path.name + ".made")
        if not path.exists():
            _refuse_lost(path, made)
            _create(path)
        _refuse_empty(path)
        made.touch(mode=0o600)
        db = _connect(str(path))
        _refuse_strangers(db, path)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA foreign_keys = ON")
        found = db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise sqlite3.DatabaseError(found)
        migrate(db)
    return db


def memory() -> sqlite3.Connection:
    """An empty journal in memory, to fold events into."""
    db = sqlite3.connect(":memory:", isolation_level=None)
    migrate(db)
    return db


def migrate(db: sqlite3.Connection) -> None:
    """Bring the tables to the newest version, all steps or none."""
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version == len(MIGRATIONS):
        return
    steps = "".join(MIGRATIONS[version:])
    done = f"PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {len(MIGRATIONS)};"
    try:
        db.executescript(f"BEGIN EXCLUSIVE; {steps} {done} COMMIT;")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _connect(where: str, uri: bool = False) -> sqlite3.Connection:
    db = sqlite3.connect(
        where,
        timeout=BUSY_MILLISECONDS / 1000,
        isolation_level=None,
        check_same_thread=False,
        uri=uri,
    )
    db.row_factory = sqlite3.Row
    return db


def _refuse_lost(path: Path, made: Path) -> None:
    if made.exists():
        raise HaltError(
            f"{path}: the journal that was here is gone",
            f"restore its newest copy; to begin a new one, first see that the broker holds no "
            f"order of dpa, then remove {made}",
        )


def _refuse_empty(path: Path) -> None:
    if path.stat().st_size == 0:
        raise HaltError(
            f"{path}: the journal is damaged (the file is empty)",
            "restore its newest good copy; remove it only when the account was never traded",
        )


def _refuse_strangers(db: sqlite3.Connection, path: Path) -> None:
    application = db.execute("PRAGMA application_id").fetchone()[0]
    version = db.execute("PRAGMA user_version").fetchone()[0]
    tables = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if version > len(MIGRATIONS):
        db.close()
        raise HaltError(
            f"{path}: written by a newer dpa (version {version}; this one knows {len(MIGRATIONS)})",
            "use that dpa, or a newer one",
        )
    if application != APPLICATION and (version or tables):
        db.close()
        raise HaltError(f"{path}: not a journal of dpa", "name the journal of a trader")


def _create(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)  # of mode 0600, which SQLite gives to its other files as well
    try:
        db = sqlite3.connect(temporary, isolation_level=None)
        try:
            db.execute("PRAGMA synchronous = FULL")
            migrate(db)
        finally:
            db.close()
        try:
            os.link(temporary, path)  # never over a journal that appeared meanwhile
        except FileExistsError:
            return
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        Path(temporary).unlink(missing_ok=True)

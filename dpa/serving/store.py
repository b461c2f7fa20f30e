"""Rows on disk that outlive the process: bars, decisions, what was learned.

One SQLite file, one writer. What `append` and `put` have returned from is there after the process
is killed; a durable store has it after a power cut too.
"""

import contextlib
import fcntl
import json
import os
import sqlite3
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from dpa.errors import RunError

SCHEMA: Final = 1
_TABLES: Final = (
    "CREATE TABLE rows (key INTEGER PRIMARY KEY, payload BLOB NOT NULL)",
    "CREATE TABLE named (name TEXT PRIMARY KEY, payload BLOB NOT NULL)",
    f"PRAGMA user_version = {SCHEMA}",
)
_MAGIC: Final = b"dpa1"
_HEAD: Final = len(_MAGIC) + 4  # and a CRC-32 of the rest
_DAMAGED: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class RowStore:
    """Payloads by time, and named ones beside them, in one file.

    Parameters
    ----------
    path : Path
        The file; made with mode 0600 in folders of mode 0700 where missing. Beside it lie
        ``-wal`` and ``-shm`` of SQLite, and ``.lock``.
    durable : bool
        Wait for the disk at every commit, so that a power cut loses nothing. Otherwise a power
        cut may lose the newest rows, and never damages the file.
    wait_seconds : float
        How long to wait for another writer to let the file go, such as a process that ends.

    Raises
    ------
    RunError
        When the file is in use by another writer, damaged, no store, or of another version.

    Notes
    -----
    Threads may share a store: calls take turns.
    """

    def __init__(self, path: Path, durable: bool, *, wait_seconds: float = 30.0) -> None:
        self.path = path
        self._turn = threading.RLock()
        self._depth = 0
        self._lock_file = _lock(path, wait_seconds)
        try:
            with self._errors():
                os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
                self._database = sqlite3.connect(
                    path, timeout=wait_seconds, isolation_level=None, check_same_thread=False
                )
                try:
                    self._prepare(durable)
                except BaseException:
                    self._database.close()
                    raise
        except BaseException:
            os.close(self._lock_file)
            raise

    def _prepare(self, durable: bool) -> None:
        run = self._database.execute
        (version,) = run("PRAGMA user_version").fetchone()
        (tables,) = run("SELECT count(*) FROM sqlite_master").fetchone()
        if version != SCHEMA and (version, tables) != (0, 0):
            raise RunError(
                f"{self.path}: is a store of version {version}, not {SCHEMA}",
                "use the version of dpa that wrote it, or move the file away to start anew",
            )
        run("PRAGMA journal_mode = WAL")
        run(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        (finding,) = run("PRAGMA quick_check(1)").fetchone()
        if finding != "ok":
            raise _damaged(self.path, finding)
        if tables == 0:
            with self.transaction():
                for statement in _TABLES:
                    run(statement)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """What SQLite and the file system say, as a RunError with a cure."""
        try:
            yield
        except sqlite3.ProgrammingError as e:
            raise RunError(f"{self.path}: {e}", "open the store again") from e
        except sqlite3.Error as e:
            kind = getattr(e, "sqlite_errorcode", 0) & 0xFF
            if kind in _DAMAGED:
                raise _damaged(self.path, str(e)) from e
            raise RunError(
                f"{self.path}: {e}", "check the disk's free space and the file's permissions"
            ) from e
        except OSError as e:
            raise RunError(
                f"{self.path}: cannot be opened ({e.strerror})", "check the path and permissions"
            ) from e

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """What is written inside is kept together, or not at all when an error leaves it.

        Inside another transaction it is part of that one.
        """
        with self._turn, self._errors():
            if self._depth == 0:
                self._database.execute("BEGIN IMMEDIATE")
            self._depth += 1
            try:
                yield
                if self._depth == 1:
                    self._database.execute("COMMIT")
            except BaseException:
                if self._depth == 1 and self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise
            finally:
                self._depth -= 1

    def _rows(self, statement: str, *values: object) -> list[Any]:
        with self._turn, self._errors():
            return self._database.execute(statement, values).fetchall()

    def append(self, key: int, payload: bytes) -> None:
        """Keep `payload` under `key`; the same bytes again change nothing.

        Parameters
        ----------
        key : int
            UTC nanoseconds since 1970.
        payload : bytes

        Raises
        ------
        RunError
            When there are other bytes under `key`.
        """
        with self.transaction():
            added = self._database.execute(
                "INSERT INTO rows VALUES (?, ?) ON CONFLICT DO NOTHING", (key, payload)
            )
            if added.rowcount == 0 and self._payload(key) != payload:
                raise RunError(
                    f"{self.path}: holds other bytes for {key}",
                    "what is on record is not changed: clear the store to start anew",
                )

    def _payload(self, key: int) -> bytes:
        found = self._rows("SELECT payload FROM rows WHERE key = ?", key)
        return bytes(found[0][0])

    def last(self, n: int) -> list[tuple[int, bytes]]:
        """The `n` newest rows, oldest first."""
        newest = self._rows("SELECT key, payload FROM rows ORDER BY key DESC LIMIT ?", max(n, 0))
        return newest[::-1]

    def after(self, key: int) -> list[tuple[int, bytes]]:
        """Rows later than `key`, oldest first."""
        return self._rows("SELECT key, payload FROM rows WHERE key > ? ORDER BY key", key)

    def newest(self) -> int | None:
        """The largest key; none in an empty store."""
        return self._rows("SELECT max(key) FROM rows")[0][0]  # type: ignore[no-any-return]

    def prune(self, keep: int) -> int:
        """Drop all rows but the `keep` newest; how many were dropped."""
        with self.transaction():
            dropped = self._database.execute(
                "DELETE FROM rows WHERE key NOT IN (SELECT key FROM rows ORDER BY key DESC LIMIT ?)"
                if keep > 0
                else "DELETE FROM rows WHERE ? <= 0",
                (keep,),
            )
            return dropped.rowcount

    def clear(self) -> None:
        """Drop all rows and all named payloads."""
        with self.transaction():
            self._database.execute("DELETE FROM rows")
            self._database.execute("DELETE FROM named")

    def names(self, prefix: str = "") -> tuple[str, ...]:
        """Names of the named payloads that begin with `prefix`, sorted."""
        found = (name for (name,) in self._rows("SELECT name FROM named ORDER BY name"))
        return tuple(name for name in found if name.startswith(prefix))

    def put(self, name: str, payload: bytes) -> None:
        """Keep `payload` under `name`, in place of what was there."""
        with self.transaction():
            self._database.execute(
                "INSERT INTO named VALUES (?, ?) "
                "ON CONFLICT (name) DO UPDATE SET payload = excluded.payload",
                (name, payload),
            )

    def get(self, name: str) -> bytes | None:
        """What was put under `name`; none where nothing was."""
        found = self._rows("SELECT payload FROM named WHERE name = ?", name)
        return bytes(found[0][0]) if found else None

    def close(self) -> None:
        """Let the file go; closing twice does nothing."""
        with self._turn:
            if self._lock_file >= 0:
                self._database.close()
                os.close(self._lock_file)
                self._lock_file = -1

    def __enter__(self) -> "RowStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def private_folder(path: Path) -> None:
    """Make `path` and the folders above it that are missing, mode 0700."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(mode=0o700, exist_ok=True)


def _lock(path: Path, wait_seconds: float) -> int:
    """A descriptor that holds the lock of the store at `path`; the kernel frees it at any end."""
    lock = path.with_name(path.name + ".lock")
    try:
        private_folder(path.parent)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as e:
        raise RunError(
            f"{path}: cannot be opened ({e.strerror})", "check the path and permissions"
        ) from e
    pause = 0.02
    for left in range(int(wait_seconds / pause), -1, -1):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError as e:
            if left == 0:
                os.close(descriptor)
                raise RunError(
                    f"{path}: is in use by another writer",
                    "stop the other service, or give this one another folder",
                ) from e
            time.sleep(pause)
    raise AssertionError("unreachable")


def _damaged(path: object, finding: str) -> RunError:
    return RunError(
        f"{path}: is damaged ({' '.join(finding.split())})",
        "put back a copy, or move the file away with its -wal and -shm to start anew",
    )


def pack(arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]) -> bytes:
    """Arrays and facts as bytes, without pickle: safetensors behind a checksum.

    Parameters
    ----------
    arrays : mapping of str to ndarray
        Numbers or booleans of any shape.
    facts : mapping
        What JSON can say; NaN and infinities too.
    """
    metadata = {"facts": json.dumps(dict(facts), sort_keys=True, separators=(",", ":"))}
    dense = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    body = save(dense, metadata=metadata)
    return b"".join((_MAGIC, zlib.crc32(body).to_bytes(4, "little"), body))


def unpack(
    payload: bytes, origin: str = "record"
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Arrays and facts from what :func:`pack` gave, bit for bit.

    Parameters
    ----------
    payload : bytes
    origin : str
        Where it is from, for messages.

    Raises
    ------
    RunError
        When the bytes are not those that were packed.
    """
    head, body = payload[:_HEAD], payload[_HEAD:]
    if head[: len(_MAGIC)] != _MAGIC:
        raise _damaged(origin, "no record of dpa")
    if head[len(_MAGIC) :] != zlib.crc32(body).to_bytes(4, "little"):
        raise _damaged(origin, "checksum")
    try:
        arrays = load(body)
        size = int.from_bytes(body[:8], "little")
        facts = json.loads(json.loads(body[8 : 8 + size])["__metadata__"]["facts"])
    except (SafetensorError, KeyError, ValueError) as e:
        raise _damaged(origin, str(e)) from e
    return arrays, facts

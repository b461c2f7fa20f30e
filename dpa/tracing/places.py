"""The places of a storage that a trace is read from; nothing here writes, or makes a file."""

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dpa.telemetry.logs import ENDING, FOLDER
from dpa.trading.journal import FILE_NAME, Journal, JournalReader


@dataclass(frozen=True)
class Sources:
    """Where things are told.

    Parameters
    ----------
    storage : Path
    logs : Path, optional
        Folder of the logs; none: that of the storage.
    """

    storage: Path
    logs: Path | None = None

    @property
    def log_files(self) -> list[Path]:
        """Files of the log, by name."""
        folder = self.logs or self.storage / FOLDER
        return sorted(folder.glob(f"*{ENDING}")) if folder.is_dir() else []

    @property
    def journals(self) -> list[Path]:
        """Journals of the storage."""
        return sorted((self.storage / "trading").glob(f"**/{FILE_NAME}"))

    def open_journal(self, path: Path) -> JournalReader:
        """A journal, for reading only."""
        return Journal.reader(path)

    def decisions(self) -> Iterator[dict[str, Any]]:
        """The newest decision of each account that was served, with its trace."""
        seen: set[str] = set()
        query = "SELECT payload FROM named WHERE name LIKE 'latest%' ORDER BY name DESC"
        for (payload,) in rows_of(self.storage / "serving" / "decisions.sqlite", query):
            decision: dict[str, Any] = json.loads(payload)["decision"]
            if decision["id"] not in seen:
                seen.add(decision["id"])
                yield decision

    def paper_orders(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """What the paper broker keeps: ``order`` or ``fill``, and its facts."""
        for path in sorted((self.storage / "trading").glob("**/paper.sqlite")):
            for (text,) in rows_of(path, "SELECT facts FROM orders ORDER BY order_id"):
                yield "order", json.loads(text)
            for (text,) in rows_of(path, "SELECT facts FROM fills ORDER BY number"):
                yield "fill", json.loads(text)

    def gateway_records(self) -> Iterator[Mapping[str, Any]]:
        """What simulated gateways said of themselves at the end of a day."""
        for path in sorted((self.storage / "trading" / "reports").glob("*/gateway.json")):
            yield json.loads(path.read_text(encoding="utf-8"))


def rows_of(path: Path, query: str) -> list[tuple[Any, ...]]:
    """Rows of an SQLite file opened for reading only; none where there is no file."""
    if not path.is_file():
        return []
    where = f"file:{quote(str(path.resolve()))}?mode=ro"
    with closing(sqlite3.connect(where, uri=True, timeout=2.0)) as base:
        return base.execute(query).fetchall()

"""Downloaded history on disk: one small file a piece, a list of what is finished, and shards."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from dpa.errors import DataError
from dpa.market.calendars import TradingCalendar, utc_index
from dpa.market.intervals import Interval
from dpa.market.panel import Panel

FINISHED = "finished.jsonl"
COLUMNS = ("open", "high", "low", "close", "volume", "average")
_VERSION = 1


@dataclass(frozen=True, order=True)
class HistoryPiece:
    """What one request asks for: a symbol's bars from one day to another, both inclusive."""

    symbol: str
    first: date
    last: date

    @property
    def key(self) -> str:
        """Name of it on disk."""
        return f"{self.symbol}/{self.first:%Y%m%d}-{self.last:%Y%m%d}"


@dataclass(frozen=True)
class HistoryBar:
    """A bar as TWS sends it; `start` in UTC nanoseconds, prices USD, `volume` in shares."""

    start: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    average: float


class HistoryStore:
    """Pieces that were downloaded, in a directory that is made when needed.

    Parameters
    ----------
    directory : Path
    interval : Interval
        Of the bars that are downloaded.
    calendar : str

    Raises
    ------
    DataError
        The directory holds something else, or bars of another length.
    """

    def __init__(self, directory: Path, interval: Interval, calendar: str) -> None:
        self.directory, self.interval, self.calendar = directory, interval, calendar
        self._venue = TradingCalendar(calendar)
        self._finished: dict[str, int] = {}
        head = {"version": _VERSION, "interval": str(interval), "calendar": calendar}
        path = directory / FINISHED
        if path.exists():
            self._read(path, head)
        elif directory.exists() and any(directory.iterdir()):
            raise DataError(f"{directory}: holds something else", "choose another --out")
        else:
            directory.mkdir(parents=True, exist_ok=True)
            self._append(head)

    def _read(self, path: Path, head: dict[str, object]) -> None:
        whole, _, _ = path.read_text(encoding="utf-8").rpartition("\n")  # a torn last line is lost
        try:
            found, *lines = [json.loads(line) for line in whole.splitlines()]
            self._finished = {line["piece"]: line["bars"] for line in lines}
        except (ValueError, KeyError, TypeError) as e:
            raise DataError(f"{path}: cannot be read", "remove the directory") from e
        if found != head:
            raise DataError(f"{path}: is of {found}, not {head}", "choose another --out")
        if not path.read_bytes().endswith(b"\n"):
            path.write_text(whole + "\n", encoding="utf-8")

    def _append(self, line: dict[str, object]) -> None:
        with (self.directory / FINISHED).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def has(self, piece: HistoryPiece) -> bool:
        """Whether a piece is finished: there, and never to change."""
        return piece.key in self._finished

    def keep(self, piece: HistoryPiece, bars: Sequence[HistoryBar], final: bool) -> None:
        """Store a piece; one that is not `final` is downloaded again the next time."""
        path = self._path(piece)
        path.parent.mkdir(parents=True, exist_ok=True)
        columns = {"start": pa.array([bar.start for bar in bars], pa.int64())}
        for name in COLUMNS:
            columns[name] = pa.array([getattr(bar, name) for bar in bars], pa.float64())
        scratch = path.with_suffix(".partial")
        pq.write_table(pa.table(columns), scratch, compression="zstd")
        scratch.replace(path)
        if final:
            self._append({"piece": piece.key, "bars": len(bars)})
            self._finished[piece.key] = len(bars)

    def _path(self, piece: HistoryPiece) -> Path:
        return self.directory / f"{piece.key}.parquet"

    def panels(self, pieces: Sequence[HistoryPiece], first: date, last: date) -> Iterator[Panel]:
        """What was downloaded as panels of a month each, names in alphabetical order.

        Stamped at the close, on the calendar's session grid; bars off that grid are left out, and
        so are moments at which no name has a bar.

        Parameters
        ----------
        pieces : sequence of HistoryPiece
        first, last : date
            Inclusive.
        """
        names = tuple(sorted({piece.symbol for piece in pieces}))
        month = first.replace(day=1)
        while month <= last:
            after = (month + timedelta(days=32)).replace(day=1)
            begin, end = max(first, month), min(last, after - timedelta(days=1))
            panel = self._panel(names, [p for p in pieces if p.first <= end], begin, end)
            if panel is not None:
                yield panel
            month = after

    def _panel(
        self, names: tuple[str, ...], pieces: Sequence[HistoryPiece], first: date, last: date
    ) -> Panel | None:
        grid = self._venue.bars(self.interval, pd.Timestamp(first), pd.Timestamp(last))
        shape = (len(grid.opens), len(names))
        arrays = {name: np.full(shape, np.nan) for name in COLUMNS}
        place = {name: k for k, name in enumerate(names)}
        for piece in pieces:
            if piece.last < first or not self._path(piece).exists():
                continue
            table = pq.read_table(self._path(piece))
            starts = table["start"].to_numpy()
            rows = np.searchsorted(grid.opens, starts)
            found = rows < len(grid.opens)
            found[found] = grid.opens[rows[found]] == starts[found]
            for name in COLUMNS:
                column = table[name].to_numpy()
                arrays[name][rows[found], place[piece.symbol]] = column[found]
        traded = np.isfinite(arrays["close"]).any(axis=1)
        if not traded.any():
            return None
        kept = {name: array[traded] for name, array in arrays.items()}
        close, average = kept.pop("close"), kept.pop("average")
        return Panel(
            utc_index(grid.closes[traded]),
            names,
            close,
            np.isfinite(close),
            str(self.interval),
            self.calendar,
            dollar_volume=kept["volume"] * average,
            **kept,
        )

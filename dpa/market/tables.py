"""CSV and Parquet files as Arrow tables, and their columns as checked numbers and times."""

import csv
import gzip
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dpa.errors import DataError
from dpa.market.panel import Floats

PARQUET = (".parquet", ".pq")
CSV = (".csv", ".csv.gz")
TIME_COLUMNS = ("time", "date", "datetime", "timestamp", "__index_level_0__")
MISSING = ("", "NA", "N/A", "#N/A", "NaN", "nan", "NULL", "null", "None")
_OFFSET = re.compile(r"[T ]\d.*(Z|[+-]\d\d(:?\d\d)?)$")
_ISO = "write ISO 8601, such as 2020-01-31 or 2020-01-31T15:30:00-05:00"


@dataclass(frozen=True, eq=False)
class Source:
    """A file of prices: where it is and what its columns are called, before any of it is read.

    Parameters
    ----------
    path : Path
        The file.
    columns : tuple of str
        Column names as written, in order; checked to be unique and not empty.
    """

    path: Path
    columns: tuple[str, ...]

    @cached_property
    def lower(self) -> dict[str, str]:
        """Column names by their lower-case, stripped spelling."""
        return {name.strip().lower(): name for name in reversed(self.columns)}

    def find(self, *spellings: str) -> str | None:
        """The first column spelt like one of `spellings`, whatever its case."""
        return next((self.lower[s] for s in spellings if s in self.lower), None)

    @cached_property
    def time_column(self) -> str:
        """The column of time stamps: by its name, else the first one."""
        return self.find(*TIME_COLUMNS) or self.columns[0]

    @property
    def is_parquet(self) -> bool:
        """Whether the file is Parquet rather than CSV."""
        return self.path.name.lower().endswith(PARQUET)


def open_source(path: str | Path) -> Source:
    """Look at the header of a CSV or Parquet file.

    Raises
    ------
    DataError
        When the file is missing, unreadable, empty, of another kind, or its column names are
        not unique.
    """
    file = Path(path)
    if not file.exists():
        raise DataError(f"{file}: no such file", "check the path")
    if not file.name.lower().endswith(PARQUET + CSV):
        raise DataError(
            f"{file}: unknown kind of file {file.suffix!r}", "use .parquet, .pq, .csv or .csv.gz"
        )
    try:
        if file.stat().st_size == 0:
            raise DataError(f"{file}: is empty", "give a file with prices")
        parquet = file.name.lower().endswith(PARQUET)
        columns = pq.read_schema(file).names if parquet else _csv_header(file)
    except (OSError, EOFError, pa.ArrowException, UnicodeDecodeError, csv.Error) as e:
        raise _unreadable(file, e) from e
    return Source(file, _checked_columns(file, columns))


def _unreadable(file: Path, error: Exception) -> DataError:
    reason = " ".join(str(error).split())[:200]
    kind = "Parquet" if file.name.lower().endswith(PARQUET) else "CSV"
    return DataError(f"{file}: cannot be read as {kind} ({reason})", "write the file again")


def _open_text(file: Path) -> IO[str]:
    if file.name.lower().endswith(".gz"):
        return gzip.open(file, "rt", encoding="utf-8-sig", newline="")
    return file.open(encoding="utf-8-sig", newline="")


def _csv_header(file: Path) -> list[str]:
    with _open_text(file) as text:
        return next(csv.reader(text), [])


def _checked_columns(file: Path, columns: Sequence[str]) -> tuple[str, ...]:
    if len(columns) < 2:
        raise DataError(
            f"{file}: has {len(columns)} column(s)", "give a time column and at least one price"
        )
    seen: set[str] = set()
    for place, name in enumerate(columns):
        if name.strip() in seen:
            raise DataError(
                f"{file}: column {name!r} appears twice", "rename or remove one of them"
            )
        if not name.strip() and place > 0:
            raise DataError(f"{file}: column {place + 1} has no name", "name it or remove it")
        seen.add(name.strip())
    return tuple(columns)


@dataclass(frozen=True, eq=False)
class Table:
    """Some columns of a file, in memory.

    Parameters
    ----------
    source : Source
        Where they come from.
    arrow : pyarrow.Table
        The columns; times and text of a CSV file are strings.
    """

    source: Source
    arrow: pa.Table

    @property
    def n_rows(self) -> int:
        """Number of data rows, the header not counted."""
        return int(self.arrow.num_rows)

    def times(self, column: str) -> pd.DatetimeIndex:
        """Time stamps, shape (n_rows,), as written: naive, or UTC when they carry an offset.

        Raises
        ------
        DataError
            Naming the first row that holds no time stamp.
        """
        values = self.arrow.column(column)
        if pa.types.is_timestamp(values.type) or pa.types.is_date(values.type):
            unit = pa.timestamp("us", tz=getattr(values.type, "tz", None) and "UTC")
            index = pd.DatetimeIndex(values.cast(unit, safe=False).to_pandas())
        elif _is_text(values.type):
            index = self._parse_times(column, values)
        else:
            raise DataError(
                f"{self.source.path}: time column {column!r} holds {values.type} values", _ISO
            )
        bad = np.flatnonzero(index.isna() | (index.year < 1900) | (index.year > 2200))
        if len(bad):
            row = int(bad[0])
            raise self.cell_error(row, column, f"{index[row]} is not a time stamp of a bar", _ISO)
        return index

    def _parse_times(self, column: str, values: pa.ChunkedArray) -> pd.DatetimeIndex:
        encoded = _encode(values)  # stamps repeat by symbol in long files: parse each once
        text = np.asarray(encoded.dictionary.to_pylist() or [""], dtype=object)
        codes = encoded.indices.fill_null(0).to_numpy()
        offset = np.array([bool(_OFFSET.search(stamp)) for stamp in text])
        parsed = pd.to_datetime(text, format="ISO8601", errors="coerce", utc=bool(offset.any()))
        wrong = np.asarray(parsed.isna())[codes]
        if wrong.any():
            row = int(np.argmax(wrong))
            raise self.cell_error(row, column, f"{text[codes[row]]!r} is not a time stamp", _ISO)
        mixed = offset[codes] != offset[codes[0]]
        if mixed.any():
            row = int(np.argmax(mixed))
            problem = f"{text[codes[row]]!r} has a UTC offset and row 1 has none, or the reverse"
            raise self.cell_error(row, column, problem, "write all stamps with one, or none")
        stamps: pd.DatetimeIndex = pd.DatetimeIndex(parsed)[codes]
        return stamps

    def numbers(self, column: str) -> Floats:
        """One column as float64, shape (n_rows,); NaN where the cell is empty.

        Raises
        ------
        DataError
            Naming the first row that holds text.
        """
        values = self.arrow.column(column)
        kind = values.type
        if pa.types.is_null(kind):
            return np.full(self.n_rows, np.nan)
        if not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or _is_decimal(kind)):
            return self._numbers_from_text(column, values)
        if kind != pa.float64():
            values = values.cast(pa.float64())
        numbers: Floats = values.to_numpy()
        return numbers

    def _numbers_from_text(self, column: str, values: pa.ChunkedArray) -> Floats:
        if not _is_text(values.type):
            raise DataError(
                f"{self.source.path}: column {column!r} holds {values.type} values, not numbers",
                "store prices as numbers, or leave the column out with data.names",
            )
        text = values.cast(pa.string()).to_pandas()
        given = (~text.isin(MISSING) & text.notna()).to_numpy()
        numbers: Floats = pd.to_numeric(text.where(given), errors="coerce").to_numpy("float64")
        bad = given & np.isnan(numbers)
        if bad.any():
            row = int(np.argmax(bad))
            raise self.cell_error(
                row,
                column,
                f"{text.iloc[row]!r} is text, not a number",
                "mend the cell, or leave the column out with data.names",
            )
        return numbers

    def labels(self, column: str) -> tuple[NDArray[np.int64], tuple[str, ...]]:
        """One column of text as codes, shape (n_rows,), and the sorted labels they stand for.

        Raises
        ------
        DataError
            Naming the first row without text.
        """
        values = self.arrow.column(column)
        if not _is_text(values.type):
            raise DataError(
                f"{self.source.path}: column {column!r} holds {values.type} values", "store text"
            )
        encoded = _encode(values)
        spelt = [label.strip() for label in encoded.dictionary.to_pylist()]
        found = tuple(sorted(set(spelt) - {""}))
        place = {label: k for k, label in enumerate(found)} | {"": -1}
        rank = np.array([*(place[label] for label in spelt), -1], dtype=np.int64)
        codes = rank[encoded.indices.fill_null(len(spelt)).to_numpy()]
        if (codes < 0).any():
            row = int(np.argmax(codes < 0))
            raise self.cell_error(row, column, "is empty", "name the symbol or drop the row")
        return codes, found

    def cell_error(self, row: int, column: str, problem: str, cure: str) -> DataError:
        """A :class:`DataError` about one cell; `row` counts from 0, the message from 1."""
        where = f"row {row + 1}"
        if column != self.source.time_column:
            stamp = self.arrow.column(self.source.time_column)[row].as_py()
            where += f" ({stamp})"
        return DataError(f"{self.source.path}: column {column!r}, {where}: {problem}", cure)


def _encode(values: pa.ChunkedArray) -> pa.DictionaryArray:
    """Text as dictionary codes, in one chunk."""
    text = values.cast(pa.string()).dictionary_encode().unify_dictionaries().combine_chunks()
    return text.chunk(0) if isinstance(text, pa.ChunkedArray) else text


def _is_text(kind: pa.DataType) -> bool:
    inner = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(inner) or pa.types.is_large_string(inner))


def _is_decimal(kind: pa.DataType) -> bool:
    return bool(pa.types.is_decimal(kind))


def read_table(source: Source, columns: Sequence[str], text: Sequence[str]) -> Table:
    """Read some columns of a file.

    Parameters
    ----------
    source : Source
        The file.
    columns : sequence of str
        What to read.
    text : sequence of str
        Those of `columns` that are times or symbols; the others are numbers.

    Raises
    ------
    DataError
        When the file cannot be read, or has no rows.
    """
    try:
        if source.is_parquet:
            arrow = pq.ParquetFile(source.path).read(columns=list(columns))
        else:
            arrow = _read_csv(source, columns, text)
    except (OSError, EOFError, pa.ArrowException) as e:
        raise _unreadable(source.path, e) from e
    if arrow.num_rows == 0:
        raise DataError(f"{source.path}: has a header but no rows", "give a file with prices")
    return Table(source, arrow)


def _read_csv(source: Source, columns: Sequence[str], text: Sequence[str]) -> pa.Table:
    def convert(numbers: pa.DataType) -> pa.Table:
        types = {c: pa.string() if c in text else numbers for c in columns}
        options = pyarrow.csv.ConvertOptions(
            column_types=types,
            include_columns=list(columns),
            null_values=list(MISSING),
            strings_can_be_null=False,
        )
        naming = pyarrow.csv.ReadOptions(column_names=list(source.columns), skip_rows=1)
        return pyarrow.csv.read_csv(source.path, read_options=naming, convert_options=options)

    try:
        return convert(pa.float64())
    except pa.ArrowInvalid as e:
        if "conversion error" not in str(e):
            raise
        # a cell holds text: read all as text, so that the reader of the column can name it
        return convert(pa.string())

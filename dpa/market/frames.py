"""Wide and long tables as dense arrays of prices on session bars, strictly checked."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dpa.config import DataConfig
from dpa.errors import DataError
from dpa.market.calendars import Nanoseconds, nanoseconds
from dpa.market.intervals import Interval
from dpa.market.panel import Floats
from dpa.market.stamps import (
    OFF_SESSION,
    Fault,
    Stamps,
    bar_closes,
    chosen_interval,
    refuse,
)
from dpa.market.tables import TIME_COLUMNS, Source, Table, read_table

SYMBOL = ("symbol", "ticker")
CLOSE = ("adjusted_close", "adj_close", "adj close", "adjclose", "close")
BAR_COLUMNS = ("open", "high", "low", "volume")
_ROUNDING = 1e-5  # of a price: float32 files round highs and closes apart


@dataclass(frozen=True, eq=False)
class Frame:
    """What a file holds, on session bars.

    Parameters
    ----------
    closes : int64 ndarray of shape (n_bars,)
        Bar closes, UTC nanoseconds, strictly increasing.
    names : tuple of str, length n_assets
        Column order.
    values : float64 ndarray of shape (n_bars, n_assets)
        Adjusted close (or traded value, USD); NaN where there is none.
    interval : Interval
        Given or inferred.
    extras : dict of str to float64 ndarray of shape (n_bars, n_assets)
        Optional arrays the file has, by name; see :data:`~dpa.market.panel.EXTRAS`.
    n_rows : int
        Data rows read.
    off_session : int64 ndarray of shape (n_assets,)
        Prices dropped because their stamp is outside the sessions, by name.
    """

    closes: Nanoseconds
    names: tuple[str, ...]
    values: Floats
    interval: Interval
    extras: dict[str, Floats] = field(default_factory=dict)
    n_rows: int = 0
    off_session: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def columns(self, chosen: NDArray[np.bool_]) -> "Frame":
        """The same bars of the names where `chosen`, shape (n_assets,), is True."""
        return replace(
            self,
            names=tuple(self.names[k] for k in np.flatnonzero(chosen)),
            values=self.values[:, chosen],
            extras={name: array[:, chosen] for name, array in self.extras.items()},
            off_session=self.off_session[chosen],
        )


def is_long(source: Source) -> bool:
    """Whether a file has one row per name and bar, rather than one column per name.

    Raises
    ------
    DataError
        When it is neither: bars of a single name without a symbol column.
    """
    if source.find(*SYMBOL):
        return True
    if source.find(*CLOSE) and source.find(*BAR_COLUMNS):
        raise DataError(
            f"{source.path}: has columns of bars but no column 'symbol'",
            "add it to a long file, or give a wide one with one column per name",
        )
    return False


def read_frame(source: Source, config: DataConfig, fault: Fault = refuse) -> Frame:
    """Read a wide or long file of prices; see :func:`read_wide` and :func:`read_long`."""
    reader = read_long if is_long(source) else read_wide
    return reader(source, config, fault=fault)


def choose_names(
    found: Sequence[str], wanted: Sequence[str] | None, path: object
) -> tuple[str, ...]:
    """`wanted` names, in that order, or all those `found`."""
    if wanted is None:
        return tuple(found)
    for name in wanted:
        if name not in set(found):
            close = difflib.get_close_matches(name, found, 3)
            hint = f"did you mean {', '.join(close)}?" if close else f"it has {len(found)} names"
            raise DataError(f"{path}: has no name {name!r}", f"correct data.names; {hint}")
    return tuple(wanted)


def read_wide(
    source: Source, config: DataConfig, traded_value: bool = False, fault: Fault = refuse
) -> Frame:
    """A file with one row per bar and one column per name.

    Parameters
    ----------
    source : Source
        The file.
    config : DataConfig
        Names, calendar, time zone, interval and kind of stamps.
    traded_value : bool
        The cells are traded value, where 0 is allowed, rather than prices.
    fault : callable
        What to do about repeated or unordered stamps and impossible prices: raise (default),
        or take note, in which case they are left out.

    Raises
    ------
    DataError
        Naming file, column and row.
    """
    time = source.time_column
    spelt = {name.strip(): name for name in source.columns if name != time}
    names = choose_names(tuple(spelt), config.names, source.path)
    table = read_table(source, [time, *(spelt[name] for name in names)], [time])
    times = table.times(time)
    values = np.empty((table.n_rows, len(names)))
    for place, name in enumerate(names):
        values[:, place] = table.numbers(spelt[name])
    rows = _time_order(table, times, fault)
    _check_values(table, values, [spelt[name] for name in names], traded_value, fault)
    stamps = Stamps(
        times[rows],
        np.isfinite(values[rows]).sum(axis=1),
        lambda place: int(rows[place]),
        str(source.path),
    )
    interval = chosen_interval(stamps, config)
    closes = bar_closes(stamps, interval, config, fault)
    kept = np.flatnonzero(closes != OFF_SESSION)
    kept = _one_row_a_bar(stamps, closes, kept, interval, fault)
    outside = np.isfinite(values).sum(axis=0) - np.isfinite(values[rows[kept]]).sum(axis=0)
    values = values[rows[kept]] if len(kept) < len(values) else values
    return Frame(closes[kept], names, values, interval, {}, table.n_rows, outside)


def _time_order(table: Table, times: pd.DatetimeIndex, fault: Fault) -> NDArray[np.int64]:
    """Rows in strictly increasing time; anything else is a fault."""
    ticks = nanoseconds(times)
    step = np.diff(ticks)
    for kind, wrong, words, cure in (
        ("unordered", step < 0, "is earlier than the row before", "sort the rows by time"),
        ("duplicate", step == 0, "has the time of the row before", "keep one row per time"),
    ):
        if wrong.any():
            row = int(np.argmax(wrong)) + 1
            path = table.source.path
            error = DataError(f"{path}: row {row + 1} ({times[row]}): {words}", cure)
            fault(kind, int(wrong.sum()), error)
    _, rows = np.unique(ticks, return_index=True)
    return rows.astype(np.int64)


def _impossible(values: Floats, traded_value: bool) -> NDArray[np.bool_]:
    """Infinities, negative values and zeros; zeros are allowed in traded value."""
    return np.isinf(values) | (values < 0 if traded_value else values <= 0)


def _value_error(
    table: Table, row: int, column: str, value: float, traded_value: bool
) -> DataError:
    allowed = "finite and not negative" if traded_value else "finite and above zero"
    return table.cell_error(
        row,
        column,
        f"{value:g} must be {allowed}",
        "mend the cell, or leave it empty where nothing traded",
    )


def _check_values(
    table: Table, values: Floats, columns: Sequence[str], traded_value: bool, fault: Fault
) -> None:
    """Every cell of a wide file; cells that cannot be are emptied when the fault is noted."""
    bad = _impossible(values, traded_value)
    if bad.any():
        row, place = (int(k) for k in np.argwhere(bad)[0])
        error = _value_error(table, row, columns[place], values[row, place], traded_value)
        fault("bad_price", int(bad.sum()), error)
        values[bad] = np.nan


def _one_row_a_bar(
    stamps: Stamps,
    closes: Nanoseconds,
    kept: NDArray[np.int64],
    interval: Interval,
    fault: Fault,
) -> NDArray[np.int64]:
    """Stamps may differ and still name one bar: two times on one date of daily data."""
    repeated = np.flatnonzero(np.diff(closes[kept]) <= 0)
    if len(repeated):
        place = int(kept[repeated[0] + 1])
        error = DataError(
            f"{stamps.where(place)}: a second row for one {interval} bar",
            "keep one row per bar, or set data.interval (--interval) to the file's",
        )
        fault("duplicate", len(repeated), error)
    _, first = np.unique(closes[kept], return_index=True)
    return kept[first]


def read_long(source: Source, config: DataConfig, fault: Fault = refuse) -> Frame:
    """A file with one row per name and bar: ``symbol, time, [open, high, low,] close[, volume]``.

    The price is the adjusted close where there is such a column, else the close. Open, high and
    low are adjusted like it; they are left out when their scale is not known, which is without a
    column ``close``. Traded value is ``close * volume``. Rows may come in any order; the bars are
    the union over names.

    Parameters and errors are those of :func:`read_wide`; a high below or a low above another
    price of its bar is refused as well.
    """
    columns = _long_columns(source)
    text = [columns.symbol, columns.time]
    table = read_table(source, [*text, *columns.numbers()], text)
    codes, found = table.labels(columns.symbol)
    names = choose_names(found, config.names, source.path)
    column_of = np.full(len(found), -1)
    column_of[[found.index(name) for name in names]] = np.arange(len(names))
    rows = np.flatnonzero(column_of[codes] >= 0)
    asset = column_of[codes[rows]]
    price = _checked_column(table, columns.price, rows, False, fault)
    times = table.times(columns.time)[rows]
    _, first, stamp = np.unique(nanoseconds(times), return_index=True, return_inverse=True)
    stamps = Stamps(
        times[first],
        np.bincount(stamp, weights=np.isfinite(price)).astype(np.int64),
        lambda place: int(rows[first[place]]),
        str(source.path),
    )
    interval = chosen_interval(stamps, config)
    closes = bar_closes(stamps, interval, config, fault)[stamp]
    inside = closes != OFF_SESSION
    bars, bar = np.unique(closes[inside], return_inverse=True)
    shape = (len(bars), len(names))
    cell = bar * len(names) + asset[inside]
    _check_cells(table, cell, rows[inside], names, shape, columns.symbol, fault)
    extras = _bar_values(table, columns, rows, price, fault)
    return Frame(
        bars,
        names,
        _scatter(cell, price[inside], shape),
        interval,
        {name: _scatter(cell, values[inside], shape) for name, values in extras.items()},
        table.n_rows,
        np.bincount(asset[~inside], minlength=len(names)),
    )


@dataclass(frozen=True)
class LongColumns:
    """What the columns of a long file are called in it; `price` is adjusted, `close` is not.

    `ranges` are those of open, high and low by name, on the scale of `close`.
    """

    symbol: str
    time: str
    price: str
    close: str
    ranges: dict[str, str]
    volume: str | None

    def numbers(self) -> list[str]:
        """Columns of numbers, each once."""
        named = (self.price, self.close, *self.ranges.values(), self.volume)
        return list(dict.fromkeys(column for column in named if column is not None))


def _long_columns(source: Source) -> LongColumns:
    def needed(what: str, *spellings: str) -> str:
        column = source.find(*spellings)
        if column is None:
            raise DataError(
                f"{source.path}: a long file needs a column {what!r}",
                f"add it; the file has {', '.join(source.columns[:8])}",
            )
        return column

    price, close = needed("close", *CLOSE), source.find("close")
    ranges = {name: source.find(name) for name in ("open", "high", "low") if close is not None}
    return LongColumns(
        needed("symbol", *SYMBOL),
        needed("time", *TIME_COLUMNS),
        price,
        close or price,
        {name: column for name, column in ranges.items() if column is not None},
        source.find("volume"),
    )


def _bar_values(
    table: Table, columns: LongColumns, rows: NDArray[np.int64], price: Floats, fault: Fault
) -> dict[str, Floats]:
    """The optional arrays of a long file at `rows`, open, high and low on the scale of `price`."""
    adjusted = columns.close != columns.price
    close = _checked_column(table, columns.close, rows, False, fault) if adjusted else price
    extras = {
        name: _checked_column(table, column, rows, False, fault)
        for name, column in columns.ranges.items()
    }
    _check_ranges(table, columns, rows, extras | {"close": close}, fault)
    if adjusted:
        extras = {name: values * (price / close) for name, values in extras.items()}
    if columns.volume is not None:
        volume = _checked_column(table, columns.volume, rows, True, fault)
        extras |= {"volume": volume, "dollar_volume": volume * close}
    return extras


def _check_ranges(
    table: Table,
    columns: LongColumns,
    rows: NDArray[np.int64],
    prices: dict[str, Floats],
    fault: Fault,
) -> None:
    """Refuse highs below and lows above another price of the bar; empty both if noted."""
    highest = np.fmax.reduce(list(prices.values()))
    lowest = np.fmin.reduce(list(prices.values()))
    for name, edge, words in (("high", highest, "below"), ("low", lowest, "above")):
        if name not in prices:
            continue
        wrong = np.abs(prices[name] - edge) > _ROUNDING * edge
        if wrong.any():
            first = int(np.argmax(wrong))
            error = table.cell_error(
                int(rows[first]),
                columns.ranges[name],
                f"{prices[name][first]:g} is {words} {edge[first]:g}, another price of its bar",
                "mend the row, or leave its high and low empty",
            )
            fault("bad_range", int(wrong.sum()), error)
            prices[name][wrong] = np.nan


def _checked_column(
    table: Table, column: str, rows: NDArray[np.int64], traded_value: bool, fault: Fault
) -> Floats:
    """One column of a long file at `rows`; cells that cannot be are emptied."""
    values = table.numbers(column)[rows]
    bad = _impossible(values, traded_value)
    if bad.any():
        first = int(np.argmax(bad))
        error = _value_error(table, int(rows[first]), column, values[first], traded_value)
        fault("bad_price", int(bad.sum()), error)
        values[bad] = np.nan
    return values


def _check_cells(
    table: Table,
    cell: NDArray[np.int64],
    rows: NDArray[np.int64],
    names: tuple[str, ...],
    shape: tuple[int, int],
    symbol: str,
    fault: Fault,
) -> None:
    """Refuse two rows for one name and bar."""
    last = np.full(shape[0] * shape[1], -1)
    last[cell] = np.arange(len(cell))
    repeated = last[cell] != np.arange(len(cell))
    if repeated.any():
        place = int(last[cell[np.argmax(repeated)]])
        error = table.cell_error(
            int(rows[place]),
            symbol,
            f"a second row for {names[cell[place] % shape[1]]!r} and this bar",
            "keep one row per symbol and bar, or set data.interval to the file's",
        )
        fault("duplicate", int(repeated.sum()), error)


def _scatter(cell: NDArray[np.int64], values: Floats, shape: tuple[int, int]) -> Floats:
    dense = np.full(shape[0] * shape[1], np.nan)
    dense[cell] = values
    return dense.reshape(shape)


def align(frame: Frame, closes: Nanoseconds, names: Sequence[str], path: object) -> Floats:
    """Values of `frame` on other bars and names; NaN where it has none.

    Raises
    ------
    DataError
        When the two share no bar or no name.
    """
    place = np.minimum(np.searchsorted(frame.closes, closes), len(frame.closes) - 1)
    hit = frame.closes[place] == closes
    column = {name: k for k, name in enumerate(frame.names)}
    shared = [k for k, name in enumerate(names) if name in column]
    if not hit.any() or not shared:
        what = "bar" if shared else "name"
        raise DataError(
            f"{path}: shares no {what} with the prices", "check data.dollar_volume_path"
        )
    values = np.full((len(closes), len(names)), np.nan)
    source_columns = [column[names[k]] for k in shared]
    values[np.ix_(hit, shared)] = frame.values[np.ix_(place[hit], source_columns)]
    return values


def with_interval(config: DataConfig, interval: Interval) -> DataConfig:
    """`config` with the interval made explicit."""
    return config.model_copy(update={"interval": str(interval)})


def judge_empty_names(
    names: Sequence[str], empty: Sequence[str], config: DataConfig, origin: str, fault: Fault
) -> None:
    """Refuse names that never have a price, unless `config` says to leave them out."""
    if len(empty) == len(names):
        raise DataError(f"{origin}: there is no price at all", "give a file with prices")
    if empty and not config.drop_empty_names:
        more = f" (nor have {len(empty) - 1} more: {', '.join(empty[1:6])})" if empty[1:] else ""
        error = DataError(
            f"{origin}: column {empty[0]!r} has no price in any row{more}",
            "remove it, choose others with data.names, or set data.drop_empty_names "
            "(--drop-empty-names true)",
        )
        fault("empty_name", len(empty), error)

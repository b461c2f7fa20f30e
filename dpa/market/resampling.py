"""Longer bars from shorter ones: 1m to 5m to 1d, aligned to the sessions of the venue."""

import itertools
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from dpa.market.calendars import nanoseconds, utc_index
from dpa.market.interval_specs import check_divides
from dpa.market.intervals import Interval, parse_interval
from dpa.market.panel import Floats, Panel, concat
from dpa.market.session_grid import bar_places, bars_around

Positions = NDArray[np.int64]


def resample(panel: Panel, interval: str) -> Panel:
    """The same history in longer bars.

    Parameters
    ----------
    panel : Panel
        Any bars of its calendar, on the session grid or not.
    interval : str
        Length of the new bars: a multiple of the panel's, at most a session.

    Returns
    -------
    Panel
        A bar wherever `panel` has a row, aligned to the session's open; the last one of a session
        may be shorter. Stamped at its close. Price: last known one; open: first known; high and
        low: greatest and least known; volume and traded value: sum of what is known; each NaN
        where nothing is. Member: where there is a price, and the name was one at the row of that
        price. Bars of which `panel` lacks the end, or its first row the beginning, are left out,
        so that there may be none.

    Raises
    ------
    DataError
        When `interval` is no multiple, or a row is no bar of the calendar.
    ConfigError
        When `interval` is not understood.
    """
    return next(resample_pieces([panel], interval))


def resample_pieces(panels: Iterable[Panel], interval: str) -> Iterator[Panel]:
    """Like :func:`resample`, for consecutive panels that are not in memory together.

    Holds one of them and the bar that is not finished.

    Yields
    ------
    Panel
        New bars in time order, one panel for each of `panels` and perhaps without a bar.
        Together they are the same however the history was cut.
    """
    length = parse_interval(interval)
    pieces = iter(panels)
    first = next(pieces, None)
    if first is None:
        return
    check_divides(parse_interval(first.interval), length)
    if parse_interval(first.interval) == length:
        yield from itertools.chain([first], pieces)
        return
    begin, waiting = None, first.window(0, 0)
    for piece in itertools.chain([first], pieces):
        panel = concat([waiting, piece]) if waiting.n_bars else piece
        begin = _first_open(panel) if begin is None and panel.n_bars else begin
        merged, used = _finished(panel, length, begin or 0)
        waiting = concat([panel.window(used, panel.n_bars)])  # a copy: the rest may go
        yield merged


def _first_open(panel: Panel) -> int:
    """Open of the first row, UTC nanoseconds."""
    bars = bars_around(panel.times, panel.interval, panel.calendar)
    return int(bars.opens[bar_places(panel.times[:1], bars)[0]])


def _finished(panel: Panel, length: Interval, begin: int) -> tuple[Panel, int]:
    """Bars that are whole, none opening before `begin`, and the number of rows they took."""
    if panel.n_bars == 0:
        return _merged(panel, length, np.empty(0, np.int64), np.empty(0, np.int64)), 0
    closes = nanoseconds(panel.times)
    bar_places(panel.times, bars_around(panel.times, panel.interval, panel.calendar))
    bars = bars_around(panel.times, str(length), panel.calendar)
    place = np.searchsorted(bars.closes, closes)  # the first bar that closes no earlier
    low = int(np.searchsorted(bars.opens[place], begin))
    high = int(np.searchsorted(bars.closes[place], closes[-1], side="right"))
    low = min(low, high)
    numbers, starts = np.unique(place[low:high], return_index=True)
    return _merged(panel.window(low, high), length, bars.closes[numbers], starts), high


def _merged(panel: Panel, length: Interval, closes: Positions, starts: Positions) -> Panel:
    """One row for each run of rows that begins at `starts`, all rows used."""
    last = _last_known(panel.prices, starts)
    prices = _at(panel.prices, last)
    member = np.isfinite(prices)
    if panel.n_bars:
        member &= np.take_along_axis(panel.mask, np.maximum(last, 0), axis=0)
    return Panel(
        utc_index(closes),
        panel.names,
        prices,
        member,
        str(length),
        panel.calendar,
        **{name: _RULES[name](values, starts) for name, values in panel.extras().items()},
    )


def _last_known(values: Floats, starts: Positions) -> Positions:
    """Row of the last known value of each run, -1 where there is none."""
    rows = np.where(np.isfinite(values), np.arange(len(values))[:, None], -1)
    return np.asarray(np.maximum.reduceat(rows, starts, axis=0))


def _at(values: Floats, rows: Positions) -> Floats:
    """Values at `rows`, by column; NaN for row -1."""
    if len(rows) == 0:
        return np.empty(rows.shape)
    return np.where(rows >= 0, np.take_along_axis(values, np.maximum(rows, 0), axis=0), np.nan)


def _first(values: Floats, starts: Positions) -> Floats:
    rows = np.where(np.isfinite(values), np.arange(len(values))[:, None], len(values))
    first = np.asarray(np.minimum.reduceat(rows, starts, axis=0))
    return _at(values, np.where(first < len(values), first, -1))


def _greatest(values: Floats, starts: Positions) -> Floats:
    return np.asarray(np.fmax.reduceat(values, starts, axis=0))


def _least(values: Floats, starts: Positions) -> Floats:
    return np.asarray(np.fmin.reduceat(values, starts, axis=0))


def _total(values: Floats, starts: Positions) -> Floats:
    known = np.isfinite(values)
    total = np.add.reduceat(np.where(known, values, 0.0), starts, axis=0)
    return np.where(np.logical_or.reduceat(known, starts, axis=0), total, np.nan)


_RULES: dict[str, Callable[[Floats, Positions], Floats]] = {
    "open": _first,
    "high": _greatest,
    "low": _least,
    "volume": _total,
    "dollar_volume": _total,
}

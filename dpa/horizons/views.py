"""What a feature sees: series of the past, in a batch or for the last bar alone.

:class:`BatchView` computes a feature at every bar of a panel, :class:`LiveView` at the newest bar
from ring buffers, adding a row per series and no more. Both answer the same questions with the
same bits: windows by :mod:`dpa.horizons.rolling`, everything else element by element.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dpa.errors import DataError
from dpa.horizons.arithmetic import ratio
from dpa.horizons.clock import SessionClock
from dpa.horizons.clusters import CLUSTER_SERIES, ClusterReader
from dpa.horizons.registry import SERIES
from dpa.horizons.rolling import Combine, trailing, trailing_last
from dpa.market.interval_specs import IntervalSpec, minutes_to_bars
from dpa.market.panel import Panel

Doubles = NDArray[np.float64]
RAW_NEEDS = {
    "close": (),
    "open": ("open",),
    "high": ("high",),
    "low": ("low",),
    "volume": ("volume",),
    "dollar_volume": ("dollar_volume",),
    "member": (),
}
BPS = 1e4


class NoClusterModel(DataError):
    """A series of the cluster model was asked for where there is none."""


@dataclass(frozen=True)
class ViewSettings:
    """What every view needs to know.

    Parameters
    ----------
    spec : IntervalSpec
        Interval of the bars.
    sigma_minutes : int
        Look-back of the volatility and of everything else that says what is usual, session
        minutes.
    coverage : float
        Fraction of a look-back's bars that must be there.
    """

    spec: IntervalSpec
    sigma_minutes: int
    coverage: float


@dataclass
class Reach:
    """How far back something looks, learned while it is computed.

    Attributes
    ----------
    bars : dict of str to int
        Bars before the current one that a series or feature reads, those of its inputs included.
    held : dict of str to int
        Newest values of each series that anything looks at.
    needs : dict of str to set of str
        Optional arrays of a panel it is made from; ``"cluster"`` for a cluster model.
    inputs : dict of str to set of str
        Series it is made from, directly or not.
    order : list of str
        Series in an order in which each comes after those it is made from.
    """

    bars: dict[str, int] = field(default_factory=dict)
    held: dict[str, int] = field(default_factory=dict)
    needs: dict[str, set[str]] = field(default_factory=dict)
    inputs: dict[str, set[str]] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    stack: list[str] = field(default_factory=list)

    def begin(self, name: str) -> None:
        """`name` is being computed."""
        self.stack.append(name)
        self.bars[name] = 0
        self.needs[name] = set()
        self.inputs[name] = set()

    def end(self) -> None:
        """What was being computed is done."""
        self.stack.pop()

    def looked(self, name: str, bars: int) -> None:
        """Series `name` was looked at, `bars` bars back."""
        self.held[name] = max(self.held.get(name, 1), bars + 1)
        if self.stack:
            reader = self.stack[-1]
            self.bars[reader] = max(self.bars[reader], bars + self.bars[name])
            self.needs[reader] |= self.needs[name]
            self.inputs[reader] |= {name} | self.inputs[name]


class View(ABC):
    """The past as a feature sees it; every answer is of shape (n_rows, n_assets) or (n_rows, 1).

    Parameters
    ----------
    settings : ViewSettings
    """

    def __init__(self, settings: ViewSettings) -> None:
        self.settings = settings
        self._bars: dict[float, int] = {}

    @property
    def spec(self) -> IntervalSpec:
        """Interval of the bars."""
        return self.settings.spec

    @property
    def coverage(self) -> float:
        """Fraction of a look-back's bars that must be there."""
        return self.settings.coverage

    @property
    def long(self) -> int:
        """The long look-back: that of the volatility, session minutes."""
        return self.settings.sigma_minutes

    def bars(self, minutes: float) -> int:
        """Session minutes as bars, rounded up."""
        if minutes not in self._bars:
            self._bars[minutes] = minutes_to_bars(minutes, self.spec)
        return self._bars[minutes]

    # -- what the two kinds of view do each in their way

    @property
    @abstractmethod
    def minute(self) -> Doubles:
        """Session minutes elapsed at the bar's close, (n_rows, 1)."""

    @property
    @abstractmethod
    def session_length(self) -> Doubles:
        """Minutes of the bar's session, (n_rows, 1)."""

    @abstractmethod
    def now(self, name: str) -> Doubles:
        """A series at the bar itself; NaN where it has no value."""

    @abstractmethod
    def _back(self, name: str, bars: int) -> Doubles: ...

    @abstractmethod
    def _window(self, name: str, bars: int, what: str) -> Doubles:
        """``known`` or ``filled`` values summed, or their extreme, over the last `bars` bars."""

    @abstractmethod
    def since_open(self, name: str) -> Doubles:
        """Sum of the known values of a series since the session opened; NaN before an open."""

    @abstractmethod
    def at_open(self, name: str) -> Doubles:
        """A series at the first bar of the session."""

    @abstractmethod
    def before_open(self, name: str) -> Doubles:
        """A series at the last bar of the session before."""

    @abstractmethod
    def _sessions_ago(self, name: str, sessions: int) -> Doubles: ...

    # -- what follows from it

    def ago(self, name: str, minutes: float) -> Doubles:
        """A series at the bar `minutes` of session time before."""
        return self._back(name, self.bars(minutes))

    def count(self, name: str, minutes: float) -> Doubles:
        """How many bars of the look-back have a value."""
        return self._window(name, self.bars(minutes), "known")

    def _enough(self, name: str, minutes: float) -> tuple[Doubles, NDArray[np.bool_]]:
        count = self.count(name, minutes)
        return count, np.isfinite(count) & (count >= self.coverage * self.bars(minutes))

    def mean(self, name: str, minutes: float) -> Doubles:
        """Mean of the known values over the look-back; NaN where too few are known."""
        count, enough = self._enough(name, minutes)
        total = self._window(name, self.bars(minutes), "filled")
        return ratio(total, count, enough)

    def total(self, name: str, minutes: float) -> Doubles:
        """Sum over the look-back with missing bars counted at the mean of the known ones."""
        return self.mean(name, minutes) * self.bars(minutes)

    def highest(self, name: str, minutes: float) -> Doubles:
        """Largest known value over the look-back; NaN where too few are known."""
        _, enough = self._enough(name, minutes)
        return np.where(enough, self._window(name, self.bars(minutes), "highest"), np.nan)

    def lowest(self, name: str, minutes: float) -> Doubles:
        """Smallest known value over the look-back; NaN where too few are known."""
        _, enough = self._enough(name, minutes)
        return np.where(enough, self._window(name, self.bars(minutes), "lowest"), np.nan)

    def same_time(self, name: str, sessions: int) -> Doubles:
        """Mean of a series at the same place of earlier sessions, today left out."""
        total = count = None
        for number in range(1, sessions + 1):
            value = self._sessions_ago(name, number)
            known = np.isfinite(value)
            filled = np.where(known, value, 0.0)
            total = filled if total is None else total + filled
            count = known.astype(float) if count is None else count + known
        assert total is not None
        assert count is not None
        enough = count >= max(1.0, self.coverage * sessions)
        return ratio(total, count, enough)

    def scaled(self, log_return: Doubles, minutes: float) -> Doubles:
        """A log return over some minutes in units of ``sigma * sqrt(minutes)``."""
        return np.asarray(log_return * BPS / (self.now("sigma") * math.sqrt(minutes)))


class BatchView(View):
    """Features at every bar of a panel.

    Parameters
    ----------
    panel : Panel
        On the complete session grid.
    settings : ViewSettings
    reader : ClusterReader, optional
        Where cluster series come from; it is led through the panel's bars.

    Raises
    ------
    DataError
        When the bars are not consecutive bars of the calendar, or a series needs an array the
        panel does not have.
    """

    def __init__(
        self, panel: Panel, settings: ViewSettings, reader: ClusterReader | None = None
    ) -> None:
        super().__init__(settings)
        self.panel = panel
        self.clock = SessionClock.of(panel.times, panel.interval, panel.calendar)
        self.reader = reader
        self.reach = Reach()
        self._series: dict[str, Doubles] = {}
        self._windows: dict[tuple[str, int, str], Doubles] = {}
        self._place = self.clock.place

    @property
    def minute(self) -> Doubles:
        return self.clock.minute[:, None]

    @property
    def session_length(self) -> Doubles:
        return self.clock.length[:, None]

    def now(self, name: str) -> Doubles:
        return self._looked(name, 0)

    def _looked(self, name: str, bars: int) -> Doubles:
        if name not in self._series:
            self._compute(name)
        self.reach.looked(name, bars)
        return self._series[name]

    def _compute(self, name: str) -> None:
        if name in self.reach.stack:
            raise DataError(f"series {name!r} is made from itself", "define it from others")
        self.reach.begin(name)
        if name in RAW_NEEDS:
            self.reach.needs[name] |= set(RAW_NEEDS[name])
            self._series[name] = self._raw(name)
        elif name in CLUSTER_SERIES:
            self._read_clusters()
        elif name in SERIES:
            with np.errstate(all="ignore"):
                self._series[name] = np.ascontiguousarray(SERIES[name].compute(self), float)
        else:
            raise DataError(f"series {name!r} is not known", "define it with @series")
        self.reach.end()
        self.reach.order.append(name)

    def _raw(self, name: str) -> Doubles:
        panel = self.panel
        if name == "close":
            return np.asarray(panel.prices, float)
        if name == "member":
            return panel.mask.astype(float)
        array = panel.extras().get(name)
        if array is None:
            raise DataError(f"the data have no {name}", f"give bars with {name}")
        return np.asarray(array, float)

    def _read_clusters(self) -> None:
        if self.reader is None:
            raise NoClusterModel("there is no cluster model", "give one with --cluster")
        rows = self.reader.read(self.panel, self.clock)
        for name, values in rows.items():
            self._series[name] = values
            self.reach.needs[name] = {"cluster"}
            self.reach.inputs.setdefault(name, set())
            self.reach.bars[name] = self.reader.reach(self.spec)
            if name not in self.reach.stack:
                self.reach.order.append(name)

    def _back(self, name: str, bars: int) -> Doubles:
        values = self._looked(name, bars)
        out = np.full(values.shape, np.nan)
        if bars < len(values):
            out[bars:] = values[: len(values) - bars] if bars else values
        return out

    def _window(self, name: str, bars: int, what: str) -> Doubles:
        values = self._looked(name, bars - 1)
        key = (name, bars, what)
        if key not in self._windows:
            self._windows[key] = trailing(_masked(values, what), bars, _COMBINE[what])
        return self._windows[key]

    def since_open(self, name: str) -> Doubles:
        values = self._looked(name, self.spec.bars_per_session - 1)
        filled = _masked(values, "filled")
        out = np.full(values.shape, np.nan)
        starts = np.flatnonzero(self._place == 0)
        for start, stop in zip(starts, np.append(starts, len(values))[1:], strict=True):
            out[start:stop] = np.cumsum(filled[start:stop], axis=0)
        return out

    def at_open(self, name: str) -> Doubles:
        return self._gather(name, self._place, self.spec.bars_per_session - 1)

    def before_open(self, name: str) -> Doubles:
        return self._gather(name, self._place + 1, self.spec.bars_per_session)

    def _sessions_ago(self, name: str, sessions: int) -> Doubles:
        back = self.clock.sessions_ago(sessions)
        return self._gather(name, back, sessions * self.spec.bars_per_session)

    def _gather(self, name: str, back: NDArray[np.int64], most: int) -> Doubles:
        values = self._looked(name, most)
        row = np.arange(len(values)) - back
        known = (back >= 0) & (row >= 0)
        return np.where(known[:, None], values[np.clip(row, 0, len(values) - 1)], np.nan)


def _masked(values: Doubles, what: str) -> Doubles:
    known = np.isfinite(values)
    if what == "known":
        return known.astype(float)
    return np.where(known, values, {"filled": 0.0, "highest": -np.inf, "lowest": np.inf}[what])


_COMBINE: Mapping[str, Combine] = {
    "known": np.add,
    "filled": np.add,
    "highest": np.maximum,
    "lowest": np.minimum,
}


class _Ring:
    """The newest rows of a series, always contiguous."""

    def __init__(self, held: int, rows: Doubles) -> None:
        self.held = held
        kept = rows[-held:]
        self._buffer = np.empty((max(2 * held, held + 64), rows.shape[1]))
        self._buffer[: len(kept)] = kept
        self._end = len(kept)

    def append(self, row: Doubles) -> None:
        if self._end == len(self._buffer):
            kept = self._buffer[self._end - self.held + 1 :].copy()
            self._buffer[: len(kept)] = kept
            self._end = len(kept)
        self._buffer[self._end] = row
        self._end += 1

    def last(self, bars: int) -> Doubles:
        """The newest `bars` rows; fewer at the start of history."""
        return self._buffer[max(0, self._end - bars) : self._end]

    def back(self, bars: int) -> Doubles:
        """One row, (1, n_columns); NaN when it lies before the start."""
        place = self._end - 1 - bars
        if place < 0:
            return np.full((1, self._buffer.shape[1]), np.nan)
        return self._buffer[place : place + 1]


class _Held:
    """What a live view keeps of a series: its newest rows, as they are and with gaps filled, and
    how many values each look-back knows.

    Filled rows and counts are begun when they are first asked for and then kept up row by row.
    """

    def __init__(self, held: int, rows: Doubles) -> None:
        self.rows = _Ring(held, rows)
        self._filled: dict[str, _Ring] = {}
        self._counts: dict[int, Doubles] = {}

    def append(self, row: Doubles) -> None:
        known = np.isfinite(row)
        for bars, count in self._counts.items():
            leaves = np.isfinite(self.rows.back(bars - 1))
            self._counts[bars] = count + known - leaves  # whole numbers: exact
        self.rows.append(row)
        for what, ring in self._filled.items():
            ring.append(_masked(row, what))

    def filled(self, what: str, bars: int) -> Doubles:
        """The newest `bars` rows, masked; fewer at the start of history."""
        if what not in self._filled:
            held = self.rows.held
            self._filled[what] = _Ring(held, _masked(self.rows.last(held), what))
        return self._filled[what].last(bars)

    def window(self, bars: int, what: str) -> Doubles:
        """``known``, or filled values combined, over the newest `bars` rows, (1, n_columns)."""
        rows = self.rows.last(bars)
        if len(rows) < bars:
            return np.full((1, rows.shape[1]), np.nan)
        if what != "known":
            return trailing_last(self.filled(what, bars), _COMBINE[what])[None]
        if bars not in self._counts:
            self._counts[bars] = trailing_last(_masked(rows, what), np.add)[None]
        return self._counts[bars]


class LiveView(View):
    """Features at the newest bar; goes on from a :class:`BatchView` of the tail.

    Parameters
    ----------
    tail : BatchView
        Every feature wanted must have been computed on it, so that it knows what to keep.
    """

    def __init__(self, tail: BatchView) -> None:
        super().__init__(tail.settings)
        self.reader = tail.reader
        self._grid = tail.clock.grid
        self._position = int(tail.clock.position[-1])
        self._names = tail.panel.n_assets
        self._order = tuple(tail.reach.order)
        self._held = {
            name: _Held(tail.reach.held.get(name, 1), tail._series[name]) for name in self._order
        }
        self._fresh: dict[str, Doubles] = {}
        self._windows: dict[tuple[str, int, str], Doubles] = {}
        self._clock = SessionClock(self._grid, np.array([self._position]))

    @property
    def minute(self) -> Doubles:
        return self._clock.minute[:, None]

    @property
    def session_length(self) -> Doubles:
        return self._clock.length[:, None]

    def advance(self, bar: Panel) -> None:
        """Take in the next bar.

        Parameters
        ----------
        bar : Panel of one bar
            The one after the newest, with the names in the same order.
        """
        self._position += 1
        self._clock = SessionClock(self._grid, np.array([self._position]))
        self._windows.clear()
        reader = self.reader if self._reads_clusters else None
        clusters = {} if reader is None else reader.step(bar, self._clock)
        for name in self._order:
            if name in RAW_NEEDS:
                row = self._raw(bar, name)
            elif name in clusters:
                row = clusters[name]
            else:
                with np.errstate(all="ignore"):
                    row = SERIES[name].compute(self)
            self._held[name].append(np.asarray(row, float)[0])

    @property
    def _reads_clusters(self) -> bool:
        return any(name in CLUSTER_SERIES for name in self._order)

    def _raw(self, bar: Panel, name: str) -> Doubles:
        if name == "close":
            return bar.prices
        return bar.mask.astype(float) if name == "member" else bar.extras()[name]

    def now(self, name: str) -> Doubles:
        return self._held[name].rows.back(0)

    def _back(self, name: str, bars: int) -> Doubles:
        return self._held[name].rows.back(bars)

    def _window(self, name: str, bars: int, what: str) -> Doubles:
        key = (name, bars, what)
        if key not in self._windows:
            self._windows[key] = self._held[name].window(bars, what)
        return self._windows[key]

    def since_open(self, name: str) -> Doubles:
        count = int(self._clock.place[0]) + 1
        rows = self._held[name].filled("filled", count)
        if len(rows) < count:
            return np.full((1, rows.shape[1]), np.nan)
        return np.cumsum(rows, axis=0)[-1:]

    def at_open(self, name: str) -> Doubles:
        return self._held[name].rows.back(int(self._clock.place[0]))

    def before_open(self, name: str) -> Doubles:
        return self._held[name].rows.back(int(self._clock.place[0]) + 1)

    def _sessions_ago(self, name: str, sessions: int) -> Doubles:
        back = int(self._clock.sessions_ago(sessions)[0])
        ring = self._held[name].rows
        return np.full_like(ring.back(0), np.nan) if back < 0 else ring.back(back)

"""What was known and when: prices and membership of many names on one time axis."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dpa.errors import DataError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
EXTRAS = ("dollar_volume", "open", "high", "low", "volume")  # optional arrays of a panel


def _read_only(array: NDArray[np.generic]) -> NDArray[np.generic]:
    view = array.view()
    view.flags.writeable = False
    return view


@dataclass(frozen=True, eq=False)
class Panel:
    """Prices of many names, and which of them may be held, bar by bar.

    Parameters
    ----------
    times : DatetimeIndex of shape (n_bars,)
        UTC moment at which each bar became known (its close); strictly increasing.
    names : tuple of str, length n_assets
        Unique ticker symbols, in column order.
    prices : float64 ndarray of shape (n_bars, n_assets)
        Split- and dividend-adjusted close, > 0. NaN where the name has no price at that bar:
        never filled, neither forwards nor backwards.
    mask : bool ndarray of shape (n_bars, n_assets)
        Membership: True where the name may be held, decided from that bar and earlier ones
        only. True implies a finite price. A name outside the mask has target weight 0.
    interval : str
        Bar length, for example ``"5m"`` or ``"1d"`` (see :mod:`dpa.market.intervals`).
    calendar : str
        exchange_calendars code of the venue, for example ``"XNYS"``.
    dollar_volume : float64 ndarray of shape (n_bars, n_assets), optional
        Traded value per bar in USD, NaN where unknown.
    open, high, low : float64 ndarrays of shape (n_bars, n_assets), optional
        First, highest and lowest price of the bar, adjusted like `prices`; NaN where unknown.
    volume : float64 ndarray of shape (n_bars, n_assets), optional
        Shares traded in the bar, >= 0; NaN where unknown.

    Notes
    -----
    The arrays are read-only. Cutting a panel is a view, so it costs nothing and shows
    nothing outside the cut.
    """

    times: pd.DatetimeIndex
    names: tuple[str, ...]
    prices: Floats
    mask: Bools
    interval: str
    calendar: str = "XNYS"
    dollar_volume: Floats | None = None
    open: Floats | None = None
    high: Floats | None = None
    low: Floats | None = None
    volume: Floats | None = None

    def __post_init__(self) -> None:
        shape = (len(self.times), len(self.names))
        if self.prices.shape != shape or self.mask.shape != shape:
            raise DataError(
                f"panel: prices {self.prices.shape} and mask {self.mask.shape} "
                f"do not match {shape[0]} times and {shape[1]} names"
            )
        if self.times.tz is None or str(self.times.tz) != "UTC":
            raise DataError(f"panel: times are {self.times.tz or 'naive'}", "convert them to UTC")
        if not (self.times.is_monotonic_increasing and self.times.is_unique):
            raise DataError("panel: times are not strictly increasing", "sort, drop duplicates")
        if bool((self.mask & ~np.isfinite(self.prices)).any()):
            raise DataError("panel: the mask is True where there is no price")
        object.__setattr__(self, "prices", _read_only(self.prices))
        object.__setattr__(self, "mask", _read_only(self.mask))
        for name, array in self.extras().items():
            if array.shape != shape:
                raise DataError(f"panel: {name} is {array.shape}, not {shape}")
            object.__setattr__(self, name, _read_only(array))

    def extras(self) -> dict[str, Floats]:
        """The optional arrays there are, by name; see :data:`EXTRAS`."""
        found = {name: getattr(self, name) for name in EXTRAS}
        return {name: array for name, array in found.items() if array is not None}

    @property
    def n_bars(self) -> int:
        """Number of bars."""
        return len(self.times)

    @property
    def n_assets(self) -> int:
        """Number of names."""
        return len(self.names)

    def window(self, start: int, stop: int) -> "Panel":
        """Bars ``start`` (inclusive) to ``stop`` (exclusive), as views."""
        if not 0 <= start <= stop <= self.n_bars:
            raise DataError(f"panel: bars [{start}, {stop}) are outside [0, {self.n_bars})")
        return self.rows(slice(start, stop))

    def rows(self, chosen: slice) -> "Panel":
        """The bars of a slice, as views."""
        return Panel(
            self.times[chosen],
            self.names,
            self.prices[chosen],
            self.mask[chosen],
            self.interval,
            self.calendar,
            **{name: array[chosen] for name, array in self.extras().items()},
        )

    def until(self, asof: pd.Timestamp) -> "Panel":
        """Everything known at `asof` (UTC), that bar included: the past, and nothing else."""
        known = self.times.as_unit("ns").searchsorted(asof.as_unit("ns"), side="right")
        return self.window(0, int(known))

    def returns(self) -> Floats:
        """Simple return per bar, shape (n_bars, n_assets).

        ``p[t]/p[t-1] - 1`` where both prices exist, NaN elsewhere; row 0 is NaN.
        """
        out = np.full(self.prices.shape, np.nan)
        np.divide(self.prices[1:], self.prices[:-1], out=out[1:])
        out[1:] -= 1.0
        return out


class BarSource(Protocol):
    """Whatever can hand out stretches of history: a Panel in memory or shards behind Ray."""

    @property
    def n_bars(self) -> int: ...
    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def interval(self) -> str: ...
    @property
    def calendar(self) -> str: ...

    def window(self, start: int, stop: int) -> Panel:
        """Bars ``start`` (inclusive) to ``stop`` (exclusive)."""
        ...


def concat(panels: Sequence[Panel]) -> Panel:
    """One panel from consecutive ones with the same names, interval and calendar."""
    first = panels[0]
    if any(
        (p.names, p.interval, p.calendar) != (first.names, first.interval, first.calendar)
        for p in panels
    ):
        raise DataError("panels to be joined differ in names, interval or calendar")
    extras = {
        name: np.concatenate([p.extras()[name] for p in panels])
        for name in EXTRAS
        if all(name in p.extras() for p in panels)
    }
    times = pd.DatetimeIndex(pd.Index(first.times).append([p.times for p in panels[1:]]))
    return Panel(
        times,
        first.names,
        np.concatenate([p.prices for p in panels]),
        np.concatenate([p.mask for p in panels]),
        first.interval,
        first.calendar,
        **extras,
    )

"""What is odd about a price history, and what of it will be masked."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dpa.config import DataConfig
from dpa.errors import DataError
from dpa.market.calendars import Nanoseconds, TradingCalendar, nanoseconds, utc_index
from dpa.market.panel import Bools, Floats, Panel
from dpa.market.ranges import between_dates
from dpa.market.readers import LoadReport, load_with_report
from dpa.market.universe import Universe, UniverseRules

REFUSED = {
    "duplicate": "repeated bars",
    "unordered": "bars out of order",
    "bad_price": "impossible prices",
    "bad_range": "highs and lows that are none of their bar",
    "empty_name": "names without a price",
    "misaligned": "stamps off the bar grid",
    "stamps": "stamps on the wrong side",
    "days": "too many prices on days without a session",
    "altered": "altered files",
}


@dataclass(frozen=True)
class Finding:
    """One kind of oddity.

    Parameters
    ----------
    kind : str
        What it is.
    count : int
        How often it occurs.
    names : int
        In how many names; 0 where that makes no sense.
    example : str
        The first or worst case.
    refused : bool
        Whether loading refuses the data because of it.
    """

    kind: str
    count: int
    names: int = 0
    example: str = ""
    refused: bool = False


@dataclass(frozen=True)
class NameQuality:
    """One name: dates of its first and last price, and counts of its oddities in bars.

    ``missing`` and ``longest_gap`` count bars without a price between the first and the last;
    ``masked`` is the fraction of all bars in which the name may not be held.
    """

    name: str
    first: str
    last: str
    missing: int
    longest_gap: int
    jumps: int
    stale: int
    masked: float


@dataclass(frozen=True)
class QualityReport:
    """What ``dpa data check`` found.

    Parameters
    ----------
    origin : str
        File or directory.
    interval, calendar, first, last : str
        Bar length, venue, first and last bar (UTC).
    n_bars, n_names : int
        Size after selection.
    findings : tuple of Finding
        In a fixed order, those without cases included.
    masked : dict
        Fraction of name-bars outside the mask, by reason.
    names : tuple of NameQuality
        Every name, most missing bars first.
    """

    origin: str
    interval: str
    calendar: str
    first: str
    last: str
    n_bars: int
    n_names: int
    findings: tuple[Finding, ...]
    masked: dict[str, float]
    names: tuple[NameQuality, ...]

    @property
    def is_refused(self) -> bool:
        """Whether loading refuses this data."""
        return any(finding.refused and finding.count for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return asdict(self) | {"is_refused": self.is_refused}


@dataclass(frozen=True, eq=False)
class _Tally:
    """Takes note of faults instead of raising them."""

    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)

    def __call__(self, kind: str, count: int, error: DataError) -> None:
        if kind not in REFUSED:
            raise error
        self.counts[kind] = self.counts.get(kind, 0) + count
        self.first.setdefault(kind, error.what)


def check_quality(config: DataConfig, jump: float = 0.25, stale_bars: int = 10) -> QualityReport:
    """Look a history over; nothing is changed.

    Parameters
    ----------
    config : DataConfig
        As for :func:`~dpa.market.readers.load_wide_data`.
    jump : float
        A move between neighbouring prices of more than this fraction, either way, is a jump.
    stale_bars : int
        This many equal prices in a row are stale.

    Raises
    ------
    DataError
        When the data cannot be read at all.
    """
    tally = _Tally()
    dateless = config.model_copy(update={"start": None, "end": None})
    whole, loaded = load_with_report(dateless, tally)
    verdict = Universe(UniverseRules.from_config(config), whole.n_assets).judge(
        whole.prices, whole.dollar_volume
    )
    panel = between_dates(whole, config, loaded.origin)
    offset = int(nanoseconds(whole.times).searchsorted(nanoseconds(panel.times)[0]))
    part = slice(offset, offset + panel.n_bars)
    reasons = {
        "no price": verdict.no_price,
        "too short a history": verdict.short_history,
        "not liquid enough": verdict.illiquid,
        "not among the most liquid": verdict.below_top,
        "outside the stored universe": verdict.mask & ~whole.mask,
    }
    return QualityReport(
        loaded.origin,
        panel.interval,
        panel.calendar,
        panel.times[0].isoformat(),
        panel.times[-1].isoformat(),
        panel.n_bars,
        panel.n_assets,
        tuple(_findings(panel, tally, loaded, jump, stale_bars)),
        {reason: float(out[part].mean()) for reason, out in reasons.items()},
        _by_name(panel, jump, stale_bars),
    )


def _findings(
    panel: Panel, tally: _Tally, loaded: LoadReport, jump: float, stale_bars: int
) -> Iterator[Finding]:
    for kind, words in REFUSED.items():
        yield Finding(words, tally.counts.get(kind, 0), 0, tally.first.get(kind, ""), True)
    yield Finding("off-session prices, left out", loaded.off_session_prices)
    absent = missing_bars(panel)
    example = str(absent[0]) if len(absent) else ""
    yield Finding("session bars of no name", len(absent), 0, example)
    for words, cells in (
        ("gaps: bars missing inside a name's life", gap_cells(panel.prices)),
        (f"price jumps above {jump:.0%}", jump_cells(panel.prices, jump)),
        (f"stale prices, {stale_bars} bars or more", stale_cells(panel.prices, stale_bars)),
    ):
        yield Finding(words, int(cells.sum()), int(cells.any(axis=0).sum()), _worst(panel, cells))


def _worst(panel: Panel, cells: Bools) -> str:
    """Name with the most cases, and its first one."""
    if not cells.any():
        return ""
    place = int(cells.sum(axis=0).argmax())
    bar = int(cells[:, place].argmax())
    return f"{panel.names[place]}: {int(cells[:, place].sum())}, first {panel.times[bar]}"


def missing_bars(panel: Panel) -> pd.DatetimeIndex:
    """Bars of the calendar, between the first and the last of `panel`, that it does not have."""
    closes: Nanoseconds = nanoseconds(panel.times)
    day = pd.Timedelta(1, "D")
    calendar = TradingCalendar(panel.calendar)
    grid = calendar.bars(panel.interval, panel.times[0] - day, panel.times[-1] + day).closes
    grid = grid[(grid >= closes[0]) & (grid <= closes[-1])]
    return utc_index(np.setdiff1d(grid, closes))


def gap_cells(prices: Floats) -> Bools:
    """Missing prices between the first and the last price of a name, shape of `prices`."""
    priced = np.isfinite(prices)
    begun = np.logical_or.accumulate(priced, axis=0)
    goes_on = np.logical_or.accumulate(priced[::-1], axis=0)[::-1]
    gaps: Bools = ~priced & begun & goes_on
    return gaps


def jump_cells(prices: Floats, jump: float) -> Bools:
    """Prices more than `jump` above or below the previous price there is, gaps skipped."""
    bars = np.arange(len(prices))[:, None]
    known = np.maximum.accumulate(np.where(np.isfinite(prices), bars, -1), axis=0)
    previous = np.full(prices.shape, np.nan)
    if len(prices) > 1:
        carried = np.take_along_axis(prices, np.maximum(known[:-1], 0), axis=0)
        previous[1:] = np.where(known[:-1] >= 0, carried, np.nan)
    ratio = prices / previous
    jumps: Bools = np.maximum(ratio, 1 / ratio) > 1 + jump
    return jumps


def stale_cells(prices: Floats, stale_bars: int) -> Bools:
    """Prices in runs of at least `stale_bars` equal ones at consecutive bars."""
    bars = np.arange(len(prices))[:, None]
    same = np.zeros(prices.shape, dtype=bool)
    same[1:] = prices[1:] == prices[:-1]
    begin = np.maximum.accumulate(np.where(same, 0, bars), axis=0)
    length = bars - begin + 1
    goes_on = np.zeros(prices.shape, dtype=bool)
    goes_on[:-1] = same[1:]
    # the length at the end of a run, carried back over it
    ends = np.where(goes_on, len(prices), bars)
    end = np.minimum.accumulate(ends[::-1], axis=0)[::-1]
    stale: Bools = np.take_along_axis(length, end, axis=0) >= stale_bars
    return stale & np.isfinite(prices)


def longest_runs(cells: Bools) -> NDArray[np.int64]:
    """Longest run of True in each column, shape (n_assets,)."""
    count = np.cumsum(cells, axis=0)
    before = np.maximum.accumulate(np.where(cells, 0, count), axis=0)
    return np.asarray(np.max(count - before, axis=0, initial=0), dtype=np.int64)


def _by_name(panel: Panel, jump: float, stale_bars: int) -> tuple[NameQuality, ...]:
    gaps = gap_cells(panel.prices)
    missing, longest = gaps.sum(axis=0), longest_runs(gaps)
    jumps = jump_cells(panel.prices, jump).sum(axis=0)
    stale = stale_cells(panel.prices, stale_bars).sum(axis=0)
    masked = 1 - panel.mask.mean(axis=0)
    priced = np.isfinite(panel.prices)
    rows = []
    for place in np.argsort(-missing, kind="stable"):
        bars = np.flatnonzero(priced[:, place])
        ends = [panel.times[k].isoformat() for k in bars[[0, -1]]] if len(bars) else ["", ""]
        rows.append(
            NameQuality(
                panel.names[place],
                ends[0],
                ends[1],
                int(missing[place]),
                int(longest[place]),
                int(jumps[place]),
                int(stale[place]),
                float(masked[place]),
            )
        )
    return tuple(rows)

"""Longer bars: pandas' groupby per session as the oracle, and equal however cut."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dpa.config import DataConfig
from dpa.errors import DataError
from dpa.market.calendars import TradingCalendar
from dpa.market.panel import EXTRAS, Panel, concat
from dpa.market.readers import load_wide_data
from dpa.market.resampling import resample, resample_pieces
from dpa.market.session_grid import on_session_grid
from dpa.validation.truncation import changed_future

WEEK = ("2025-11-26", "2025-12-01")  # a holiday, a half day and a weekend


def random_bars(
    interval: str = "1m",
    dates: tuple[str, str] = WEEK,
    calendar: str = "XNYS",
    known: float = 0.4,
    seed: int = 0,
) -> Panel:
    """Whole-number prices and volumes with many gaps, so that sums are exact in any order."""
    times = TradingCalendar(calendar).bar_closes(interval, *dates)
    generator = np.random.default_rng(seed)
    shape = (len(times), 3)
    seen = generator.random(shape) < known * np.array([1, 0.3, 0.02])  # one hardly trades
    edges = np.sort(generator.integers(50, 150, (4, *shape)), axis=0).astype(float)
    low, start, end, high = (np.where(seen, edge, np.nan) for edge in edges)
    swap = generator.random(shape) < 0.5
    volume = np.where(seen, generator.integers(0, 1_000, shape), np.nan)
    mask = seen & (generator.random(shape) < 0.7)
    extras = {
        "open": np.where(swap, start, end),
        "high": high,
        "low": low,
        "volume": volume,
        "dollar_volume": volume * 100,
    }
    prices = np.where(swap, end, start)
    return Panel(times, ("A", "BRK.B", "C"), prices, mask, interval, calendar, **extras)


def same(left: Panel, right: Panel) -> None:
    pd.testing.assert_index_equal(left.times, right.times, exact=False, check_names=False)
    assert (left.names, left.interval, left.calendar) == (
        right.names,
        right.interval,
        right.calendar,
    )
    np.testing.assert_array_equal(left.prices, right.prices)
    np.testing.assert_array_equal(left.mask, right.mask)
    assert left.extras().keys() == right.extras().keys()
    for name, values in left.extras().items():
        np.testing.assert_array_equal(values, right.extras()[name])


def by_pandas(panel: Panel, minutes: int | None) -> dict[str, pd.DataFrame]:
    """Bars of `minutes` from each session's open, or of whole sessions, by groupby."""
    local = panel.times.tz_convert("America/New_York")
    day = local.normalize()
    number = (local - day - pd.Timedelta("9h30min") - pd.Timedelta("1ns")) // pd.Timedelta(
        minutes or 1_440, "min"
    )
    last = pd.Series(local, day).groupby(level=0).max().reindex(day)
    close = (
        day + pd.Timedelta("9h30min") + pd.to_timedelta((number + 1) * (minutes or 1_440), "min")
    )
    key = pd.DatetimeIndex(np.minimum(close.asi8, pd.DatetimeIndex(last).asi8)).tz_localize("UTC")

    def group(values: NDArray[np.float64]) -> pd.api.typing.DataFrameGroupBy:
        return pd.DataFrame(values, columns=panel.names).groupby(key)

    held = np.where(np.isfinite(panel.prices), panel.mask, np.nan)
    extras = panel.extras()
    return {
        "prices": group(panel.prices).last(),
        "mask": group(held).last() == 1,
        "open": group(extras["open"]).first(),
        "high": group(extras["high"]).max(),
        "low": group(extras["low"]).min(),
        "volume": group(extras["volume"]).sum(min_count=1),
        "dollar_volume": group(extras["dollar_volume"]).sum(min_count=1),
    }


@pytest.mark.parametrize(
    ("fine", "coarse", "minutes"),
    [("1m", "5m", 5), ("1m", "1h", 60), ("5m", "15m", 15), ("5m", "90m", 90), ("1m", "1d", None)],
)
@pytest.mark.parametrize("dates", [WEEK, ("2025-10-30", "2025-11-04")])
def test_against_pandas(
    fine: str, coarse: str, minutes: int | None, dates: tuple[str, str]
) -> None:
    panel = random_bars(fine, dates)
    found = resample(panel, coarse)
    for name, expected in by_pandas(panel, minutes).items():
        np.testing.assert_array_equal(getattr(found, name), expected.to_numpy(), err_msg=name)
        assert found.times.as_unit("ns").asi8.tolist() == expected.index.as_unit("ns").asi8.tolist()
    assert found.interval == coarse
    assert (found.times == TradingCalendar("XNYS").bar_closes(coarse, *dates)).all()


def test_by_hand() -> None:
    times = pd.DatetimeIndex([f"2025-11-28 17:5{k}" for k in range(1, 10)], tz="UTC")
    times = times.append(pd.DatetimeIndex(["2025-11-28 18:00"], tz="UTC"))  # the half day's close
    nan = np.nan
    prices = np.array([nan, 11.0, 12, nan, nan, 13, nan, nan, nan, nan])[:, None]
    panel = Panel(
        times,
        ("A",),
        prices,
        np.array([0, 1, 0, 0, 0, 1, 0, 0, 0, 0], dtype=bool)[:, None],
        "1m",
        open=prices - 1,
        high=prices + 2,
        low=prices - 2,
        volume=prices * 10,
    )
    found = resample(panel, "5m")
    assert found.times.tolist() == [times[4], times[9]]
    assert found.prices.tolist() == [[12], [13]]
    assert found.mask.tolist() == [[False], [True]]  # no longer a member at the last price
    assert found.open.tolist() == [[10], [12]]
    assert found.high.tolist() == [[14], [15]]
    assert found.low.tolist() == [[9], [11]]
    assert found.volume.tolist() == [[230], [130]]
    assert found.dollar_volume is None


@pytest.mark.parametrize(
    ("steps", "dates", "calendar"),
    [
        (("5m", "1d"), WEEK, "XNYS"),
        (("5m", "30m", "1d"), ("2025-10-30", "2025-11-04"), "XNYS"),
        (("15m", "1h", "1d"), ("2024-11-01", "2024-11-06"), "XTKS"),
        (("1h", "6h", "1d"), ("2025-03-29", "2025-03-31"), "24/7"),
    ],
)
def test_in_steps_equals_at_once(
    steps: tuple[str, ...], dates: tuple[str, str], calendar: str
) -> None:
    panel = random_bars("1m", dates, calendar)
    found = panel
    for step in steps:
        found = resample(found, step)
        assert (found.times == TradingCalendar(calendar).bar_closes(step, *dates)).all()
        same(found, resample(panel, step))


@given(
    cuts=st.lists(st.integers(0, 198), max_size=6),
    start=st.integers(0, 197),
    length=st.integers(0, 198),
    kept=st.floats(0.05, 1),
    coarse=st.sampled_from(["5m", "15m", "1h", "1d"]),
)
@settings(max_examples=60, deadline=None)
def test_the_same_however_cut(
    cuts: list[int], start: int, length: int, kept: float, coarse: str
) -> None:
    whole = random_bars("5m")
    rows = np.flatnonzero(np.random.default_rng(5).random(whole.n_bars) < kept)
    rows = rows[(rows >= start) & (rows < start + length)]
    panel = concat([whole.window(0, 0), *(whole.window(row, row + 1) for row in rows)])
    expected = resample(panel, coarse)
    ends = sorted({0, panel.n_bars, *(min(cut, panel.n_bars) for cut in cuts)})
    pieces = [panel.window(a, b) for a, b in itertools.pairwise(ends)] or [panel]
    same(concat(list(resample_pieces(iter(pieces), coarse))), expected)


def test_unfinished_bars_are_left_out() -> None:
    panel = random_bars("5m")
    whole = resample(panel, "1h")
    for cut in range(1, panel.n_bars, 7):
        found = resample(panel.window(0, cut), "1h")
        assert found.n_bars == (whole.times <= panel.times[cut - 1]).sum()
        same(found, whole.window(0, found.n_bars))
    assert resample(panel.window(0, 5), "1d").n_bars == 0
    assert resample(panel.window(0, 0), "1d").n_bars == 0


def test_bars_whose_beginning_is_not_there_are_left_out() -> None:
    panel = random_bars("5m")
    found = resample(panel.window(6, panel.n_bars), "1h")
    same(found, resample(panel, "1h").window(1, 18))
    assert resample(panel.window(1, 78), "1d").n_bars == 0


@pytest.mark.parametrize("change", ["permuted", "poisoned"])
def test_the_future_changes_nothing_before(change: str) -> None:
    panel = random_bars("5m")
    whole = resample(panel, "1h")
    for cut in (13, 90, 130):
        other = resample(changed_future(panel, cut, change, np.random.default_rng(cut)), "1h")
        known = int((whole.times <= panel.times[cut - 1]).sum())
        assert known > 0
        same(other.window(0, known), whole.window(0, known))


def test_the_grid_and_gaps_in_it() -> None:
    panel = random_bars("5m")
    rows = np.flatnonzero(np.isfinite(panel.prices).any(axis=1))
    assert 0 < len(rows) < panel.n_bars
    sparse = concat(
        [panel.window(row, row + 1) for row in [0, *rows[rows > 0], panel.n_bars - 1]][:-1]
    )
    kept = resample(sparse, "15m")
    dense = resample(on_session_grid(sparse), "15m")
    seen = np.isfinite(dense.prices).any(axis=1)
    np.testing.assert_array_equal(dense.prices[seen], kept.prices[np.isfinite(kept.prices).any(1)])


def test_what_cannot_be() -> None:
    panel = random_bars("5m")
    assert resample(panel, "5min") is panel
    assert list(resample_pieces(iter([]), "1d")) == []
    for wanted in ("1m", "12m"):
        with pytest.raises(DataError, match=f"bars of 5m do not make bars of {wanted}"):
            resample(panel, wanted)
    odd = Panel(panel.times + pd.Timedelta("1min"), panel.names, panel.prices, panel.mask, "5m")
    with pytest.raises(DataError, match="is none of the calendar's"):
        resample(odd, "1h")


def test_two_feeds_of_real_prices_agree(market_data: Path) -> None:
    """One minute bars are of a single venue, five minute bars of all: close, never equal."""
    names = ("SPY", "QQQ", "NVDA", "SPXL")
    minute, five = (
        load_wide_data(
            DataConfig(
                path=str(market_data / f"us_{n}min_bars.parquet"), stamps="start", names=names
            )
        )
        for n in (1, 5)
    )
    made = resample(minute, "5m")
    common = made.times.intersection(five.times)
    assert len(common) > 5_000
    found, told = (
        {
            name: getattr(panel, name)[panel.times.get_indexer(common)]
            for name in ("prices", *EXTRAS)
        }
        for panel in (made, five)
    )

    def apart(name: str, shift: int = 0) -> float:
        """Median distance, bps."""
        return float(np.nanmedian(np.abs(np.roll(found[name], shift, 0) / told[name] - 1)) * 1e4)

    for name in ("prices", "open", "high", "low"):
        assert apart(name) < 1.5
        assert apart(name, 1) > 3 * apart(name)  # a bar off in either direction is far worse
        assert apart(name, -1) > 3 * apart(name)
    # one venue sees a part of the trades, so its range lies inside
    assert np.nanmean(found["high"] / told["high"] - 1 > 1e-4) < 1e-3
    assert np.nanmean(1 - found["low"] / told["low"] > 1e-4) < 1e-3
    assert np.nanmedian(found["volume"] / told["volume"]) < 0.1
    same(resample(made, "1d"), resample(minute, "1d"))

"""The complete grid of session bars: half days, breaks, clock changes; whole or in windows."""

import pickle
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
from dpa.market.disk_source import DiskSource
from dpa.market.panel import EXTRAS, BarSource, Panel
from dpa.market.readers import load_wide_data, load_with_report
from dpa.market.resampling import resample
from dpa.market.selections import select_shards
from dpa.market.session_grid import GridSource, on_session_grid, session_numbers
from dpa.market.shard_files import write_shards

WEEK = ("2025-11-26", "2025-12-01")  # a holiday, a half day and a weekend


def complete(
    interval: str = "5m",
    dates: tuple[str, str] = WEEK,
    calendar: str = "XNYS",
    arrays: tuple[str, ...] = EXTRAS,
    seed: int = 0,
) -> Panel:
    """Every bar of the sessions; a tenth of the cells missing."""
    times = TradingCalendar(calendar).bar_closes(interval, *dates)
    generator = np.random.default_rng(seed)

    def values() -> NDArray[np.float64]:
        drawn = generator.uniform(50, 150, (len(times), 3))
        drawn[generator.random(drawn.shape) < 0.1] = np.nan
        return drawn

    prices = values()
    mask = np.isfinite(prices) & (generator.random(prices.shape) < 0.8)
    extras = {name: values() for name in arrays}
    return Panel(times, ("A", "BRK.B", "C"), prices, mask, interval, calendar, **extras)


def without(panel: Panel, rows: NDArray[np.int64]) -> Panel:
    """`panel` without some rows."""
    kept = np.setdiff1d(np.arange(panel.n_bars), rows)
    return Panel(
        panel.times[kept],
        panel.names,
        panel.prices[kept],
        panel.mask[kept],
        panel.interval,
        panel.calendar,
        **{name: values[kept] for name, values in panel.extras().items()},
    )


def emptied(panel: Panel, rows: NDArray[np.int64]) -> Panel:
    """`panel` with nothing known in some rows."""
    gone = np.isin(np.arange(panel.n_bars), rows)[:, None]
    return Panel(
        panel.times,
        panel.names,
        np.where(gone, np.nan, panel.prices),
        panel.mask & ~gone,
        panel.interval,
        panel.calendar,
        **{name: np.where(gone, np.nan, values) for name, values in panel.extras().items()},
    )


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


# ---- the grid


@given(
    rows=st.lists(st.integers(0, 196), max_size=150),
    interval=st.sampled_from(["5m", "30m", "1h"]),
    arrays=st.sampled_from([(), ("dollar_volume",), EXTRAS]),
)
@settings(max_examples=30, deadline=None)
def test_rows_that_are_missing_come_back_empty(
    rows: list[int], interval: str, arrays: tuple[str, ...]
) -> None:
    panel = complete(interval, arrays=arrays)
    gone = np.array([row for row in rows if row < panel.n_bars - 1], dtype=np.int64)
    same(on_session_grid(without(panel, gone)), emptied(panel, gone))


def test_a_complete_panel_is_returned_as_it_is() -> None:
    panel = complete()
    assert on_session_grid(panel) is panel
    assert on_session_grid(panel.window(0, 100)).n_bars == 100


def test_from_the_open_of_the_first_session_to_the_last_bar() -> None:
    panel = complete()
    grid = on_session_grid(panel.window(30, 100))
    assert grid.times[0] == panel.times[0]  # the first session begins before the panel
    assert grid.times[-1] == panel.times[99]  # and nothing is known after it
    assert np.isnan(grid.prices[:30]).all()
    np.testing.assert_array_equal(grid.prices[30:], panel.prices[30:100])


def test_a_holiday_and_a_half_day() -> None:
    panel = complete("5m")
    only_ends = without(panel, np.arange(1, panel.n_bars - 1))
    local = on_session_grid(only_ends).times.tz_convert("America/New_York")
    per_day = pd.Series(1, local.strftime("%m-%d")).groupby(level=0).sum()
    assert per_day.to_dict() == {"11-26": 78, "11-28": 42, "12-01": 78}
    days = complete("1d", ("2025-07-01", "2025-07-08"))
    assert on_session_grid(without(days, np.array([1, 2]))).n_bars == 5
    assert on_session_grid(without(days, np.array([1, 2]))).times[2] == pd.Timestamp(
        "2025-07-03 17:00", tz="UTC"
    )


def test_bars_of_another_grid_are_refused() -> None:
    panel = complete("5m")
    odd = Panel(panel.times + pd.Timedelta("1min"), panel.names, panel.prices, panel.mask, "5m")
    with pytest.raises(DataError, match=r"bar 2025-11-26 14:36:00\+00:00 is none of the calendar"):
        on_session_grid(odd)
    with pytest.raises(DataError, match="0 times for 0 bars"):
        on_session_grid(panel.window(0, 0))


# ---- sessions and minutes


def by_the_clock(times: pd.DatetimeIndex, calendar: str) -> list[tuple[int, float]]:
    """Sessions and elapsed minutes, counted one open minute at a time."""
    found = TradingCalendar(calendar).bars("1m", times[0].date(), times[-1].date())
    minutes = pd.DatetimeIndex(found.closes.view("M8[ns]"), tz="UTC")
    first = None
    out = []
    for time in times:
        here = int(found.session[minutes.searchsorted(time)])
        first = here if first is None else first
        inside = (found.session == here) & (minutes <= time)
        out.append((here - first, float(inside.sum())))
    return out


@pytest.mark.parametrize(
    ("interval", "dates", "calendar"),
    [
        ("5m", WEEK, "XNYS"),
        ("1h", ("2025-10-30", "2025-11-04"), "XNYS"),  # clocks go back
        ("1d", ("2025-12-22", "2025-12-29"), "XNYS"),  # a half day
        ("15m", ("2024-11-01", "2024-11-06"), "XTKS"),  # a break; longer hours from the 5th
        ("1h", ("2024-11-01", "2024-11-06"), "XTKS"),  # short bars before the break
        ("1d", ("2024-10-31", "2024-11-06"), "XTKS"),
        ("2h", ("2025-03-29", "2025-03-31"), "24/7"),
        ("30m", ("2025-03-27", "2025-03-31"), "XLON"),  # clocks go forward
    ],
)
def test_session_numbers(interval: str, dates: tuple[str, str], calendar: str) -> None:
    times = TradingCalendar(calendar).bar_closes(interval, *dates)
    session, minute = session_numbers(times, interval, calendar)
    assert session.dtype == np.int64
    assert minute.dtype == np.float64
    expected = by_the_clock(times, calendar)
    assert list(zip(session.tolist(), minute.tolist(), strict=True)) == expected
    part = slice(len(times) // 3, None, 2)
    session, minute = session_numbers(times[part], interval, calendar)
    begin = expected[part.start][0]
    assert list(zip((session + begin).tolist(), minute.tolist(), strict=True)) == expected[part]


def test_session_numbers_by_hand() -> None:
    times = pd.DatetimeIndex(
        ["2025-11-26 14:35", "2025-11-26 21:00", "2025-11-28 18:00", "2025-12-01 14:35"], tz="UTC"
    )
    session, minute = session_numbers(times, "5m", "XNYS")
    assert session.tolist() == [0, 0, 1, 2]
    assert minute.tolist() == [5, 390, 210, 5]
    session, minute = session_numbers(times[:0], "5m", "XNYS")
    assert (len(session), len(minute)) == (0, 0)
    with pytest.raises(DataError, match="is none of the calendar's"):
        session_numbers(times + pd.Timedelta("1min"), "5m", "XNYS")


# ---- windows


class Watched:
    """A source that counts the bars it hands out."""

    def __init__(self, panel: Panel) -> None:
        self.panel, self.asked = panel, 0
        self.n_bars, self.names = panel.n_bars, panel.names
        self.interval, self.calendar = panel.interval, panel.calendar

    def window(self, start: int, stop: int) -> Panel:
        self.asked += stop - start
        return self.panel.window(start, stop)


GAPS = np.array([0, 5, 6, 77, 78, 79, 120, 150, 151])


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, BarSource]:
    """The same bars with gaps, as a grid over memory, a foreign source and files."""
    panel = without(complete(), GAPS)
    write_shards(panel, tmp_path / "s", 37)
    selection = select_shards(tmp_path / "s", DataConfig())
    return {
        "panel": GridSource(panel),
        "foreign": GridSource(Watched(panel), panel.times),
        "files": GridSource(selection),
        "source of files": GridSource(DiskSource(selection)),
        "grid of a grid": GridSource(GridSource(selection)),
        "sent": pickle.loads(pickle.dumps(GridSource(selection))),  # noqa: S301 - our own bytes
    }


def test_windows_of_any_source_are_those_of_the_whole(sources: dict[str, BarSource]) -> None:
    expected = emptied(complete(), GAPS)
    generator = np.random.default_rng(1)
    ends = np.sort(generator.integers(0, expected.n_bars + 1, (20, 2)), axis=1)
    for name, source in sources.items():
        assert (name, source.n_bars, source.names) == (name, expected.n_bars, expected.names)
        assert (source.interval, source.calendar) == ("5m", "XNYS")
        for start, stop in [*ends.tolist(), (0, expected.n_bars), (0, 1), (5, 7), (3, 3)]:
            same(source.window(start, stop), expected.window(start, stop))
            times = source.times(start, stop)
            assert (times == expected.times[start:stop]).all()
        with pytest.raises(DataError, match=r"grid: bars \[0, 199\) are outside \[0, 198\)"):
            source.window(0, 199)


def test_a_window_asks_for_its_own_bars_only() -> None:
    watched = Watched(without(complete(), GAPS))
    source = GridSource(watched, watched.panel.times)
    assert watched.asked == 0
    source.window(70, 90)
    assert watched.asked == 17
    with pytest.raises(DataError, match="does not tell its bar times"):
        GridSource(watched)
    with pytest.raises(DataError, match=r"100 times for 189 bars"):
        GridSource(watched, watched.panel.times[:100])


def test_the_calendar_is_consulted_once_for_plain_files_too(tmp_path: Path) -> None:
    panel = without(complete("1d", ("2024-01-02", "2024-06-28"), arrays=()), np.array([3, 4, 50]))
    frame = pd.DataFrame(panel.prices, panel.times.tz_convert("America/New_York").date, panel.names)
    frame.index.name = "date"
    for place, part in enumerate(np.array_split(np.arange(len(frame)), 3)):
        frame.iloc[part].to_parquet(tmp_path / f"{place}.parquet")
    config = DataConfig(path=str(tmp_path), start="2024-01-04", end="2024-06-20", names=("C", "A"))
    source = GridSource(select_shards(tmp_path, config))
    same(source.window(0, source.n_bars), on_session_grid(load_wide_data(config)))


def test_a_file_as_vendors_write_it(tmp_path: Path) -> None:
    """Starts of bars, early and late hours, a late listing, a clock change and a half day."""
    days = ["2025-10-31", "2025-11-03", "2025-11-28", "2025-12-01"]
    starts = pd.DatetimeIndex(
        [
            stamp
            for day in days
            for stamp in pd.date_range(f"{day} 04:00", f"{day} 19:55", freq="5min")
        ]
    )
    generator = np.random.default_rng(2)
    frames = []
    for symbol, first in (("BRK.B", "2025-10-31"), ("NEW", "2025-11-03 12:00")):
        times = starts[starts >= pd.Timestamp(first)]
        low = generator.integers(50, 100, len(times)).astype(float)
        frame = pd.DataFrame({"symbol": symbol, "time": times, "open": low + 1, "high": low + 3})
        frames.append(frame.assign(low=low, close=low + 2, volume=10.0))
    rows = pd.concat(frames).sample(frac=0.7, random_state=1)
    rows.to_csv(tmp_path / "a.csv", index=False)
    minute = rows["time"].dt.hour * 60 + rows["time"].dt.minute
    end = np.where(rows["time"].dt.strftime("%m-%d") == "11-28", 780, 960)
    inside = rows[(minute >= 570) & (minute < end)].sort_values("time")

    config = DataConfig(path=str(tmp_path / "a.csv"), stamps="start", interval="5m")
    panel, report = load_with_report(config)
    assert report.off_session_prices == len(rows) - len(inside)
    grid = on_session_grid(panel)
    local = grid.times.tz_convert("America/New_York") - pd.Timedelta("5min")
    table = inside.assign(time=inside["time"].dt.tz_localize("America/New_York"))
    for name, values in {"close": grid.prices, **grid.extras()}.items():
        if name != "dollar_volume":
            wide = table.pivot(index="time", columns="symbol", values=name).reindex(local)
            np.testing.assert_array_equal(values, wide.to_numpy())
    assert np.isnan(grid.prices[: 78 + 30, grid.names.index("NEW")]).all()

    daily = resample(grid, "1d")
    traded = np.isfinite(daily.prices).any(axis=1)
    groups = inside.groupby([inside["time"].dt.strftime("%Y-%m-%d"), "symbol"])
    for name, how in (("close", "last"), ("open", "first"), ("high", "max"), ("volume", "sum")):
        wide = groups[name].agg(how).unstack().loc[days]
        values = daily.prices if name == "close" else daily.extras()[name]
        np.testing.assert_array_equal(values[traded], wide)


def test_real_bars_have_every_bar_of_their_sessions(market_data: Path) -> None:
    path = str(market_data / "us_5min_bars.parquet")
    panel = load_wide_data(DataConfig(path=path, stamps="start", names=("SPY", "SOXL")))
    grid = on_session_grid(panel)
    session, minute = session_numbers(grid.times, "5m", "XNYS")
    assert grid.n_bars >= panel.n_bars
    local = grid.times.tz_convert("America/New_York")
    lengths = pd.Series(minute, local.strftime("%Y-%m-%d")).groupby(level=0).max()
    halves = lengths.index[lengths == 210].tolist()
    assert halves == ["2025-07-03", "2025-11-28", "2025-12-24"]
    assert set(lengths) == {210.0, 390.0}
    assert session[-1] + 1 == len(lengths)

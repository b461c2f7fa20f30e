"""Intervals, sessions and bars: holidays, half days, clock changes, lunch breaks."""

import exchange_calendars
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpa.errors import ConfigError, DataError
from dpa.market.calendars import TradingCalendar, as_date
from dpa.market.intervals import Interval, parse_interval


@pytest.mark.parametrize(
    ("text", "seconds", "shown"),
    [("5m", 300, "5m"), ("60m", 3_600, "1h"), ("90min", 5_400, "90m"), (" 1D ", 86_400, "1d")],
)
def test_intervals_are_read_and_shown(text: str, seconds: int, shown: str) -> None:
    interval = parse_interval(text)
    assert (interval.seconds, str(interval)) == (seconds, shown)
    assert parse_interval(str(interval)) == interval
    assert interval.is_daily == (seconds == 86_400)


@pytest.mark.parametrize(
    "text", ["30s", "60s", "7m", "0m", "5d", "1w", "5", "m", "1.5h", "-5m", ""]
)
def test_intervals_that_do_not_divide_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"interval|seconds") as caught:
        parse_interval(text)
    assert caught.value.cure


# the oracle's own use of pandas
OLD_PANDAS = pytest.mark.filterwarnings("ignore:Series.values", "ignore:DatetimeIndex.weekday")


@OLD_PANDAS
@pytest.mark.parametrize("code", ["XNYS", "XLON", "XHKG"])
@pytest.mark.parametrize("interval", ["5m", "30m", "1h"])
def test_bars_are_those_of_exchange_calendars(code: str, interval: str) -> None:
    start, end = "2024-10-15", "2025-01-15"
    oracle = exchange_calendars.get_calendar(code, start="2024-01-01", end="2025-12-31")
    expected = oracle.trading_index(
        start, end, f"{parse_interval(interval).minutes}min", closed="right", force=True
    )
    bars = TradingCalendar(code).bars(interval, start, end)
    np.testing.assert_array_equal(bars.closes, expected.right.tz_localize(None).asi8)
    np.testing.assert_array_equal(bars.opens, expected.left.tz_localize(None).asi8)


def test_half_days_and_the_clock_change_are_real() -> None:
    calendar = TradingCalendar("XNYS")
    closes = calendar.bar_closes("5m", "2025-10-31", "2025-11-28")
    local = closes.tz_convert("America/New_York")
    assert set(local[local.normalize() == "2025-11-28"].strftime("%H:%M")) >= {"09:35", "13:00"}
    per_day = pd.Series(1, index=local).groupby(local.strftime("%Y-%m-%d")).sum()
    assert per_day["2025-11-28"] == 42
    assert set(per_day.drop("2025-11-28")) == {78}
    assert "2025-11-27" not in per_day  # Thanksgiving
    # clocks went back on 2 November 2025
    assert calendar.session_close("2025-10-31") == pd.Timestamp("2025-10-31 20:00", tz="UTC")
    assert calendar.session_close("2025-11-03") == pd.Timestamp("2025-11-03 21:00", tz="UTC")
    assert calendar.session_close("2025-11-28") == pd.Timestamp("2025-11-28 18:00", tz="UTC")
    minutes = calendar.session_minutes("2025-07-02", "2025-07-07")
    assert minutes.tolist() == [390, 210, 390]
    assert TradingCalendar("XHKG").session_minutes("2025-06-03", "2025-06-03").tolist() == [330]


def test_the_last_bar_of_a_session_is_short_when_the_interval_does_not_divide_it() -> None:
    local = TradingCalendar("XNYS").bar_closes("2h", "2025-07-02", "2025-07-03")
    assert local.tz_convert("America/New_York").strftime("%H:%M").tolist() == [
        *("11:30", "13:30", "15:30", "16:00"),
        *("11:30", "13:00"),
    ]


@OLD_PANDAS
def test_bars_per_year_come_from_the_calendar() -> None:
    calendar = TradingCalendar("XNYS")
    oracle = exchange_calendars.get_calendar("XNYS", start="2004-01-01", end="2023-12-31")
    assert calendar.bars_per_year("1d") == len(oracle.sessions) / 20
    minutes = calendar.bars_per_year("1m")
    assert minutes == len(oracle.minutes) / 20
    assert calendar.bars_per_year("5m") == minutes / 5
    assert TradingCalendar("24/7").bars_per_year("1d") == pytest.approx(365.25)


def test_years_between_counts_nights() -> None:
    calendar = TradingCalendar("XNYS")
    start, end = (pd.Timestamp(f"{year}-01-01", tz="UTC") for year in (2001, 2401))
    assert calendar.years_between(start, end) == pytest.approx(400, rel=1e-12)


@given(
    st.dates(pd.Timestamp("1991-01-01").date(), pd.Timestamp("2030-12-31").date()),
    st.integers(0, 40),
)
@settings(max_examples=40, deadline=None)
def test_daily_bars_are_the_sessions(first: object, days: int) -> None:
    calendar = TradingCalendar("XNYS")
    start = pd.Timestamp(first)
    end = start + pd.Timedelta(days, "D")
    sessions = calendar.sessions(start, end)
    closes = calendar.bar_closes("1d", start, end)
    assert [calendar.session_close(s) for s in sessions] == closes.tolist()
    assert ((sessions >= start) & (sessions <= end)).all()
    assert closes.is_monotonic_increasing
    assert (calendar.bar_closes("30m", start, end).isin(closes)).sum() == len(sessions)


def test_mistakes_have_a_cure() -> None:
    with pytest.raises(ConfigError, match="'XXXX' is not known; use an exchange_calendars code"):
        TradingCalendar("XXXX")
    with pytest.raises(DataError, match="2025-07-04 is not a session"):
        TradingCalendar("XNYS").session_close("2025-07-04")
    with pytest.raises(ConfigError, match=r"data.start: '2025-13-01' is not a date"):
        as_date("2025-13-01", "data.start")
    with pytest.raises(ConfigError, match="90000 seconds"):
        Interval(90_000)


@pytest.mark.parametrize(
    "text",
    [
        "", "NaT", "now", "2013", "2013-06", "2013-6-1", "20130601", "2013-06-01 10:00",
        "0001-01-01", "٢٠١٣-٠٦-٠١",
    ],
)  # fmt: skip
def test_only_whole_dates_are_dates(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        as_date(text, "data.start")
    assert str(caught.value) == f"data.start: {text!r} is not a date; write YYYY-MM-DD"


def test_a_date_is_a_naive_midnight() -> None:
    assert as_date("2013-06-01") == pd.Timestamp(2013, 6, 1)
    assert as_date(pd.Timestamp("2013-06-01 22:00", tz="UTC")) == pd.Timestamp(2013, 6, 1)

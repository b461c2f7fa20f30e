"""Places, minutes and sessions of bars, straight from the venue's hours."""

import numpy as np
import pandas as pd
import pytest

from dpa.errors import DataError
from dpa.horizons.clock import SessionClock, bar_grid
from dpa.market.panel import Panel
from tests.horizons.irregular import CLOCK_CHANGE, HALF_DAY, irregular_panel, on_dates


@pytest.fixture(scope="module")
def panel() -> Panel:
    return irregular_panel()


@pytest.fixture(scope="module")
def clock(panel):
    return SessionClock.of(panel.times, "5m", "XNYS")


def test_minutes_and_places_agree_with_the_wall_clock(panel, clock):
    local = panel.times.tz_convert("America/New_York")
    minutes = local.hour * 60 + local.minute - 570
    np.testing.assert_array_equal(clock.minute, minutes)
    np.testing.assert_array_equal(clock.place, minutes // 5 - 1)
    dates = pd.Series(local.strftime("%Y-%m-%d"))
    np.testing.assert_array_equal(clock.length, np.where(dates == HALF_DAY, 210.0, 390.0))
    np.testing.assert_array_equal(clock.session - clock.session[0], pd.factorize(dates)[0])


def test_bars_of_the_clock_change_are_an_hour_later_in_utc(panel, clock):
    before = on_dates(panel, "2024-11-01", "2024-11-01")[0]
    after = on_dates(panel, CLOCK_CHANGE, CLOCK_CHANGE)[0]
    assert panel.times[after].hour == panel.times[before].hour + 1
    assert clock.place[before] == clock.place[after] == 0


@pytest.mark.parametrize("sessions", [1, 2, 5])
def test_the_same_place_of_earlier_sessions(sessions, panel, clock):
    """A half day has no bars after 13:00, so an afternoon has no such bar there."""
    local = panel.times.tz_convert("America/New_York")
    dates = list(dict.fromkeys(local.strftime("%Y-%m-%d")))
    rows = {(t.strftime("%Y-%m-%d"), t.strftime("%H:%M")): k for k, t in enumerate(local)}
    found = clock.sessions_ago(sessions)
    for row in range(6 * 78, panel.n_bars, 7):
        date, time = local[row].strftime("%Y-%m-%d"), local[row].strftime("%H:%M")
        wanted = rows.get((dates[dates.index(date) - sessions], time))
        assert found[row] == (-1 if wanted is None else row - wanted)


def test_daily_bars_are_sessions_of_one_bar():
    moment = pd.Timestamp("2024-11-01", tz="UTC")
    grid = bar_grid("XNYS", "1d", moment, moment)
    times = pd.DatetimeIndex(grid.closes.view("M8[ns]"), tz="UTC")
    times = times[(times >= "2024-11-25") & (times < "2024-12-05")]
    clock = SessionClock.of(times, "1d", "XNYS")
    np.testing.assert_array_equal(clock.place, 0)
    np.testing.assert_array_equal(np.diff(clock.session), 1)
    np.testing.assert_array_equal(clock.sessions_ago(3), 3)
    np.testing.assert_array_equal(clock.minute, clock.length)


def test_the_grid_names_its_bars(panel, clock):
    assert clock.grid.time(int(clock.position[17])) == panel.times[17]


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda t: t.delete(700), "leaves a gap after 2024-11-07"),
        (lambda t: t[[1, 0, 2]], "is out of order after"),
        (lambda t: t[[0, 1, 1, 2]], "is out of order after"),
        (lambda t: t[:5] + pd.Timedelta("1min"), "is no bar of the calendar"),
        (lambda t: t[:1] + pd.Timedelta("12h"), "is no bar of the calendar"),
    ],
)
def test_bars_that_do_not_follow_one_another_are_named(spoil, named, panel):
    with pytest.raises(DataError, match=named) as caught:
        SessionClock.of(spoil(panel.times), "5m", "XNYS")
    assert caught.value.cure


def test_other_hours_and_breaks_are_the_calendar_s_own():
    """Tokyo rests at noon: session minutes do not pass then."""
    moment = pd.Timestamp("2023-06-01", tz="UTC")
    grid = bar_grid("XTKS", "5m", moment, moment)
    closes = pd.DatetimeIndex(grid.closes.view("M8[ns]"), tz="UTC").tz_convert("Asia/Tokyo")
    day = np.flatnonzero(closes.strftime("%Y-%m-%d") == "2023-06-01")
    assert closes[day[0]].strftime("%H:%M") == "09:05"
    np.testing.assert_array_equal(grid.minute[day], np.arange(5, 301, 5))

"""Intervals in minutes, bars and sessions: exact, or refused."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpa.errors import ConfigError, DataError
from dpa.market.interval_specs import (
    Horizon,
    IntervalSpec,
    check_divides,
    get_interval_spec,
    horizon_minutes_to_bars,
    minutes_to_bars,
    parse_horizon,
    parse_horizons,
    regular_session_minutes,
)
from dpa.market.intervals import Interval, parse_interval


def spec(text: str, session_minutes: int = 390) -> IntervalSpec:
    return IntervalSpec(parse_interval(text), session_minutes)


@pytest.mark.parametrize(
    ("text", "bar_minutes", "bars_per_session"),
    [
        ("1m", 1, 390),
        ("5m", 5, 78),
        ("15m", 15, 26),
        ("1h", 60, 7),
        ("12h", 390, 1),
        ("1d", 390, 1),
    ],
)
def test_both_measures_of_a_bar(text: str, bar_minutes: int, bars_per_session: int) -> None:
    assert spec(text).bar_minutes == bar_minutes
    assert spec(text).bars_per_session == bars_per_session


@pytest.mark.parametrize(
    ("calendar", "minutes"), [("XNYS", 390), ("XLON", 510), ("XTKS", 300), ("24/7", 1_440)]
)
def test_regular_sessions(calendar: str, minutes: int) -> None:
    assert regular_session_minutes(calendar) == minutes


def test_sessions_of_a_venue_that_changed_its_hours() -> None:
    assert regular_session_minutes("XTKS", ("2025-01-06", "2025-12-30")) == 330
    found = get_interval_spec("1d", None, calendar="XTKS", dates=("2025-01-06", "2025-12-30"))
    assert found.session_minutes == 330
    with pytest.raises(DataError, match="XNYS: no session from 2025-07-04 to 2025-07-06"):
        regular_session_minutes("XNYS", ("2025-07-04", "2025-07-06"))


@pytest.mark.parametrize(
    ("data", "config", "expected", "origin"),
    [
        ("1d", None, "1d", "data"),
        ("5m", "5min", "5m", "data"),
        (None, "1h", "1h", "config"),
        (None, None, "5m", "default"),
    ],
)
def test_who_says_the_interval(
    data: str | None, config: str | None, expected: str, origin: str
) -> None:
    found = get_interval_spec(data, config)
    assert (str(found.interval), found.origin, found.session_minutes) == (expected, origin, 390)


def test_contradictions_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"data.interval: 1m, but the data hold 5m bars; leave"):
        get_interval_spec("5m", "1m")
    for data in (None, "5m"):
        with pytest.raises(ConfigError, match=r"data.interval: interval '30s'"):
            get_interval_spec(data, "30s")


@pytest.mark.parametrize(
    ("minutes", "text", "up", "down"),
    [(5, "5m", 1, 1), (7, "5m", 2, 1), (1, "5m", 1, 1), (391, "1d", 2, 1), (780, "1d", 2, 2)],
)
def test_minutes_as_bars(minutes: int, text: str, up: int, down: int) -> None:
    assert minutes_to_bars(minutes, spec(text)) == up
    assert minutes_to_bars(minutes, spec(text), "floor") == down


@given(minutes=st.integers(1, 10_000), text=st.sampled_from(["1m", "5m", "15m", "1h", "1d"]))
def test_bars_cover_the_minutes_and_no_bar_more(minutes: int, text: str) -> None:
    unit = spec(text)
    bars = minutes_to_bars(minutes, unit)
    assert (bars - 1) * unit.bar_minutes < minutes <= bars * unit.bar_minutes
    exact = minutes % unit.bar_minutes == 0
    if exact:
        assert horizon_minutes_to_bars(minutes, unit) == bars
    else:
        with pytest.raises(ConfigError, match=f"use a multiple of {unit.bar_minutes} minutes"):
            horizon_minutes_to_bars(minutes, unit)


@pytest.mark.parametrize("minutes", [0, -1, math.inf, math.nan])
def test_no_length(minutes: float) -> None:
    with pytest.raises(ConfigError, match="give a length above zero"):
        minutes_to_bars(minutes, spec("5m"))


@pytest.mark.parametrize(
    ("text", "bar", "minutes", "bars"),
    [
        ("5m", "5m", 5, 1),
        (" 90MIN ", "5m", 90, 18),
        ("2h", "5m", 120, 24),
        ("1d", "5m", 390, 78),
        ("1d", "1d", 390, 1),
        ("21d", "1d", 8_190, 21),
        ("390m", "1d", 390, 1),
    ],
)
def test_horizons(text: str, bar: str, minutes: int, bars: int) -> None:
    assert parse_horizon(text, spec(bar)) == Horizon(minutes, bars, text.strip().lower())


@pytest.mark.parametrize(
    "text",
    ["", "5", "m", "0m", "-5m", "1.5h", "5s", "1w", "5m5", "٥m", "²d", "1d2h"],
)
def test_horizons_that_are_not_understood(text: str) -> None:
    with pytest.raises(ConfigError, match="is not understood; write minutes, hours or sessions"):
        parse_horizon(text, spec("5m"))


@pytest.mark.parametrize(("text", "bar"), [("7m", "5m"), ("30m", "1d"), ("1d", "1h")])
def test_horizons_that_are_no_whole_bars(text: str, bar: str) -> None:
    with pytest.raises(ConfigError, match=rf"horizon {text}: .* bars of {bar}; use a multiple"):
        parse_horizon(text, spec(bar))


@pytest.mark.parametrize(
    ("bar", "usual"),
    [
        ("1m", "5m 10m 15m 30m 60m 1d"),
        ("5m", "5m 10m 15m 30m 60m 1d"),
        ("15m", "15m 30m 60m 1d"),
        ("1h", "60m"),
        ("1d", "1d 2d 5d 10d 21d"),
    ],
)
def test_the_usual_horizons_are_whole_bars(bar: str, usual: str) -> None:
    assert " ".join(horizon.label for horizon in parse_horizons(None, spec(bar))) == usual


def test_horizons_come_sorted_and_once() -> None:
    found = parse_horizons(("1d", "5m", "1h"), spec("5m"))
    assert [horizon.bars for horizon in found] == [1, 12, 78]
    with pytest.raises(ConfigError, match="horizon 60m is given twice"):
        parse_horizons(("1h", "5m", "60m"), spec("5m"))
    with pytest.raises(ConfigError, match=r"holds no horizon; give at least one"):
        parse_horizons((), spec("5m"))
    with pytest.raises(ConfigError, match=r"2h bars have no usual one; .* such as 240m"):
        parse_horizons(None, spec("2h"))


def test_bars_that_make_longer_ones() -> None:
    for fine, coarse in (("1m", "5m"), ("5m", "5m"), ("5m", "1d"), ("1h", "1d"), ("15m", "90m")):
        check_divides(parse_interval(fine), parse_interval(coarse))
    for fine, coarse in (("5m", "1m"), ("1d", "1h"), ("10m", "15m"), ("1h", "90m")):
        with pytest.raises(DataError, match="do not make bars of"):
            check_divides(parse_interval(fine), parse_interval(coarse))
    check_divides(Interval(86_400), Interval(86_400))

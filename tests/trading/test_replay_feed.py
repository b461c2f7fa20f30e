"""Bars of the past as a feed: nothing of the future, quotes from what is known."""

import asyncio
from datetime import date, timedelta
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpa.errors import DataError
from dpa.trading.clocks import VirtualClock
from dpa.trading.replay_feed import RecordedQuotes, ReplayFeed
from tests.trading.engine_market import DAY, make_panel, utc, with_prices


def started(panel, clock=None, symbols=None, **options):
    clock = clock or VirtualClock(utc(9, 30))
    feed = ReplayFeed(panel, clock, **options)
    asyncio.run(feed.start(symbols or panel.names))
    return feed, clock


def test_every_bar_comes_once_at_its_close():
    panel = make_panel()
    feed, clock = started(panel)
    closes = []
    while not feed.ended:
        assert feed.due(feed.next_at - timedelta(microseconds=1)) == ()
        clock.move_to(feed.next_at)
        (bar,) = feed.due(clock.now())
        assert feed.due(clock.now()) == ()
        assert bar.panel.times[0] == bar.known_at == clock.now()
        assert (bar.missing, bar.late) == ((), False)
        closes.append(bar.panel.prices[0])
    np.testing.assert_array_equal(np.array(closes), panel.prices)
    assert feed.next_at is None


def test_bars_that_were_slept_through_come_together_in_order():
    feed, clock = started(make_panel())
    clock.move_to(utc(10))
    assert [bar.panel.times[0] for bar in feed.due(clock.now())] == [
        utc(9, 35), utc(9, 40), utc(9, 45), utc(9, 50), utc(9, 55), utc(10),
    ]  # fmt: skip


def test_symbols_are_those_asked_for_and_those_held():
    panel = make_panel(symbols=("CCC", "AAA", "BBB"))
    clock = VirtualClock(utc(9, 35))
    feed = ReplayFeed(panel, clock)
    asyncio.run(feed.start(["CCC"], held=["AAA", "ZZZ"]))
    assert feed.symbols == ("AAA", "CCC")
    (bar,) = feed.due(clock.now())
    assert bar.panel.names == ("AAA", "CCC")
    np.testing.assert_array_equal(bar.panel.prices[0], panel.prices[0, [1, 0]])
    assert set(feed.quotes()) == {"AAA", "CCC"}
    with pytest.raises(DataError, match="ZZZ"):
        asyncio.run(feed.start(["ZZZ"]))


@settings(max_examples=50, deadline=None)
@given(st.floats(0.02, 5000.0), st.floats(0.0, 50.0))
def test_quotes_are_a_cent_apart_or_more_around_the_close(close, half_spread):
    panel = make_panel(symbols=("AAA",))
    panel = with_prices(panel, np.full(panel.prices.shape, close))
    feed, clock = started(panel, half_spread_bps=half_spread)
    clock.move_to(utc(9, 35))
    quote = feed.quotes()["AAA"]
    bid = quote.bid or Decimal(0)
    assert quote.ask - bid >= Decimal("0.01")
    assert bid % Decimal("0.01") == 0
    assert quote.ask % Decimal("0.01") == 0
    assert abs(float(quote.ask + bid) / 2 - close) <= 0.0151
    assert float(quote.ask - bid) >= 2 * half_spread * 1e-4 * close - 0.0101


def test_there_is_no_quote_before_the_first_close():
    feed, clock = started(make_panel())
    clock.move_to(utc(9, 34, 59))
    assert feed.quotes() == {}
    assert feed.newest_tick_at is None


def test_a_name_without_a_price_keeps_its_old_quote():
    panel = make_panel()
    prices = np.array(panel.prices)
    prices[1:3, 0] = np.nan
    feed, clock = started(with_prices(panel, prices))
    clock.move_to(utc(9, 45, 30))
    quotes = feed.quotes()
    assert quotes["AAA"].time == utc(9, 35)
    assert quotes["BBB"].time == clock.now() - timedelta(milliseconds=50)


@given(st.integers(1, 155), st.integers(0, 600))
@settings(max_examples=30, deadline=None)
def test_cutting_the_future_changes_no_quote_bar_or_average(n_bars, seconds):
    panel = make_panel(DAY, date(2024, 7, 2))
    now = panel.times[n_bars - 1].to_pydatetime() + timedelta(seconds=seconds)
    known = int(panel.times.searchsorted(pd.Timestamp(now), side="right"))
    found = []
    for part in (panel, panel.window(0, known)):
        feed, clock = started(part, VirtualClock(utc(9, 30)))
        clock.move_to(now)
        closes = [bar.panel.prices.tolist() for bar in feed.due(now)]
        found.append((feed.quotes(), closes, feed.adv_usd(now)))
    assert str(found[0]) == str(found[1])


def test_average_volume_is_that_of_the_sessions_before():
    panel = make_panel(DAY, date(2024, 7, 2))
    feed, _ = started(panel, first=78)
    assert np.isnan(feed.adv_usd(panel.times[0])["AAA"])
    traded = (panel.volume[:78] * panel.prices[:78]).sum(axis=0)
    assert feed.adv_usd(panel.times[100])["BBB"] == pytest.approx(traded[1])
    assert feed.past.n_bars == 78


def test_recorded_quotes_are_used_as_they_were_known():
    frame = pd.DataFrame(
        {
            "time": pd.to_datetime([utc(9, 35, 2), utc(9, 35, 1), utc(9, 36)]),
            "symbol": ["AAA", "AAA", "BBB"],
            "bid": [10.02, 10.01, np.nan],
            "ask": [10.04, 10.03, 11.0],
            "bid_size": [100, 200, 0],
            "ask_size": [300, 400, 500],
        }
    )
    feed, clock = started(make_panel(), quotes=RecordedQuotes(frame))
    clock.move_to(utc(9, 35))
    assert feed.quotes() == {}
    clock.move_to(utc(9, 35, 1.5))
    first = feed.quotes()["AAA"]
    assert (first.bid, first.ask, first.bid_size) == (Decimal("10.01"), Decimal("10.03"), 200)
    clock.move_to(utc(9, 40))
    quotes = feed.quotes()
    assert quotes["AAA"].time == utc(9, 35, 2)
    assert (quotes["BBB"].bid, quotes["BBB"].sound) == (None, False)


def test_recorded_quotes_come_from_parquet_and_are_checked(tmp_path):
    frame = pd.DataFrame({"time": [utc(9, 35)], "symbol": ["AAA"], "bid": [1.0], "ask": [2.0]})
    frame.to_parquet(tmp_path / "quotes.parquet")
    assert RecordedQuotes.read(tmp_path / "quotes.parquet").at("AAA", utc(10)).ask == 2
    with pytest.raises(DataError, match="ask"):
        RecordedQuotes(frame.drop(columns="ask"))
    with pytest.raises(DataError, match="time zone"):
        RecordedQuotes(frame.assign(time=frame["time"].dt.tz_localize(None)))
    with pytest.raises(DataError, match="cannot be read"):
        RecordedQuotes.read(tmp_path / "none.parquet")

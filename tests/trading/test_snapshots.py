"""What the graph is asked, field by field, and the volatility behind expected costs."""

import math
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpa.serving.wire import parse_arrow, parse_json, request_arrow, request_json
from dpa.trading.book_of_accounts import BookOfAccounts
from dpa.trading.snapshots import Volatility, closes_of, request_of, whole_shares
from dpa.trading.types import Position, Quote
from tests.trading.engine_market import DAY, MemoryKeeper, make_instruments, make_panel, utc

D = Decimal
MOMENT = utc(9, 35, 0.5)


def make_request(quotes=None, positions=None, panel=None, moment=MOMENT, **instruments):
    panel = panel or make_panel().window(0, 1)
    book = BookOfAccounts("DU1", MemoryKeeper())
    book.see_prices(closes_of(panel))
    worth = book.value(DAY, D(1000), positions or {})
    return request_of(panel, moment, "DU1", worth, "aggregated", quotes or {}, positions or {},
                      make_instruments(**instruments), {"AAA": 5e6, "BBB": 0.0})  # fmt: skip


def quote(bid="99.9", ask="100.1", age=0.25, **changes):
    return Quote("AAA", MOMENT - timedelta(seconds=age), D(bid), D(ask), **changes)


def test_quotes_have_their_age_at_the_moment():
    request = make_request({"AAA": quote()})
    assert (request.bid[0], request.ask[0], request.quote_age_ms[0]) == (99.9, 100.1, 250.0)
    assert np.isnan(request.bid[1:]).all()
    assert np.isnan(request.quote_age_ms[1:]).all()
    assert make_request({"AAA": quote(age=-3)}).quote_age_ms[0] == 0


@pytest.mark.parametrize("bad", [{"halted": True}, {"delayed": True}])
def test_quotes_nobody_may_trade_on_are_not_shown(bad):
    request = make_request({"AAA": quote(**bad)})
    assert np.isnan([request.bid[0], request.ask[0], request.quote_age_ms[0]]).all()


def test_half_a_quote_has_no_age():
    request = make_request({"AAA": replace(quote(), bid=None)})
    assert math.isnan(request.bid[0])
    assert math.isnan(request.quote_age_ms[0])


def test_positions_are_whole_shares_and_lots_those_of_the_broker():
    positions = {s: Position("DU1", s, D(q), D(1)) for s, q in (("AAA", "-7.9"), ("BBB", "12"))}
    request = make_request(positions=positions, lot=5)
    assert list(request.shares) == [-7.0, 12.0, 0.0]
    assert list(request.lot) == [5.0] * 3
    assert whole_shares(positions, "AAA") == -7


def test_volumes_that_are_none_are_unknown():
    assert str(make_request().adv_usd.tolist()) == "[5000000.0, nan, nan]"


def test_a_clock_that_is_behind_the_bar_asks_at_its_close():
    request = make_request(moment=utc(9, 34, 59))
    assert request.moment == request.time


def test_a_request_travels_over_the_wire_unchanged():
    request = make_request({"AAA": quote()})
    for there in (
        parse_json(request_json(request), 100),
        parse_arrow(request_arrow(request), 100),
    ):
        assert there.names == request.names
        assert there.moment == request.moment
        np.testing.assert_array_equal(there.quote_age_ms, request.quote_age_ms)
        np.testing.assert_array_equal(there.bars["close"], request.bars["close"])


@given(st.integers(0, 1000), st.integers(1, 450))
@settings(max_examples=30, deadline=None)
def test_volatility_is_that_of_the_newest_returns_within_sessions(seed, n_bars):
    panel = make_panel(DAY, DAY + timedelta(days=9), seed=seed)
    panel = panel.window(0, min(n_bars, panel.n_bars))
    volatility, squares = Volatility(5), {name: [] for name in panel.names}
    for row in range(panel.n_bars):
        day = panel.times[row].date()
        volatility.see(panel.window(row, row + 1), day)
        if row and panel.times[row - 1].date() == day:
            for k, name in enumerate(panel.names):
                squares[name].append((panel.prices[row, k] / panel.prices[row - 1, k] - 1) ** 2)
    found = volatility.sigma_day()
    for name, values in squares.items():
        if len(values) < 20:
            assert name not in found
        else:
            assert found[name] == pytest.approx(math.sqrt(np.mean(values[-390:]) * 78), rel=1e-9)

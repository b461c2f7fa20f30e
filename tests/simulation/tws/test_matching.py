"""Trades never go through a limit, never beyond what is wanted or offered."""

from decimal import Decimal

from hypothesis import given, settings
from hypothesis import strategies as st

from dpa.simulation.tws.matching import conforms, reaches, trades, triggered

cents = st.integers(1, 2_000).map(lambda n: Decimal(n) / 100)
shares = st.integers(1, 5_000).map(Decimal)
side = st.lists(st.tuples(cents, shares), max_size=6)


def best_first(levels, buying):
    return sorted(levels, key=lambda level: level[0], reverse=not buying)


@settings(deadline=None)
@given(st.booleans(), shares, st.none() | cents, side, st.booleans())
def test_trades_keep_to_the_limit_the_order_and_the_book(buying, wanted, limit, levels, resting):
    levels = best_first(levels, buying)
    found = trades(buying, wanted, limit, levels, resting)
    assert sum(t.shares for t in found) <= wanted
    assert all(t.shares > 0 for t in found)
    for trade in found:
        assert reaches(buying, limit, trade.price)
    for (price, size), trade in zip(levels, found, strict=False):
        assert trade.shares <= size
        if limit is None or not resting:
            assert trade.price == price
        else:
            assert trade.price == limit


@settings(deadline=None)
@given(st.booleans(), shares, st.none() | cents, side)
def test_all_that_can_trade_does(buying, wanted, limit, levels):
    levels = best_first(levels, buying)
    within = sum((size for price, size in levels if reaches(buying, limit, price)), Decimal(0))
    found = trades(buying, wanted, limit, levels)
    assert sum((t.shares for t in found), Decimal(0)) == min(wanted, within)


def test_a_stop_is_triggered_at_its_price_and_past_it():
    stop = Decimal(10)
    assert [triggered(True, stop, Decimal(p)) for p in (9, 10, 11)] == [False, True, True]
    assert [triggered(False, stop, Decimal(p)) for p in (9, 10, 11)] == [True, True, False]


def test_what_conforms_is_a_multiple():
    assert conforms(Decimal("10.01"), Decimal("0.01"))
    assert not conforms(Decimal("10.011"), Decimal("0.01"))
    assert not conforms(Decimal("1.5"), Decimal(1))

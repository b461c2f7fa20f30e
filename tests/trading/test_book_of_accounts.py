"""What an account is worth and how old its positions are, by hand and through restarts."""

from datetime import date, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpa.trading.book_of_accounts import BookOfAccounts
from dpa.trading.types import Position
from tests.trading.engine_market import DAY, MemoryKeeper, utc

D = Decimal
NEXT = DAY + timedelta(days=1)


def positions(**shares):
    return {s: Position("DU1", s, D(q), D(1)) for s, q in shares.items()}


def test_nav_gross_net_and_largest_by_hand():
    book = BookOfAccounts("DU1", MemoryKeeper())
    book.see_prices({"AAA": D(10), "BBB": D(20)})
    worth = book.value(DAY, D(900), positions(AAA=30, BBB=-10))
    assert worth.nav == 900 + 300 - 200
    assert (worth.gross, worth.net, worth.largest) == (0.5, 0.1, 0.3)
    assert worth.known


@pytest.mark.parametrize("bad", [D("NaN"), D("Infinity"), D(0), D(-1)])
def test_what_is_no_price_is_not_taken(bad):
    book = BookOfAccounts("DU1", MemoryKeeper())
    book.see_prices({"AAA": D(10)})
    book.see_prices({"AAA": bad})
    assert book.price("AAA") == 10


def test_a_position_without_a_price_makes_the_nav_unknown_and_changes_nothing():
    book = BookOfAccounts("DU1", MemoryKeeper())
    book.value(DAY, D(1000), {})
    worth = book.value(DAY, D(1000), positions(AAA=1))
    assert (worth.known, worth.unpriced) == (False, ("AAA",))
    assert book.value(NEXT, D(1100), {}).prior_nav == 1000


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 10**6)), min_size=1, max_size=30))
def test_the_prior_nav_is_the_last_of_the_session_before_also_after_restarts(steps):
    keeper, day, last, before, first = MemoryKeeper(), DAY, None, None, None
    for days, cash in steps:
        book = BookOfAccounts("DU1", keeper)  # a restart at every bar
        following = day + timedelta(days=days)
        if last is not None and following > day:
            before = last
        day = following
        worth = book.value(day, D(cash), {})
        first = first or D(cash)
        assert worth.prior_nav == (before if before is not None else first)
        last = D(cash)


def test_a_position_ages_from_when_it_was_first_seen_on_its_side():
    keeper = MemoryKeeper()
    book = BookOfAccounts("DU1", keeper)
    for minute, shares in ((0, 10), (1, 30), (2, 5), (3, -5), (4, -9)):
        book.see_positions(positions(AAA=shares), utc(10, minute))
    assert book.opened_at("AAA") == utc(10, 3)
    assert BookOfAccounts("DU1", keeper).opened_at("AAA") == utc(10, 3)
    book.see_positions({}, utc(10, 5))
    assert book.opened_at("AAA") is None
    book.see_positions(positions(AAA=1), utc(10, 6))
    assert book.opened_at("AAA") == utc(10, 6)


def test_prices_of_positions_survive_a_restart():
    keeper = MemoryKeeper()
    book = BookOfAccounts("DU1", keeper)
    book.see_prices({"AAA": D("10.5"), "BBB": D(3)})
    book.see_positions(positions(AAA=2), utc(10))
    book.value(DAY, D(100), positions(AAA=2))
    again = BookOfAccounts("DU1", keeper)
    assert again.value(DAY, D(100), positions(AAA=2)).nav == 121
    assert again.price("BBB") is None


def test_accounts_are_kept_apart():
    keeper = MemoryKeeper()
    BookOfAccounts("DU1", keeper).value(date(2024, 7, 1), D(1), {})
    assert BookOfAccounts("DU2", keeper).value(date(2024, 7, 2), D(7), {}).prior_nav == 7

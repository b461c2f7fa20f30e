"""Orders at the venue: what becomes of them, and what their owner is told."""

from datetime import timedelta
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpa.errors import ConfigError
from dpa.simulation.tws.book import FIRST_PERM_ID
from dpa.simulation.tws.markets import planted_market
from dpa.simulation.tws.venue import SimVenue
from dpa.simulation.tws.words import Traits
from tests.simulation.tws.venues import (
    Ear,
    fields,
    flat_market,
    market,
    open_venue,
    order,
    place,
    run_for,
)

BUY_AT, SELL_AT = Decimal("50.00"), Decimal("49.99")  # far sides of the flat market


@pytest.fixture
def flat():
    return flat_market(price=49.995)


def quote_of(venue, symbol="N0"):
    return venue.quote(venue.find(0, symbol))


def test_a_market_order_fills_at_the_far_side_and_says_so_in_order(flat):
    venue, ear = open_venue(flat)
    assert place(venue, 1) is None
    assert ear.words == [
        "open_order",
        "order_status",
        "execution",
        "open_order",
        "order_status",
        "order_status",
        "commission",
        "position",
        "portfolio",
        "account_values",
    ]
    done, fill = order(venue, 1), ear.heard("execution")[0][0]
    assert (done.status, done.filled, done.average_price) == ("Filled", 100, quote_of(venue).ask)
    assert (fill.exec_id, fill.side, fill.ref) == ("0000e0d5.00000001.01.01", "BOT", "dpa-1")
    assert ear.heard("commission")[0][0].amount == 1
    assert done.perm_id == FIRST_PERM_ID
    assert venue.accounts["DU1234567"].cash == 1_000_000 - 100 * fill.price - 1


def test_large_orders_fill_in_parts_as_shares_are_shown(flat):
    venue, ear = open_venue(flat)
    shown = quote_of(venue).ask_size
    assert place(venue, 1, shares=10 * shown, limit=quote_of(venue).ask) is None
    assert order(venue, 1).filled == shown  # deeper prices are beyond the limit
    run_for(venue, 60)
    fills = [e.shares for (e,) in ear.heard("execution")]
    assert len(fills) > 3
    assert sum(fills) == order(venue, 1).filled
    assert order(venue, 1).average_price == quote_of(venue).ask
    assert {e.price for (e,) in ear.heard("execution")} == {quote_of(venue).ask}


def test_market_orders_walk_into_the_book(flat):
    venue, ear = open_venue(flat)
    shown, ask = quote_of(venue).ask_size, quote_of(venue).ask
    place(venue, 1, shares=2 * shown + 100)
    prices = [e.price for (e,) in ear.heard("execution")]
    assert prices == [ask, ask + Decimal("0.01"), ask + Decimal("0.02")]


def test_an_order_that_rested_trades_at_its_limit_when_the_market_comes():
    venue, ear = open_venue()
    limit = quote_of(venue).bid - Decimal("0.05")
    place(venue, 1, limit=limit)
    assert order(venue, 1).status == "Submitted"
    while not order(venue, 1).done and venue.advance():
        pass
    for (fill,) in ear.heard("execution"):
        assert fill.price == limit


def test_a_day_order_ends_with_the_session_and_a_gtc_order_does_not():
    venue, ear = open_venue(market(sessions=2))
    for number, tif in ((1, "DAY"), (2, "GTC")):
        place(venue, number, limit="0.01", tif=tif)
    closes = venue.hours.next_close(venue.clock.now())
    while venue.clock.now() < closes:
        venue.advance()
    assert (order(venue, 1).status, order(venue, 2).status) == ("Cancelled", "Submitted")
    assert 202 in ear.codes
    assert venue.open_orders(1) == (order(venue, 2),)


def test_ioc_takes_what_is_there_and_ends():
    venue, ear = open_venue(flat_market())
    shown = quote_of(venue).ask_size
    place(venue, 1, shares=5 * shown, limit=quote_of(venue).ask, tif="IOC")
    assert (order(venue, 1).status, order(venue, 1).filled) == ("Cancelled", shown)
    assert ear.codes == [202]


def test_a_stop_waits_for_its_price(flat):
    venue, _ = open_venue(flat)
    place(venue, 1, action="SELL", orderType="STP", auxPrice="49.00")
    place(venue, 2, action="SELL", orderType="STP LMT", auxPrice="50.01", limit=None, lmtPrice=49)
    assert order(venue, 1).status == "PreSubmitted"
    run_for(venue, 400)
    assert order(venue, 1).status == "PreSubmitted"
    assert order(venue, 2).status == "Filled"


def test_the_closing_auction_fills_all_at_one_price():
    venue, ear = open_venue()
    place(venue, 1, orderType="MOC", shares=5_000)
    place(venue, 2, orderType="LOC", limit=None, lmtPrice="0.01")
    closes = venue.hours.next_close(venue.clock.now())
    while venue.clock.now() < closes - timedelta(minutes=5):
        venue.advance()
    assert place(venue, 3, orderType="MOC") is None
    assert (order(venue, 3).status, ear.codes) == ("Inactive", [201])
    while venue.clock.now() < closes:
        venue.advance()
    assert order(venue, 1).average_price == Decimal(repr(float(venue.market.panel.prices[-1, 0])))
    assert (order(venue, 1).filled, order(venue, 2).status) == (5_000, "Cancelled")


def test_before_the_open_orders_wait_and_are_warned_of():
    venue, ear = SimVenue(market()), Ear()
    venue.attach(ear)
    place(venue, 1)
    assert (order(venue, 1).status, ear.codes) == ("PreSubmitted", [399])
    while venue.clock.now() < venue.market.starts_at:
        venue.advance()
    assert order(venue, 1).status == "Filled"
    assert ear.heard("execution")[0][0].time == venue.market.starts_at


def test_numbers_of_orders(flat):
    venue, ear = open_venue(flat)
    assert venue.next_order_id(1) == 1
    place(venue, 5)
    assert venue.next_order_id(1) == 6
    assert place(venue, 5).code == 104  # filled
    assert place(venue, 3).code == 103
    place(venue, 6, limit="1.00")
    assert venue.cancel(1, 9).code == 10147
    assert venue.cancel(1, 5).code == 10148
    assert venue.cancel(1, 6) is None
    assert (order(venue, 6).status, ear.codes) == ("Cancelled", [202])
    assert place(venue, 6, limit="2.00").code == 104
    assert [o.order_id for o in venue.completed_orders()] == [5, 6]


def test_a_modification_is_the_same_order_and_trades_at_once(flat):
    venue, _ = open_venue(flat)
    place(venue, 1, limit="49.00")
    number = order(venue, 1).perm_id
    assert place(venue, 1, limit="49.01", action="SELL").code == 105
    assert place(venue, 1, limit="49.005").code == 110
    assert place(venue, 1, limit="50.00", shares=200) is None
    assert (order(venue, 1).perm_id, order(venue, 1).filled) == (number, 200)
    assert len(venue.book.all) == 1


@pytest.mark.parametrize(
    ("code", "wanted"),
    [
        (110, {"limit": "50.001"}),
        (10243, {"shares": "1.5"}),
        (434, {"shares": "0"}),
        (321, {"account": "DU9"}),
        (321, {"tif": "FOK"}),
        (321, {"action": "HOLD"}),
        (321, {"orderType": "LMT"}),
        (321, {"transmit": "0"}),
        (387, {"orderType": "TRAIL"}),
    ],
)
def test_what_is_no_order_is_refused_with_the_code_tws_gives(flat, code, wanted):
    venue, ear = open_venue(flat)
    assert place(venue, 1, **wanted).code == code
    assert ear.words == []
    assert venue.truth()["orders"] == []


def test_an_account_must_be_named_where_there_are_several(flat):
    venue, _ = open_venue(flat, traits=Traits(accounts=("DU1", "DU2")))
    assert place(venue, 1, account="").code == 435
    assert place(venue, 2, account="DU2") is None
    assert {p.account for p in venue.positions()} == {"DU2"}


def test_fractions_where_the_venue_has_them(flat):
    venue, _ = open_venue(flat, size_increment=Decimal("0.0001"))
    assert place(venue, 1, shares="1.5") is None
    assert order(venue, 1).filled == Decimal("1.5")


def test_read_only(flat):
    venue, _ = open_venue(flat, traits=Traits(read_only=True))
    assert place(venue, 1).code == 321


def test_what_if_tells_margins_and_does_nothing(flat):
    venue, ear = open_venue(flat)
    assert place(venue, 1, shares=1_000, whatIf="1") is None
    ((told, margin),) = ear.heard("open_order")
    value = 1_000 * venue.price(told.contract.con_id)
    assert margin.initial_after - margin.initial_before == value / 4
    assert margin.commission == 5
    assert venue.truth()["orders"] == []
    assert venue.next_order_id(1) == 1
    assert place(venue, 1, shares=1_000) is None


def test_an_order_beyond_the_margin_is_rejected(flat):
    venue, ear = open_venue(flat, deposit=Decimal(10_000))
    place(venue, 1, shares=10_000)
    assert (order(venue, 1).status, ear.codes) == ("Inactive", [201])
    place(venue, 2, shares=100)
    assert order(venue, 2).status == "Filled"


def test_other_clients_hear_of_positions_only(flat):
    venue, ear = open_venue(flat)
    other = Ear(client_id=2)
    assert venue.attach(other) is None
    assert venue.attach(Ear(client_id=2)).code == 326
    place(venue, 1, client_id=2)
    assert set(ear.words) == {"position", "portfolio", "account_values"}
    assert [o.client_id for o in venue.completed_orders()] == [2]
    venue.detach(other)
    assert venue.attach(Ear(client_id=2)) is None


def test_cancel_all_is_for_every_client(flat):
    venue, _ = open_venue(flat)
    venue.attach(Ear(client_id=2))
    place(venue, 1, limit="1.00")
    place(venue, 1, limit="1.00", client_id=2)
    venue.cancel_all()
    assert venue.open_orders(None) == ()


def test_executions_are_of_today():
    venue, _ = open_venue(market(sessions=2))
    place(venue, 1)
    assert len(venue.executions()) == 1
    tomorrow = venue.hours.next_open(venue.clock.now())
    while venue.clock.now() < tomorrow:
        venue.advance()
    assert venue.executions() == ()
    assert venue.completed_orders() == ()
    assert len(venue.truth()["executions"]) == 1


wishes = st.lists(
    st.tuples(
        st.sampled_from(["N0", "N1"]),
        st.sampled_from(["BUY", "SELL"]),
        st.integers(1, 3_000),
        st.none() | st.integers(-20, 20),  # cents from the mid
        st.sampled_from(["DAY", "IOC", "GTC"]),
        st.sampled_from(["", "cancel", "modify"]),
        st.integers(0, 90),
    ),
    min_size=1,
    max_size=12,
)


def trade(wishes):
    """A venue on which wishes were placed, and its client."""
    venue, ear = open_venue(market(names=2))
    for number, (symbol, action, shares, cents, tif, then, wait) in enumerate(wishes, 1):
        quote = quote_of(venue, symbol)
        limit = None if cents is None else quote.bid + Decimal(cents) / 100
        place(venue, number, symbol, action=action, shares=shares, limit=limit, tif=tif)
        run_for(venue, wait)
        if then == "cancel":
            venue.cancel(1, number)
        elif then == "modify" and limit is not None:
            better = limit + Decimal("0.03") * (1 if action == "BUY" else -1)
            place(venue, number, symbol, action=action, shares=shares, limit=better, tif=tif)
    return venue, ear


@settings(max_examples=40, deadline=None)
@given(wishes)
def test_whatever_is_wished_the_books_are_the_sum_of_what_was_told(wishes):
    venue, ear = trade(wishes)
    truth = venue.truth()
    told = [e for (e,) in ear.heard("execution")]
    fees = {c.exec_id: c.amount for (c,) in ear.heard("commission")}
    assert len({e.exec_id for e in told}) == len(told)
    assert set(fees) == {e.exec_id for e in told}
    cash, held = Decimal(1_000_000), {}
    for e in told:
        signed = e.shares if e.side == "BOT" else -e.shares
        cash -= signed * e.price + fees[e.exec_id]
        held[e.contract.symbol] = held.get(e.contract.symbol, 0) + signed
    books = truth["accounts"]["DU1234567"]
    assert Decimal(books["cash"]) == cash
    assert {k: Decimal(v["shares"]) for k, v in books["positions"].items()} == held
    for known in venue.book.all:
        fills = [e for e in told if e.order_id == known.order.order_id]
        assert sum((e.shares for e in fills), Decimal(0)) == known.order.filled
        assert known.order.filled <= known.order.quantity
        assert (known.order.status == "Filled") == (known.order.filled == known.order.quantity)
        limits = [
            o.limit
            for (o, *_) in ear.heard("open_order")
            if o.order_id == known.order.order_id and o.limit is not None
        ]
        for e in fills if limits else ():
            worst = max(limits) if e.side == "BOT" else min(limits)
            assert e.price <= worst if e.side == "BOT" else e.price >= worst


@settings(max_examples=5, deadline=None)
@given(wishes)
def test_the_same_script_says_the_same(wishes):
    first, second = trade(wishes), trade(wishes)
    assert first[1].said == second[1].said
    assert first[0].truth() == second[0].truth()


def test_fields_of_an_order_are_kept_as_they_came(flat):
    venue, _ = open_venue(flat)
    place(venue, 1, limit="1.00", outsideRth="1")
    assert order(venue, 1).fields == fields(limit="1.00", outsideRth="1")


def test_accounts_begin_as_an_earlier_truth_says():
    venue = SimVenue(planted_market(3, 2))
    symbol = venue.market.panel.names[1]
    books = {
        "DU1234567": {
            "cash": "5000.25",
            "positions": {symbol: {"shares": "-7", "average_cost": "99.5", "realised": "1"}},
        }
    }
    venue.take_over(books)
    told = venue.truth()["accounts"]["DU1234567"]
    assert told["cash"] == "5000.25"
    assert {s: (h["shares"], h["average_cost"]) for s, h in told["positions"].items()} == {
        symbol: ("-7", "99.5")
    }
    with pytest.raises(ConfigError, match="no account 'DU9'"):
        venue.take_over({"DU9": {"cash": "1", "positions": {}}})
    with pytest.raises(ConfigError, match="books: DU1234567"):
        venue.take_over({"DU1234567": {"cash": "1", "positions": {symbol: {}}}})

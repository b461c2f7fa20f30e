"""From targets to intents: purposes, sides, limits, costs."""

import math
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpa.config import CostConfig
from dpa.market.costs import CostModel
from dpa.trading.identity import intent_id
from dpa.trading.intents import Price, Target, intent_for, next_leg, one_way_bps, record_of
from dpa.trading.types import Instrument, Purpose, Quote, Side, Style

NOW = datetime(2024, 7, 1, 14, 35, tzinfo=UTC)
COSTS = CostModel(CostConfig())


def make_target(shares: int, **changes) -> Target:
    given = {"decision": "d1", "symbol": "AAA", "shares": shares, "decided_at": NOW,
             "expires_at": NOW + timedelta(seconds=60)}  # fmt: skip
    return Target(**{**given, **changes})


def make_price(bid="99.99", ask="100.01", **changes) -> Price:
    quote = Quote("AAA", NOW, Decimal(bid), Decimal(ask))
    return Price(**{"quote": quote, "sigma_day": 0.02, "adv_usd": 1e8, **changes})


def make_instrument(tick="0.01") -> Instrument:
    return Instrument("AAA", 1, "SMART", "NYSE", "USD", Decimal(tick), 1, "US/Eastern")


def build(target, held=0, price=None, instrument=None, collar_bps=50.0):
    leg = next_leg(held, target)
    assert leg is not None
    return intent_for("DU1", target, leg, price or make_price(), instrument, collar_bps, COSTS)


@pytest.mark.parametrize(
    ("held", "wanted", "side", "shares", "purpose"),
    [
        (0, 100, Side.BUY, 100, Purpose.ENTER),
        (0, -100, Side.SELL, 100, Purpose.ENTER),
        (100, 150, Side.BUY, 50, Purpose.INCREASE),
        (-100, -150, Side.SELL, 50, Purpose.INCREASE),
        (100, 30, Side.SELL, 70, Purpose.REDUCE),
        (-100, -30, Side.BUY, 70, Purpose.REDUCE),
        (100, 0, Side.SELL, 100, Purpose.EXIT),
        (-100, 0, Side.BUY, 100, Purpose.EXIT),
        (100, -50, Side.SELL, 100, Purpose.EXIT),
        (-100, 50, Side.BUY, 100, Purpose.EXIT),
    ],
)
def test_the_first_step_from_a_position_to_a_target(held, wanted, side, shares, purpose):
    leg = next_leg(held, make_target(wanted))
    assert (leg.side, leg.shares, leg.purpose) == (side, shares, purpose)


@given(st.integers(-500, 500), st.integers(-500, 500))
def test_steps_lead_to_the_target_and_never_mix_closing_with_opening(held, wanted):
    position, purposes = held, []
    while (leg := next_leg(position, make_target(wanted))) is not None:
        after = position + leg.signed_shares
        assert leg.shares > 0
        assert position * after >= 0  # never through zero
        assert leg.purpose.adds == (abs(after) > abs(position))
        position = after
        purposes.append(leg.purpose)
        assert len(purposes) <= 2
    assert position == wanted
    assert len(purposes) == (0 if held == wanted else 2 if held * wanted < 0 else 1)


@pytest.mark.parametrize("why", [Purpose.AGE, Purpose.SESSION_END, Purpose.RISK])
def test_a_reason_of_its_own_names_reductions_and_never_entries(why):
    assert next_leg(100, make_target(0, why=why)).purpose is why
    assert next_leg(100, make_target(40, why=why)).purpose is why
    assert next_leg(0, make_target(40, why=why)).purpose is Purpose.ENTER


def test_an_adaptive_intent_goes_to_the_collar_rounded_passively():
    buy = build(make_target(7))
    assert (buy.reference, buy.limit) == (Decimal("100.00"), Decimal("100.50"))
    sell = build(make_target(-7), instrument=make_instrument("0.05"), collar_bps=33.0)
    assert sell.limit == Decimal("99.70")  # 99.67 up to a multiple of 0.05


def test_a_limit_is_the_far_side_within_the_collar():
    assert build(make_target(7, style=Style.LIMIT)).limit == Decimal("100.01")
    assert build(make_target(-7, style=Style.LIMIT)).limit == Decimal("99.99")
    wide = make_price("90", "110")
    assert build(make_target(7, style=Style.LIMIT), price=wide).limit == Decimal("100.50")


@pytest.mark.parametrize("style", [Style.MARKET, Style.CLOSE])
def test_no_limit_at_the_market_and_at_the_close(style):
    assert build(make_target(7, style=style)).limit is None


@pytest.mark.parametrize(
    "quote",
    [
        None,
        Quote("AAA", NOW, Decimal(101), Decimal(100)),  # crossed
        Quote("AAA", NOW, None, Decimal(100)),
        Quote("AAA", NOW, Decimal(99), Decimal(100), halted=True),
        Quote("AAA", NOW, Decimal(99), Decimal(100), delayed=True),
    ],
)
def test_without_a_sound_quote_nothing_but_reductions_at_the_market(quote):
    price = Price(quote, Decimal("99.5"))
    assert build(make_target(7), price=price) == "its quote is missing or unsound"
    assert build(make_target(0), 7, price) == "its quote is missing or unsound"
    assert build(make_target(7, style=Style.MARKET), price=price) == (
        "its quote is missing or unsound"
    )
    sale = build(make_target(0, style=Style.MARKET), 7, price)
    assert (sale.reference, sale.limit) == (Decimal("99.5"), None)
    assert math.isnan(sale.expected_cost_bps)


@pytest.mark.parametrize("last", [None, Decimal("NaN"), Decimal(0), Decimal(-1)])
def test_without_any_price_there_is_no_intent(last):
    target = make_target(0, style=Style.MARKET)
    assert build(target, 7, Price(None, last)) == "no price of it is known"


def test_ids_are_those_of_the_words_and_do_not_depend_on_shares():
    few, many = build(make_target(7)), build(make_target(70))
    assert few.id == many.id == intent_id("DU1", "d1", "AAA", Side.BUY, Purpose.ENTER)
    others = {
        build(make_target(7, decision="d2")).id,
        build(make_target(-7)).id,
        build(make_target(9), 7).id,
        few.id,
    }
    assert len(others) == 4


def test_the_expected_cost_is_half_the_spread_commission_and_impact():
    config = CostConfig(commission_bps=0.7, impact_coefficient=0.9)
    value, price = 250_000.0, make_price("99.95", "100.05", sigma_day=0.03, adv_usd=4e7)
    impact = 0.9 * 0.03 * math.sqrt(value / 4e7) * 1e4
    by_hand = 5.0 + 0.7 + impact
    assert one_way_bps(CostModel(config), price, value) == pytest.approx(by_hand, rel=1e-12)


def test_the_expected_impact_is_that_of_the_backtest():
    """The same trade through the function that the backtest charges with."""
    config = CostConfig(commission_bps=0.0, impact_coefficient=0.9, nav_usd=1e6)
    costs, price = CostModel(config), make_price("99.999", "100.001")
    charged = costs.impact(0.05, 0.02, 1e8) / 0.05 * 1e4
    expected = one_way_bps(costs, price, 50_000.0) - price.spread_bps / 2
    assert expected == pytest.approx(charged, rel=1e-9)


@pytest.mark.parametrize("missing", [{"sigma_day": math.nan}, {"adv_usd": math.nan}])
def test_a_cost_of_which_a_part_is_not_known_is_not_known(missing):
    costs = CostModel(CostConfig(impact_coefficient=0.9))
    assert math.isnan(one_way_bps(costs, make_price(**missing), 1e4))
    free = CostModel(CostConfig(impact_coefficient=0.0, commission_bps=1.0))
    assert one_way_bps(free, make_price(**missing), 1e4) == pytest.approx(2.0)


def test_a_record_is_the_same_text_for_the_same_intent():
    record = record_of(build(make_target(7)))
    assert record["reference"] == "100.00"
    assert record == record_of(build(make_target(7)))
    unknown = record_of(build(make_target(0, style=Style.MARKET), 7, Price(None, Decimal(9))))
    assert unknown["expected_cost_bps"] is None

"""A limit off the tick is refused; one beyond the collar costs money."""

from datetime import timedelta
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from dpa.trading.pricing import (
    adaptive_limit,
    collar,
    on_tick,
    passively,
    step_at,
    worst_price,
)
from dpa.trading.types import Side
from tests.trading.dealing import NOON, intent, quote

ticks = st.sampled_from([Decimal("0.01"), Decimal("0.05"), Decimal("0.0001"), Decimal("0.25")])
prices = st.decimals("0.5", "5000", places=4)
sides = st.sampled_from(Side)


@given(price=prices, tick=ticks, side=sides)
def test_rounding_is_to_the_tick_passive_and_by_less_than_one(
    price: Decimal, tick: Decimal, side: Side
) -> None:
    rounded = passively(price, tick, side)
    assert on_tick(rounded, tick)
    assert 0 <= (price - rounded) * side.sign < tick


@given(
    bid=prices,
    width=st.decimals("0.01", "5", places=2),
    tick=ticks,
    side=sides,
    steps=st.integers(1, 10),
    bps=st.floats(1, 500),
)
def test_steps_go_from_the_mid_to_the_far_side_and_never_beyond_the_collar(
    bid: Decimal, width: Decimal, tick: Decimal, side: Side, steps: int, bps: float
) -> None:
    seen = quote("AAPL", NOON, str(bid), str(bid + width))
    worst = collar(bid, side, bps)
    limits = [adaptive_limit(side, seen, n, steps, tick, worst) for n in range(steps + 1)]
    made = [limit for limit in limits if limit is not None]
    far = seen.ask if side is Side.BUY else seen.bid
    for limit in made:
        assert on_tick(limit, tick)
        assert (limit - worst) * side.sign <= 0
        assert (limit - far) * side.sign <= 0
        assert limit > 0
    towards = [limit * side.sign for limit in made]
    assert towards == sorted(towards)


def test_a_wide_collar_ends_at_the_far_side() -> None:
    seen = quote("AAPL", NOON, "99.90", "100.10")
    tick, worst = Decimal("0.01"), Decimal("105")
    found = [adaptive_limit(Side.BUY, seen, n, 4, tick, worst) for n in range(5)]
    assert found == [Decimal(p) for p in ("100.00", "100.02", "100.05", "100.07", "100.10")]


def test_without_both_sides_there_is_no_limit() -> None:
    seen = quote("AAPL", NOON)
    one_sided = type(seen)("AAPL", NOON, bid=Decimal("99.9"))
    assert adaptive_limit(Side.BUY, one_sided, 1, 4, Decimal("0.01"), Decimal(200)) is None


def test_the_step_depends_on_the_decision_alone() -> None:
    steps = [step_at(NOON, NOON + timedelta(seconds=s), 5, 4) for s in (-1, 0, 4.9, 5, 19, 500)]
    assert steps == [0, 0, 0, 1, 3, 4]


def test_the_tighter_of_collar_and_own_limit_counts() -> None:
    buys = intent(shares=10, limit=Decimal("100.20"))
    assert worst_price(buys, 50) == Decimal("100.20")
    assert worst_price(buys, 10) == Decimal("100.1")
    sells = intent(shares=-10, limit=Decimal("99.80"))
    assert worst_price(sells, 50) == Decimal("99.80")
    assert worst_price(sells, 10) == Decimal("99.9")

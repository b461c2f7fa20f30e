"""Limits and the account's state machine; reductions always pass."""

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpa.decision.risk import RiskState, assess, halt, limit, resume
from dpa.decision.sizing import actions, weight_of
from dpa.decision.types import (
    NOTHING,
    Action,
    Arbitration,
    Gates,
    Market,
    Reason,
    RiskLevel,
    Sizes,
)
from dpa.errors import DataError
from tests.decision.conftest import make_market
from tests.decision.deciding import settings_of

NAV, PRICE = 1e6, 100.0
START = RiskState.start("default")
WIDE = {
    "max_name_weight": 1, "max_gross": 10, "max_net": 10, "max_order_usd": 1e9,
    "max_orders_per_minute": 1000,
}  # fmt: skip


def holding(weights: Any, **changes: Any) -> Market:
    """A market of names priced 100 in which `weights` of a NAV of a million are held."""
    weights = np.atleast_1d(np.asarray(weights, float))
    quotes: dict[str, Any] = {"bid": PRICE - 0.01, "ask": PRICE + 0.01, "price": PRICE}
    shares = np.round(weights * NAV / PRICE, 6)
    return make_market(0, len(weights), **(quotes | {"shares": shares} | changes))


def limited(
    held: Any, target: Any, state: RiskState = START, net: Any = None, may_trade: Any = True,
    market: Market | None = None, **limits: Any,
) -> tuple[Sizes, RiskState]:  # fmt: skip
    """Targets, weights, after the limits; all else is wide open."""
    market = market or holding(held)
    n = len(market.names)
    target = np.broadcast_to(np.asarray(target, float), (n,))
    shares = np.round(target * NAV / PRICE, 6)
    traded = np.broadcast_to(np.asarray(may_trade, bool), (n,))
    gain = np.broadcast_to(np.asarray(5.0 if net is None else net, float), (n,))
    arbitration = Arbitration(
        cost=np.zeros((1, n)), net=gain[None], chosen=np.where(target != 0, 0, NOTHING),
        leading=np.zeros(n, int), side=np.sign(target).astype(np.int8),
        reason=np.zeros(n, np.int8),
    )  # fmt: skip
    gates = Gates(np.ones(n), traded, traded, np.zeros(n, bool), np.zeros(n, np.int8), traded)
    sizes = Sizes(
        np.zeros(n), target, target, weight_of(market, shares), shares,
        actions(market.shares, shares), np.zeros(n, np.int8),
    )  # fmt: skip
    chosen = settings_of(risk=WIDE | limits)
    return limit(market, arbitration, gates, sizes, assess(state, market, chosen), chosen)


def level(state: RiskState, **changes: Any) -> RiskState:
    return assess(state, make_market(0, 1, **changes), settings_of())


def test_nothing_is_cut_within_the_limits() -> None:
    found, state = limited([0, 0.05, 0.1], [0.05, -0.02, 0.1])
    np.testing.assert_allclose(found.weight, [0.05, -0.02, 0.1])
    np.testing.assert_array_equal(found.action, [Action.ENTER, Action.FLIP, Action.HOLD])
    assert state.level == RiskLevel.NORMAL
    assert state.held == ("S000", "S001", "S002")
    assert [count for _, count in state.orders] == [2]


def test_name_limit() -> None:
    found, _ = limited([0, 0.19, -0.1, 0.3], [0.5, 0.4, 0.5, 0.3], max_name_weight=0.2)
    np.testing.assert_allclose(found.weight, [0.2, 0.2, 0.2, 0.2])
    np.testing.assert_array_equal(found.reason, [Reason.NAME_LIMIT] * 4)


def test_order_limit_cuts_increases_only() -> None:
    found, _ = limited([0, 0.1, 0.2, 0.2], [0.05, 0.2, 0.0, -0.1], max_order_usd=30_000)
    np.testing.assert_allclose(found.weight, [0.03, 0.13, 0.0, -0.03])
    codes = [Reason.ORDER_LIMIT, Reason.ORDER_LIMIT, Reason.NONE, Reason.ORDER_LIMIT]
    np.testing.assert_array_equal(found.reason, codes)


def test_gross_cuts_increases_pro_rata() -> None:
    found, _ = limited([0.2, 0.0, 0.0], [0.2, 0.2, -0.1], max_gross=0.35)
    np.testing.assert_allclose(found.weight, [0.2, 0.1, -0.05], atol=1e-9)
    np.testing.assert_array_equal(found.reason, [0, Reason.GROSS_LIMIT, Reason.GROSS_LIMIT])


def test_positions_alone_above_gross_are_reduced_pro_rata() -> None:
    found, _ = limited([0.4, -0.2, 0.0], [0.4, -0.2, 0.1], max_gross=0.3)
    np.testing.assert_allclose(found.weight, [0.2, -0.1, 0.0], atol=2e-4)
    np.testing.assert_array_equal(found.reason, [Reason.GROSS_LIMIT] * 3)


def test_what_cannot_be_traded_leaves_less_for_the_others() -> None:
    found, _ = limited([0.2, 0.2], [0.2, 0.2], may_trade=[False, True], max_gross=0.3)
    np.testing.assert_allclose(found.weight, [0.2, 0.1], atol=2e-4)


def unpriced(held: Any, places: Any, mid: float = math.nan) -> Market:
    """As :func:`holding`, some names without close and quote, or quoted at `mid` alone."""
    market = holding(held)
    price, bid, ask = (getattr(market, name).copy() for name in ("price", "bid", "ask"))
    bid[places], ask[places] = mid * 0.9999, mid * 1.0001
    if math.isnan(mid):
        price[places] = math.nan
    return replace(market, price=price, bid=bid, ask=ask)


def test_positions_without_value_force_nothing() -> None:
    held = np.array([1e-3] * 3 + [0.045] * 4 + [-0.045] * 3)
    limits = {"max_name_weight": 0.2, "max_gross": 0.5, "max_net": 0.3}
    market = unpriced(held, slice(3))
    traded = market.quoted
    found, _ = limited(0, held, market=market, may_trade=traded, **limits)
    np.testing.assert_array_equal(found.shares, market.shares)
    # they are no reason to keep what is above the limits without them
    one = {"max_gross": 0.2, "max_net": 0.05, "max_name_weight": 0.04}
    with_them, _ = limited(0, held, market=market, may_trade=traded, **one)
    without, _ = limited(0, held[3:], market=holding(held[3:]), **one)
    np.testing.assert_array_equal(with_them.shares[3:], without.shares)
    assert (abs(without.shares) < abs(holding(held[3:]).shares)).any()


def test_positions_without_value_leave_less_to_add() -> None:
    held, target = np.array([1e-3, 0.0, 0.0]), np.array([1e-3, 0.2, -0.1])
    market = unpriced(held, slice(1))
    traded = market.quoted
    wide = {"max_name_weight": 0.2}
    found, _ = limited(0, target, market=market, may_trade=traded, max_gross=0.35, **wide)
    np.testing.assert_allclose(found.weight[1:], [0.1, -0.05], atol=1e-9)
    # for the net it may be as large on its side, and is nothing against the other side
    found, _ = limited(0, target, market=market, may_trade=traded, max_net=0.25, **wide)
    np.testing.assert_allclose(found.weight[1:], [0.15, -0.1], atol=1e-9)
    target = np.array([1e-3, 0.0, -0.2])
    found, _ = limited(0, target, market=market, may_trade=traded, max_net=0.1, **wide)
    np.testing.assert_allclose(found.weight[1:], [0, -0.1], atol=1e-9)
    mirrored = unpriced(-held, slice(1))
    found, _ = limited(0, -target, market=mirrored, may_trade=traded, max_net=0.1, **wide)
    np.testing.assert_allclose(found.weight[1:], [0, 0.1], atol=1e-9)


@pytest.mark.parametrize("mid", [0.01, 1.0, 1e4, 1e6])
def test_an_odd_quote_forces_no_sale_and_hides_no_exposure(mid: float) -> None:
    held = np.array([0.15, 0.1, -0.1, 0.0])
    market = unpriced(held, slice(1), mid)
    limits = {"max_name_weight": 0.2, "max_gross": 0.4, "max_net": 0.2}
    kept, _ = limited(0, held, market=market, **limits)
    np.testing.assert_array_equal(kept.shares, market.shares)
    added = np.array([0, 0, 0, 0.2])
    found, _ = limited(0, held + added, market=market, **limits)
    assert found.shares[3] * PRICE / NAV <= 0.05 + 1e-9  # as if it were worth the close
    found, _ = limited(0, held - added, market=market, **limits)
    assert found.shares[3] * PRICE / NAV >= -0.05 - 1e-9


def test_net_cuts_the_side_that_exceeds_it() -> None:
    found, _ = limited([0.1, 0.0, 0.0, 0.0], [0.1, 0.2, 0.1, -0.1], max_net=0.15)
    np.testing.assert_allclose(found.weight, [0.1, 0.1, 0.05, -0.1], atol=1e-9)
    np.testing.assert_array_equal(found.reason, [0, Reason.NET_LIMIT, Reason.NET_LIMIT, 0])
    short, _ = limited([-0.1, 0.0], [-0.1, -0.2], max_net=0.15)
    np.testing.assert_allclose(short.weight, [-0.1, -0.05], atol=1e-9)
    alone, _ = limited([0.2, 0.2], [0.2, 0.2], max_net=0.3)
    np.testing.assert_allclose(alone.weight, [0.15, 0.15], atol=2e-4)


def test_rate_takes_the_largest_net_first_and_no_reduction() -> None:
    held, target = [0.0, 0, 0, 0.1, 0.1], [0.01, 0.01, -0.01, 0.05, 0.0]
    net = [1.0, 3, 2, 9, 9]
    found, state = limited(held, target, net=net, max_orders_per_minute=2)
    np.testing.assert_allclose(found.weight, [0, 0.01, -0.01, 0.05, 0.0])
    assert found.reason[0] == Reason.RATE_LIMIT
    again, later = limited(held, target, state, net, max_orders_per_minute=3)
    np.testing.assert_allclose(again.weight, [0, 0.01, 0, 0.05, 0.0])
    assert sum(count for _, count in later.orders) == 3


@pytest.mark.parametrize(("seconds", "free"), [(59.9, False), (60.0, True)])
def test_any_sixty_seconds(seconds: float, free: bool) -> None:
    _, state = limited([0.0], [0.01], max_orders_per_minute=1)
    later = holding([0.0])
    later = replace(later, moment=later.moment + pd.Timedelta(seconds=seconds))
    found, after = limited([0.0], [0.01], state, market=later, max_orders_per_minute=1)
    assert bool(found.shares[0]) == free
    assert len(after.orders) == 1


def test_of_equal_nets_the_first_name_wins_wherever_it_stands() -> None:
    market = holding([0.0, 0.0])
    turned = replace(market, names=market.names[::-1])
    first, _ = limited(0, 0.01, market=market, max_orders_per_minute=1)
    second, _ = limited(0, 0.01, market=turned, max_orders_per_minute=1)
    np.testing.assert_array_equal(first.shares, second.shares[::-1])


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**9))
def test_limits_hold_and_reductions_pass(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 12))
    held = rng.integers(-3, 4, n) * rng.uniform(0, 0.1)
    target = np.where(rng.random(n) < 0.3, held, rng.normal(0, 0.1, n))
    lot = float(rng.choice([1, 10, 100]))
    shares = np.sign(held) * np.floor(abs(held) * NAV / PRICE / lot) * lot
    wanted = shares + np.trunc((target * NAV / PRICE - shares) / lot) * lot
    wanted = np.where(wanted * shares < 0, np.trunc(wanted / lot) * lot, wanted)
    market = holding(held, shares=shares, lot=lot)
    limits = {
        "max_name_weight": float(rng.uniform(0.02, 0.3)),
        "max_gross": float(rng.uniform(0.05, 1)),
        "max_net": float(rng.uniform(0.02, 0.5)),
        "max_order_usd": float(rng.uniform(1e3, 2e5)),
        "max_orders_per_minute": int(rng.integers(1, 10)),
    }
    found, _ = limited(0, wanted * PRICE / NAV, market=market, net=rng.normal(0, 1, n), **limits)
    before, after = abs(market.shares), abs(found.shares)
    same = found.shares * market.shares >= 0
    # no more than asked, never the other way, and every reduction at least as large as asked
    assert (found.shares * wanted >= 0).all()
    assert (after <= np.maximum(abs(wanted), 0) + 1e-9).all()
    assert (abs(found.shares - market.shares) * (after < before) + 1e-9 >= (
        (abs(wanted) < before) & (wanted * market.shares >= 0)
    ) * (before - abs(wanted))).all()  # fmt: skip
    grown = np.where(same, np.maximum(after - before, 0), after)
    assert (grown * PRICE <= limits["max_order_usd"] + 1e-3).all()
    assert np.count_nonzero(grown) <= limits["max_orders_per_minute"]
    slack = n * lot * PRICE / NAV  # a position above a limit is reduced by whole lots
    assert abs(found.weight).max() <= limits["max_name_weight"] + slack
    assert abs(found.weight).sum() <= limits["max_gross"] + slack
    assert abs(found.weight.sum()) <= limits["max_net"] + slack
    stays = np.where(same, np.sign(found.shares) * np.minimum(before, after), 0) * PRICE / NAV
    if np.count_nonzero(grown):
        grew = grown * np.sign(found.shares)
        assert (abs(found.weight)[grown > 0] <= limits["max_name_weight"] + 1e-9).all()
        assert abs(found.weight).sum() <= limits["max_gross"] + 1e-9
        net = found.weight.sum()
        if abs(net) > limits["max_net"] + 1e-9:  # then nothing was added on that side
            assert abs(stays.sum()) > limits["max_net"] or not (grew * net > 0).any()


def test_levels_on_the_way_down() -> None:
    held, target = [0.0, 0.1, 0.1, 0.1], [0.05, 0.2, 0.05, -0.1]
    reduce = replace(START, level=RiskLevel.REDUCE_ONLY, why="x", lasting=True)
    found, _ = limited(held, target, reduce)
    np.testing.assert_allclose(found.weight, [0, 0.1, 0.05, 0])
    codes = [Reason.RISK_REDUCE_ONLY] * 2 + [Reason.NONE, Reason.RISK_REDUCE_ONLY]
    np.testing.assert_array_equal(found.reason, codes)
    flat = replace(reduce, level=RiskLevel.FLATTEN)
    found, state = limited(held, target, flat, may_trade=[True, True, True, False])
    np.testing.assert_allclose(found.weight, [0, 0, 0, 0.1])
    np.testing.assert_array_equal(found.reason[:3], [Reason.RISK_FLATTEN] * 3)
    assert state.held == ("S003",)
    halted = replace(reduce, level=RiskLevel.HALTED)
    found, _ = limited(held, target, halted)
    np.testing.assert_allclose(found.weight, held)
    np.testing.assert_array_equal(found.reason, [Reason.RISK_HALTED] * 4)


def test_daily_loss_flattens_until_the_next_session() -> None:
    state = level(START, bar=10, nav_usd=1e6, prior_nav_usd=1e6)
    assert state.level == RiskLevel.NORMAL
    warned = level(state, bar=11, nav_usd=0.985e6)
    assert warned.level == RiskLevel.REDUCE_ONLY
    assert "1.50%" in warned.why
    flat = level(warned, bar=12, nav_usd=0.98e6)
    assert flat.level == RiskLevel.FLATTEN
    assert level(flat, bar=77, nav_usd=1e6).level == RiskLevel.FLATTEN  # it came back; no matter
    after = level(flat, bar=78, nav_usd=0.98e6, prior_nav_usd=0.98e6)
    assert after.level == RiskLevel.NORMAL
    assert after.why == ""


def test_the_session_counts_and_not_midnight() -> None:
    flat = level(START, bar=12, nav_usd=0.9e6)
    market = make_market(0, 1, bar=12, nav_usd=1e6)
    later = replace(market, moment=market.moment + pd.Timedelta("1D"), bar=13)
    assert assess(flat, later, settings_of()).level == RiskLevel.FLATTEN


def test_drawdown_flattens_until_a_person_resumes() -> None:
    state = level(START, nav_usd=1e6)
    fallen = level(state, bar=78, nav_usd=0.9e6, prior_nav_usd=0.9e6)
    assert fallen.level == RiskLevel.FLATTEN
    assert level(fallen, bar=780, nav_usd=2e6, prior_nav_usd=2e6).level == RiskLevel.FLATTEN
    resumed = resume(fallen, "Ada", "seen")
    assert resumed.level == RiskLevel.NORMAL
    assert resumed.why == "resumed by Ada: seen"
    again = level(resumed, bar=156, nav_usd=0.9e6, prior_nav_usd=0.9e6)
    assert again.level == RiskLevel.NORMAL
    assert again.peak_nav == 0.9e6


def test_drawdown_is_warned_of() -> None:
    state = level(START, nav_usd=1e6)
    near = level(state, bar=78, nav_usd=0.92e6, prior_nav_usd=0.92e6)
    assert near.level == RiskLevel.REDUCE_ONLY
    assert level(near, bar=79, nav_usd=1e6, prior_nav_usd=1e6).level == RiskLevel.REDUCE_ONLY
    assert level(near, bar=156, nav_usd=1e6, prior_nav_usd=1e6).level == RiskLevel.NORMAL


def test_a_loss_of_the_day_made_lasting_by_the_drawdown() -> None:
    state = level(START, nav_usd=1e6)
    flat = level(state, bar=1, nav_usd=0.97e6)
    both = level(flat, bar=2, nav_usd=0.89e6)
    assert both.lasting
    assert level(both, bar=78, nav_usd=1e6).level == RiskLevel.FLATTEN


@pytest.mark.parametrize("nav", [math.nan, 0.0, -1.0, math.inf, -math.inf])
def test_no_nav_halts_for_good(nav: float) -> None:
    halted = level(START, nav_usd=nav)
    assert halted.level == RiskLevel.HALTED
    assert level(halted, bar=780).level == RiskLevel.HALTED


@pytest.mark.parametrize("prior", [math.nan, 0.0, -1.0, math.inf])
def test_no_prior_nav_only_reduces(prior: float) -> None:
    state = level(START, prior_nav_usd=prior)
    assert state.level == RiskLevel.REDUCE_ONLY
    assert level(state, bar=1).level == RiskLevel.REDUCE_ONLY
    assert level(state, bar=78).level == RiskLevel.NORMAL


def test_a_position_that_left_the_snapshot_only_reduces() -> None:
    state = level(replace(START, held=("GONE",)))
    assert state.level == RiskLevel.REDUCE_ONLY
    assert "GONE" in state.why


def night(state: RiskState, bar: int, *names: str, shares: float = 0.0) -> RiskState:
    """The state after a decision on the bar, where `names` were sent too, holding `shares`."""
    market = make_market(0, 2 + len(names), bar=bar)
    held = np.where(np.arange(2 + len(names)) < 2, market.shares, shares)
    market = replace(market, names=(*market.names[:2], *names), shares=held)
    return limited(0.0, market.shares * PRICE / NAV, state, market=market)[1]


def test_a_position_that_is_gone_is_remembered_over_the_nights() -> None:
    state = replace(START, held=("GONE", "OTHER"), session=0)
    for bar in (0, 1, 78, 156, 780):
        state = night(state, bar)
        assert state.level == RiskLevel.REDUCE_ONLY
        assert "GONE, OTHER" in state.why
        assert state.held == state.gone == ("GONE", "OTHER")
        state = RiskState.from_dict(json.loads(json.dumps(state.to_dict())))
    part = night(state, 858, "GONE", shares=0)
    assert part.level == RiskLevel.REDUCE_ONLY
    assert part.held == ("OTHER",)
    back = night(part, 936, "OTHER", shares=5)
    assert back.level == RiskLevel.NORMAL
    assert (back.held, back.gone) == (("OTHER",), ())
    assert night(state, 936, "GONE", "OTHER").held == ()


def test_only_a_person_forgets_what_is_gone() -> None:
    state = night(replace(START, held=("GONE",)), 0)
    resumed = resume(state, "Ada", "sold by hand")
    assert (resumed.held, resumed.gone) == ((), ())
    assert night(resumed, 1).level == RiskLevel.NORMAL
    # what is still there is remembered
    both = resume(replace(state, held=("S000", "GONE")), "Ada", "")
    assert both.held == ("S000",)
    for nav in (math.nan, 0.9e6):  # halted, flattened: remembered too
        market = make_market(0, 1, nav_usd=nav)
        assert limited(0.0, 0.0, state, market=market)[1].gone == ("GONE",)


def test_of_two_levels_the_severer() -> None:
    warned = level(START, prior_nav_usd=math.nan)
    flat = level(warned, bar=1, nav_usd=0.9e6)
    assert flat.level == RiskLevel.FLATTEN
    assert level(flat, bar=2, prior_nav_usd=math.nan).level == RiskLevel.FLATTEN


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(0.85e6, 1.1e6), st.booleans()), min_size=1, max_size=20))
def test_never_less_severe_within_a_session(path: list[tuple[float, bool]]) -> None:
    state, bar = START, 0
    for nav, next_session in path:
        bar += 78 if next_session else 1
        new = level(state, bar=bar, nav_usd=nav)
        if bar // 78 == state.session or state.lasting:
            assert new.level >= state.level
        state = new


def test_halt_and_resume() -> None:
    halted = halt(START, "kill switch")
    assert level(halted, bar=780).level == RiskLevel.HALTED
    assert level(halted).why == "kill switch"
    with pytest.raises(DataError, match="nobody"):
        resume(halted, " ", "")
    assert level(resume(halted, "Ada", "")).level == RiskLevel.NORMAL


def test_a_loss_of_the_day_is_not_forgiven() -> None:
    flat = level(START, nav_usd=0.97e6)
    assert level(resume(flat, "Ada", ""), nav_usd=0.97e6).level == RiskLevel.FLATTEN


def test_another_account_is_refused() -> None:
    with pytest.raises(DataError, match=r"'B'.*'default'"):
        level(START, account="B")


def test_state_is_read_back() -> None:
    _, state = limited([0.0, 0.1], [0.05, 0.0])
    for each in (START, state, halt(state, "x")):
        assert RiskState.from_dict(json.loads(json.dumps(each.to_dict()))).to_dict() == (
            each.to_dict()
        )


@pytest.mark.parametrize(
    "change",
    [
        {"schema_version": 2}, {"schema_version": None}, {"level": "FINE"}, {"orders": 3},
        {"peak_nav": "x"}, {"peak_nav": -1.0}, {"peak_nav": math.inf}, {"session": 1.5},
        {"orders": [[math.nan, 1]]}, {"held": [1]}, {"gone": [1]}, {"lasting": "yes"},
        {"account": 7}, {"digest": None}, {"why": None},
    ],
)  # fmt: skip
def test_an_unreadable_state_is_halted(change: dict[str, Any]) -> None:
    state = RiskState.from_dict(START.to_dict() | change, "default")
    assert state.level == RiskLevel.HALTED
    assert state.account == "default"
    assert state.why
    assert level(state, bar=780).level == RiskLevel.HALTED


@pytest.mark.parametrize("data", [None, [], "x", {}, 3, {"schema_version": 1}])
def test_what_is_no_state_is_halted(data: Any) -> None:
    assert RiskState.from_dict(data).level == RiskLevel.HALTED


def test_every_field_missing_is_halted() -> None:
    whole = START.to_dict()
    for name in whole:
        part = {key: value for key, value in whole.items() if key != name}
        assert RiskState.from_dict(part).level == RiskLevel.HALTED
    assert RiskState.from_dict(whole, "other").level == RiskLevel.HALTED


def test_digest_is_a_chain() -> None:
    one, other = halt(START, "a"), halt(START, "b")
    assert len({START.digest, one.digest, other.digest}) == 3
    assert halt(one, "c").digest != halt(other, "c").digest
    assert halt(one, "a") is one
    assert RiskState.start("default").digest == START.digest

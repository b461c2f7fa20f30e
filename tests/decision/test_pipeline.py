"""The whole decision: mirrored, permuted, scaled, repeated; every way it can end is reached."""

import copy
import pickle
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpa.config import Settings
from dpa.decision.decision import State
from dpa.decision.pipeline import decide
from dpa.decision.risk import halt
from dpa.decision.types import Action, Reason, Snapshot
from dpa.errors import DataError
from tests.decision.deciding import decided, reasons_by_hand, scene, settings_of
from tests.decision.streams import learned, quick, run, snapshots, traded

FREE = settings_of(costs={"borrow_bps_per_year": 0, "impact_coefficient": 0})


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**9))
def test_longs_and_shorts_mirror_exactly(seed: int) -> None:
    market, said, alpha = scene(seed)
    one = decided(market, said, alpha, FREE)
    turned = replace(said, barriers=said.barriers[::-1])
    other = decided(replace(market, shares=-market.shares), turned, -alpha, FREE)
    for name in ("signal", "wanted", "banded", "weight", "shares"):
        np.testing.assert_array_equal(getattr(one.sizes, name), -getattr(other.sizes, name))
    for name in ("action", "reason"):
        np.testing.assert_array_equal(getattr(one.sizes, name), getattr(other.sizes, name))
    np.testing.assert_array_equal(one.arbitration.net, other.arbitration.net)


def test_scenes_reach_every_action() -> None:
    """So that what is shown of them is not shown of nothing."""
    small = settings_of(risk={"max_gross": 0.15})
    acts = [decided(*scene(seed), small).sizes.action for seed in range(40)]
    assert {Action(code) for code in np.unique(acts)} == set(Action)


def test_what_is_learned_mirrors_in_what_is_done() -> None:
    last, chosen = snapshots()[-1], quick(costs={"borrow_bps_per_year": 0})
    one = decide(last, learned(), chosen)
    market = replace(last.market, shares=-last.market.shares)
    said = replace(last.forecasts, barriers=last.forecasts.barriers[::-1])
    assert one.beliefs.barrier_prior[0] != one.beliefs.barrier_prior[1]
    fixed = quick(costs={"borrow_bps_per_year": 0}, gates={"barrier_prior": 0.4})
    long = decided(last.market, last.forecasts, one.blend.alpha, fixed)
    short = decided(market, said, -one.blend.alpha, fixed)
    np.testing.assert_array_equal(long.sizes.shares, -short.sizes.shares)
    assert long.sizes.shares.any()


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10**9), st.floats(0, 20))
def test_nothing_is_added_below_the_reserve_or_on_a_bad_quote(seed: int, reserve: float) -> None:
    market, said, alpha = scene(seed)
    found = decided(market, said, alpha, settings_of(arbitration={"reserve_bps": reserve}))
    after, before = found.sizes.shares, market.shares
    added = (np.abs(after) > np.abs(before)) | (after * before < 0)
    place = found.arbitration.chosen, np.arange(len(after))
    assert (found.arbitration.net[place][added] >= reserve).all()
    assert (np.sign(alpha[place]) == np.sign(after))[added].all()
    np.testing.assert_array_equal(after[~market.quoted], before[~market.quoted])
    assert market.member[added].all()
    assert np.isfinite(after).all()
    assert (market.spread_bps[added] <= 12).all()
    assert (market.quote_age_ms[added] <= 200).all()
    assert np.isfinite(found.gates.barrier[added]).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**9), st.floats(0, 500), st.floats(0.01, 1) | st.none())
def test_the_band_never_blocks_a_reduction(seed: int, width: float, share: float | None) -> None:
    market, said, alpha = scene(seed)
    market = replace(market, lot=np.ones(10), nav_usd=1e6)
    found = decided(
        market, said, alpha, settings_of(sizing={"band_bps": width, "band_share": share})
    )
    wanted, held = found.sizes.wanted, market.weight
    reduce = market.quoted & (wanted * held >= 0) & (abs(wanted) < abs(held))
    share_value = market.mark / market.nav_usd
    assert (abs(found.sizes.weight - wanted)[reduce] <= share_value[reduce]).all()
    flip = market.quoted & (wanted * held < 0)
    assert (found.sizes.shares * market.shares <= 0)[flip].all()
    assert (found.sizes.shares[found.gates.must_exit & (wanted == 0) & market.quoted] == 0).all()


def permuted(snapshot: Snapshot, order: np.ndarray) -> Snapshot:
    """The same with its symbols in another order."""

    def cut(part: Any) -> Any:
        changes: dict[str, Any] = {}
        for each in fields(part):
            value = getattr(part, each.name)
            if isinstance(value, np.ndarray) and value.shape[-1] == len(order):
                changes[each.name] = np.ascontiguousarray(value[..., order])
        return replace(part, **changes)

    market = cut(snapshot.market)
    names = tuple(snapshot.market.names[k] for k in order)
    return Snapshot(replace(market, names=names), cut(snapshot.forecasts))


@pytest.mark.parametrize("seed", [1, 2])
def test_permuting_symbols_permutes_the_decision(seed: int) -> None:
    """Bit for bit, after learning from bars in the other order too."""
    order = np.random.default_rng(seed).permutation(12)
    chosen = quick(risk={"max_gross": 0.15, "max_net": 0.05, "max_orders_per_minute": 4})
    bars = snapshots()
    one = run(bars, chosen)[-1]
    other = run([permuted(bar, order) for bar in bars], chosen)[-1]
    for stage in ("blend", "arbitration", "gates", "sizes"):
        before, after = getattr(one, stage), getattr(other, stage)
        for each in fields(before):
            value = getattr(before, each.name)
            if value.shape[-1] == 12:
                value = value[..., order]
            np.testing.assert_array_equal(value, getattr(after, each.name), err_msg=each.name)


def test_alpha_scales_with_sigma() -> None:
    """Powers of two, so that not a bit is lost; what a cost changes in the weights is left out."""
    chosen = quick(blend={"cost_aversion": 0})
    last = snapshots()[-1]
    base = decide(last, learned(), chosen).blend.alpha
    for factor in (0.25, 2.0):
        scaled = Snapshot(last.market, replace(last.forecasts, sigma=last.forecasts.sigma * factor))
        np.testing.assert_array_equal(decide(scaled, learned(), chosen).blend.alpha, factor * base)
    assert (base != 0).all()


def test_a_decision_is_pure() -> None:
    last, state, chosen = snapshots()[-1], learned(), quick()
    before = pickle.dumps((last, state))
    one = decide(last, state, chosen)
    assert pickle.dumps((last, state)) == before
    other = decide(copy.deepcopy(last), copy.deepcopy(state), chosen)
    assert one.id == other.id
    assert arrays(one) == arrays(other)


def arrays(value: Any) -> Any:
    """Everything in nested dataclasses, arrays as bytes."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if is_dataclass(value) and not isinstance(value, type):
        return [(each.name, arrays(getattr(value, each.name))) for each in fields(value)]
    if isinstance(value, tuple | list):
        return [arrays(part) for part in value]
    return repr(value)


def test_the_id_names_every_input() -> None:
    last, state = snapshots()[-1], learned()
    ids = {decide(last, state, quick()).id, decide(last, state, Settings()).id}
    moved = replace(last.market, moment=last.market.moment + pd.Timedelta("1ms"))
    ids.add(decide(Snapshot(moved, last.forecasts), state, quick()).id)
    bid = last.market.bid.copy()
    bid[3] = np.nextafter(bid[3], 0)
    ids.add(decide(Snapshot(replace(last.market, bid=bid), last.forecasts), state, quick()).id)
    other = State(state.learning, halt(state.risk, "x"))
    ids.add(decide(last, other, quick()).id)
    assert len(ids) == 5


def test_another_account_and_an_old_bar_are_refused() -> None:
    last, state = snapshots()[-1], learned()
    with pytest.raises(DataError):
        decide(Snapshot(replace(last.market, account="B"), last.forecasts), state, quick())
    with pytest.raises(DataError):
        decide(snapshots()[-2], state, quick())


def test_every_action_is_reached_end_to_end() -> None:
    """Through learning from the first bar on, without a state prepared by hand."""
    acts = np.array([decision.sizes.action for decision in traded()])
    shares = np.array([decision.sizes.shares for decision in traded()])
    assert {Action(code) for code in np.unique(acts)} == set(Action)
    assert (shares[acts == Action.ENTER] > 0).any()
    assert (shares[acts == Action.ENTER] < 0).any()
    assert (acts[:10] == Action.NONE).all()  # nothing is known yet


def test_what_the_families_know_is_earned() -> None:
    """Positions times the move of the next bar: far above what chance would give."""
    prices = np.array([bar.market.price for bar in snapshots(120)])
    weights = np.array([decision.sizes.weight for decision in traded()])
    profit = (weights[:-1] * (prices[1:] / prices[:-1] - 1)).sum(axis=1)[30:]
    assert profit.mean() / profit.std() * np.sqrt(len(profit)) > 4


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_is_reached(reason: Reason) -> None:
    found = reasons_by_hand()[reason]
    assert Reason(int(found.sizes.reason[0])) == reason
    if reason == Reason.NONE:
        assert found.sizes.action[0] == Action.ENTER
    elif reason not in (Reason.NAME_LIMIT, Reason.GROSS_LIMIT, Reason.NET_LIMIT,
                        Reason.ORDER_LIMIT):  # fmt: skip
        assert found.sizes.action[0] in (Action.NONE, Action.HOLD, Action.EXIT)

"""Sizing by hand: gross shares, the band's edge, whole lots, and what is kept."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpa.config import SizingConfig
from dpa.decision.sizing import ROUNDING, actions, band, gross_shares, size
from dpa.decision.types import NOTHING, Action, Arbitration, Gates, Reason, Sizes
from tests.decision.conftest import horizons_of, make_forecasts, make_market
from tests.decision.deciding import decided, scene, settings_of

HORIZONS = horizons_of(("5m", "30m"))
NAV = 1e6
WEIGHT = st.integers(-2000, 2000).map(lambda bps: bps * 1e-4)


def sized(  # type: ignore[no-untyped-def]
    z, *, held=0.0, g=1.0, may_enter=True, may_trade=True, must_exit=False, chosen=1,
    reason=0, sound=True, config: dict[str, Any] | None = None, **market,
) -> Sizes:  # fmt: skip
    """Sizes of names priced 100 whose chosen alpha is `z` deviations, holding weights `held`."""
    z = np.atleast_1d(np.asarray(z, float))
    n = len(z)
    sigma, root = np.full(n, 10.0), np.sqrt([[5.0], [30.0]])
    shares = np.broadcast_to(np.asarray(held, float), (n,)) * NAV / 100
    quotes: dict[str, Any] = {"price": 100.0, "bid": 99.99, "ask": 100.01, "nav_usd": NAV}
    quotes["shares"] = shares
    built = make_market(0, n, **(quotes | market))

    def spread(value: Any, kind: Any) -> Any:
        return np.array(np.broadcast_to(np.asarray(value, kind), (n,)))

    place = np.where(np.isnan(z) | (z == 0), NOTHING, chosen)
    alpha = z * root * 10
    arbitration = Arbitration(
        cost=np.zeros((2, n)), net=abs(alpha), chosen=place, leading=np.full(n, chosen),
        side=np.where(place >= 0, np.sign(z), 0).astype(np.int8), reason=np.zeros(n, np.int8),
    )  # fmt: skip
    gates = Gates(
        spread(g, float), spread(may_enter, bool), spread(may_trade, bool),
        spread(must_exit, bool), spread(reason, np.int8), spread(sound, bool),
    )  # fmt: skip
    return size(built, HORIZONS, sigma, alpha, arbitration, gates, settings_of(sizing=config or {}))


LIMIT = {"gross_mode": "limit", "band_bps": 0}


def test_signal_and_weight_by_hand() -> None:
    found = sized([1.5, -0.6, 9.0], g=[1, 0.5, 1], config=LIMIT)
    np.testing.assert_allclose(found.signal, [1.5, -0.6, 3])
    np.testing.assert_allclose(found.wanted, [0.025, -0.005, 0.05])
    np.testing.assert_array_equal(found.shares, [250, -50, 500])
    np.testing.assert_array_equal(found.action, [Action.ENTER] * 3)
    np.testing.assert_array_equal(found.reason, [Reason.NONE] * 3)


def test_signal_is_of_the_chosen_horizon() -> None:
    np.testing.assert_allclose(sized([1.5], chosen=0, config=LIMIT).signal, [1.5])


def test_gross_is_scaled_down_in_both_modes_and_up_in_one() -> None:
    many, few = np.full(40, 1.5), np.full(4, 0.3)
    for mode in ("fill", "limit"):
        config = {"gross_mode": mode, "band_bps": 0}
        assert abs(sized(many, config=config).wanted).sum() == pytest.approx(0.5)
    assert abs(sized(few, config=LIMIT).wanted).sum() == pytest.approx(4 * 0.005)
    assert abs(sized(few, config={"band_bps": 0}).wanted).sum() == pytest.approx(4 * 0.05)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.just(0.0) | st.floats(1e-3, 3), min_size=1, max_size=30),
    st.floats(0, 2),
    st.floats(0.01, 0.3),
)
def test_water_is_filled_as_by_bisection(strength: list[float], gross: float, cap: float) -> None:
    """The level is the one at which proportional shares, cut at the cap, sum to the gross."""
    wanted = np.array(strength)
    found = gross_shares(wanted, gross, SizingConfig(name_weight=cap))
    assert (found <= cap * (1 + 1e-12)).all()
    target = min(gross, cap * np.count_nonzero(wanted))
    assert found.sum() == pytest.approx(target, abs=1e-9)
    active = wanted[wanted > 0]
    if not active.size or gross == 0:
        return
    low, high = 0.0, cap / active.min()
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (
            (middle, high) if np.minimum(active * middle, cap).sum() < target else (low, middle)
        )
    np.testing.assert_allclose(found[wanted > 0], np.minimum(active * high, cap), atol=1e-9)


def test_kept_positions_use_the_gross_first() -> None:
    config = {"gross_target": 0.1, "band_bps": 0}
    found = sized([0, 2.0], held=[0.08, 0], config=config)
    np.testing.assert_allclose(found.wanted, [0.08, 0.02])
    full = sized([0, 2.0], held=[0.12, 0], config=config)
    np.testing.assert_allclose(full.wanted, [0.12, 0])
    assert full.reason[1] == Reason.GROSS_LIMIT
    # a position that cannot be valued counts as one of full size
    unknown = sized(
        [0, 2.0], held=[0.08, 0], config={"gross_target": 0.06, "band_bps": 0},
        bid=np.array([np.nan, 99.99]), price=np.array([np.nan, 100]), may_trade=[False, True],
    )  # fmt: skip
    np.testing.assert_allclose(unknown.wanted, [np.nan, 0.01])


def test_what_is_kept() -> None:
    for changes in ({"z": 0.0}, {"z": np.nan}, {"z": 3.0, "may_enter": False, "reason": 9}):
        found = sized(held=0.02, **changes)
        assert found.shares[0] == 200
        assert found.wanted[0] == 0.02
        assert found.action[0] == Action.HOLD
        assert found.reason[0] == changes.get("reason", 0)


def test_what_must_go_goes_whole() -> None:
    for held in (0.02, -0.00013):  # 200, and 1.3 shares short
        found = sized(0.0, held=held, must_exit=True, reason=14, lot=100.0)
        assert found.shares[0] == 0
        assert found.action[0] == Action.EXIT
        assert found.reason[0] == Reason.ALPHA_TURNED


def test_without_a_quote_nothing_changes() -> None:
    for z, held in ((3.0, 0.0), (3.0, 0.02), (-3.0, 0.02), (0.0, 0.02)):
        found = sized(z, held=held, may_trade=False, may_enter=False, must_exit=True, reason=8)
        assert found.shares[0] == held * NAV / 100
        assert found.reason[0] == Reason.NO_QUOTE


def test_without_a_nav_nothing_changes() -> None:
    for nav in (np.nan, 0.0, -5.0, np.inf):
        found = sized([3.0, 0.0], held=[0.0, 0.02], must_exit=[False, True], nav_usd=nav)
        np.testing.assert_array_equal(found.shares, [0, 200])


BAND = {"gross_mode": "limit", "band_bps": 80, "band_share": None}


@pytest.mark.parametrize(
    ("z", "held", "target", "action"),
    [
        (3.0, 0.0, 0.042, Action.ENTER),  # to the edge, 80 bps short
        (-3.0, 0.0, -0.042, Action.ENTER),
        (3.0, 0.03, 0.042, Action.INCREASE),
        (3.0, 0.0421, 0.0421, Action.HOLD),  # 79 bps
        (0.4, 0.0, 0.0, Action.NONE),  # wants 67 bps
        (0.6, 0.011, 0.011, Action.HOLD),  # wants 100 bps: what pays for its cost is not sold
        (-0.6, 0.02, -0.002, Action.FLIP),  # exit, then an entry of 100 - 80 bps
        (-0.4, 0.02, 0.0, Action.EXIT),  # the entry is within the band, the exit is not
    ],
)
def test_band_by_hand(z: float, held: float, target: float, action: Action) -> None:
    found = sized(z, held=held, must_exit=z * held < 0, config=BAND)
    assert found.weight[0] == pytest.approx(target, abs=1e-9)
    assert found.action[0] == action
    enough = held == 0.011
    assert (found.reason[0] == Reason.ENOUGH_HELD) == enough
    assert (found.reason[0] == Reason.BAND) == (action in (Action.HOLD, Action.NONE) and not enough)


def test_band_is_at_most_a_share_of_what_is_wanted() -> None:
    config = BAND | {"band_share": 0.5}
    assert sized(0.3, config=config).weight[0] == pytest.approx(0.0025)
    assert sized(0.3, held=0.003, config=config).weight[0] == pytest.approx(0.003)


@settings(max_examples=100, deadline=None)
@given(WEIGHT, WEIGHT, st.floats(0, 300), st.floats(0.01, 1))
def test_band_never_blocks_a_reduction(
    wanted: float, held: float, width: float, share: float
) -> None:
    config = SizingConfig(band_bps=width, band_share=share)
    after, inside = band(np.array([wanted]), np.array([held]), config)
    if wanted * held >= 0 and abs(wanted) <= abs(held):
        assert after[0] == wanted
        assert not inside[0]
    elif wanted * held < 0:
        assert after[0] * held <= 0
    else:
        assert abs(held) <= abs(after[0]) <= abs(wanted)
        assert abs(wanted - after[0]) <= min(width * 1e-4, share * abs(wanted)) + 1e-15


def test_whole_lots() -> None:
    found = sized([0.7, 0.7, -0.7], config=LIMIT, lot=[100.0, 150, 100])
    np.testing.assert_array_equal(found.shares, [100, 0, -100])  # of 116.7
    np.testing.assert_array_equal(found.reason, [Reason.NONE, Reason.LOT, Reason.NONE])


def test_reductions_do_not_pass_what_is_wanted() -> None:
    # the first takes its share of what the others hold
    held, strength, gross = [0.0, 0.015, 0.0131, 0.0155], [3.0, 0.6, 0.78, 0.06], 0.0436
    config = {"band_bps": 0, "gross_target": gross}
    found = sized(
        strength, held=held, may_enter=[True, False, False, False], reason=[0, 7, 7, 7],
        config=config, lot=[1.0, 10, 10, 10],
    )  # fmt: skip
    np.testing.assert_allclose(found.wanted, np.array(strength) * gross / sum(strength))
    np.testing.assert_array_equal(found.shares, [294, 60, 81, 15])  # of 58.9, 76.6 and 5.9
    np.testing.assert_array_equal(found.reason, [0] + [Reason.BELOW_RESERVE] * 3)


def test_a_change_of_side_sells_odd_lots_and_enters_in_whole_ones() -> None:
    found = sized([-0.9], held=[0.0155], must_exit=True, config=LIMIT, lot=100.0)
    np.testing.assert_array_equal(found.shares, [-100])
    assert found.action[0] == Action.FLIP


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_lots_never_go_further_than_wanted(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = 12
    z, held = rng.normal(0, 1.5, n), rng.integers(-4, 5, n) * rng.uniform(0, 0.01, n)
    lot = rng.choice([1.0, 10.0, 100.0], n)
    found = sized(z, held=held, must_exit=z * held < 0, config=LIMIT, lot=lot)
    before, after = held * NAV / 100, found.shares
    low, high = np.minimum(held, found.banded), np.maximum(held, found.banded)
    slack = ROUNDING * lot * 100 / NAV + 1e-12
    assert (found.weight >= low - slack).all()
    assert (found.weight <= high + slack).all()
    whole = (after - np.where(after * before < 0, 0.0, before)) / lot
    exits = after == 0
    np.testing.assert_allclose(whole[~exits], np.round(whole[~exits]), atol=1e-6)


def test_actions() -> None:
    before = np.array([0.0, 5, 0, 0, 5, -5, 5, -5, 5, -5, 5, -5])
    after = np.array([0.0, 5, 5, -5, 6, -6, 4, -4, 0, 0, -1, 1])
    expected = [Action.NONE, Action.HOLD, Action.ENTER, Action.ENTER]
    expected += [Action.INCREASE] * 2 + [Action.REDUCE] * 2 + [Action.EXIT] * 2 + [Action.FLIP] * 2
    np.testing.assert_array_equal(actions(before, after), expected)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.01, 0.6), st.booleans())
def test_bases_are_filled_up_as_by_bisection(seed: int, gross: float, limited: bool) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 20))
    strength = rng.uniform(0.01, 3, n) * (rng.random(n) < 0.8)
    base = rng.uniform(0, 0.08, n) * (rng.random(n) < 0.5)
    config = SizingConfig(gross_mode="limit" if limited else "fill")
    found = gross_shares(strength, gross, config, base)
    active = strength > 0
    assert not found[~active].any()

    def filled(k: float) -> np.ndarray:
        return np.where(active, np.maximum(base, np.minimum(k * strength, 0.05)), 0)

    low, high = 0.0, 0.05 / 3 if limited else 0.05 / 0.01
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if filled(middle).sum() < gross else (low, middle)
    np.testing.assert_allclose(found, filled(high), atol=1e-9)


def test_weak_names_give_way_only_as_far_as_room_is_needed() -> None:
    """Ten weak ones hold all of the gross target; one that pays comes, and then two."""
    weak = {"may_enter": np.r_[np.zeros(10, bool), True, True], "reason": 7}
    held = np.r_[np.full(10, 0.05), 0, 0]
    config = {"band_bps": 0}
    none = sized(np.r_[np.full(10, 0.1), 0, 0], held=held, config=config, **weak)
    np.testing.assert_array_equal(none.shares, held * NAV / 100)
    one = sized(np.r_[np.full(10, 0.1), 3, 0], held=held, config=config, **weak)
    np.testing.assert_allclose(one.wanted, np.r_[np.full(10, 0.045), 0.05, 0])
    two = sized(np.r_[np.full(10, 0.1), 3, -3], held=held, config=config, **weak)
    np.testing.assert_allclose(two.wanted, np.r_[np.full(10, 0.04), 0.05, -0.05])
    banded = sized(np.r_[np.full(10, 0.1), 3, -3], held=held, **weak)
    np.testing.assert_allclose(banded.wanted, two.wanted)  # room is made for all that is wanted
    np.testing.assert_allclose(banded.weight[10:], [0.042, -0.042])
    # no more than what open names add: the second wants less than the band
    part = sized(np.r_[np.full(10, 0.1), 3, 0.01], held=held, config={"band_share": None}, **weak)
    assert abs(part.wanted[:10]).sum() == pytest.approx(0.45)
    assert part.shares[10] > 410
    assert part.shares[11] == 0
    # the weakest gives way first: the others hold no more than their share
    uneven = np.r_[1e-3, np.full(9, 3.0), 3, 0]
    first = sized(uneven, held=held, config=config, **weak)
    assert first.wanted[0] < 1e-4
    np.testing.assert_allclose(first.wanted[1:10], 0.05, atol=1e-5)


def test_what_pays_is_not_sold_for_what_pays_more() -> None:
    held = np.r_[np.full(10, 0.05), 0]
    found = sized(np.r_[np.full(10, 0.2), 3], held=held, config={"band_bps": 0})
    np.testing.assert_array_equal(found.shares, held * NAV / 100)
    assert found.reason[0] == Reason.ENOUGH_HELD
    assert found.reason[10] == Reason.GROSS_LIMIT


@pytest.mark.parametrize(
    "changes", [{"sound": False}, {"g": np.nan}, {"may_trade": False}, {"chosen": NOTHING}]
)
def test_on_a_bad_quote_or_too_little_known_nothing_gives_way(changes: dict[str, Any]) -> None:
    weak = {"may_enter": [False, True], "reason": [7, 0], "config": {"gross_target": 0.05}}
    first = {name: [value, 1] for name, value in changes.items()}
    assert sized([0.1, 3], held=[0.05, 0], **weak).shares[0] < 500
    assert sized([0.1, 3], held=[0.05, 0], **weak | first).shares[0] == 500


def test_positions_without_value_sell_nothing_and_leave_less_to_add() -> None:
    """Twelve of them are more than the gross target at a full size each."""
    n = 14
    held = np.r_[np.full(12, 1e-5), 0.04, 0.0]
    price = np.r_[np.full(12, np.nan), 100, 100]
    found = sized(
        np.full(n, 2.0), held=held, price=price, bid=price - 0.01, ask=price + 0.01,
        may_trade=price > 0, may_enter=price > 0,
    )  # fmt: skip
    np.testing.assert_array_equal(found.shares, held * NAV / 100)
    weak = sized(
        np.full(n, 2.0), held=held, price=price, bid=price - 0.01, ask=price + 0.01,
        may_trade=price > 0, may_enter=np.r_[np.zeros(13, bool), True], reason=7,
    )  # fmt: skip
    assert weak.shares[12] == 400
    # six of them take the room of one that pays, and sell nothing for it
    held = np.r_[np.full(6, 1e-5), np.full(8, 0.05), 0.0]
    price = np.r_[np.full(6, np.nan), np.full(9, 100)]
    found = sized(
        np.r_[np.full(6, 2.0), np.full(8, 0.1), 3], held=held, price=price, bid=price - 0.01,
        ask=price + 0.01, may_trade=price > 0, may_enter=np.arange(15) == 14, reason=7,
    )  # fmt: skip
    np.testing.assert_array_equal(found.shares, held * NAV / 100)


@pytest.mark.parametrize("mid", [1.0, 99.0, 101.0, 1000.0])
def test_an_increase_is_by_the_greater_of_mid_and_close(mid: float) -> None:
    found = sized([3.0], held=0.01, config=LIMIT, bid=mid * 0.9999, ask=mid * 1.0001)
    assert found.shares[0] <= max(100, 0.05 * NAV / max(mid, 100.0) + 1e-6)
    assert found.weight[0] == found.shares[0] * max(mid, 100.0) / NAV


GRID = {
    "p": [0.0, 0.2, 0.4, 0.59, 0.61, 0.64, 0.66, 0.9],
    "alpha": [60.0, 20, 8, 5, 4, 3.5, 3, 2, 0.5, 1e-3, -1e-3, -0.5, -3, -60],
}


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6), st.sampled_from([1.0, -1.0]), st.sampled_from(["fill", "limit"]),
    st.sampled_from([0.0, 80.0]), st.integers(-1000, 1000), st.sampled_from([0.1, 0.3, 0.5]),
)  # fmt: skip
def test_worse_evidence_never_leaves_more(
    seed: int, side: float, mode: str, width: float, held: int, gross: float
) -> None:
    """In p(adverse) and in net, whatever the others are; on the side held, or bought when flat."""
    market, said, alpha = scene(seed)
    market = replace(market, nav_usd=1e6, adv_usd=np.full(10, 1e12), lot=np.ones(10))
    shares, price = market.shares.copy(), market.price.copy()
    shares[0], price[0] = side * abs(held), 100.0
    bid, ask = market.bid.copy(), market.ask.copy()
    bid[0], ask[0] = 99.99, 100.01
    member, age = market.member.copy(), market.quote_age_ms.copy()
    member[0], age[0] = True, 50
    market = replace(
        market, shares=shares, price=price, bid=bid, ask=ask, member=member, quote_age_ms=age
    )
    chosen = settings_of(
        gates={"barrier_prior": 0.2},
        sizing={"gross_mode": mode, "band_bps": width, "gross_target": gross},
        costs={"borrow_bps_per_year": 0},
    )

    def target(p: float, bps: float) -> float:
        barriers, signal = said.barriers.copy(), alpha.copy()
        barriers[:, 0] = (p, 0.2) if side > 0 else (0.2, p)
        signal[:, 0] = side * bps * np.array([0.6, 1.0, 1.3])
        found = decided(market, replace(said, barriers=barriers), signal, chosen)
        return float(found.sizes.banded[0] * side)

    for bps in (60.0, 8.0, 2.0):
        found = [max(target(p, bps), 0.0) for p in GRID["p"]]
        assert (np.diff(found) <= 1e-12).all(), (bps, found)
    for p in (0.2, 0.59, 0.61):
        found = [max(target(p, bps), 0.0) for bps in GRID["alpha"]]
        assert (np.diff(found) <= 1e-12).all(), (p, found)


def test_worse_evidence_by_hand() -> None:
    """One name of 450 shares at 100; what it was before evidence grew worse is never exceeded."""
    said = make_forecasts(0, 1, horizons=("5m", "30m"), barriers=False)
    market = make_market(0, 1, price=100.0, bid=99.99, ask=100.01, adv_usd=1e12, shares=450.0)
    alone = settings_of(sizing={"gross_mode": "limit"}, gates={"barrier_prior": 0.2})
    for peak, left in ((0.3, 450), (0.59, 450), (0.61, 450), (0.64, 450), (0.66, 0)):
        barriers = np.array([[peak], [0.2]])
        found = decided(market, replace(said, barriers=barriers), 20.0, alone)
        assert found.sizes.shares[0] == left
    for alpha, left in ((60.0, 450), (5.0, 450), (3.0, 450), (0.1, 450), (-0.1, 0)):
        assert decided(market, said, alpha, alone).sizes.shares[0] == left

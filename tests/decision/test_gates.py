"""Barrier and quote gates by hand; the neutral probability gives exactly 1."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpa.decision.arbitration import arbitrate
from dpa.decision.gates import gate
from dpa.decision.types import Gates, Reason
from tests.decision.conftest import horizons_of, make_market
from tests.decision.deciding import UNKNOWN, settings_of

HORIZONS = horizons_of(("5m", "30m"))


def gated(  # type: ignore[no-untyped-def]
    alpha=100.0, barriers=None, prior=UNKNOWN, chosen=None, **market
) -> Gates:
    """Gates of symbols of sigma 10 with one alpha each at both horizons."""
    chosen = chosen or settings_of()
    n_symbols = np.size(alpha)
    built = make_market(0, n_symbols, adv_usd=1e12, **market)
    alphas = np.array(np.broadcast_to(np.asarray(alpha, float), (2, n_symbols)))
    none = np.zeros(n_symbols, np.int8)
    found = arbitrate(built, HORIZONS, np.full(n_symbols, 10.0), alphas, none, chosen)
    table = None if barriers is None else np.array(barriers, float).reshape(2, n_symbols)
    return gate(built, table, np.asarray(prior, float), alphas, found, chosen)


PRIOR = settings_of(gates={"barrier_prior": 0.2})


def test_barrier_by_hand() -> None:
    # raw(0.4, 0.3) / raw(0.2, 0.2) = (0.6 * 0.65^0.5) / (0.8 * 0.6^0.5)
    assert gated(100, [0.4, 0.3], chosen=PRIOR).barrier[0] == pytest.approx(0.7806247)
    assert gated(-100, [0.3, 0.4], chosen=PRIOR).barrier[0] == pytest.approx(0.7806247)
    # better than neutral is cut at 1, worse than the floor at the floor
    assert gated(100, [0.0, 0.5], chosen=PRIOR).barrier[0] == 1
    low = settings_of(gates={"barrier_prior": 0.2, "barrier_gamma": 10})
    assert gated(100, [0.55, 0.2], chosen=low).barrier[0] == 0.2


def test_no_barriers_say_nothing() -> None:
    found = gated(100)
    assert found.barrier[0] == 1
    assert found.may_enter[0]


@settings(max_examples=50, deadline=None)
@given(
    st.floats(0.01, 0.99), st.floats(0.01, 0.99), st.floats(0, 10), st.floats(0, 10),
    st.sampled_from([100.0, -100.0]), st.integers(1, 9),
)  # fmt: skip
def test_neutral_probability_gives_one(
    peak: float, valley: float, gamma: float, delta: float, alpha: float, n: int
) -> None:
    chosen = settings_of(gates={"barrier_gamma": gamma, "barrier_delta": delta})
    table = np.repeat([[peak], [valley]], n, axis=1)
    assert (gated(np.full(n, alpha), table, [peak, valley], chosen).barrier == 1).all()
    # without a past, the mean of this bar's members is neutral
    found = gated(np.full(n, alpha), table, UNKNOWN, chosen)
    np.testing.assert_allclose(found.barrier, 1, rtol=1e-12)


def test_prior_is_the_configured_one_then_the_past_then_the_bar() -> None:
    alpha, table = np.array([100.0, 100.0]), [[0.4, 0.2], [0.3, 0.3]]
    raw = np.array([0.6, 0.8]) * 0.65**0.5
    bar = gated(alpha, table)
    np.testing.assert_allclose(bar.barrier, [0.6 / 0.7, 1])
    past = gated(alpha, table, [0.1, 0.3])
    np.testing.assert_allclose(past.barrier, [0.6 / 0.9, 0.8 / 0.9])
    fixed = gated(alpha, table, [0.1, 0.3], PRIOR)
    np.testing.assert_allclose(fixed.barrier, np.minimum(raw / (0.8 * 0.6**0.5), 1))
    members = gated(alpha, table, member=np.array([False, True]))
    np.testing.assert_allclose(members.barrier, [0.6 / 0.8, 1])


@pytest.mark.parametrize(("side", "row"), [(1.0, 0), (-1.0, 1)])
def test_a_likely_barrier_blocks_and_closes_its_side_only(side: float, row: int) -> None:
    def likely(chance: float, held: float) -> Gates:
        barriers = [0.2, 0.2]
        barriers[row] = chance
        return gated(side * 100, barriers, chosen=PRIOR, shares=held)

    assert likely(0.6, 0).may_enter[0]
    blocked = likely(0.61, side)
    assert not blocked.may_enter[0]
    assert not blocked.must_exit[0]
    assert blocked.reason[0] == Reason.BARRIER_BLOCK
    assert not likely(0.65, side).must_exit[0]
    closed = likely(0.66, side)
    assert closed.must_exit[0]
    assert closed.reason[0] == Reason.BARRIER_EXIT
    other = gated(-side * 100, [0.66, 0.2] if row == 0 else [0.2, 0.66], chosen=PRIOR)
    assert other.may_enter[0]


@pytest.mark.parametrize("bad", [np.nan, -0.1, 1.1, np.inf])
@pytest.mark.parametrize("row", [0, 1])
def test_an_unknown_probability_blocks_and_closes_nothing(bad: float, row: int) -> None:
    barriers = [0.2, 0.2]
    barriers[row] = bad
    for held in (0, 1, -1):
        found = gated(100, barriers, chosen=PRIOR, shares=held)
        assert np.isnan(found.barrier[0])
        assert not found.may_enter[0]
        assert found.must_exit[0] == (held < 0)  # as alpha is against it
    assert gated(100, barriers, chosen=PRIOR).reason[0] == Reason.BARRIER_UNKNOWN


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"bid": np.nan}, Reason.NO_QUOTE),
        ({"ask": np.inf}, Reason.NO_QUOTE),
        ({"bid": 1e9}, Reason.NO_QUOTE),
        ({"bid": 0}, Reason.NO_QUOTE),
        ({"bid": -1}, Reason.NO_QUOTE),
        ({"bid": 99.0, "ask": 99.2}, Reason.SPREAD_WIDE),
        ({"quote_age_ms": 201}, Reason.QUOTE_OLD),
        ({"quote_age_ms": np.nan}, Reason.QUOTE_OLD),
        ({"member": False}, Reason.NOT_A_MEMBER),
    ],
)
def test_quotes_and_members(changes: dict[str, float], reason: Reason) -> None:
    found = gated(100, **changes)
    assert found.reason[0] == reason
    assert not found.may_enter[0]
    assert found.may_trade[0] == (reason != Reason.NO_QUOTE)
    held = gated(100, shares=1, **changes)
    assert held.must_exit[0] == (reason == Reason.NOT_A_MEMBER)


def test_spread_and_age_at_their_limits_pass() -> None:
    near = {"price": 100.0, "bid": 100.0, "quote_age_ms": 200}
    assert gated(100, ask=100.12, **near).may_enter[0]  # 11.99 bps
    assert not gated(100, ask=100.1202, **near).may_enter[0]


@pytest.mark.parametrize(
    ("mid", "close", "enters"),
    [
        (1.0005, 100, False), (89.9, 100, False), (90.1, 100, True), (109.9, 100, True),
        (110.1, 100, False), (1e5, 100, False), (100, np.nan, False), (100, 0, False),
    ],
)  # fmt: skip
def test_a_quote_far_from_the_close_is_not_trusted(mid: float, close: float, enters: bool) -> None:
    found = gated(100, bid=mid * 0.9999, ask=mid * 1.0001, price=close)
    assert found.may_enter[0] == found.sound[0] == enters
    assert found.may_trade[0]
    assert found.reason[0] == (Reason.NONE if enters else Reason.QUOTE_ODD)
    held = gated(-100, bid=mid * 0.9999, ask=mid * 1.0001, price=close, shares=5)
    assert held.must_exit[0]  # an exit needs a quote and no more


def unskilled(alpha: float, reason: Reason, **gates: bool) -> Gates:
    """Of one name held long, with one alpha at both horizons and the blend's reason."""
    chosen, built = settings_of(gates=gates), make_market(0, 1, adv_usd=1e12, shares=5)
    alphas, code = np.full((2, 1), alpha), np.array([reason], np.int8)
    found = arbitrate(built, HORIZONS, np.full(1, 10.0), alphas, code, chosen)
    return gate(built, None, UNKNOWN, alphas, found, chosen)


def test_positions_without_any_skill_are_closed() -> None:
    closed = unskilled(0.0, Reason.NO_SKILL)
    assert closed.must_exit[0]
    assert closed.reason[0] == Reason.NO_SKILL
    assert not unskilled(0.0, Reason.NO_SKILL, keep_without_skill=True).must_exit[0]
    for reason in (Reason.NO_RECORD, Reason.NO_FAMILY):
        assert not unskilled(0.0, reason).must_exit[0]
    for reason in (Reason.NO_SCORE, Reason.NO_FORECAST, Reason.NO_FAMILY, Reason.NO_SKILL):
        assert not unskilled(np.nan, reason).must_exit[0]


def test_an_aggregated_feed_has_its_own_age() -> None:
    assert gated(100, feed="aggregated", quote_age_ms=599).may_enter[0]
    assert not gated(100, feed="aggregated", quote_age_ms=601).may_enter[0]


def test_alpha_against_the_position_closes_it() -> None:
    found = gated([-0.1, 0.1, 0.0, np.nan, -100.0], shares=[5.0, 5, 5, 5, 5])
    np.testing.assert_array_equal(found.must_exit, [True, False, False, False, True])
    assert found.reason[0] == Reason.ALPHA_TURNED
    assert found.reason[4] == Reason.NONE  # sold to the other side
    mirrored = gated([0.1, -0.1], shares=[-5.0, -5])
    np.testing.assert_array_equal(mirrored.must_exit, [True, False])


def test_longs_and_shorts_mirror() -> None:
    rng = np.random.default_rng(0)
    alpha, table = rng.normal(0, 30, 200), rng.uniform(0, 1, (2, 200))
    held = rng.integers(-1, 2, 200).astype(float)
    long, short = gated(alpha, table, shares=held), gated(-alpha, table[::-1], shares=-held)
    for name in ("barrier", "may_enter", "may_trade", "must_exit", "reason"):
        np.testing.assert_array_equal(getattr(long, name), getattr(short, name))


def test_the_arbiter_s_reason_comes_before_the_gates() -> None:
    found = gated(0.001, quote_age_ms=1000)
    assert found.reason[0] == Reason.BELOW_RESERVE
    assert replace(found).barrier[0] == 1

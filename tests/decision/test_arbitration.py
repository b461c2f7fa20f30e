"""Arbitration by hand, against a slow implementation, and the argument for execution minutes."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpa.decision.arbitration import arbitrate, cost_parts, costs, session_minutes
from dpa.decision.types import NOTHING, Reason
from dpa.market.interval_specs import Horizon
from tests.decision.conftest import horizons_of, make_forecasts, make_market
from tests.decision.deciding import settings_of

LABELS = ("5m", "30m", "1d")
HORIZONS = horizons_of(LABELS)
FREE = settings_of(
    costs={"commission_bps": 0, "impact_coefficient": 0, "borrow_bps_per_year": 0},
    arbitration={"timing_factor": 0, "spread_factor": 0},
)
NO_REASON = np.zeros(1, np.int8)


def one(alpha, chosen=FREE, **market):  # type: ignore[no-untyped-def]
    """Arbitration of one symbol of sigma 10 with alphas by horizon."""
    column = np.array(alpha, float)[:, None]
    market = make_market(0, 1, **market)
    return arbitrate(market, HORIZONS, np.array([10.0]), column, NO_REASON, chosen)


def test_cost_by_hand() -> None:
    market = make_market(0, 1, bid=99.98, ask=100.02, adv_usd=5e8, nav_usd=2e6)
    found = costs(market, HORIZONS, np.array([10.0]), settings_of())
    # spread 4, two commissions of 1, 0.15 * 10 * sqrt(1), 2 * 10 sqrt(390) * sqrt(100,000 / 5e8)
    np.testing.assert_allclose(found, np.full((3, 1), 4 + 2 + 1.5 + 5.585696), rtol=1e-6)
    short = costs(replace(market, nav_usd=-2e6), HORIZONS, np.array([10.0]), settings_of())
    np.testing.assert_array_equal(short, found)


def test_cost_without_execution_minutes_takes_the_horizon() -> None:
    market = make_market(0, 1)
    whole = settings_of(arbitration={"execution_minutes": None})
    timing = cost_parts(market, HORIZONS, np.array([10.0]), whole).timing
    np.testing.assert_allclose(timing[:, 0], 1.5 * np.sqrt([5, 30, 390]))


def test_no_realistic_forecast_trades_when_timing_is_the_horizon() -> None:
    """IC 0.05, stability 0.5, score 2: alpha 0.05 sigma_h against 0.15 sigma_h of timing."""
    said = make_forecasts(0, 8)
    alpha = 0.05 * said.volatility * 0.5 * 2
    market = make_market(0, 8, adv_usd=1e12)
    reason = np.zeros(8, np.int8)
    for minutes, trades in ((None, False), (1.0, True)):
        chosen = settings_of(arbitration={"execution_minutes": minutes})
        found = arbitrate(market, said.horizons, said.sigma, alpha, reason, chosen)
        assert (found.chosen >= 0).any() == trades


@pytest.mark.parametrize("field", ["bid", "ask", "adv_usd"])
def test_unknown_parts_make_the_cost_unknown(field: str) -> None:
    found = one([50, 50, 50], settings_of(), **{field: np.nan})
    assert np.isnan(found.cost).all()
    assert found.chosen[0] == NOTHING
    assert found.leading[0] == 0
    assert found.reason[0] == (Reason.COST_UNKNOWN if field == "adv_usd" else Reason.NO_QUOTE)


def test_traded_value_does_not_matter_without_impact() -> None:
    found = one([50, 0, 0], FREE, adv_usd=np.nan, nav_usd=np.nan)
    assert found.chosen[0] == 0


def test_net_is_ranked_by_the_root_of_the_horizon() -> None:
    assert one([10, 20, 60]).chosen[0] == 0  # 10, 20 / 2.45 = 8.2, 60 / 8.83 = 6.8
    assert one([8, 20, 60]).chosen[0] == 1
    assert one([6, 12, 60]).chosen[0] == 2
    assert one([5, 20, 60], settings_of(arbitration={"horizon_power": 0})).chosen[0] == 2


def test_of_equals_the_shorter_horizon() -> None:
    flat = settings_of(arbitration={"horizon_power": 0})
    assert one([30, 30, 30], flat).chosen[0] == 0


def test_reserve_counts_the_cost_once() -> None:
    dear = settings_of(arbitration={"reserve_bps": 2}, costs={"impact_coefficient": 0})
    market = {"bid": 99.99, "ask": 100.01}  # 2 + 2 + 1.5 = 5.5 bps
    assert one([7.49, 0, 0], dear, **market).chosen[0] == NOTHING
    assert one([7.49, 0, 0], dear, **market).reason[0] == Reason.BELOW_RESERVE
    assert one([7.51, 0, 0], dear, **market).chosen[0] == 0


def test_only_shorts_pay_the_borrow_fee() -> None:
    costly = settings_of(
        costs={"borrow_bps_per_year": 252 * 10, "commission_bps": 0, "impact_coefficient": 0},
        arbitration={"timing_factor": 0, "spread_factor": 0},
    )
    assert one([0, 0, 20], costly).net[2, 0] == pytest.approx(20)
    assert one([0, 0, -20], costly).net[2, 0] == pytest.approx(10)
    assert one([0, 0, -20], costly).side[0] == -1


def test_no_alpha_is_never_traded_and_leads_only_alone() -> None:
    free = settings_of(
        arbitration={"reserve_bps": 0, "timing_factor": 0, "spread_factor": 0},
        costs={"commission_bps": 0, "impact_coefficient": 0},
    )
    assert one([0, 0, 0], free).chosen[0] == NOTHING
    assert one([0, 0, 0], free).leading[0] == 0
    assert one([np.nan, np.nan, np.nan], free).leading[0] == NOTHING
    dear = settings_of(arbitration={"reserve_bps": 1000})
    assert one([0, -3, 0], dear).leading[0] == 1
    assert one([np.nan, 0, np.nan], dear).leading[0] == 1


def test_a_loss_does_not_shrink_with_the_horizon() -> None:
    """Divided by its root, the longest horizon's loss would always look the smallest."""
    dear = settings_of(
        costs={"commission_bps": 5, "impact_coefficient": 0},
        arbitration={"timing_factor": 0, "spread_factor": 0, "reserve_bps": 1},
    )
    found = one([9, 1, -0.1], dear)  # nets -1, -9, -9.9
    assert found.chosen[0] == NOTHING
    assert found.leading[0] == 0


def test_the_blend_s_reason_comes_first() -> None:
    market = make_market(0, 1, bid=np.nan)
    reason = np.array([Reason.NO_SKILL], np.int8)
    found = arbitrate(market, HORIZONS, np.array([10.0]), np.zeros((3, 1)), reason, FREE)
    assert found.reason[0] == Reason.NO_SKILL


def test_session_of_another_venue() -> None:
    assert session_minutes((Horizon(5, 1, "5m"), Horizon(600, 120, "2d"))) == 300
    assert session_minutes((Horizon(5, 1, "5m"),)) == 390


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 5), st.floats(0, 2))
def test_against_a_loop(seed: int, reserve: float, power: float) -> None:
    rng = np.random.default_rng(seed)
    market, said = make_market(seed, 6), make_forecasts(seed, 6)
    alpha = said.volatility * rng.normal(0, 0.1, said.volatility.shape)
    alpha[rng.random(alpha.shape) < 0.2] = np.nan
    chosen = settings_of(arbitration={"reserve_bps": reserve, "horizon_power": power})
    found = arbitrate(market, said.horizons, said.sigma, alpha, np.zeros(6, np.int8), chosen)
    cost = costs(market, said.horizons, said.sigma, chosen)
    for k in range(6):
        best, place = -np.inf, NOTHING
        for h, minutes in enumerate((5, 30, 390)):
            fee = 50 * minutes / (390 * 252) if alpha[h, k] < 0 else 0.0
            net = abs(alpha[h, k]) - cost[h, k] - fee
            np.testing.assert_allclose(found.net[h, k], net, atol=1e-12)
            if net >= reserve and net / (minutes / 5) ** power > best:
                best, place = net / (minutes / 5) ** power, h
        assert found.chosen[k] == place
        assert found.side[k] == (0 if place == NOTHING else np.sign(alpha[place, k]))
        assert (found.reason[k] == Reason.NONE) == (place != NOTHING)

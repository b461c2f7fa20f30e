"""Every field of the decision's settings changes a decision: none is inert."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from dpa.config import DECISION_SECTIONS, Settings
from dpa.decision.decision import Decision, State
from dpa.decision.pipeline import decide
from dpa.decision.types import Snapshot
from tests.decision.streams import learned, quick, run, snapshots

LEARNING = ("standardise", "confidence", "blend", "online")
EXCEPTIONS = {
    "costs.half_spread_bps": "a decision takes the quoted spread; this one is the backtest's",
    "costs.nav_usd": "a decision takes the account's NAV; this one is the backtest's",
    "costs.delisting_return": "booked by the backtest when a name dies",
}
EXP3 = {"online_mode": "exp3ix"}


@dataclass(frozen=True)
class Case:
    """Another value of a field, and where it shows."""

    value: Any
    beside: dict[str, Any] = field(default_factory=dict)  # other fields of the section
    market: dict[str, Any] = field(default_factory=dict)
    peak: float = 1e6
    shows: str = "shares"  # or "signal", where what is wanted is at the most of a name
    turned: bool = False  # the forecasts of all bars, so that no family has skill


CASES = {
    "standardise.score_sessions": Case(1),
    "standardise.score_samples": Case(1000),
    "standardise.score_clip": Case(0.2),
    "confidence.ic_half_life_sessions": Case(0.5),
    "confidence.ic_prior_samples": Case(1e6),
    "confidence.freshness_share": Case(0.001),
    "confidence.freshness_cap_seconds": Case(0.1),
    "confidence.capacity_share": Case(1e-6),
    "blend.blend_ridge": Case(50.0),
    "blend.cost_aversion": Case(1.0),
    "blend.covariance_half_life_sessions": Case(0.2),
    "blend.temperatures": Case(["5m=0.1", "30m=0.1"]),
    "online.online_mode": Case("off"),
    "online.online_share": Case(0.9),
    "online.online_warmup": Case(1000),
    "online.online_scale": Case(20.0, shows="signal"),
    "online.online_half_life_sessions": Case(0.2, shows="signal"),
    "online.exploration": Case(0.9, EXP3),
    "online.exp3_rate": Case(0.001, EXP3),
    "online.online_seed": Case(1, EXP3),
    "arbitration.spread_factor": Case(5.0),
    "arbitration.timing_factor": Case(2.0),
    "arbitration.execution_minutes": Case(50.0),
    "arbitration.reserve_bps": Case(20.0),
    "arbitration.horizon_power": Case(0.0),
    "costs.commission_bps": Case(10.0),
    "costs.impact_coefficient": Case(10.0),
    "costs.borrow_bps_per_year": Case(100000.0),
    "gates.barrier_gamma": Case(3.0),
    "gates.barrier_delta": Case(3.0),
    "gates.barrier_floor": Case(0.9),
    "gates.barrier_block": Case(0.2),
    "gates.barrier_exit": Case(0.99),
    "gates.barrier_prior": Case(0.9),
    "gates.max_spread_bps": Case(2.0),
    "gates.max_quote_age_ms": Case(10.0),
    "gates.max_quote_age_aggregated_ms": Case(10.0, market={"feed": "aggregated"}),
    "gates.max_quote_gap_bps": Case(5.0, market={"price": 1.001 * snapshots()[-1].market.price}),
    "gates.keep_without_skill": Case(True, turned=True),
    "sizing.signal_clip": Case(0.1),
    "sizing.name_weight": Case(0.02),
    "sizing.gross_target": Case(0.1),
    "sizing.gross_mode": Case("limit"),
    "sizing.band_bps": Case(10.0),
    "sizing.band_share": Case(0.05),
    "risk.daily_loss_limit": Case(0.5, market={"nav_usd": 0.985e6}),
    "risk.drawdown_limit": Case(0.5, peak=1.1e6),
    "risk.warn_share": Case(0.99, market={"nav_usd": 0.985e6}),
    "risk.max_name_weight": Case(0.01),
    "risk.max_gross": Case(0.05),
    "risk.max_net": Case(0.001),
    "risk.max_order_usd": Case(2000.0),
    "risk.max_orders_per_minute": Case(1),
}
FIELDS = [
    f"{section}.{name}"
    for section in DECISION_SECTIONS
    for name in type(getattr(Settings(), section)).model_fields
]


def last(settings: Settings, case: Case, whole: bool) -> Decision:
    """The decision of the last bar, learned under `settings` when `whole`."""
    bars = snapshots()
    if case.turned:
        bars = tuple(
            Snapshot(bar.market, replace(bar.forecasts, returns=-bar.forecasts.returns))
            for bar in bars
        )
    changed = Snapshot(replace(bars[-1].market, **case.market), bars[-1].forecasts)
    state = learned()
    if case.turned or (whole and settings != quick()):
        before = run(bars[:-1], settings)[-1].state
        assert before is not None
        state = State(before.learning, state.risk)
    risk = replace(state.risk, peak_nav=case.peak)
    return decide(changed, State(state.learning, risk), settings)


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_changes_a_decision(name: str) -> None:
    if name in EXCEPTIONS:
        assert name not in CASES
        return
    assert name in CASES, f"{name} is new: give another value for which a decision differs"
    section, key = name.split(".")
    case = CASES[name]
    one, other = (
        quick(**{section: case.beside}),
        quick(**{section: case.beside | {key: case.value}}),
    )
    assert one != other
    whole = section in LEARNING
    before, after = last(one, case, whole), last(other, case, whole)
    assert before.sizes.shares.any() or after.sizes.shares.any()
    assert not np.array_equal(getattr(before.sizes, case.shows), getattr(after.sizes, case.shows))
    assert before.id != after.id


def test_no_case_is_left_over() -> None:
    assert set(CASES) | set(EXCEPTIONS) == set(FIELDS)


def test_the_backtest_s_fields_change_the_id_only() -> None:
    """They are of a section that counts; that they do not matter is what is shown here."""
    for name in EXCEPTIONS:
        key = name.split(".")[1]
        other = quick(costs={key: 0.5 if key == "delisting_return" else 123.0})
        before, after = last(quick(), Case(0), False), last(other, Case(0), False)
        np.testing.assert_array_equal(before.sizes.shares, after.sizes.shares)

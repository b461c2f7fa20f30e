"""The deciding half of the pipeline on a given alpha, as a whole decision."""

from dataclasses import replace
from typing import Any

import numpy as np

from dpa.config import Settings
from dpa.decision.arbitration import arbitrate
from dpa.decision.decision import Decision
from dpa.decision.gates import gate
from dpa.decision.risk import RiskState, assess, limit
from dpa.decision.sizing import size
from dpa.decision.types import (
    Beliefs,
    Blend,
    Forecasts,
    Market,
    Reason,
    RiskLevel,
    Snapshot,
)
from tests.decision.conftest import make_forecasts, make_market

UNKNOWN = np.full(2, np.nan)


def settings_of(**sections: dict[str, Any]) -> Settings:
    """The defaults with some fields changed: ``settings_of(risk={"max_net": 0.1})``."""
    return Settings.model_validate(sections)


def decided(
    market: Market,
    said: Forecasts,
    alpha: Any,
    settings: Settings | None = None,
    risk: RiskState | None = None,
    reason: Any = 0,
) -> Decision:
    """A decision on `alpha`, bps, broadcast to (n_horizons, n_symbols); beliefs are invented."""
    settings = settings or Settings()
    n_horizons, n_families, n_symbols = said.returns.shape
    alpha = np.array(np.broadcast_to(np.asarray(alpha, float), (n_horizons, n_symbols)))
    reason = np.array(np.broadcast_to(np.asarray(reason, np.int8), (n_symbols,)))
    ones = np.ones((n_horizons, n_families))
    beliefs = Beliefs(
        scores=np.clip(said.returns / 0.1, -3, 3),
        n_samples=np.full(said.returns.shape, 250),
        ic=0.05 * ones,
        ic_samples=4000 * ones,
        stability=0.5 * ones,
        covariance=np.tile(np.eye(n_families), (n_horizons, 1, 1)),
        online=ones / n_families,
        online_bars=np.full(n_horizons, 200),
        barrier_prior=UNKNOWN,
    )
    blend = Blend(
        freshness=np.ones(n_horizons),
        capacity=np.ones(n_symbols),
        confidence=np.full(said.returns.shape, 0.025),
        merit=0.04 * ones,
        parity=ones / n_families,
        compressed=ones / n_families,
        weights=ones / n_families,
        alpha=alpha,
        reason=reason,
    )
    chosen = arbitrate(market, said.horizons, said.sigma, alpha, reason, settings)
    gates = gate(market, said.barriers, UNKNOWN, alpha, chosen, settings)
    sizes = size(market, said.horizons, said.sigma, alpha, chosen, gates, settings)
    state = assess(risk or RiskState.start(market.account), market, settings)
    sizes, state = limit(market, chosen, gates, sizes, state, settings)
    snapshot = Snapshot(market, said)
    return Decision("0" * 16, snapshot, beliefs, blend, chosen, gates, sizes, state, None, settings)


def scene(seed: int, n_symbols: int = 10) -> tuple[Market, Forecasts, np.ndarray]:
    """A market with positions, quotes bad in all ways, and an alpha, bps."""
    rng = np.random.default_rng(seed)
    market, said = make_market(seed, n_symbols), make_forecasts(seed, n_symbols)
    held = np.where(rng.random(n_symbols) < 0.5, np.round(rng.normal(0, 4e4, n_symbols)), 0)
    alpha = said.volatility * rng.normal(0, 0.3, said.volatility.shape)
    alpha[rng.random(alpha.shape) < 0.1] = np.nan
    barriers = rng.uniform(0, 0.9, (2, n_symbols))
    barriers[rng.random(barriers.shape) < 0.1] = np.nan
    bid, ask = market.bid.copy(), market.ask.copy()
    spoiled = rng.integers(0, 8, n_symbols)
    bid[spoiled == 0] = np.nan
    bid[spoiled == 1] = ask[spoiled == 1] + 0.01
    bid[spoiled == 2] *= 0.99
    market = replace(
        market, bid=bid, ask=ask, shares=np.trunc(held / market.price),
        quote_age_ms=np.where(spoiled == 3, 500.0, 50.0), member=rng.random(n_symbols) < 0.9,
        lot=rng.choice([1.0, 10.0, 100.0], n_symbols), prior_nav_usd=1e6,
        nav_usd=float(rng.choice([1e6, 1e6, 0.98e6, 0.985e6])),
    )  # fmt: skip
    return market, replace(said, barriers=barriers), alpha


def reasons_by_hand() -> dict[Reason, Decision]:
    """For each reason a decision in which the first symbol has it."""
    said = make_forecasts(0, 3, horizons=("5m", "30m"), barriers=False)
    plain = {"adv_usd": 1e12}

    def one(alpha: Any = 50.0, sections: Any = None, risk: Any = None, reason: Any = 0,
            barriers: Any = None, **market: Any) -> Decision:  # fmt: skip
        built = make_market(0, 3, **(plain | market))
        spoken = said if barriers is None else replace(said, barriers=np.array(barriers, float))
        return decided(built, spoken, alpha, settings_of(**(sections or {})), risk, reason)

    def risky(level: RiskLevel) -> RiskState:
        return replace(RiskState.start("default"), level=level, why="a test", lasting=True)

    limits = {name: {"risk": {name: value}} for name, value in (
        ("max_name_weight", 0.01), ("max_gross", 0.05), ("max_net", 0.01), ("max_order_usd", 100),
        ("max_orders_per_minute", 1))}  # fmt: skip
    # the cheapest symbol is not the first one: with one order a minute the first is left out
    alpha = np.array([50.0, 60.0, 55.0])
    empty = {"alpha": np.nan}
    likely = [[0.62, 0.2, 0.2], [0.2, 0.2, 0.2]]
    fixed = {"gates": {"barrier_prior": 0.2}}
    return {
        Reason.NONE: one(),
        Reason.NOT_A_MEMBER: one(member=False),
        Reason.NO_FORECAST: one(reason=Reason.NO_FORECAST, **empty),
        Reason.NO_FAMILY: one(reason=Reason.NO_FAMILY, **empty),
        Reason.NO_SCORE: one(reason=Reason.NO_SCORE, **empty),
        Reason.NO_SKILL: one(0.0, reason=Reason.NO_SKILL),
        Reason.NO_RECORD: one(0.0, reason=Reason.NO_RECORD),
        Reason.ENOUGH_HELD: one(shares=[600, 0, 0], price=100, bid=99.99, ask=100.01),
        Reason.QUOTE_ODD: one(price=1.0),
        Reason.COST_UNKNOWN: one(adv_usd=np.nan),
        Reason.BELOW_RESERVE: one(2.0),
        Reason.NO_QUOTE: one(bid=np.nan),
        Reason.SPREAD_WIDE: one(sections={"gates": {"max_spread_bps": 0.1}}),
        Reason.QUOTE_OLD: one(quote_age_ms=1000),
        Reason.BARRIER_UNKNOWN: one(barriers=np.full((2, 3), np.nan)),
        Reason.BARRIER_BLOCK: one(barriers=likely, sections=fixed),
        Reason.BARRIER_EXIT: one(barriers=np.array(likely) + 0.1, sections=fixed, shares=10),
        Reason.ALPHA_TURNED: one(-2.0, shares=10),
        Reason.BAND: one(sections={"sizing": {"band_share": None, "band_bps": 9000}}),
        Reason.LOT: one(lot=1e6),
        Reason.NAME_LIMIT: one(sections=limits["max_name_weight"]),
        Reason.GROSS_LIMIT: one(sections=limits["max_gross"]),
        Reason.NET_LIMIT: one(sections=limits["max_net"]),
        Reason.ORDER_LIMIT: one(sections=limits["max_order_usd"]),
        Reason.RATE_LIMIT: one(alpha, sections=limits["max_orders_per_minute"]),
        Reason.RISK_REDUCE_ONLY: one(prior_nav_usd=np.nan),
        Reason.RISK_FLATTEN: one(nav_usd=0.9e6, shares=10),
        Reason.RISK_HALTED: one(risk=risky(RiskLevel.HALTED)),
    }

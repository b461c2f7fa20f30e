"""The deciding half of the pipeline on a given alpha, as a whole decision."""

from typing import Any

import numpy as np

from dpa.config import Settings
from dpa.decision.arbitration import arbitrate
from dpa.decision.decision import Decision
from dpa.decision.gates import gate
from dpa.decision.risk import RiskState, assess, limit
from dpa.decision.sizing import size
from dpa.decision.types import Beliefs, Blend, Forecasts, Market, Snapshot

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

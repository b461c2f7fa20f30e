"""Decisions on an invented market in which two families know a part of what comes."""

from dataclasses import replace
from functools import cache

import numpy as np

from dpa.config import Settings
from dpa.decision.pipeline import decide, start_state
from dpa.decision.types import Snapshot
from tests.decision.conftest import make_forecasts, make_market

HORIZONS = ("5m", "10m", "15m", "30m", "60m", "1d")
FAMILIES = ("cluster", "ridge", "gbdt", "encoder")
SKILL = np.array([0.0, 0.7, 0.5, 0.0])  # correlation of each family's forecasts with what comes


def settings_for_few_bars():
    """The usual settings, but that a score needs 20 forecasts instead of 100."""
    settings = Settings()
    standardise = settings.standardise.model_copy(update={"score_samples": 20})
    confidence = settings.confidence.model_copy(update={"ic_prior_samples": 200.0})
    return settings.model_copy(update={"standardise": standardise, "confidence": confidence})


@cache
def decisions(n_symbols=20, n_bars=120, seed=1, keep=2):
    """The last decisions of a session and a half; targets are filled at the next bar.

    The last bar lacks the quotes of S001, has a wide one of S002 and an old one of S003; `gbdt` is
    left out of it.
    """
    settings, rng = settings_for_few_bars(), np.random.default_rng(seed)
    first = make_market(seed, n_symbols)
    sigma = make_forecasts(seed, n_symbols, horizons=HORIZONS, families=FAMILIES).sigma
    moves = rng.standard_normal((n_bars + 100, n_symbols))
    paths = np.vstack([np.zeros(n_symbols), np.cumsum(moves, axis=0)])
    price = first.price * np.exp(paths * sigma * np.sqrt(5.0) * 1e-4)
    shares, state, found = np.zeros(n_symbols), None, []
    for bar in range(n_bars):
        half = (first.ask - first.bid) / (first.ask + first.bid)
        market = make_market(
            seed,
            n_symbols,
            bar=bar,
            price=price[bar],
            bid=price[bar] * (1 - half),
            ask=price[bar] * (1 + half),
            shares=shares,
        )
        forecasts = make_forecasts(seed, n_symbols, bar=bar, horizons=HORIZONS, families=FAMILIES)
        returns = np.empty_like(forecasts.returns)
        for h, horizon in enumerate(forecasts.horizons):
            ahead = paths[min(bar + horizon.bars, len(paths) - 1)] - paths[bar]
            truth = ahead / np.sqrt(horizon.bars)
            noise = rng.standard_normal((len(FAMILIES), n_symbols))
            skill = SKILL[:, None]
            returns[h] = 0.1 * (skill * truth + np.sqrt(1 - skill**2) * noise)
        forecasts = replace(forecasts, returns=returns)
        if bar == n_bars - 1 and n_symbols > 3:
            market.bid[1] = market.ask[1] = np.nan
            market.bid[2] *= 0.998
            market.quote_age_ms[3] = 2_500.0
            returns[:, FAMILIES.index("gbdt")] = np.nan
            forecasts = replace(forecasts, left_out={"gbdt": "not done within 500 ms"})
        snapshot = Snapshot(market, forecasts)
        decision = decide(snapshot, state or start_state(snapshot), settings)
        shares, state = decision.sizes.shares, decision.state
        found.append(decision)
    return found[-keep:]

"""A market in which the families know a part of what comes, bar after bar."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from dpa.config import Settings
from dpa.decision.decision import Decision, State
from dpa.decision.pipeline import decide, start_state
from dpa.decision.types import Snapshot
from tests.decision.conftest import make_forecasts, make_market
from tests.decision.deciding import settings_of

LABELS = ("5m", "30m")
SKILL = np.array([0.9, 0.6])  # correlation of each family's forecasts with what comes
QUICK: dict[str, dict[str, Any]] = {
    "standardise": {"score_samples": 20},
    "confidence": {"ic_prior_samples": 50},
    "online": {"online_warmup": 10},
    "sizing": {"gross_target": 0.2},
}


def quick(**sections: dict[str, Any]) -> Settings:
    """Settings that learn within a few bars, with some fields changed."""
    names = {*QUICK, *sections}
    return settings_of(**{name: QUICK.get(name, {}) | sections.get(name, {}) for name in names})


@cache
def snapshots(n_bars: int = 60, n_symbols: int = 12, seed: int = 0) -> tuple[Snapshot, ...]:
    """Bars of sessions of 20; half of the names are held, long and short, whatever is decided."""
    rng = np.random.default_rng(seed)
    first = make_market(seed, n_symbols)
    sigma = make_forecasts(seed, n_symbols).sigma
    moves = rng.standard_normal((n_bars + 80, n_symbols))
    path = np.vstack([np.zeros(n_symbols), np.cumsum(moves, axis=0)])
    price = first.price * np.exp(path * sigma * np.sqrt(5.0) * 1e-4)
    half = (first.ask - first.bid) / (first.ask + first.bid)
    held = np.where(np.arange(n_symbols) % 2, np.round(rng.normal(0, 2e4, n_symbols) / price[0]), 0)
    found = []
    for bar in range(n_bars):
        mid = price[bar]
        market = make_market(
            seed, n_symbols, bar=bar, session=bar // 20, price=mid, bid=mid * (1 - half),
            ask=mid * (1 + half), shares=held, adv_usd=2e9,
        )  # fmt: skip
        said = make_forecasts(seed, n_symbols, bar=bar, horizons=LABELS)
        returns = np.empty_like(said.returns)
        for h, horizon in enumerate(said.horizons):
            truth = (path[bar + horizon.bars] - path[bar]) / np.sqrt(horizon.bars)
            noise = rng.standard_normal((2, n_symbols))
            returns[h] = 0.1 * (SKILL[:, None] * truth + np.sqrt(1 - SKILL[:, None] ** 2) * noise)
        barriers = rng.uniform(0.05, 0.8, (2, n_symbols))
        found.append(Snapshot(market, replace(said, returns=returns, barriers=barriers)))
    return tuple(found)


def run(bars: Sequence[Snapshot], settings: Settings, state: State | None = None) -> list[Decision]:
    """Every decision of a stream."""
    found: list[Decision] = []
    for snapshot in bars:
        decision = decide(snapshot, state or start_state(snapshot), settings)
        state = decision.state
        found.append(decision)
    return found


@cache
def learned(n_symbols: int = 12) -> State:
    """What is known before the last bar of :func:`snapshots`, quick settings; no limit hit."""
    state = run(snapshots(n_symbols=n_symbols)[:-1], quick())[-1].state
    assert state is not None
    return State(state.learning, start_state(snapshots(n_symbols=n_symbols)[0]).risk)


@cache
def traded() -> list[Decision]:
    """A stream whose targets are filled before the next bar."""
    state, shares, found = None, np.zeros(12), []
    for bar in snapshots(120):
        market = replace(bar.market, shares=shares)
        snapshot = Snapshot(market, bar.forecasts)
        decision = decide(snapshot, state or start_state(snapshot), quick())
        state, shares = decision.state, decision.sizes.shares
        found.append(decision)
    return found

"""Random markets and forecasts for the tests of the decision.

Import them: ``from tests.decision.conftest import make_forecasts, make_market``.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from dpa.decision.types import Forecasts, Market
from dpa.market.interval_specs import Horizon

START = pd.Timestamp("2024-07-01 14:30", tz="UTC")
BARS_PER_SESSION = 78
HORIZONS = {
    "5m": Horizon(5, 1, "5m"),
    "10m": Horizon(10, 2, "10m"),
    "15m": Horizon(15, 3, "15m"),
    "30m": Horizon(30, 6, "30m"),
    "60m": Horizon(60, 12, "60m"),
    "1d": Horizon(390, 78, "1d"),
}
FAMILIES = ("cluster", "ridge", "gbdt", "encoder")


def horizons_of(labels: Sequence[str]) -> tuple[Horizon, ...]:
    """Horizons of five-minute bars by label."""
    return tuple(HORIZONS[label] for label in labels)


def make_market(seed: int = 0, n_symbols: int = 8, *, bar: int = 0, **changes: Any) -> Market:
    """A plausible market: all names members, quoted 4 bps wide or less and 50 ms ago, flat.

    Parameters
    ----------
    seed : int
        Of prices, spreads and volumes; the bar does not change them.
    n_symbols : int
    bar : int
        Bars since Monday 2024-07-01, 78 a session; sessions are a calendar day apart.
    **changes
        Fields of :class:`Market` that differ; a number stands for all symbols.
    """
    rng = np.random.default_rng([seed, 1])
    session, within = divmod(bar, BARS_PER_SESSION)
    time = START + pd.Timedelta(days=session, minutes=5 * (within - 11))
    price = np.round(np.exp(rng.uniform(np.log(10), np.log(400), n_symbols)), 2)
    half = price * rng.uniform(0.5e-4, 2e-4, n_symbols)
    built = Market(
        time=time,
        moment=time + pd.Timedelta(milliseconds=200),
        bar=bar,
        session=session,
        names=tuple(f"S{k:03d}" for k in range(n_symbols)),
        member=np.ones(n_symbols, bool),
        price=price,
        bid=price - half,
        ask=price + half,
        quote_age_ms=np.full(n_symbols, 50.0),
        adv_usd=np.exp(rng.uniform(np.log(2e7), np.log(2e9), n_symbols)),
        shares=np.zeros(n_symbols),
        lot=np.ones(n_symbols),
        nav_usd=1e6,
        prior_nav_usd=1e6,
    )
    return replace(
        built,
        **{
            name: _spread(value, getattr(built, name), n_symbols) for name, value in changes.items()
        },
    )


def _spread(value: Any, like: Any, n_symbols: int) -> Any:
    """One number for all symbols, or the value itself, as the field has it."""
    if not isinstance(like, np.ndarray):
        return value
    return np.array(np.broadcast_to(np.asarray(value, like.dtype), (n_symbols,)))


def make_forecasts(
    seed: int = 0,
    n_symbols: int = 8,
    *,
    bar: int = 0,
    horizons: Sequence[str] = ("5m", "30m", "1d"),
    families: Sequence[str] = FAMILIES[:2],
    barriers: bool = True,
    missing: float = 0.0,
    scale: float = 0.1,
    **changes: Any,
) -> Forecasts:
    """Forecasts of the same bar: independent normal numbers of deviation `scale`.

    Parameters
    ----------
    seed, n_symbols, bar
        As in :func:`make_market`; forecasts differ from bar to bar, sigma does not.
    horizons, families : sequence of str
    barriers : bool
        Whether there are probabilities of peak and valley, between 0.05 and 0.5.
    missing : float
        Share of NaN among the forecasts.
    **changes
        Fields of :class:`Forecasts` that differ.
    """
    rng = np.random.default_rng([seed, 2, bar])
    returns = scale * rng.standard_normal((len(horizons), len(families), n_symbols))
    returns[rng.random(returns.shape) < missing] = np.nan
    built = Forecasts(
        bundle=f"bundle-{seed}",
        horizons=horizons_of(horizons),
        families=tuple(families),
        models=tuple(f"{name}-{seed}" for name in families),
        returns=returns,
        sigma=np.random.default_rng([seed, 3]).uniform(5.0, 15.0, n_symbols),
        barriers=rng.uniform(0.05, 0.5, (2, n_symbols)) if barriers else None,
        target="excess",
        lag=1,
        reasons=("",) * n_symbols,
    )
    return replace(built, **changes)

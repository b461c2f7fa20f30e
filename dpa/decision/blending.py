"""The families' scores as one alpha a horizon and symbol.

Weights are ridge risk parity, ``w proportional to (S + lambda I)^-1 mu`` solved with ``w >= 0``,
compressed by temperature, with the online learner's mixed in. Alpha is volatility times skill
times score (Grinold 1994): ``alpha_h = sigma_h sum_m w_m s_m c_m``, bps.
"""

import numpy as np

from dpa.config import BlendConfig, OnlineConfig, Settings
from dpa.decision import arbitration
from dpa.decision.confidence import capacity, confidence, freshness
from dpa.decision.temperature import compress, temperature_of
from dpa.decision.types import Beliefs, Blend, Bools, Codes, Doubles, Forecasts, Reason, Snapshot
from dpa.horizons.stacker import nonnegative_ridge


def blend(snapshot: Snapshot, beliefs: Beliefs, settings: Settings) -> Blend:
    """Weights of the families and alpha of the symbols.

    Parameters
    ----------
    snapshot : Snapshot
    beliefs : Beliefs
        Of the same snapshot, in the order of its symbols.
    settings : Settings
        The sections blend, confidence, online, and what costs depend on.

    Raises
    ------
    ConfigError
        When ``blend.temperatures`` cannot be understood.
    """
    market, said = snapshot.market, snapshot.forecasts
    fresh = freshness(market.age_seconds, said.minutes, settings.confidence)
    room = capacity(market, settings)
    believed = confidence(beliefs.ic, beliefs.stability, fresh, room)
    cost = arbitration.costs(market, said.horizons, said.sigma, settings)
    present = answering(said)
    share = cost_share(cost, said.volatility, market.quoted)
    merit = beliefs.ic - settings.blend.cost_aversion * share[:, None]
    parity = risk_parity(merit, beliefs.covariance, present, settings.blend)
    compressed = compress(parity, temperature_of(said.horizons, settings.blend.temperatures))
    weights = mixed(compressed, beliefs, present, settings.online)
    alpha = said.volatility * weighted_score(weights, beliefs.scores, believed)
    reason = why_not(said, alpha, present, beliefs.ic, merit)
    return Blend(fresh, room, believed, merit, parity, compressed, weights, alpha, reason)


def answering(said: Forecasts) -> Bools:
    """Families with any forecast of this bar that were not left out, (n_horizons, n_families)."""
    there = np.isfinite(said.returns).any(axis=2)
    kept = np.array([family not in said.left_out for family in said.families], dtype=bool)
    return np.asarray(there & kept)


def cost_share(cost: Doubles, volatility: Doubles, quoted: Bools) -> Doubles:
    """Median of cost over volatility of the quoted names; 0 where none has a cost.

    Parameters
    ----------
    cost, volatility : float64 ndarrays of shape (n_horizons, n_symbols)
        bps over the horizon; NaN where unknown.
    quoted : bool ndarray of shape (n_symbols,)

    Returns
    -------
    float64 ndarray of shape (n_horizons,)
    """
    known = np.isfinite(cost) & (volatility > 0) & quoted
    share = np.full(cost.shape, np.nan)
    np.divide(cost, volatility, out=share, where=known)
    share.sort(axis=1)  # NaN last
    count, rows = np.count_nonzero(known, axis=1), np.arange(len(cost))
    low, high = share[rows, np.maximum(count - 1, 0) // 2], share[rows, count // 2 - (count == 0)]
    return np.where(count > 0, 0.5 * (low + high), 0.0)


def risk_parity(
    merit: Doubles, covariance: Doubles, present: Bools, settings: BlendConfig
) -> Doubles:
    """The w >= 0 that minimises ``w'(S + lambda I)w - 2 w'mu``, scaled to sum to 1.

    Parameters
    ----------
    merit : float64 ndarray of shape (n_horizons, n_families)
        mu; NaN: nothing is known of the family.
    covariance : float64 ndarray of shape (n_horizons, n_families, n_families)
        S.
    present : bool ndarray of shape (n_horizons, n_families)
        Families that answered; the others are not solved for.
    settings : BlendConfig

    Returns
    -------
    float64 ndarray of shape (n_horizons, n_families)
        Rows sum to 1, or to 0 where no merit is positive.
    """
    weights = np.zeros(merit.shape)
    solvable = present & np.isfinite(merit)
    for place, (mu, chosen) in enumerate(zip(merit, solvable, strict=True)):
        where = np.flatnonzero(chosen)
        best = mu[where].max(initial=0.0)
        if best <= 0:
            continue
        part = covariance[place][np.ix_(where, where)]
        penalty = np.full(len(where), settings.blend_ridge)
        solved = np.linalg.solve(part + np.diag(penalty), mu[where] / best)
        if (solved < 0).any():
            solved = nonnegative_ridge(part, mu[where] / best, penalty)
        weights[place, where] = solved / solved.sum()
    return weights


def mixed(weights: Doubles, beliefs: Beliefs, present: Bools, settings: OnlineConfig) -> Doubles:
    """``(1 - share) w + share online`` after warm-up, at the horizons where w is not 0.

    Online weights are renormalised over the families that answered.
    """
    if settings.online_mode == "off" or settings.online_share == 0.0:
        return weights
    online = np.where(present, beliefs.online, 0.0)
    total = online.sum(axis=1)
    warm = beliefs.online_bars >= settings.online_warmup
    counts = warm & (total > 0) & (weights.sum(axis=1) > 0)
    learned = online / np.where(total > 0, total, 1.0)[:, None]
    share = settings.online_share
    return np.where(counts[:, None], (1.0 - share) * weights + share * learned, weights)


def weighted_score(weights: Doubles, scores: Doubles, believed: Doubles) -> Doubles:
    """``sum_m w_m s_m c_m``; a family without a score is left out, the others scaled up.

    Parameters
    ----------
    weights : float64 ndarray of shape (n_horizons, n_families)
    scores, believed : float64 ndarrays of shape (n_horizons, n_families, n_symbols)

    Returns
    -------
    float64 ndarray of shape (n_horizons, n_symbols)
        NaN where no family with a weight has a score, or, where all weights are 0, no family has
        one; 0 there otherwise.
    """
    there = np.isfinite(scores)
    weight = np.where(there, weights[:, :, None], 0.0)
    total = weight.sum(axis=1)
    product = (weight * np.where(there, scores, 0.0) * believed).sum(axis=1)
    idle = (weights.sum(axis=1) == 0)[:, None] & there.any(axis=1)
    out = np.where(idle, 0.0, np.nan)
    np.divide(product, total, out=out, where=total > 0)
    return out


def why_not(said: Forecasts, alpha: Doubles, present: Bools, ic: Doubles, merit: Doubles) -> Codes:
    """:class:`Reason` why a symbol has no alpha other than 0 at any horizon; 0: it has one.

    NO_SKILL says that every IC is known and none is above 0; NO_FAMILY that none with merit
    answered.
    """
    forecast = np.isfinite(said.returns).any(axis=(0, 1)) & (said.sigma > 0)
    useless = Reason.NO_SKILL if (ic <= 0).all() else Reason.NO_RECORD
    useless = Reason.NO_FAMILY if (~present & (merit > 0)).any() else useless
    reason = np.where(np.isfinite(alpha).any(axis=0), useless, Reason.NO_SCORE)
    reason = np.where(forecast, reason, Reason.NO_FORECAST)
    if not present.any():
        reason = np.full(len(reason), Reason.NO_FAMILY)
    traded = (np.isfinite(alpha) & (alpha != 0)).any(axis=0)
    return np.where(traded, Reason.NONE, reason).astype(np.int8)

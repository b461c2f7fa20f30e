"""Which horizon is worth its cost: alpha less cost, both in bps of notional over the horizon."""

import numpy as np

from dpa.config import Settings
from dpa.decision.types import NOTHING, Arbitration, Codes, Doubles, Market, Reason
from dpa.market.costs import SESSION_MINUTES, CostModel, RoundTrip
from dpa.market.interval_specs import Horizon

SHORTEST = 5.0  # minutes of the horizon whose net is ranked as it is


def session_minutes(horizons: tuple[Horizon, ...]) -> float:
    """Minutes of a regular session, as a horizon of whole days has them; else those of XNYS."""
    days = (h.minutes / int(h.label[:-1]) for h in horizons if h.label.endswith("d"))
    return next(days, SESSION_MINUTES)


def cost_parts(
    market: Market, horizons: tuple[Horizon, ...], sigma: Doubles, settings: Settings
) -> RoundTrip:
    """Parts of :func:`costs`, each broadcasting to (n_horizons, n_symbols)."""
    chosen = settings.arbitration
    minutes = _minutes(horizons) if chosen.execution_minutes is None else chosen.execution_minutes
    with np.errstate(invalid="ignore"):
        order = abs(settings.sizing.name_weight * market.nav_usd)
        participation = order / np.where(market.adv_usd > 0, market.adv_usd, np.nan)
        volatility = np.where(sigma > 0, sigma, np.nan)
    return CostModel(settings.costs).round_trip_bps(
        market.spread_bps,
        volatility,
        minutes,
        participation,
        spread_factor=chosen.spread_factor,
        timing_factor=chosen.timing_factor,
        session_minutes=session_minutes(horizons),
    )


def costs(
    market: Market, horizons: tuple[Horizon, ...], sigma: Doubles, settings: Settings
) -> Doubles:
    """Cost of a way in and out at each horizon, shape (n_horizons, n_symbols), bps.

    ``k1 spread + 2 commission + k2 sigma sqrt(minutes) + 2 k3 sigma_day sqrt(q / ADV)``, q the
    largest position sizing asks for, ``name_weight`` of NAV. The same for longs and shorts:
    borrow is not in it. NaN where there is no quote, no sigma, or no traded value that the impact
    needs.

    Notes
    -----
    The minutes are those for which an order works (``execution_minutes``), as that is how long
    the price runs away from it. With the horizon itself (``execution_minutes: none``) nothing
    would ever trade: a forecast of IC 0.05 and stability 0.5 at a score of 2 is an alpha of
    ``0.05 sigma_h``, always less than ``0.15 sigma_h``.
    """
    total = cost_parts(market, horizons, sigma, settings).total
    return np.array(np.broadcast_to(total, (len(horizons), len(market.names))))


def arbitrate(
    market: Market,
    horizons: tuple[Horizon, ...],
    sigma: Doubles,
    alpha: Doubles,
    reason: Codes,
    settings: Settings,
) -> Arbitration:
    """Choose the horizon with the largest ``net / (minutes / 5)^p`` among those worth trading.

    Parameters
    ----------
    market : Market
    horizons : tuple of Horizon, length n_horizons
        Shortest first; of equals the shorter is chosen.
    sigma : float64 ndarray of shape (n_symbols,)
        bps per square root of a session minute.
    alpha : float64 ndarray of shape (n_horizons, n_symbols)
        bps over the horizon; NaN: not known.
    reason : int8 ndarray of shape (n_symbols,)
        :class:`Reason` why there is no alpha; 0: there is one.
    settings : Settings
        ``arbitration``, ``costs`` and ``sizing.name_weight`` count.

    Returns
    -------
    Arbitration
        ``net = |alpha| - cost``, for shorts less the borrow fee too; a horizon is worth trading
        where ``net >= reserve_bps`` and alpha is not 0. `leading` is the one chosen; else that of
        the largest net among horizons with an alpha other than 0 (a net below 0 is not divided: a
        loss is not less bad for taking longer), by ``|alpha|`` where the cost is not known; else
        the shortest with an alpha.
    """
    minutes = _minutes(horizons)
    cost = costs(market, horizons, sigma, settings)
    size = np.abs(alpha)
    borrow = CostModel(settings.costs).borrow_bps(
        minutes, session_minutes=session_minutes(horizons)
    )
    net = size - cost - np.where(alpha < 0, borrow, 0.0)

    scale = (minutes / SHORTEST) ** settings.arbitration.horizon_power
    merit = np.where(np.isnan(net), size, net)
    rank = np.where(merit > 0, merit / scale, merit)
    worth = (net >= settings.arbitration.reserve_bps) & (size > 0)
    best = np.argmax(np.where(worth, rank, -np.inf), axis=0)
    chosen = np.where(worth.any(axis=0), best, NOTHING)

    known = ~np.isnan(alpha)
    told = np.where(size > 0, rank, np.where(known, -np.finfo(np.float64).max, -np.inf))
    leading = np.where(known.any(axis=0), np.argmax(told, axis=0), NOTHING)
    leading = np.where(chosen >= 0, chosen, leading)

    side = np.where(chosen >= 0, np.sign(at(alpha, chosen)), 0.0).astype(np.int8)
    return Arbitration(
        cost=cost,
        net=net,
        chosen=chosen,
        leading=leading,
        side=side,
        reason=_reason(market, net, chosen, reason),
    )


def at(values: Doubles, place: np.ndarray) -> Doubles:
    """`values` (n_horizons, n_symbols) at one horizon a symbol; NaN where `place` is -1."""
    picked = values[np.maximum(place, 0), np.arange(values.shape[1])]
    return np.where(place >= 0, picked, np.nan)


def _minutes(horizons: tuple[Horizon, ...]) -> Doubles:
    return np.array([[float(horizon.minutes)] for horizon in horizons])


def _reason(market: Market, net: Doubles, chosen: np.ndarray, blended: Codes) -> Codes:
    """The blend's reason, else no quote, else another cost that is not known, else the reserve."""
    dear = np.where(np.isnan(net).all(axis=0), Reason.COST_UNKNOWN, Reason.BELOW_RESERVE)
    dear = np.where(market.quoted, dear, Reason.NO_QUOTE)
    reason = np.where(blended != Reason.NONE, blended, dear)
    return np.where(chosen >= 0, Reason.NONE, reason).astype(np.int8)

"""From alpha to shares: signal, gross, no-trade band, whole lots."""

import math

import numpy as np

from dpa.config import Settings, SizingConfig
from dpa.decision.arbitration import at
from dpa.decision.types import (
    Action,
    Arbitration,
    Bools,
    Codes,
    Doubles,
    Gates,
    Market,
    Reason,
    Sizes,
)
from dpa.market.interval_specs import Horizon

BPS = 1e-4
ROUNDING = 1e-9  # of a lot, which is no reason to leave one out


def size(
    market: Market,
    horizons: tuple[Horizon, ...],
    sigma: Doubles,
    alpha: Doubles,
    arbitration: Arbitration,
    gates: Gates,
    settings: Settings,
) -> Sizes:
    """Target positions before the limits.

    Parameters
    ----------
    market : Market
    horizons : tuple of Horizon, length n_horizons
    sigma : float64 ndarray of shape (n_symbols,)
        bps per square root of a session minute.
    alpha : float64 ndarray of shape (n_horizons, n_symbols)
        bps over the horizon.
    arbitration : Arbitration
    gates : Gates
    settings : Settings
        ``sizing`` counts.

    Returns
    -------
    Sizes
        A name with a horizon chosen and its gates open wants
        ``g z name_weight / signal_clip``, ``z = clip(alpha / sigma_h, +-signal_clip)``, scaled so
        that such names share what kept positions leave of the gross target. A position without
        such a signal is kept unless it must be closed. An increase of no more than
        ``b = min(band_bps, band_share |wanted|)`` is left out, a larger one goes to the band's
        edge; reductions and exits go all the way, and a change of side is an exit and then an
        entry of ``|wanted| - b``. Increases are cut to whole lots; so are reductions, which never
        pass zero; an exit sells everything, odd lots too. Without a quote nothing changes. A
        position without a value counts as `name_weight`.
    """
    config = settings.sizing
    held = market.weight
    side = np.sign(market.shares)
    counted = np.where(np.isnan(held), side * config.name_weight, held)

    signal = _signal(horizons, sigma, alpha, arbitration, config)
    valued = math.isfinite(market.nav_usd) and market.nav_usd > 0
    may_trade = gates.may_trade & valued
    new = (arbitration.chosen >= 0) & gates.may_enter & (signal != 0) & may_trade
    kept = ~(new | (gates.must_exit & may_trade))
    left = max(config.gross_target - total(np.abs(counted[kept])), 0.0)
    strength = np.where(new, gates.barrier * np.abs(signal), 0.0)
    share = gross_shares(strength, left, config)
    wanted = np.where(kept, held, np.where(new, np.sign(signal) * share, 0.0))

    banded, in_band = band(wanted, held, config)
    shares = np.where(
        kept | in_band, market.shares, whole_lots(market, banded, np.where(kept, 0.0, held))
    )
    weight = weight_of(market, shares)

    reason = np.where(~gates.may_trade & (side != 0), Reason.NO_QUOTE, gates.reason)
    reason = np.where(new & (share == 0), Reason.GROSS_LIMIT, reason)
    reason = np.where(new & in_band, Reason.BAND, reason)
    unchanged = (shares == market.shares) & (banded != held)
    reason = np.where(~kept & ~in_band & unchanged, Reason.LOT, reason).astype(np.int8)
    return Sizes(signal, wanted, banded, weight, shares, actions(market.shares, shares), reason)


def gross_shares(strength: Doubles, gross: float, config: SizingConfig) -> Doubles:
    """Weights proportional to `strength` (n_symbols,), none above the name weight.

    ``fill``: their sum is `gross` where the names can hold it; ``limit``: it is at most that, and
    a strength of `signal_clip` is worth the name weight. The order of the names does not matter.
    """
    cap = config.name_weight
    plain = np.minimum(strength * (cap / config.signal_clip), cap)
    if config.gross_mode == "limit":
        whole = total(plain)
        return plain * (gross / whole) if whole > gross else plain
    active = np.sort(strength[strength > 0])[::-1]
    if not active.size or gross <= 0:
        return np.zeros_like(strength)
    if gross >= cap * active.size:
        return np.where(strength > 0, cap, 0.0)
    # the k strongest names at the cap, the others in proportion
    rest = np.cumsum(active[::-1])[::-1]
    scale = (gross - cap * np.arange(active.size)) / rest
    k = int(np.argmax(scale * active <= cap))
    return np.asarray(np.minimum(strength * scale[k], cap))


def band(wanted: Doubles, held: Doubles, config: SizingConfig) -> tuple[Doubles, Bools]:
    """Weights after the no-trade band, and whether a change was left out, (n_symbols,) each."""
    most = np.abs(wanted)
    width = np.full_like(most, config.band_bps * BPS)
    if config.band_share is not None:
        width = np.minimum(width, config.band_share * most)
    with np.errstate(invalid="ignore"):
        base = np.where(wanted * held > 0, np.abs(held), 0.0)
        adds = most > base
        inside = adds & (most - base <= width)
        edge = np.sign(wanted) * (most - width)
    flip = wanted * held < 0
    banded = np.where(adds, np.where(inside, np.where(flip, 0.0, held), edge), wanted)
    return banded, inside & ~flip


def whole_lots(market: Market, target: Doubles, held: Doubles) -> Doubles:
    """Shares nearest to the weights `target` (n_symbols,) that are whole lots away.

    Cut towards the position `held` (weights); an exit is exactly 0, and an entry on the other
    side counts its lots from 0. NaN where there is no value.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        value = market.lot * market.mark / market.nav_usd
        flat = (target == 0) | (target * held <= 0)
        start = np.where(flat, 0.0, held)
        lots = np.trunc((target - start) / value + np.copysign(ROUNDING, target - start))
        return np.where(flat, 0.0, market.shares) + lots * market.lot


def weight_of(market: Market, shares: Doubles) -> Doubles:
    """Weights of `shares` (n_symbols,): 0 without any, NaN without a value."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(shares == 0, 0.0, shares * market.mark / market.nav_usd)


def actions(before: Doubles, after: Doubles) -> Codes:
    """:class:`Action` from positions `before` and `after`, shares, (n_symbols,) each."""
    least, most = np.abs(before), np.abs(after)
    found = np.select(
        [
            (before == 0) & (after == 0),
            before == after,
            before == 0,
            after == 0,
            before * after < 0,
            most > least,
        ],
        [Action.NONE, Action.HOLD, Action.ENTER, Action.EXIT, Action.FLIP, Action.INCREASE],
        Action.REDUCE,
    )
    return found.astype(np.int8)


def total(values: Doubles) -> float:
    """Sum to the last bit whatever the order of `values` (n_symbols,)."""
    return math.fsum(values.tolist())


def _signal(
    horizons: tuple[Horizon, ...],
    sigma: Doubles,
    alpha: Doubles,
    arbitration: Arbitration,
    config: SizingConfig,
) -> Doubles:
    """z at the chosen horizon, (n_symbols,); 0 where none is."""
    root = np.sqrt([float(horizon.minutes) for horizon in horizons])
    volatility = sigma * root[np.maximum(arbitration.chosen, 0)]
    known = (arbitration.chosen >= 0) & (volatility > 0)
    z = np.divide(at(alpha, arbitration.chosen), volatility, out=np.zeros(len(sigma)), where=known)
    return np.clip(z, -config.signal_clip, config.signal_clip)

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
        that such names share what the others leave of the gross target, and never less than it
        holds on that side. A position on the side of its alpha that may not be added to gives
        way to what such names add, at most down to its share were all of them open. A position
        of which less is known is kept whole unless it must be closed. So evidence that grows
        worse never leaves more of a position.

        An increase of no more than ``b = min(band_bps, band_share |wanted|)`` is left out, a
        larger one goes to the band's edge; reductions and exits go all the way, and a change of
        side is an exit and then an entry of ``|wanted| - b``. Increases are cut to whole lots; so
        are reductions, which never pass zero; an exit sells everything, odd lots too. Without a
        quote nothing changes. What is added is bounded by the most that positions may be worth,
        one without a value by `name_weight`; what is sold to make room by the least, 0.
    """
    config = settings.sizing
    held = market.weight
    side = np.sign(market.shares)
    leading = _signal(horizons, sigma, alpha, arbitration, config)
    signal = np.where(arbitration.chosen >= 0, leading, 0.0)
    valued = math.isfinite(market.nav_usd) and market.nav_usd > 0
    may_trade = gates.may_trade & valued
    new = (arbitration.chosen >= 0) & gates.may_enter & (signal != 0) & may_trade
    known = np.isfinite(gates.barrier) & np.isfinite(at(arbitration.net, arbitration.leading))
    yields = ~new & ~gates.must_exit & may_trade & gates.sound & known & (leading * side > 0)
    kept = ~(new | yields | (gates.must_exit & may_trade))

    strength = np.where(new | yields, gates.barrier * np.abs(leading), 0.0)
    base = np.where((new | yields) & (leading * side > 0), np.abs(held), 0.0)
    least, most = weights_between(market, market.shares, config.name_weight)
    if yields.any():
        room = max(config.gross_target - total(np.abs(least[kept])), 0.0)
        base = _give_way(strength, base, new, yields, room, config)
    used = total(np.abs(most[kept])) + total(base[yields])
    room = max(config.gross_target - used, 0.0)
    share = gross_shares(np.where(new, strength, 0.0), room, config, np.where(new, base, 0.0))
    wanted = np.where(new, np.sign(signal) * share, np.where(yields, side * base, 0.0))
    wanted = np.where(kept, held, wanted)

    banded, in_band = band(wanted, held, config)
    shares = np.where(
        kept | in_band, market.shares, whole_lots(market, banded, np.where(kept, 0.0, held))
    )
    weight = weight_of(market, shares)

    reason = np.where(~gates.may_trade & (side != 0), Reason.NO_QUOTE, gates.reason)
    reason = np.where(new & (share == 0), Reason.GROSS_LIMIT, reason)
    reason = np.where(new & (base > 0) & (share <= base), Reason.ENOUGH_HELD, reason)
    reason = np.where(new & in_band, Reason.BAND, reason)
    unchanged = (shares == market.shares) & (banded != held)
    reason = np.where(new & ~in_band & unchanged, Reason.LOT, reason).astype(np.int8)
    return Sizes(signal, wanted, banded, weight, shares, actions(market.shares, shares), reason)


def gross_shares(
    strength: Doubles, gross: float, config: SizingConfig, base: Doubles | None = None
) -> Doubles:
    """Weights ``max(base, min(k strength, name_weight))`` of the names with a strength.

    ``fill``: k is such that their sum is `gross` where the names can hold it, or infinite;
    ``limit``: it is at most that, and a strength of `signal_clip` is worth the name weight. Where
    `base` alone is more than `gross`, k is 0. The order of the names does not matter.

    Parameters
    ----------
    strength : float64 ndarray of shape (n_symbols,)
        At least 0; names of strength 0 get 0.
    gross : float
        Fraction of NAV.
    config : SizingConfig
    base : float64 ndarray of shape (n_symbols,), optional
        Least weight of each, at least 0; 0 where it is left out.
    """
    cap, there = config.name_weight, strength > 0
    wanted = strength[there]
    least = np.zeros_like(wanted) if base is None else base[there]
    scale = _level(wanted, least, gross, cap)
    if config.gross_mode == "limit":
        scale = min(scale, cap / config.signal_clip)
    grown = np.minimum(wanted * scale, cap) if scale < math.inf else cap
    out = np.zeros_like(strength)
    out[there] = np.maximum(least, grown)
    return out


def _level(strength: Doubles, base: Doubles, gross: float, cap: float) -> float:
    """k at which ``sum max(base, min(k strength, cap))`` is `gross`, 0 or infinite beyond.

    The sum grows in straight lines between the k at which a name leaves its base or reaches the
    cap, so it is followed from one such k to the next.
    """
    grows = base < cap
    strength, start = strength[grows], base[grows]
    room = gross - total(base)
    if room <= 0:
        return 0.0
    turns = np.concatenate([start / strength, cap / strength])
    slopes = np.concatenate([strength, -strength])
    order = np.lexsort((slopes, turns))
    turns, slope = turns[order], np.cumsum(slopes[order])
    reached = np.zeros(len(turns))
    np.cumsum(slope[:-1] * (turns[1:] - turns[:-1]), out=reached[1:])
    last = int(np.searchsorted(reached, room, side="left")) - 1
    if last + 1 == len(reached):
        return math.inf
    return float(turns[last] + (room - reached[last]) / slope[last])


def _give_way(
    strength: Doubles,
    base: Doubles,
    new: Bools,
    yields: Bools,
    gross: float,
    config: SizingConfig,
) -> Doubles:
    """What is to stay of positions, weights without sign, (n_symbols,).

    Those that yield give up, in proportion, what they hold beyond their share of `gross` were all
    names open, as far as what the open names would then add does not fit otherwise.
    """
    share = gross_shares(strength, gross, config)
    wanted, more = share[new], share[new] - base[new]
    adds = more[more > band_width(wanted, config)]
    lacking = total(adds) - max(gross - total(base), 0.0)
    if lacking <= 0:
        return base
    excess = np.where(yields, np.maximum(base - share, 0.0), 0.0)
    beyond = total(excess)
    return base - excess * min(lacking / beyond, 1.0) if beyond else base


def band_width(most: Doubles, config: SizingConfig) -> Doubles:
    """b of the weights `most` (n_symbols,), which are at least 0."""
    width = config.band_bps * BPS
    share = config.band_share
    return np.full_like(most, width) if share is None else np.minimum(width, share * most)


def band(wanted: Doubles, held: Doubles, config: SizingConfig) -> tuple[Doubles, Bools]:
    """Weights after the no-trade band, and whether a change was left out, (n_symbols,) each."""
    most = np.abs(wanted)
    width = band_width(most, config)
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


def weights_between(market: Market, shares: Doubles, unknown: float) -> tuple[Doubles, Doubles]:
    """Least and most that `shares` (n_symbols,) may weigh, signed.

    A position without a value weighs at least 0 and at most `unknown`.
    """
    mid, close = market.mid, market.price
    with np.errstate(invalid="ignore", divide="ignore"):
        unit = shares / market.nav_usd
        low, high = unit * np.fmin(mid, close), unit * np.fmax(mid, close)
    missing = np.isnan(high)
    if missing.any():
        low = np.where(missing, 0.0, low)
        high = np.where(missing, np.sign(shares) * unknown, high)
    return low, high


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
    return math.fsum(values[values != 0].tolist())


def _signal(
    horizons: tuple[Horizon, ...],
    sigma: Doubles,
    alpha: Doubles,
    arbitration: Arbitration,
    config: SizingConfig,
) -> Doubles:
    """z at the leading horizon, which is the one chosen where one is, (n_symbols,); 0: none."""
    root = np.sqrt([float(horizon.minutes) for horizon in horizons])
    volatility = sigma * root[np.maximum(arbitration.leading, 0)]
    known = (arbitration.leading >= 0) & (volatility > 0)
    ahead = at(alpha, arbitration.leading)
    z = np.divide(ahead, volatility, out=np.zeros(len(sigma)), where=known)
    z = np.maximum(np.minimum(z, config.signal_clip), -config.signal_clip)
    return np.where(np.isnan(z), 0.0, z)

"""What must hold beside the alpha before risk is taken, and what closes a position."""

import math

import numpy as np

from dpa.config import GatesConfig, Settings
from dpa.decision.arbitration import at
from dpa.decision.types import Arbitration, Bools, Doubles, Gates, Market, Reason

PEAK, VALLEY = 0, 1


def gate(
    market: Market,
    barriers: Doubles | None,
    prior: Doubles,
    alpha: Doubles,
    arbitration: Arbitration,
    settings: Settings,
) -> Gates:
    """Barrier and quote gates for the side each symbol is wanted on.

    Parameters
    ----------
    market : Market
    barriers : float64 ndarray of shape (2, n_symbols), optional
        Probability of peak and of valley; anything outside [0, 1] is not known.
    prior : float64 ndarray of shape (2,)
        Mean of past probabilities; NaN: none.
    alpha : float64 ndarray of shape (n_horizons, n_symbols)
        bps over the horizon; NaN: not known.
    arbitration : Arbitration
    settings : Settings
        ``gates`` counts.

    Returns
    -------
    Gates
        The barrier gate is ``g = clip(raw(p) / raw(p0), floor, 1)`` with
        ``raw(p) = (1 - p_adverse)^gamma (0.5 + 0.5 p_favourable)^delta``, so that a probability
        that says nothing, p0, gives exactly 1. A peak is adverse to longs and favourable to
        shorts. Its side is the one chosen, else that of the leading alpha, else the one held; 1
        where there is no side. What is not known blocks new risk and closes nothing. For a name
        that is closed and not sold to the other side, `reason` says why it is closed: no member,
        a likely barrier, alpha against it, or no skill in any family.
    """
    config = settings.gates
    held = np.sign(market.shares)
    lead = np.nan_to_num(np.sign(at(alpha, arbitration.leading)))
    side = np.where(arbitration.side != 0, arbitration.side, lead)
    side = np.where(side != 0, side, held)

    if barriers is None:
        barrier = np.ones(len(side))
        adverse_held = adverse = np.zeros(len(side))
    else:
        barrier, adverse = barrier_gate(
            barriers, prior_of(barriers, prior, market, config), side, config
        )
        adverse_held = np.where(held > 0, barriers[PEAK], barriers[VALLEY])

    with np.errstate(invalid="ignore"):
        shut = (held != 0) & (adverse_held > config.barrier_exit) & (adverse_held <= 1)
        turned = lead * held < 0
        old = ~(market.quote_age_ms <= age_limit(market, config))
        wide = market.spread_bps > config.max_spread_bps
        odd = ~(np.abs(market.quote_gap_bps) <= config.max_quote_gap_bps)
        blocked = adverse > config.barrier_block
    outside, quoted = ~market.member, market.quoted
    reason = np.select(
        [
            outside,
            arbitration.reason != Reason.NONE,
            ~quoted,
            wide,
            old,
            odd,
            np.isnan(barrier),
            blocked,
        ],
        [
            Reason.NOT_A_MEMBER,
            arbitration.reason,
            Reason.NO_QUOTE,
            Reason.SPREAD_WIDE,
            Reason.QUOTE_OLD,
            Reason.QUOTE_ODD,
            Reason.BARRIER_UNKNOWN,
            Reason.BARRIER_BLOCK,
        ],
        Reason.NONE,
    )
    may_enter = reason == Reason.NONE
    unskilled = (arbitration.reason == Reason.NO_SKILL) & (alpha == 0).all(axis=0)
    unskilled &= not config.keep_without_skill
    must_exit = (held != 0) & (outside | shut | turned | unskilled)
    why = np.select(
        [outside, shut, turned],
        [Reason.NOT_A_MEMBER, Reason.BARRIER_EXIT, Reason.ALPHA_TURNED],
        Reason.NO_SKILL,
    )
    reason = np.where(must_exit & ~may_enter, why, reason).astype(np.int8)
    return Gates(barrier, may_enter, quoted, must_exit, reason, quoted & ~(wide | old | odd))


def age_limit(market: Market, config: GatesConfig) -> float:
    """Oldest quote for new risk, milliseconds, as the market's feed allows it."""
    if market.feed == "aggregated":
        return config.max_quote_age_aggregated_ms
    return config.max_quote_age_ms


def prior_of(barriers: Doubles, prior: Doubles, market: Market, config: GatesConfig) -> Doubles:
    """Probability of peak and of valley that says nothing, shape (2,); NaN: not known.

    The one configured, else the mean of the past, else the mean over this bar's members.
    """
    if config.barrier_prior is not None:
        return np.full(2, config.barrier_prior)
    now = [_mean(row[market.member & _probable(row)]) for row in barriers]
    return np.where(np.isnan(prior), now, prior)


def barrier_gate(
    barriers: Doubles, prior: Doubles, side: Doubles, config: GatesConfig
) -> tuple[Doubles, Doubles]:
    """g and p(adverse) of each symbol for its `side`, both of shape (n_symbols,)."""
    known = _probable(barriers).all(axis=0)
    peak, valley = np.where(known, barriers, np.nan)
    long = side > 0
    raw = _raw(np.where(long, peak, valley), np.where(long, valley, peak), config)
    neutral = _raw(
        np.where(long, prior[PEAK], prior[VALLEY]),
        np.where(long, prior[VALLEY], prior[PEAK]),
        config,
    )
    ratio = np.divide(raw, neutral, out=np.where(known, 1.0, np.nan), where=neutral != 0)
    g = np.clip(ratio, config.barrier_floor, 1.0)
    adverse = np.where(long, barriers[PEAK], barriers[VALLEY])
    return np.where(side != 0, g, 1.0), np.where(side != 0, adverse, 0.0)


def _raw(adverse: Doubles, favourable: Doubles, config: GatesConfig) -> Doubles:
    return (1 - adverse) ** config.barrier_gamma * (0.5 + 0.5 * favourable) ** config.barrier_delta


def _probable(values: Doubles) -> Bools:
    return np.asarray((values >= 0) & (values <= 1))


def _mean(values: Doubles) -> float:
    """Mean to the last bit whatever the order; NaN of nothing."""
    return math.fsum(values.tolist()) / len(values) if len(values) else math.nan

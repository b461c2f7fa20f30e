"""Stage 6: from signals to weights within limits."""

from torch import Tensor

TINY = 1e-12


def project(
    raw: Tensor, name_cap: float, max_leverage: float, dollar_neutral: bool
) -> tuple[Tensor, Tensor]:
    """Weights within the limits; every step only ever shrinks a position.

    Cap each name, then (dollar neutral) shrink the larger leg to the smaller one, then scale so
    that gross exposure is at most `max_leverage`. Because each step shrinks, all limits hold at
    the end, and a name without a signal keeps weight 0.

    Parameters
    ----------
    raw : Tensor (n_bars, n_assets)
        Wanted weights, signed fractions of NAV, sized independently of each other.
    name_cap : float
        Most of one name, fraction of NAV.
    max_leverage : float
        Most gross exposure, times NAV.
    dollar_neutral : bool

    Returns
    -------
    weights : Tensor (n_bars, n_assets)
        Signed fractions of NAV.
    wanted_gross : Tensor (n_bars,)
        Gross exposure before the last step, times NAV: what the leverage penalty sees.
    """
    weights = raw.clamp(-name_cap, name_cap)
    if dollar_neutral:
        longs, shorts = weights.clamp_min(0.0), (-weights).clamp_min(0.0)
        long_sum, short_sum = longs.sum(1, keepdim=True), shorts.sum(1, keepdim=True)
        leg = long_sum.minimum(short_sum)
        weights = longs * (leg / (long_sum + TINY)) - shorts * (leg / (short_sum + TINY))
    gross = weights.abs().sum(1, keepdim=True)
    scale = (max_leverage / (gross + TINY)).clamp_max(1.0)
    return weights * scale, gross.squeeze(1)

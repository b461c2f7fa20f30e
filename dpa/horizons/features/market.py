"""Each name against the market: beta, residual, rank, dispersion. The market is the equal-weighted
mean of the members that have a return at the bar; what a name is held against leaves it out."""

import numpy as np
from numpy.typing import NDArray

from dpa.horizons.arithmetic import ratio
from dpa.horizons.registry import feature, series
from dpa.horizons.views import View

Doubles = NDArray[np.float64]
LEAST_NAMES = 3  # for a mean over names to mean anything


def across(values: Doubles, least: int = LEAST_NAMES) -> Doubles:
    """Mean over names at each bar, (n_rows, 1); NaN where fewer than `least` are known."""
    known = np.isfinite(values)
    count = known.sum(axis=1, keepdims=True)
    total = np.where(known, values, 0.0).sum(axis=1, keepdims=True)
    return ratio(total, count, count >= least)


@series
def member_ret(view: View) -> Doubles:
    """Log return of the names that may be held."""
    return np.where(view.now("member") > 0, view.now("ret"), np.nan)


@series
def market_ret(view: View) -> Doubles:
    """Equal-weighted mean log return of the members, (n_rows, 1)."""
    return across(view.now("member_ret"))


@series
def others_ret(view: View) -> Doubles:
    """Equal-weighted mean log return of the other members: a name is no part of its own market."""
    values = view.now("member_ret")
    known = np.isfinite(values)
    own = np.where(known, values, 0.0)
    count = known.sum(axis=1, keepdims=True) - known
    total = own.sum(axis=1, keepdims=True) - own
    return ratio(total, count, count >= LEAST_NAMES - 1)


@series
def market_square(view: View) -> Doubles:
    """Square of the market's return."""
    return view.now("market_ret") * view.now("market_ret")


@series
def others_square(view: View) -> Doubles:
    """Square of the return of the others."""
    return view.now("others_ret") * view.now("others_ret")


@series
def ret_by_market(view: View) -> Doubles:
    """Product of a name's return and that of the others."""
    return view.now("ret") * view.now("others_ret")


@series
def beta(view: View) -> Doubles:
    """Slope on the others' mean through the origin, over the long look-back, this bar included."""
    shared = view.mean("ret_by_market", view.long)
    own = view.mean("others_square", view.long)
    return ratio(shared, own, own > 0)


@series
def market_residual(view: View) -> Doubles:
    """A name's return less its beta of the bar before times that of the others."""
    return view.now("ret") - view.ago("beta", view.spec.bar_minutes) * view.now("others_ret")


@series
def deviation_square(view: View) -> Doubles:
    """Squared difference of a name's return from the market's."""
    difference = view.now("member_ret") - view.now("market_ret")
    return difference * difference


@series
def dispersion_square(view: View) -> Doubles:
    """Mean over names of that, (n_rows, 1)."""
    return across(view.now("deviation_square"))


@feature("beta to the market over the long look-back", role="risk")
def beta_market(view: View) -> Doubles:
    """Slope of the name's returns on the market's."""
    return view.now("beta")


@feature(
    "return not explained by the market over the look-back, in sigma sqrt(minutes)",
    (5, 15, 30, 60, 390, 1950),
)
def residual_market(view: View, minutes: int) -> Doubles:
    """Sum of residual returns."""
    return view.scaled(view.total("market_residual", minutes), minutes)


@feature(
    "return of the market over the look-back, in its own sigma", (30, 390, 1950), role="context"
)
def market_return(view: View, minutes: int) -> Doubles:
    """Sum of the market's returns over its volatility over the long look-back."""
    sigma = np.sqrt(view.mean("market_square", view.long) / view.spec.bar_minutes * minutes)
    return view.total("market_ret", minutes) / sigma


@feature(
    "log of the spread of returns over names to that over the long look-back",
    (30, 390),
    role="context",
)
def dispersion(view: View, minutes: int) -> Doubles:
    """Cross-sectional standard deviation of the newest stretch against what is usual."""
    recent, usual = (view.mean("dispersion_square", m) for m in (minutes, view.long))
    return 0.5 * np.log(recent / usual)


@feature("rank of the return among the names, -1 to 1", (30, 390, 1950))
def return_rank(view: View, minutes: int) -> Doubles:
    """Rank among known names, ties by their mean rank."""
    moved = view.now("log_close") - view.ago("log_close", minutes)
    return ranks(np.where(view.now("member") > 0, moved, np.nan))


@feature("log of sigma to its geometric mean over names", role="risk")
def log_sigma(view: View) -> Doubles:
    """How volatile the name is."""
    sizes = np.log(view.now("sigma"))
    return sizes - across(np.where(view.now("member") > 0, sizes, np.nan))


def ranks(values: Doubles) -> Doubles:
    """Ranks over names at each bar, from -1 to 1; NaN stays; mean ranks for ties."""
    out = np.full(values.shape, np.nan)
    for row, line in enumerate(values):
        known = np.isfinite(line)
        count = int(known.sum())
        if count < LEAST_NAMES:
            continue
        _, inverse, repeats = np.unique(line[known], return_inverse=True, return_counts=True)
        last = np.cumsum(repeats)
        mean_rank = last - (repeats - 1) / 2.0
        out[row, known] = 2.0 * (mean_rank[inverse] - 0.5) / count - 1.0
    return out

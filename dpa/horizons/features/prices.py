"""Returns, momentum, reversal, volatility and range.

Whatever is a return is in units of the name's own ``sigma * sqrt(minutes)``; ratios are logs.
"""

import numpy as np
from numpy.typing import NDArray

from dpa.horizons.arithmetic import ratio
from dpa.horizons.registry import feature, series
from dpa.horizons.views import BPS, View

Doubles = NDArray[np.float64]
HOUR, DAY, WEEK, MONTH = 60, 390, 1950, 8190


@series
def log_close(view: View) -> Doubles:
    """Natural logarithm of the close."""
    return np.log(view.now("close"))


@series
def ret(view: View) -> Doubles:
    """Log return over one bar; the first bar of a session holds the night."""
    return view.now("log_close") - view.ago("log_close", view.spec.bar_minutes)


@series
def square(view: View) -> Doubles:
    """Squared log return."""
    return view.now("ret") * view.now("ret")


@series
def sigma(view: View) -> Doubles:
    """Volatility, bps per square root of a session minute; nights count as the bar they end in."""
    mean = view.mean("square", view.long)
    rate = np.sqrt(mean / view.spec.bar_minutes) * BPS
    return np.where(rate > 0, rate, np.nan)


@series
def spread_of_bar(view: View) -> Doubles:
    """Log of the bar's high over its low."""
    return np.log(view.now("high") / view.now("low"))


@feature("return over the look-back, in sigma sqrt(minutes)", (5, 10, 15, 30, HOUR, DAY, WEEK))
def return_scaled(view: View, minutes: int) -> Doubles:
    """Log return from the close `minutes` ago."""
    return view.scaled(view.now("log_close") - view.ago("log_close", minutes), minutes)


@feature(
    "return from the start of the look-back to a twelfth of it ago, in sigma sqrt(minutes)",
    (HOUR, DAY, WEEK, MONTH),
    serves=(15, np.inf),
    bars=4,
)
def momentum(view: View, minutes: int) -> Doubles:
    """Momentum that leaves out the newest stretch, where returns revert (Jegadeesh 1990)."""
    skipped = view.bars(minutes / 12) * view.spec.bar_minutes
    path = view.ago("log_close", skipped) - view.ago("log_close", minutes)
    return view.scaled(path, minutes - skipped)


@feature(
    "distance of the close from its mean over the look-back, in sigma sqrt(minutes)",
    (30, HOUR, DAY, WEEK, MONTH),
    bars=3,
)
def reversal(view: View, minutes: int) -> Doubles:
    """Positive where the close is below its mean: what a reversal would earn."""
    return view.scaled(view.mean("log_close", minutes) - view.now("log_close"), minutes)


@feature(
    "log of volatility over the look-back to sigma", (30, HOUR, DAY, MONTH), role="risk", bars=6
)
def volatility(view: View, minutes: int) -> Doubles:
    """Realised volatility of the newest stretch against the long one."""
    recent = np.sqrt(view.mean("square", minutes) / view.spec.bar_minutes) * BPS
    return np.log(recent / view.now("sigma"))


@feature(
    "log of the mean bar range over the look-back to its mean over the long one",
    (5, 30, DAY),
    role="risk",
)
def range_surprise(view: View, minutes: int) -> Doubles:
    """High to low of the newest bars against what is usual (Parkinson 1980)."""
    return np.log(view.mean("spread_of_bar", minutes) / view.mean("spread_of_bar", view.long))


@feature("place of the close between low and high of the look-back, -1 to 1", (5, 30, HOUR, DAY))
def close_location(view: View, minutes: int) -> Doubles:
    """Close location value, ``(2C - H - L) / (H - L)``; 0 where the price did not move."""
    high, low = view.highest("high", minutes), view.lowest("low", minutes)
    width, doubled = high - low, 2.0 * view.now("close") - high - low
    place = ratio(doubled, width, width > 0, otherwise=0.0)
    return np.where(np.isfinite(width) & np.isfinite(doubled), place, np.nan)


@feature(
    "largest move of one bar over the look-back, in sigma", (HOUR, DAY, MONTH), role="risk", bars=6
)
def jump(view: View, minutes: int) -> Doubles:
    """Square root of the largest squared return, in sigma of a bar."""
    return view.scaled(np.sqrt(view.highest("square", minutes)), view.spec.bar_minutes)

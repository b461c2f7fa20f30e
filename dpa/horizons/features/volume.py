"""Volume surprise, signed volume, distance from the volume-weighted price, illiquidity."""

import numpy as np
from numpy.typing import NDArray

from dpa.horizons.arithmetic import log_ratio, ratio
from dpa.horizons.registry import feature, series
from dpa.horizons.views import View

Doubles = NDArray[np.float64]
SESSIONS = 5  # earlier sessions that say what is usual at this time


@series
def signed_volume(view: View) -> Doubles:
    """Shares traded, negative where the price fell."""
    return np.sign(view.now("ret")) * view.now("volume")


@series
def volume_of_moves(view: View) -> Doubles:
    """Shares traded in the bars that have a return."""
    return np.where(np.isfinite(view.now("ret")), view.now("volume"), np.nan)


@series
def volume_at_price(view: View) -> Doubles:
    """Shares traded in the bars that have a close."""
    return np.where(np.isfinite(view.now("close")), view.now("volume"), np.nan)


@series
def price_volume(view: View) -> Doubles:
    """Close times shares traded."""
    return view.now("close") * view.now("volume")


@series
def illiquidity_now(view: View) -> Doubles:
    """Absolute log return per million USD traded (Amihud 2002)."""
    traded = view.now("price_volume")
    return np.where(traded > 0, np.abs(view.now("ret")) / traded * 1e6, np.nan)


@feature("log of volume over the look-back to its mean over the long one", (5, 30, 60, 390))
def volume_surprise(view: View, minutes: int) -> Doubles:
    """Volume of the newest bars against what is usual, whatever the time."""
    recent, usual = view.mean("volume", minutes), view.mean("volume", view.long)
    return log_ratio(recent, usual)


@feature(
    "log of the bar's volume to its mean at this time of five earlier sessions",
    look_back=SESSIONS * 390,
    intraday=True,
)
def volume_for_the_time(view: View) -> Doubles:
    """Volume of the bar against what is usual at this time of the session."""
    return log_ratio(view.now("volume"), view.same_time("volume", SESSIONS))


@feature("signed volume over volume, over the look-back, -1 to 1", (30, 60, 390, 1950), bars=3)
def volume_imbalance(view: View, minutes: int) -> Doubles:
    """Tick-rule order flow at the resolution of bars (Lee & Ready 1991 in spirit)."""
    flow, traded = view.mean("signed_volume", minutes), view.mean("volume_of_moves", minutes)
    return ratio(flow, traded, traded > 0)


@feature(
    "log of the close to the volume-weighted price over the look-back, in sigma sqrt(minutes)",
    (60, 390, 1950),
    bars=3,
)
def vwap_distance(view: View, minutes: int) -> Doubles:
    """How far the close is from what was paid on average."""
    weighted = view.now("close") * view.mean("volume_at_price", minutes)
    return view.scaled(log_ratio(weighted, view.mean("price_volume", minutes)), minutes)


@feature(
    "log of the close to the session's volume-weighted price, in sigma sqrt(minutes)",
    look_back=390,
    serves=(0, 390),
    intraday=True,
)
def vwap_distance_session(view: View) -> Doubles:
    """Distance from the price paid on average since the open."""
    weighted = view.now("close") * view.since_open("volume_at_price")
    away = log_ratio(weighted, view.since_open("price_volume"))
    return view.scaled(away, 1.0) / np.sqrt(view.minute)


@feature("log of illiquidity (Amihud) over the look-back", (390, 8190), role="context", bars=6)
def illiquidity(view: View, minutes: int) -> Doubles:
    """Price move per million USD traded, log; floor 1e-12."""
    return np.log(np.maximum(view.mean("illiquidity_now", minutes), 1e-12))

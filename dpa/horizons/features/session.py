"""Where in the session a bar lies, and what happened since its open. Intraday bars only, but for
the night."""

import numpy as np
from numpy.typing import NDArray

from dpa.horizons.registry import feature
from dpa.horizons.views import View

Doubles = NDArray[np.float64]


@feature(
    "part of the session that has passed, 0 to 1", role="context", serves=(0, 390), intraday=True
)
def session_elapsed(view: View) -> Doubles:
    """Minutes since the open over the minutes of this session; half days are shorter."""
    return view.minute / view.session_length


@feature("minutes to the close, hours", role="context", serves=(0, 390), intraday=True)
def session_left(view: View) -> Doubles:
    """What is left of the session: a horizon longer than it spans the night."""
    return (view.session_length - view.minute) / 60.0


@feature("log of the open to yesterday's close, in sigma of a session", look_back=390)
def overnight_gap(view: View) -> Doubles:
    """Gap at the session's open."""
    gap = np.log(view.at_open("open") / view.before_open("close"))
    return view.scaled(gap, view.spec.session_minutes)


@feature(
    "return since the open, in sigma sqrt(minutes)", look_back=390, serves=(0, 390), intraday=True
)
def return_since_open(view: View) -> Doubles:
    """Log of the close to the session's first trade."""
    moved = np.log(view.now("close") / view.at_open("open"))
    return view.scaled(moved, 1.0) / np.sqrt(view.minute)


@feature("return in the same bar of five earlier sessions, in sigma", look_back=1950, intraday=True)
def return_at_this_time(view: View) -> Doubles:
    """Intraday periodicity (Heston, Korajczyk & Sadka 2010)."""
    return view.scaled(view.same_time("ret", 5), view.spec.bar_minutes)

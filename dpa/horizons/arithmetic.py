"""Element by element, with a stated answer where there is none."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]


def ratio(over: Any, under: Any, where: Any, otherwise: float = np.nan) -> Doubles:
    """``over / under`` where `where` is true, `otherwise` elsewhere; shapes broadcast."""
    shape = np.broadcast(over, under, where).shape
    out: Doubles = np.full(shape, otherwise)
    np.divide(over, under, out=out, where=where)
    return out


def log_ratio(over: Doubles, under: Doubles) -> Doubles:
    """Log of a ratio of positive numbers; NaN where one is not positive."""
    good = (over > 0) & (under > 0)
    return np.where(good, np.log(ratio(over, under, good, 1.0)), np.nan)

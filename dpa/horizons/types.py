"""What travels between the stages of a predictor: rows to learn from, and forecasts.

A *row* is one name at one bar. Rows are in time order. Axes are named in every docstring.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpa.market.interval_specs import Horizon

Singles = NDArray[np.float32]
Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]
BARRIERS = ("peak", "valley")  # the two heads of the barrier gate, in this order


@dataclass(frozen=True, eq=False)
class RowSchema:
    """What the columns of rows mean.

    Parameters
    ----------
    features : tuple of str, length n_features
        Names of the feature columns, in order.
    horizons : tuple of Horizon, length n_horizons
        In increasing length.
    serves : bool ndarray of shape (n_features, n_horizons)
        Whether a feature may be used for a horizon.
    interval : str
        Bar length.
    primary : int
        Position of the horizon that matters most, for loss weights that decay from it.
    """

    features: tuple[str, ...]
    horizons: tuple[Horizon, ...]
    serves: NDArray[np.bool_]
    interval: str
    primary: int = 0

    def columns(self, horizon: int) -> Integers:
        """Positions of the features that serve the horizon at position `horizon`."""
        return np.flatnonzero(self.serves[:, horizon])

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels of the horizons, such as ``("5m", "1d")``."""
        return tuple(horizon.label for horizon in self.horizons)


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows to learn from or to be tested on.

    Parameters
    ----------
    features : float32 ndarray of shape (n_rows, n_features)
        NaN where a feature is missing; never infinite.
    targets : float32 ndarray of shape (n_rows, n_horizons)
        Forward return over the horizon divided by sigma * sqrt(minutes); NaN where unknown.
    barriers : float32 ndarray of shape (n_rows, 2)
        Labels of peak and valley, 0 or 1; NaN where unknown.
    bar : int64 ndarray of shape (n_rows,)
        Number of the bar in the whole history, never decreasing.
    asset : int64 ndarray of shape (n_rows,)
        Column of the name.
    """

    features: Singles
    targets: Singles
    barriers: Singles
    bar: Integers
    asset: Integers

    def __len__(self) -> int:
        return len(self.bar)

    def take(self, chosen: Any) -> "Rows":
        """The rows of a slice, mask or index array."""
        return Rows(
            self.features[chosen],
            self.targets[chosen],
            self.barriers[chosen],
            self.bar[chosen],
            self.asset[chosen],
        )


@dataclass(frozen=True, eq=False)
class Forecast:
    """What one family says about rows.

    Parameters
    ----------
    returns : float64 ndarray of shape (n_rows, n_horizons)
        Forecast of the scaled forward return, in units of sigma * sqrt(minutes); NaN where the
        family says nothing.
    barriers : float64 ndarray of shape (n_rows, 2), optional
        Raw probability of peak and valley, not calibrated; none when the family has no such heads.
    """

    returns: Doubles
    barriers: Doubles | None = None

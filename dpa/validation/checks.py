"""What every statistic demands of the returns it is given."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dpa.errors import ConfigError, DataError

Floats = NDArray[np.float64]


def _finite(values: Floats, what: str) -> Floats:
    if values.size == 0:
        raise DataError(f"{what}: there are none")
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        where = ", ".join(str(number) for number in bad[0])
        raise DataError(
            f"{what}: entry [{where}] is {values[tuple(bad[0])]}",
            "a statistic of missing returns is not defined: leave those bars out on purpose",
        )
    return values


def return_series(returns: ArrayLike) -> Floats:
    """`returns` as float64 of shape (n_bars,); a :class:`DataError` when empty or not finite."""
    values = np.asarray(returns, dtype=np.float64)
    if values.ndim != 1:
        raise DataError(f"returns: shape {values.shape}", "give one series, shape (n_bars,)")
    return _finite(values, "returns")


def return_matrix(returns: ArrayLike) -> Floats:
    """`returns` as float64 (n_bars, n_trials); a :class:`DataError` when empty or not finite."""
    values = np.asarray(returns, dtype=np.float64)
    if values.ndim != 2:
        raise DataError(f"trial returns: shape {values.shape}", "give shape (n_bars, n_trials)")
    return _finite(values, "trial returns")


def positive_periods(periods_per_year: float) -> float:
    """`periods_per_year` if it is positive and finite, else a :class:`ConfigError`."""
    if not 0 < periods_per_year < np.inf:
        raise ConfigError(
            f"periods_per_year {periods_per_year}", "take bars_per_year from the calendar"
        )
    return float(periods_per_year)


def is_constant(values: Floats) -> bool:
    """Whether no dispersion can be seen: fewer than 2 values, or all the same."""
    return len(values) < 2 or bool(np.ptp(values) == 0.0)

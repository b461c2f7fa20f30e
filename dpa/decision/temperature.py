"""Temperature compression: weights made more equal where a horizon is short and noisy.

``w_m proportional to w_m^T`` with T in (0, 1]: T = 1 leaves weights as they are, T towards 0 makes
all that are above 0 equal. The entropy of the weights never falls. ``w^(1/T)``, which is sometimes
written for this, would do the opposite.
"""

from functools import lru_cache

import numpy as np

from dpa.decision.arbitration import session_minutes
from dpa.decision.types import Doubles
from dpa.errors import ConfigError
from dpa.market.interval_specs import Horizon, IntervalSpec, parse_horizon
from dpa.market.intervals import parse_interval

KEY = "blend.temperatures"


def compress(weights: Doubles, temperature: Doubles) -> Doubles:
    """Weights to the power T, renormalised.

    Parameters
    ----------
    weights : float64 ndarray of shape (n_horizons, n_families)
        At least 0; rows sum to 1 or to 0.
    temperature : float64 ndarray of shape (n_horizons,)
        T in (0, 1].

    Returns
    -------
    float64 ndarray of shape (n_horizons, n_families)
        Rows sum to what they summed to, 1 or 0; a weight of 0 stays 0.
    """
    raised = weights ** temperature[:, None]
    total = raised.sum(axis=1, keepdims=True)
    flatter = raised / np.where(total > 0, total, 1.0)
    return np.where(temperature[:, None] < 1.0, flatter, weights)


@lru_cache(maxsize=64)
def _temperatures(horizons: tuple[Horizon, ...], table: tuple[str, ...]) -> tuple[float, ...]:
    spec = IntervalSpec(parse_interval("1m"), int(session_minutes(horizons)))
    points = sorted(_entry(text, spec) for text in table)
    if not points:
        raise ConfigError(f"{KEY}: is empty", "give at least one, such as 5m=1")
    minutes = [point[0] for point in points]
    if len(set(minutes)) < len(minutes):
        raise ConfigError(f"{KEY}: {list(table)} names a horizon twice", "give each once")
    wanted = np.log2([horizon.minutes for horizon in horizons])
    return tuple(np.interp(wanted, np.log2(minutes), [point[1] for point in points]).tolist())


def _entry(text: str, spec: IntervalSpec) -> tuple[int, float]:
    length, equals, number = text.partition("=")
    try:
        if not equals:
            raise ValueError
        value = float(number)
        minutes = parse_horizon(length, spec).minutes
    except (ValueError, ConfigError) as e:
        raise ConfigError(
            f"{KEY}: {text!r} is not understood", "write horizon=T, such as 5m=0.75"
        ) from e
    if not 0.0 < value <= 1.0:
        raise ConfigError(f"{KEY}: {text!r} has T outside (0, 1]", "T below 1 flattens, 1 does not")
    return minutes, value


def temperature_of(horizons: tuple[Horizon, ...], table: tuple[str, ...]) -> Doubles:
    """T of each horizon.

    Parameters
    ----------
    horizons : tuple of Horizon, length n_horizons
    table : tuple of str
        Entries such as ``"5m=0.75"``; T is linear in log2(minutes) between them and constant
        outside.

    Returns
    -------
    float64 ndarray of shape (n_horizons,)

    Raises
    ------
    ConfigError
        For an entry that is not understood or given twice, T outside (0, 1], or no entry.
    """
    return np.array(_temperatures(horizons, table))

"""Barrier probabilities made honest: calibration on earlier folds, Brier score, reliability."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import optimize, special, stats

from dpa.errors import ConfigError, DataError, RunError
from dpa.horizons.types import Doubles, Integers

Method = Literal["platt", "isotonic", "identity"]
METHODS = ("platt", "isotonic", "identity")
EDGE = 1e-4  # probabilities stay this far from 0 and 1
STEEPEST = 100.0  # slope of a Platt map whose classes are separable


@dataclass(frozen=True)
class Calibrator:
    """A map from raw to calibrated probability that never falls.

    Parameters
    ----------
    method : {"platt", "isotonic", "identity"}
        Platt (1999): ``1 / (1 + exp(-(slope * logit(raw) + intercept)))``, slope >= 0. Isotonic:
        the monotone step fit of least squares (Zadrozny & Elkan 2002), linear between
        breakpoints. Identity: the raw probability.
    slope, intercept : float
        Of Platt's map.
    x, y : tuple of float
        Breakpoints of the isotonic one.
    """

    method: Method
    slope: float = 1.0
    intercept: float = 0.0
    x: tuple[float, ...] = ()
    y: tuple[float, ...] = ()

    @classmethod
    def fit(cls, method: Method, raw: ArrayLike, label: ArrayLike) -> "Calibrator":
        """Learn the map from raw probabilities and what came of them.

        Parameters
        ----------
        method : {"platt", "isotonic", "identity"}
        raw : array-like of shape (n_rows,)
            Raw probabilities in [0, 1].
        label : array-like of shape (n_rows,)
            0 or 1. Rows where either is NaN are left out.

        Raises
        ------
        DataError
            When no row is left, or values are no probabilities and labels.
        """
        if method not in METHODS:
            raise ConfigError(f"calibration {method!r}", f"use one of {', '.join(METHODS)}")
        given, seen = _known_pairs(raw, label)
        if method == "identity":
            return cls("identity")
        if not len(given):
            raise DataError("no row has a barrier forecast and a label", "give more history")
        if method == "isotonic":
            x, y = _isotonic(given, seen)
            return cls("isotonic", x=x, y=y)
        slope, intercept = _platt(special.logit(_inside(given)), seen)
        return cls("platt", slope, intercept)

    def __call__(self, raw: ArrayLike) -> Doubles:
        """Calibrated probabilities, shape as `raw`, in [1e-4, 1 - 1e-4]; NaN where `raw` is."""
        given = _probabilities(raw)
        if self.method == "platt":
            given = special.expit(self.slope * special.logit(_inside(given)) + self.intercept)
        elif self.method == "isotonic":
            given = np.interp(given, self.x, self.y)
        return _inside(given)

    def to_json(self) -> dict[str, Any]:
        """What :meth:`from_json` reads; holds only text and numbers, which JSON keeps exactly."""
        return {
            "method": self.method,
            "slope": self.slope,
            "intercept": self.intercept,
            "x": list(self.x),
            "y": list(self.y),
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Calibrator":
        """The calibrator that :meth:`to_json` described; a :class:`RunError` for anything else."""
        try:
            found = cls(
                stored["method"],
                float(stored["slope"]),
                float(stored["intercept"]),
                tuple(float(value) for value in stored["x"]),
                tuple(float(value) for value in stored["y"]),
            )
        except (KeyError, TypeError, ValueError) as e:
            raise RunError(f"calibrator: {stored!r} is not one", "train again") from e
        numbers = np.array([found.slope, found.intercept, *found.x, *found.y])
        rises = (np.diff(found.x) >= 0).all() and (np.diff(found.y) >= 0).all()
        paired = len(found.x) == len(found.y) and (found.method != "isotonic" or found.x)
        sound = found.slope >= 0 and np.isfinite(numbers).all() and rises and paired
        if found.method not in METHODS or not sound:
            raise RunError(f"calibrator: {stored!r} is not one", "train again")
        return found


def _inside(probability: Doubles) -> Doubles:
    return np.clip(probability, EDGE, 1.0 - EDGE)


def _probabilities(raw: ArrayLike) -> Doubles:
    given = np.asarray(raw, dtype=np.float64)
    if bool(((given < 0) | (given > 1)).any()):
        bad = given[(given < 0) | (given > 1)][0]
        raise DataError(f"{bad} is not a probability", "give values from 0 to 1, or NaN")
    return given


def _known_pairs(raw: ArrayLike, label: ArrayLike) -> tuple[Doubles, Doubles]:
    given, seen = _probabilities(raw), np.asarray(label, dtype=np.float64)
    if given.shape != seen.shape:
        raise DataError(
            f"{given.shape} probabilities and {seen.shape} labels", "give one label per probability"
        )
    known = np.isfinite(given) & np.isfinite(seen)
    given, seen = given[known], seen[known]
    if bool(((seen != 0) & (seen != 1)).any()):
        raise DataError("a barrier label is neither 0 nor 1", "give 0, 1 or NaN")
    return given, seen


def _platt(score: Doubles, label: Doubles) -> tuple[float, float]:
    """Slope >= 0 and intercept of the most likely logistic curve."""
    rate = float(np.clip(label.mean(), EDGE, 1.0 - EDGE))
    base = float(special.logit(rate))
    if label.min() == label.max() or np.ptp(score) == 0:
        return 0.0, base
    middle = score - score.mean()

    def loss(parameters: Doubles) -> tuple[float, Doubles]:
        curve = parameters[0] * middle + parameters[1]
        error = special.expit(curve) - label
        value = float(np.mean(np.logaddexp(0.0, curve) - label * curve))
        return value, np.array([np.mean(error * middle), np.mean(error)])

    found = optimize.minimize(
        loss,
        np.array([1.0, base]),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0.0, STEEPEST), (None, None)],
        options={"ftol": 1e-15, "gtol": 1e-9},
    )
    slope, intercept = (float(value) for value in found.x)
    return slope, intercept - slope * float(score.mean())


def _isotonic(raw: Doubles, label: Doubles) -> tuple[tuple[float, ...], tuple[float, ...]]:
    from sklearn.isotonic import IsotonicRegression  # half a second that inference does not need

    found = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(raw, label)
    return (
        tuple(float(value) for value in found.X_thresholds_),
        tuple(float(value) for value in found.y_thresholds_),
    )


def brier_score(probability: ArrayLike, label: ArrayLike) -> float:
    """Mean squared error of probabilities (Brier 1950), in [0, 1]; 0 is perfect.

    Rows where either is NaN are left out; NaN when none is left.
    """
    given, seen = _known_pairs(probability, label)
    return float(np.mean((given - seen) ** 2)) if len(given) else float("nan")


def brier_skill(probability: ArrayLike, label: ArrayLike) -> float:
    """``1 - Brier / Brier of the base rate``: 0 says no more than the frequency, 1 everything.

    The base rate is the frequency among the same rows, known only afterwards: a hard benchmark.
    NaN where no row is left or all labels are equal.
    """
    given, seen = _known_pairs(probability, label)
    if not len(seen) or seen.min() == seen.max():
        return float("nan")
    return 1.0 - brier_score(given, seen) / float(seen.var())


def reliability(probability: ArrayLike, label: ArrayLike, bins: int = 10) -> pd.DataFrame:
    """Forecast against frequency, in groups of about equally many rows.

    Parameters
    ----------
    probability, label : array-like of shape (n_rows,)
        Rows where either is NaN are left out.
    bins : int
        Groups; equal probabilities stay in one group, so there may be fewer.

    Returns
    -------
    DataFrame
        Columns forecast (mean), frequency, count, and lower and upper, the 95 % interval of the
        frequency (Wilson 1927). It takes rows as independent: overlapping labels make it too
        narrow.
    """
    if bins < 1:
        raise ConfigError(f"bins {bins}", "use at least 1")
    given, seen = _known_pairs(probability, label)
    inner = np.unique(np.quantile(given, np.arange(1, bins) / bins)) if len(given) else given
    group = np.searchsorted(inner, given, side="right")
    count = np.bincount(group)
    kept = count > 0
    count = count[kept]
    forecast = np.bincount(group, given)[kept] / count
    frequency = np.bincount(group, seen)[kept] / count
    lower, upper = wilson(frequency, count)
    return pd.DataFrame(
        {
            "forecast": forecast,
            "frequency": frequency,
            "count": count,
            "lower": lower,
            "upper": upper,
        }
    )


def barrier_mean(raw: Sequence[Doubles]) -> Doubles | None:
    """Mean raw probability of the families that have barrier heads, known ones only.

    Parameters
    ----------
    raw : list of float64 ndarray of shape (..., 2)
        Peak and valley; NaN where a family says nothing.
    """
    if not raw:
        return None
    known = [np.isfinite(values) for values in raw]
    count = np.sum(known, axis=0)
    total = np.sum([np.where(k, v, 0.0) for k, v in zip(known, raw, strict=True)], axis=0)
    mean: Doubles = np.full(total.shape, np.nan)
    np.divide(total, count, out=mean, where=count > 0)
    return mean


def calibrated(calibrators: Sequence[Calibrator], raw: Doubles) -> Doubles:
    """Raw probabilities of several heads, last axis heads, each through its own calibrator."""
    heads = [calibrate(raw[..., place]) for place, calibrate in enumerate(calibrators)]
    return np.stack(heads, axis=-1)


def wilson(frequency: Doubles, count: Integers) -> tuple[Doubles, Doubles]:
    """The 95 % interval of frequencies among `count` rows each (Wilson 1927)."""
    z = float(stats.norm.ppf(0.975))
    middle = (frequency + z**2 / (2 * count)) / (1 + z**2 / count)
    spread = np.sqrt(frequency * (1 - frequency) / count + z**2 / (4 * count**2))
    half = z * spread / (1 + z**2 / count)
    return np.maximum(middle - half, 0.0), np.minimum(middle + half, 1.0)

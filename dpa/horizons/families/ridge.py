"""Ridge regression of every horizon at once, in closed form (Hoerl & Kennard 1970).

One pass over the rows sums their moments in float64; coefficients of every horizon and penalty,
and their errors on the holdout, follow from the moments alone. Rows are summed by which targets
they have, so a horizon learns from exactly the rows that have its target.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import numpy as np

from dpa.config import FamiliesConfig
from dpa.horizons.families._rows import (
    Scaling,
    check_learnable,
    check_width,
    chunks,
    not_fitted,
    one_thread,
    serving_columns,
    shares,
)
from dpa.horizons.families._storage import fingerprint, pack, read_model, write_model
from dpa.horizons.families.protocol import FitLog, register_family
from dpa.horizons.types import Doubles, Forecast, Integers, Rows, RowSchema, Singles

PENALTIES = np.logspace(-4, 2, 13)  # tried on the holdout, fractions of the rows
DEFAULT_PENALTY = 0.1  # when there is no holdout to choose on
FILE = "ridge.safetensors"


@dataclass(eq=False)
class _Moments:
    """Sums over the rows that have one horizon's target; x has a leading 1 for the intercept.

    Parameters
    ----------
    xx : float64 ndarray of shape (1 + n_features, 1 + n_features)
    xy : float64 ndarray of shape (1 + n_features,)
    yy : float
    """

    xx: Doubles
    xy: Doubles
    yy: float

    @property
    def n(self) -> float:
        return float(self.xx[0, 0])

    def squared_errors(self, coefficients: Doubles) -> Doubles:
        """Sum of (y - x b)^2 for each column b of shape (1 + n_features, n_columns)."""
        quadratic = np.einsum("ik,ij,jk->k", coefficients, self.xx, coefficients)
        errors: Doubles = self.yy - 2 * self.xy @ coefficients + quadratic
        return errors


def _moments(rows: Rows, scaling: Scaling) -> list[_Moments]:
    """Moments of every horizon; rows with the same targets known are summed together."""
    n_horizons = rows.targets.shape[1]
    size = 1 + rows.features.shape[1]
    bits = 1 << np.arange(n_horizons)
    sums: dict[int, tuple[Doubles, Doubles, Doubles]] = {}
    for part in chunks(len(rows)):
        x = np.column_stack([np.ones(part.stop - part.start), scaling.filled(rows.features[part])])
        y = rows.targets[part].astype(np.float64)
        pattern = ~np.isnan(y) @ bits
        for known in np.unique(pattern):
            chosen = pattern == known
            x_known, y_known = x[chosen], np.nan_to_num(y[chosen])
            zero = np.zeros((size, size)), np.zeros((size, n_horizons)), np.zeros(n_horizons)
            xx, xy, yy = sums.setdefault(int(known), zero)
            xx += x_known.T @ x_known
            xy += x_known.T @ y_known
            yy += (y_known**2).sum(axis=0)
    moments = []
    for horizon in range(n_horizons):
        total = _Moments(np.zeros((size, size)), np.zeros(size), 0.0)
        for known, (xx, xy, yy) in sums.items():
            if known & int(bits[horizon]):
                total.xx += xx
                total.xy += xy[:, horizon]
                total.yy += float(yy[horizon])
        moments.append(total)
    return moments


def _solve(moments: _Moments, usable: Integers, penalties: Doubles) -> Doubles:
    """Coefficients of shape (1 + n_features, n_penalties), the intercept first and unpenalised.

    With the covariance Q diag(v) Q' of the usable features, b = Q (Q'c / (v + penalty)): one
    decomposition serves all penalties. Directions without any variance get 0.
    """
    mean = moments.xx[0, 1:] / moments.n
    mean_y = moments.xy[0] / moments.n
    covariance = moments.xx[1:, 1:] / moments.n - np.outer(mean, mean)
    with_target = moments.xy[1:] / moments.n - mean * mean_y
    values, vectors = np.linalg.eigh(covariance[np.ix_(usable, usable)])
    damped = np.maximum(values, 0)[:, None] + penalties
    floor = len(values) * np.finfo(float).eps * max(values.max(initial=0.0), 1.0)
    inverse = np.divide(1.0, damped, out=np.zeros_like(damped), where=damped > floor)
    coefficients = np.zeros((1 + len(mean), len(penalties)))
    coefficients[1 + usable] = vectors @ (inverse * (vectors.T @ with_target[usable])[:, None])
    coefficients[0] = mean_y - mean @ coefficients[1:]
    return coefficients


def _relative_error(coefficients: Doubles, learned: _Moments, held_out: _Moments) -> Doubles:
    """Squared error on the holdout over that of the training mean, of shape (n_penalties,).

    It is 1 where the training mean makes no error at all.
    """
    mean_only = np.zeros((len(coefficients), 1))
    mean_only[0] = learned.xy[0] / learned.n
    errors = held_out.squared_errors(coefficients)
    around = held_out.squared_errors(mean_only)
    return np.divide(errors, around, out=np.ones_like(errors), where=around > 0)


@register_family
class RidgeFamily:
    """Linear in the standardised features; a missing feature counts as its training mean.

    The penalty is ``ridge_penalty`` times the number of rows, or the one of :data:`PENALTIES`
    with the least squared error on the holdout, each horizon's error relative to that of the
    training mean and averaged. Without a holdout it is :data:`DEFAULT_PENALTY`.
    """

    name: ClassVar[str] = "ridge"
    splits_by_target: ClassVar[bool] = False
    has_barriers: ClassVar[bool] = False

    def __init__(self, schema: RowSchema, settings: FamiliesConfig) -> None:
        self._schema = schema
        self._settings = settings
        self._scaling: Scaling | None = None
        self._coefficients = np.zeros((1 + len(schema.features), len(schema.horizons)))

    @one_thread()
    def fit(
        self, train: Rows, validation: Rows, seed: int, targets: tuple[str, ...] | None = None
    ) -> FitLog:
        """Solve for every horizon; `seed` and `targets` have no influence."""
        horizons = range(len(self._schema.horizons))
        check_learnable(self.name, train, self._schema, list(horizons))
        check_width(validation.features, self._schema)
        scaling = Scaling.of(train.features)
        learned, held_out = _moments(train, scaling), _moments(validation, scaling)
        judged = [horizon for horizon in horizons if held_out[horizon].n > 0]
        penalties = self._penalties(bool(judged))
        solved = [_solve(learned[h], self._usable(h, scaling), penalties) for h in horizons]
        relative = np.array(
            [_relative_error(solved[h], learned[h], held_out[h]) for h in judged]
        ).reshape(len(judged), len(penalties))
        best = int(relative.mean(axis=0).argmin()) if judged else 0
        self._scaling = scaling
        self._coefficients = np.stack([coefficients[:, best] for coefficients in solved], axis=1)
        notes = {"penalty": float(penalties[best])}
        for h, errors in zip(judged, relative, strict=True):
            notes[f"holdout R2, {self._schema.labels[h]}"] = 1 - float(errors[best])
        return FitLog(notes=notes)

    def predict(self, features: Singles) -> Forecast:
        """Intercept plus coefficients times standardised features, bit for bit row by row."""
        check_width(features, self._schema)
        if self._scaling is None:
            raise not_fitted(self.name)
        intercepts, slopes = self._coefficients[0], self._coefficients[1:]
        returns = np.empty((len(features), len(intercepts)))
        for part in chunks(len(features)):
            x = self._scaling.filled(features[part])
            total = np.repeat(intercepts[None], len(x), axis=0)
            for column, slope in zip(x.T, slopes, strict=True):  # in this order for every row
                total += column[:, None] * slope
            returns[part] = total
        return Forecast(returns)

    def save(self, folder: Path) -> None:
        """Write ``ridge.safetensors`` and ``ridge.json``."""
        write_model(
            folder, self.name, self.name, self._schema, {FILE: pack(self._arrays())}, facts={}
        )

    @classmethod
    def load(cls, folder: Path, schema: RowSchema, settings: FamiliesConfig) -> Self:
        """Read what :meth:`save` wrote; RunError when it is damaged or of other columns."""
        size, n_horizons = len(schema.features), len(schema.horizons)
        shapes = {"centre": (size,), "scale": (size,), "coefficients": (1 + size, n_horizons)}
        arrays = read_model(folder, cls.name, cls.name, schema, (FILE,)).arrays(FILE, shapes)
        family = cls(schema, settings)
        family._scaling = Scaling(arrays["centre"], arrays["scale"])
        family._coefficients = arrays["coefficients"]
        return family

    def fingerprint(self) -> str:
        """Hash of scaling and coefficients."""
        return fingerprint(self.name, self._schema, self._arrays())

    def importance(self) -> dict[str, float]:
        """Absolute coefficients of the standardised features, summed over horizons."""
        strength = shares(np.abs(self._coefficients[1:]).sum(axis=1))
        return dict(zip(self._schema.features, strength.tolist(), strict=True))

    def _penalties(self, judged: bool) -> Doubles:
        if self._settings.ridge_penalty is not None:
            return np.array([self._settings.ridge_penalty])
        return PENALTIES if judged else np.array([DEFAULT_PENALTY])

    def _usable(self, horizon: int, scaling: Scaling) -> Integers:
        columns = serving_columns(self._schema, horizon)
        return columns[scaling.scale[columns] > 0]

    def _arrays(self) -> dict[str, Doubles]:
        if self._scaling is None:
            raise not_fitted(self.name)
        return {
            "centre": self._scaling.centre,
            "scale": self._scaling.scale,
            "coefficients": self._coefficients,
        }

"""The cluster model's own signal, mapped to every horizon.

A promoted cluster model gives each name the s-score of its residual against its cluster's
consensus, an outlier gate, and the activity of its band-pass. A residual reverts, so the forecast
over a horizon is a multiple of minus the score; how much, and how much of what the model itself
would trade, is learned for each horizon.
"""

from pathlib import Path
from typing import ClassVar, Self

import numpy as np

from dpa.config import FamiliesConfig
from dpa.errors import ConfigError, DataError
from dpa.horizons.families._rows import (
    WINSOR,
    check_learnable,
    check_width,
    chunks,
    not_fitted,
    one_thread,
    shares,
)
from dpa.horizons.families._storage import fingerprint, pack, read_model, write_model
from dpa.horizons.families.protocol import FitLog, register_family
from dpa.horizons.types import Doubles, Forecast, Rows, RowSchema, Singles

COLUMNS = ("cluster_score", "cluster_gate", "cluster_active")
FILE = "cluster.safetensors"


@register_family
class ClusterFamily:
    """Two coefficients a horizon, through the origin, on the cluster model's signal.

    With s-score s (cut to +-5), outlier gate g and activity a of a row, the forecast of horizon h
    is ``b1_h (-s g) + b2_h (-tanh(s) a)``: residual reversion in full (Avellaneda & Lee 2010),
    and as far as the model itself would trade it. The coefficients are ridge estimates with
    penalty ``cluster_penalty`` times the sum of squares of each term. A row with one of the three
    missing has no forecast.

    Raises
    ------
    ConfigError
        When the features lack one of :data:`COLUMNS`, or one of them serves no horizon.
    """

    name: ClassVar[str] = "cluster"
    splits_by_target: ClassVar[bool] = False
    has_barriers: ClassVar[bool] = False

    def __init__(self, schema: RowSchema, settings: FamiliesConfig) -> None:
        missing = [column for column in COLUMNS if column not in schema.features]
        if missing:
            raise ConfigError(
                f"family 'cluster' needs the feature {missing[0]}",
                "give a promoted cluster model (--cluster), or leave the family out",
            )
        self._schema = schema
        self._settings = settings
        self._columns = [schema.features.index(column) for column in COLUMNS]
        self._served = schema.serves[self._columns].all(axis=0)  # of shape (n_horizons,)
        self._coefficients: Doubles | None = None  # of shape (2, n_horizons)
        self._sizes = np.zeros(2)  # root mean square of the two terms

    @one_thread()
    def fit(
        self, train: Rows, validation: Rows, seed: int, targets: tuple[str, ...] | None = None
    ) -> FitLog:
        """Least squares of every horizon; only `train` and ``cluster_penalty`` have influence."""
        served = [int(h) for h in np.flatnonzero(self._served)]
        check_learnable(self.name, train, self._schema, served)
        n_horizons = len(self._schema.horizons)
        squares, with_target = np.zeros((n_horizons, 2, 2)), np.zeros((n_horizons, 2))
        size, rows = np.zeros(2), 0
        for part in chunks(len(train)):
            terms = self._terms(train.features[part])
            there = ~np.isnan(terms).any(axis=1)
            size += (terms[there] ** 2).sum(axis=0)
            rows += int(there.sum())
            for h in served:
                target = train.targets[part, h]
                known = there & ~np.isnan(target)
                squares[h] += terms[known].T @ terms[known]
                with_target[h] += terms[known].T @ target[known].astype(np.float64)
        coefficients = np.zeros((2, n_horizons))
        for h in served:
            if not squares[h, 0, 0] > 0:
                raise DataError(
                    f"cluster: no training row with a signal has a target for "
                    f"{self._schema.labels[h]}",
                    "use more history, or leave the family out",
                )
            coefficients[:, h] = _ridge(squares[h], with_target[h], self._settings.cluster_penalty)
        self._coefficients, self._sizes = coefficients, np.sqrt(size / rows)
        return FitLog(notes={"rows with a signal": float(rows)})

    def predict(self, features: Singles) -> Forecast:
        """The mapped signal, bit for bit row by row; NaN without a signal."""
        check_width(features, self._schema)
        if self._coefficients is None:
            raise not_fitted(self.name)
        terms = self._terms(features)
        returns = sum(
            term[:, None] * b for term, b in zip(terms.T, self._coefficients, strict=True)
        )
        return Forecast(np.where(self._served, returns, np.nan))

    def save(self, folder: Path) -> None:
        """Write ``cluster.safetensors`` and ``cluster.json``."""
        write_model(
            folder, self.name, self.name, self._schema, {FILE: pack(self._arrays())}, facts={}
        )

    @classmethod
    def load(cls, folder: Path, schema: RowSchema, settings: FamiliesConfig) -> Self:
        """Read what :meth:`save` wrote; RunError when it is damaged or of other columns."""
        family = cls(schema, settings)
        shapes = {"coefficients": (2, len(schema.horizons)), "sizes": (2,)}
        arrays = read_model(folder, cls.name, cls.name, schema, (FILE,)).arrays(FILE, shapes)
        family._coefficients, family._sizes = arrays["coefficients"], arrays["sizes"]
        return family

    def fingerprint(self) -> str:
        """Hash of the coefficients."""
        coefficients = {"coefficients": self._arrays()["coefficients"]}
        return fingerprint(self.name, self._schema, coefficients)

    def importance(self) -> dict[str, float]:
        """Mean size of each term, half to the score, half to what it is multiplied with."""
        strength = np.abs(self._arrays()["coefficients"]).sum(axis=1) * self._sizes
        halves = shares(np.array([strength.sum(), strength[0], strength[1]]))
        weights = dict(zip(COLUMNS, halves.tolist(), strict=True))
        return {feature: weights.get(feature, 0.0) for feature in self._schema.features}

    def _terms(self, features: Singles) -> Doubles:
        """The two terms, of shape (n_rows, 2)."""
        score, gate, active = features[:, self._columns].astype(np.float64).T
        score = np.clip(score, -WINSOR, WINSOR)
        terms = np.stack([-score * gate, -np.tanh(score) * active], axis=1)
        return np.where(np.isnan(terms).any(axis=1, keepdims=True), np.nan, terms)

    def _arrays(self) -> dict[str, Doubles]:
        if self._coefficients is None:
            raise not_fitted(self.name)
        return {"coefficients": self._coefficients, "sizes": self._sizes}


def _ridge(squares: Doubles, with_target: Doubles, penalty: float) -> Doubles:
    """Least squares with `penalty` on coefficients of terms scaled to unit mean square."""
    damped = squares + penalty * np.diag(np.diag(squares))
    coefficients: Doubles = np.linalg.pinv(damped, hermitian=True) @ with_target
    return coefficients

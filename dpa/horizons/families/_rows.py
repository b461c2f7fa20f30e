"""What every family does with rows before it learns: check them, cut them, standardise them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from dpa.errors import ConfigError, DataError, RunError
from dpa.horizons.types import Doubles, Integers, Rows, RowSchema, Singles

CHUNK = 65_536  # rows in memory as float64 at a time
WINSOR = 5.0  # standardised features are cut to +- this
FLAT = 1e-6  # a standard deviation below this fraction of the mean is float32 rounding


def chunks(n_rows: int, size: int = CHUNK) -> Iterator[slice]:
    """Consecutive slices of at most `size` rows that cover `n_rows`."""
    for start in range(0, n_rows, size):
        yield slice(start, min(start + size, n_rows))


@contextmanager
def one_thread() -> Iterator[None]:
    """Linear algebra on one thread: the order of its sums depends on how many there are."""
    with threadpool_limits(limits=1):
        yield


def check_width(features: Singles, schema: RowSchema) -> None:
    """Refuse features whose columns are not the schema's."""
    if features.ndim != 2 or features.shape[1] != len(schema.features):
        raise DataError(
            f"features of shape {features.shape}, {len(schema.features)} columns expected",
            "give the columns the family was made for",
        )


def check_learnable(family: str, train: Rows, schema: RowSchema, horizons: list[int]) -> None:
    """Refuse training rows of other columns, or without a target of one of the horizons."""
    check_width(train.features, schema)
    if train.targets.shape[1] != len(schema.horizons):
        raise DataError(
            f"targets of {train.targets.shape[1]} horizons, {len(schema.horizons)} expected",
            "give the horizons the family was made for",
        )
    for horizon in horizons:
        if np.isnan(train.targets[:, horizon]).all():
            raise DataError(
                f"{family}: no training row of {len(train)} has a target for "
                f"{schema.labels[horizon]}",
                "use more history, or leave that horizon out",
            )


def serving_columns(schema: RowSchema, horizon: int) -> Integers:
    """Positions of the features that serve a horizon; a :class:`ConfigError` when none does."""
    columns = schema.columns(horizon)
    if not len(columns):
        raise ConfigError(
            f"horizons.features: none serves {schema.labels[horizon]}",
            "add one that does, see 'dpa features list'",
        )
    return columns


def not_fitted(family: str) -> RunError:
    """The error of a forecast asked of a family that has learned nothing."""
    return RunError(f"{family}: has learned nothing yet", "fit it, or load it")


def shares(strength: Doubles) -> Doubles:
    """Non-negative numbers of shape (n_features,) scaled to sum to 1; all 0 stays all 0."""
    total = strength.sum()
    return strength / total if total > 0 else strength


@dataclass(frozen=True, eq=False)
class Scaling:
    """Standardises features by the mean and standard deviation of the training rows.

    Parameters
    ----------
    centre : float64 ndarray of shape (n_features,)
        Mean; 0 for a feature never seen.
    scale : float64 ndarray of shape (n_features,)
        One over the standard deviation; 0 for a feature that never varies or was never seen.
    """

    centre: Doubles
    scale: Doubles

    @classmethod
    def of(cls, features: Singles) -> "Scaling":
        """Mean and deviation of each column's known values, two passes in float64."""
        seen = np.zeros(features.shape[1])
        total, squares = np.zeros_like(seen), np.zeros_like(seen)
        for part in chunks(len(features)):
            block = features[part].astype(np.float64)
            seen += (~np.isnan(block)).sum(axis=0)
            total += np.nansum(block, axis=0)
        centre = total / np.maximum(seen, 1)
        for part in chunks(len(features)):
            squares += np.nansum((features[part] - centre) ** 2, axis=0)
        deviation = np.sqrt(squares / np.maximum(seen, 1))
        varies = deviation > FLAT * np.abs(centre)
        return cls(centre, np.divide(1.0, deviation, out=np.zeros_like(centre), where=varies))

    def take(self, columns: NDArray[np.int64]) -> "Scaling":
        """The scaling of some columns."""
        return Scaling(self.centre[columns], self.scale[columns])

    def standardise(self, features: Singles) -> Doubles:
        """Features in standard deviations from the mean, winsorised; NaN stays NaN."""
        scaled: Doubles = np.clip((features - self.centre) * self.scale, -WINSOR, WINSOR)
        return scaled

    def filled(self, features: Singles) -> Doubles:
        """The same with NaN replaced by 0, the training mean."""
        return np.nan_to_num(self.standardise(features), copy=False)

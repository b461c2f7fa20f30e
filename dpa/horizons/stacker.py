"""One forecast per horizon out of all families and horizons: non-negative ridge, out of fold.

For each target horizon the columns are the forecasts of every (family, horizon), each divided by
its root mean square over the past. The weights minimise (Breiman 1996; Hoerl & Kennard 1970)

    ||y - X w||^2 / n + penalty * sum_j (w_j / d_j)^2,   w >= 0,

where d_j is the prior weight of column j: 1 at the reference horizon, less the further away the
column's horizon is in log2(minutes). It is solved as non-negative least squares; an unconstrained
solution clipped afterwards would be another, worse point.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, optimize

from dpa.config import StackingConfig
from dpa.errors import ConfigError, DataError, RunError
from dpa.horizons.types import Doubles, Integers
from dpa.market.interval_specs import Horizon
from dpa.runs import stable_hash

ROWS_AT_ONCE = 65_536  # bounds the memory of a fit on a long history
LEAST_COVERAGE = 0.5  # fraction of the rows a column must speak about to get a weight
LEAST_PRIOR = 1e-100  # a prior weight below it counts as 0
JITTER = 1e-12  # keeps the normal equations of equal columns definite
Part = tuple[NDArray[Any], NDArray[Any]]


def prior_weight(distance: Doubles, decay: str, half_life: float) -> Doubles:
    """Prior weight of a column by its distance from the reference horizon.

    Parameters
    ----------
    distance : float64 ndarray
        ``|log2(minutes / reference minutes)|``, doublings of the horizon.
    decay : {"exponential", "linear", "inverse"}
        ``2 ** (-distance / half_life)``; ``max(1 - distance / (2 half_life), 0)``;
        ``1 / (1 + distance / half_life)``. All are 1 at distance 0 and 1/2 at one half-life. A
        column at 0 gets no weight.
    half_life : float
        Doublings that halve the prior weight.
    """
    steps = distance / half_life
    if decay == "exponential":
        return np.asarray(np.exp2(-steps))
    if decay == "linear":
        return np.maximum(1.0 - 0.5 * steps, 0.0)
    if decay == "inverse":
        return np.asarray(1.0 / (1.0 + steps))
    raise ConfigError(f"stacking.stack_decay {decay!r}", "use exponential, linear or inverse")


def nonnegative_ridge(gram: Doubles, moment: Doubles, penalty: Doubles) -> Doubles:
    """The w >= 0 that minimises ``w' G w - 2 w' m + sum_j penalty_j w_j^2``.

    With ``G + diag(penalty) = R' R`` (Cholesky) this is the non-negative least squares problem
    ``||R w - R'^-1 m||`` (Lawson & Hanson 1974).

    Parameters
    ----------
    gram : float64 ndarray of shape (n_columns, n_columns)
        ``X' X / n``, positive semi-definite.
    moment : float64 ndarray of shape (n_columns,)
        ``X' y / n``.
    penalty : float64 ndarray of shape (n_columns,)
        At least 0.
    """
    scale = float(np.trace(gram)) / max(len(gram), 1)
    factor = linalg.cholesky(gram + np.diag(penalty + JITTER * scale))
    aim = linalg.solve_triangular(factor, moment, trans="T")
    weights: Doubles = optimize.nnls(factor, aim)[0]
    return weights


@dataclass(frozen=True, eq=False)
class Stack:
    """What the stacker says.

    Parameters
    ----------
    forecast : float64 ndarray of shape (n_horizons, n_symbols)
        Scaled forward return; NaN where no forecast with a weight is there.
    confidence : float64 ndarray of shape (n_horizons, n_symbols)
        In [0, 1]: ``|sum w f| / sum w |f|``, 1 where all that counts agrees on the sign, 0 where
        it cancels or all is 0; NaN where `forecast` is.
    """

    forecast: Doubles
    confidence: Doubles


class CrossHorizonStacker:
    """Non-negative ridge over the forecasts of all families and horizons.

    Before :meth:`fit` it is the prior alone: the mean of all forecasts, weighted by decay.

    Parameters
    ----------
    horizons : tuple of Horizon, length n_horizons
        In increasing length; those forecast and those combined.
    families : tuple of str, length n_families
    settings : StackingConfig
        Decay, half-life, penalty and reference horizon, which must be one of `horizons`.

    Attributes
    ----------
    weights : float64 ndarray of shape (n_horizons, n_horizons, n_families)
        Target horizon, horizon of the column, family of the column; of standardised columns.
    scale : float64 ndarray of shape (n_horizons, n_families)
        Root mean square of each column over the rows of the fit.
    n_rows : int64 ndarray of shape (n_horizons,)
        Rows each target was fitted on; 0 where the weights are the prior's.

    Raises
    ------
    ConfigError
        For an unknown reference horizon or decay, or no horizon or family.
    """

    def __init__(
        self, horizons: tuple[Horizon, ...], families: tuple[str, ...], settings: StackingConfig
    ) -> None:
        if not horizons or not families:
            raise ConfigError("a stacker without horizons or families", "give at least one of each")
        self.horizons, self.families, self.settings = horizons, families, settings
        self._prior = self._prior_weights()
        self._start()

    def _prior_weights(self) -> Doubles:
        """d of shape (target horizon, horizon of the column), 1 at the reference."""
        minutes = np.array([horizon.minutes for horizon in self.horizons], dtype=np.float64)
        reference = minutes
        if self.settings.reference_horizon is not None:
            labels = [horizon.label for horizon in self.horizons]
            wanted = self.settings.reference_horizon.strip().lower()
            if wanted not in labels:
                raise ConfigError(
                    f"stacking.reference_horizon: {wanted} is not forecast",
                    f"use one of {', '.join(labels)}",
                )
            reference = np.full_like(minutes, minutes[labels.index(wanted)])
        distance = np.abs(np.log2(minutes[None, :] / reference[:, None]))
        return prior_weight(distance, self.settings.stack_decay, self.settings.stack_half_life)

    def _start(self) -> None:
        shape = (len(self.horizons), len(self.families))
        self.scale: Doubles = np.ones(shape)
        self.n_rows: Integers = np.zeros(shape[0], dtype=np.int64)
        self.weights: Doubles = np.stack([self._blend(h) for h in range(shape[0])])

    def _blend(self, target: int) -> Doubles:
        """Weights of the mean of the forecasts themselves, weighted by decay."""
        prior = np.repeat(self._prior[target][:, None], len(self.families), axis=1)
        return np.asarray(prior / prior.sum() * self.scale)

    def fit(self, forecasts: NDArray[Any], targets: NDArray[Any]) -> Self:
        """Learn the weights from forecasts made out of fold, and what came of them.

        Parameters
        ----------
        forecasts : ndarray of shape (n_horizons, n_families, n_rows)
            NaN where a family says nothing. A column that speaks about fewer than half of the
            rows, or only says 0, gets weight 0.
        targets : ndarray of shape (n_horizons, n_rows)
            Scaled forward returns, NaN where unknown. A row counts for a horizon when its target
            and all columns that can get a weight are there.

        Raises
        ------
        DataError
            When the shapes do not fit, or no row counts for any horizon.
        """
        self.fit_parts([(forecasts, targets)])
        if not self.n_rows.any():
            raise DataError("no row has its forecasts and a target", "give more history")
        return self

    def fit_parts(self, parts: Sequence[Part]) -> Self:
        """:meth:`fit` on rows that come in pieces, such as folds; without rows it is the prior."""
        self._start()
        n_horizons, n_families = self.scale.shape
        n_columns = n_horizons * n_families
        for forecasts, targets in parts:
            self._check(forecasts, targets)
        live, scale = self._survey(parts)
        self.scale = scale.reshape(n_horizons, n_families)
        gram = np.zeros((n_horizons, n_columns, n_columns))
        moment = np.zeros((n_horizons, n_columns))
        for columns, targets in self._chunks(parts):
            whole = np.isfinite(columns[live]).all(axis=0) & np.isfinite(columns).any(axis=0)
            for target, values in enumerate(targets):
                chosen = whole & np.isfinite(values)
                some = np.where(live[:, None], columns[:, chosen], 0.0) / scale[:, None]
                gram[target] += some @ some.T
                moment[target] += some @ values[chosen]
                self.n_rows[target] += int(chosen.sum())
        for target, rows in enumerate(self.n_rows):
            if rows:
                self.weights[target] = self._solve(
                    gram[target] / rows, moment[target] / rows, target, live
                )
            else:
                self.weights[target] = self._blend(target)
        return self

    def _check(self, forecasts: NDArray[Any], targets: NDArray[Any]) -> None:
        wanted = (*self.scale.shape, targets.shape[-1])
        if forecasts.shape != wanted or targets.shape != (wanted[0], wanted[2]):
            raise DataError(
                f"forecasts {forecasts.shape} and targets {targets.shape} do not match "
                f"{len(self.horizons)} horizons and {len(self.families)} families",
                "give (n_horizons, n_families, n_rows) and (n_horizons, n_rows)",
            )

    def _chunks(self, parts: Sequence[Part]) -> Iterator[tuple[Doubles, Doubles]]:
        """Columns (n_columns, n_rows) and targets (n_horizons, n_rows), some rows at a time."""
        for forecasts, targets in parts:
            flat = forecasts.reshape(-1, targets.shape[-1])
            for start in range(0, targets.shape[-1], ROWS_AT_ONCE):
                part = slice(start, start + ROWS_AT_ONCE)
                yield flat[:, part].astype(np.float64), targets[:, part].astype(np.float64)

    def _survey(self, parts: Sequence[Part]) -> tuple[NDArray[np.bool_], Doubles]:
        """Which columns can get a weight, and the root mean square of each (1 where unknown)."""
        count, squares, rows = np.zeros(self.scale.size), np.zeros(self.scale.size), 0
        for columns, targets in self._chunks(parts):
            known = np.isfinite(targets).any(axis=0)
            there = np.isfinite(columns) & known
            count += there.sum(axis=1)
            squares += (np.where(there, columns, 0.0) ** 2).sum(axis=1)
            rows += int(known.sum())
        live = (count > 0) & (count >= LEAST_COVERAGE * rows) & (squares > 0)
        scale = np.sqrt(np.divide(squares, count, out=np.ones_like(squares), where=squares > 0))
        return live, scale

    def _solve(
        self, gram: Doubles, moment: Doubles, target: int, live: NDArray[np.bool_]
    ) -> Doubles:
        prior = np.repeat(self._prior[target], len(self.families))
        chosen = np.flatnonzero(live & (prior > LEAST_PRIOR))
        weights = np.zeros(len(prior))
        if len(chosen):
            penalty = self.settings.stack_penalty / prior[chosen] ** 2
            part = gram[np.ix_(chosen, chosen)]
            weights[chosen] = nonnegative_ridge(part, moment[chosen], penalty)
        return weights.reshape(self.scale.shape)

    def predict(self, forecasts: NDArray[Any]) -> Stack:
        """Combine forecasts; each symbol's depends on that symbol alone.

        A missing forecast is left out and the weights of the others are scaled up to the same
        total. Where none with a weight is there, the answer is NaN. Where every weight of a
        horizon is 0, since nothing predicted it, the answer is 0 with confidence 0.

        Parameters
        ----------
        forecasts : ndarray of shape (n_horizons, n_families, n_symbols)
            NaN (or infinite) where missing.

        Raises
        ------
        DataError
            When the shape does not fit.
        """
        if forecasts.ndim != 3 or forecasts.shape[:2] != self.scale.shape:
            raise DataError(
                f"forecasts of shape {forecasts.shape}",
                f"give ({len(self.horizons)}, {len(self.families)}, n_symbols)",
            )
        shape = (len(self.horizons), forecasts.shape[2])
        total, size, present = np.zeros(shape), np.zeros(shape), np.zeros(shape)
        anything = np.zeros(shape[1], dtype=bool)
        for horizon, family in np.ndindex(*self.scale.shape):  # the same bits for any n_symbols
            there = np.isfinite(forecasts[horizon, family])
            column = np.where(there, forecasts[horizon, family], 0.0) / self.scale[horizon, family]
            weight = self.weights[:, horizon, family, None]
            total += weight * column
            size += weight * np.abs(column)
            present += weight * there
            anything |= there
        whole = self.weights.sum(axis=(1, 2))[:, None]
        known = np.where(whole > 0, present > 0, anything)
        share = np.where(whole > 0, present, 1.0) / np.where(whole > 0, whole, 1.0)
        forecast = np.divide(total, share, out=np.full(shape, np.nan), where=known)
        agreement = np.divide(np.abs(total), size, out=np.zeros(shape), where=size > 0)
        return Stack(forecast, np.where(known, np.minimum(agreement, 1.0), np.nan))

    def to_arrays(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """What was learned: arrays for safetensors, and facts for JSON."""
        arrays = {
            "weights": self.weights.copy(),
            "scale": self.scale.copy(),
            "n_rows": self.n_rows.copy(),
        }
        facts = {
            "horizons": [[h.minutes, h.bars, h.label] for h in self.horizons],
            "families": list(self.families),
            "settings": self.settings.model_dump(mode="json"),
        }
        return arrays, facts

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]
    ) -> "CrossHorizonStacker":
        """The stacker that :meth:`to_arrays` described.

        Raises
        ------
        RunError
            When something is missing, or does not fit together.
        """
        cure = "the stacker is damaged: train or copy it again"
        try:
            stacker = cls(
                tuple(Horizon(int(m), int(b), str(label)) for m, b, label in facts["horizons"]),
                tuple(str(name) for name in facts["families"]),
                StackingConfig.model_validate(facts["settings"]),
            )
            found = {name: np.array(arrays[name]) for name in ("weights", "scale", "n_rows")}
        except (KeyError, TypeError, ValueError, ConfigError) as e:
            raise RunError(f"stacker: cannot be read ({type(e).__name__})", cure) from e
        for name, array in found.items():
            if array.shape != getattr(stacker, name).shape or not np.isfinite(array).all():
                raise RunError(f"stacker: {name} of shape {array.shape} does not fit", cure)
        if (found["weights"] < 0).any() or (found["scale"] <= 0).any():
            raise RunError("stacker: a weight is below 0 or a scale not above 0", cure)
        stacker.weights = found["weights"].astype(np.float64)
        stacker.scale = found["scale"].astype(np.float64)
        stacker.n_rows = found["n_rows"].astype(np.int64)
        return stacker

    def fingerprint(self) -> str:
        """Hash of everything that decides a forecast."""
        arrays, facts = self.to_arrays()
        digest = hashlib.sha256(stable_hash(facts).encode())
        for name in sorted(arrays):
            digest.update((arrays[name] + 0).tobytes())
        return digest.hexdigest()

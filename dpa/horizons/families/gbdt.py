"""Gradient boosted trees (LightGBM, Ke et al. 2017): one model for every horizon and barrier."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import lightgbm as lgb
import numpy as np
from numpy.typing import NDArray

from dpa.config import FamiliesConfig
from dpa.errors import ConfigError, RunError
from dpa.horizons.families._rows import (
    Scaling,
    check_learnable,
    check_width,
    chunks,
    not_fitted,
    serving_columns,
    shares,
)
from dpa.horizons.families._storage import DAMAGED, fingerprint, pack, read_model, write_model
from dpa.horizons.families.protocol import BARRIER_TARGET, FitLog, register_family
from dpa.horizons.types import BARRIERS, Doubles, Forecast, Integers, Rows, RowSchema, Singles

HUBER_WIDTH = 1.0  # residuals beyond it count linearly, units of the scaled return
CLASSES = 2  # a barrier's training rows must show both


@dataclass(frozen=True, eq=False)
class _Labelled:
    """Rows that have one target; `known` are their positions in `features`."""

    features: Singles
    targets: Singles
    known: Integers

    def matrix(self, scaling: Scaling, columns: Integers) -> Singles:
        """Their standardised features of some columns, NaN kept, built without a second copy."""
        matrix = np.empty((len(self.known), len(columns)), dtype=np.float32)
        for part in chunks(len(self.known)):
            matrix[part] = _single(scaling, self.features[self.known[part]])[:, columns]
        return matrix


@dataclass(frozen=True, eq=False)
class _Head:
    """A boosted model as LightGBM text; it forecasts from the text, so a stored one is equal."""

    text: str

    @cached_property
    def booster(self) -> lgb.Booster:
        return lgb.Booster(model_str=self.text)

    @property
    def gain(self) -> Doubles:
        gain: Doubles = self.booster.feature_importance("gain")
        return gain

    def predict(self, scaled: Singles) -> Doubles:
        return np.asarray(self.booster.predict(np.ascontiguousarray(scaled), num_threads=1))


@dataclass(frozen=True, eq=False)
class _Target:
    """The models of one target: one of a horizon, up to two of the barriers."""

    scaling: Scaling
    heads: Mapping[str, _Head]

    @property
    def arrays(self) -> dict[str, Doubles]:
        return {"centre": self.scaling.centre, "scale": self.scaling.scale}

    @cached_property
    def scaling_key(self) -> bytes:
        return self.scaling.centre.tobytes() + self.scaling.scale.tobytes()


@register_family
class GbdtFamily:
    """Boosted trees on standardised features; a feature with gaps gets a direction for them.

    One model each for every horizon (squared or Huber loss) and for peak and valley (log loss),
    stopped on the holdout when there is one. Rows and features are subsampled for each tree.
    A barrier whose training rows show one class only is not forecast.
    """

    name: ClassVar[str] = "gbdt"
    splits_by_target: ClassVar[bool] = True
    has_barriers: ClassVar[bool] = True

    def __init__(self, schema: RowSchema, settings: FamiliesConfig) -> None:
        self._schema = schema
        self._settings = settings
        self._targets: dict[str, _Target] = {}

    def fit(
        self, train: Rows, validation: Rows, seed: int, targets: tuple[str, ...] | None = None
    ) -> FitLog:
        """Fit the targets asked for; targets fitted before are kept."""
        names = self._all_targets() if targets is None else targets
        unknown = set(names) - set(self._all_targets())
        if unknown:
            raise ConfigError(
                f"gbdt: no target is called {sorted(unknown)[0]!r}",
                f"use some of {', '.join(self._all_targets())}",
            )
        labels = self._schema.labels
        horizons = [labels.index(name) for name in names if name != BARRIER_TARGET]
        check_learnable(self.name, train, self._schema, horizons)
        check_width(validation.features, self._schema)
        scaling = Scaling.of(train.features)
        curves: dict[str, tuple[float, ...]] = {}
        notes: dict[str, float] = {}
        for name in names:
            heads = {}
            for head in _heads(name):
                learned, held_out = self._labelled(train, head), self._labelled(validation, head)
                if head in BARRIERS and len(np.unique(learned.targets)) < CLASSES:
                    continue
                text, losses = self._boost(head, learned, held_out, scaling, seed)
                heads[head] = _Head(text)
                curves.update({f"{part} loss, {head}": loss for part, loss in losses.items()})
                notes[f"trees, {head}"] = float(heads[head].booster.num_trees())
            self._targets[name] = _Target(scaling, heads)
        return FitLog(curves, notes)

    def predict(self, features: Singles) -> Forecast:
        """Forecast with the targets fitted so far, bit for bit row by row; NaN for the others."""
        check_width(features, self._schema)
        if not self._targets:
            raise not_fitted(self.name)
        labels = (*self._schema.labels, *BARRIERS)
        forecast = np.full((len(features), len(labels)), np.nan)
        for part in chunks(len(features)):
            scaled: dict[bytes, Singles] = {}  # targets fitted on the same rows scale alike
            for target in self._targets.values():
                key = target.scaling_key
                if key not in scaled:
                    scaled[key] = _single(target.scaling, features[part])
                for head, model in target.heads.items():
                    columns = self._columns(head)
                    forecast[part, labels.index(head)] = model.predict(scaled[key][:, columns])
        n_horizons = len(self._schema.horizons)
        return Forecast(forecast[:, :n_horizons], forecast[:, n_horizons:])

    def save(self, folder: Path) -> None:
        """Write for each target fitted ``<target>.json``, its scaling, and its models as text."""
        if not self._targets:
            raise not_fitted(self.name)
        for name, target in self._targets.items():
            files = {f"{head}.txt": model.text.encode() for head, model in target.heads.items()}
            files[f"{name}.safetensors"] = pack(target.arrays)
            facts = {"heads": list(target.heads)}
            write_model(folder, name, self.name, self._schema, files, facts)

    @classmethod
    def load(cls, folder: Path, schema: RowSchema, settings: FamiliesConfig) -> Self:
        """Read every target; RunError when one is missing, damaged or of other columns."""
        family = cls(schema, settings)
        size = (len(schema.features),)
        for name in reversed(family._all_targets()):  # the barriers' file names all horizons
            stored = read_model(folder, name, cls.name, schema)
            arrays = stored.arrays(f"{name}.safetensors", {"centre": size, "scale": size})
            heads = {head: _Head(stored.text(f"{head}.txt")) for head in stored.facts["heads"]}
            family._targets[name] = _Target(Scaling(arrays["centre"], arrays["scale"]), heads)
            for head, model in heads.items():
                if model.booster.num_feature() != len(family._columns(head)):
                    raise RunError(f"{folder / head}.txt: is a model of other features", DAMAGED)
        return family

    def fingerprint(self) -> str:
        """Hash of the scaling and text of every target fitted."""
        if not self._targets:
            raise not_fitted(self.name)
        parts: dict[str, NDArray[Any] | bytes] = {}
        for name, target in self._targets.items():
            parts.update({f"{name} {key}": value for key, value in target.arrays.items()})
            parts.update({head: model.text.encode() for head, model in target.heads.items()})
        return fingerprint(self.name, self._schema, parts)

    def importance(self) -> dict[str, float]:
        """Gain of the splits on each feature, as a share of its model's, averaged over models."""
        if not self._targets:
            raise not_fitted(self.name)
        gain = np.zeros(len(self._schema.features))
        for name in sorted(self._targets):
            for head, model in self._targets[name].heads.items():
                gain[self._columns(head)] += shares(model.gain)
        return dict(zip(self._schema.features, shares(gain).tolist(), strict=True))

    def _all_targets(self) -> tuple[str, ...]:
        return (*self._schema.labels, BARRIER_TARGET)

    def _columns(self, head: str) -> Integers:
        """Features of a model: those that serve its horizon; for a barrier, any horizon."""
        if head in BARRIERS:
            return np.flatnonzero(self._schema.serves.any(axis=1))
        return serving_columns(self._schema, self._schema.labels.index(head))

    def _labelled(self, rows: Rows, head: str) -> _Labelled:
        column, values = (
            (BARRIERS.index(head), rows.barriers)
            if head in BARRIERS
            else (self._schema.labels.index(head), rows.targets)
        )
        known = np.flatnonzero(~np.isnan(values[:, column]))
        return _Labelled(rows.features, values[known, column], known)

    def _boost(
        self, head: str, learned: _Labelled, held_out: _Labelled, scaling: Scaling, seed: int
    ) -> tuple[str, dict[str, tuple[float, ...]]]:
        """One model as text, and its losses after each tree by the rows they are of."""
        columns = self._columns(head)
        parameters = self._parameters(head, seed, len(learned.known))
        train = lgb.Dataset(
            learned.matrix(scaling, columns), learned.targets, params=parameters
        ).construct()
        losses: dict[str, dict[str, list[float]]] = {}
        sets, callbacks = {"training": train}, [lgb.record_evaluation(losses)]
        if len(held_out.known):
            held = held_out.matrix(scaling, columns)
            sets["validation"] = lgb.Dataset(held, held_out.targets, reference=train)
            callbacks.append(lgb.early_stopping(self._settings.gbdt_patience, verbose=False))
        booster = lgb.train(
            parameters,
            train,
            self._settings.gbdt_trees,
            valid_sets=list(sets.values()),
            valid_names=list(sets),
            callbacks=callbacks,
        )
        curves = {part: tuple(*metrics.values()) for part, metrics in losses.items()}
        return booster.model_to_string(), curves

    def _parameters(self, head: str, seed: int, rows: int) -> dict[str, Any]:
        settings = self._settings
        return {
            "objective": "binary" if head in BARRIERS else settings.gbdt_loss,
            "metric": "binary_logloss" if head in BARRIERS else settings.gbdt_loss,
            "alpha": HUBER_WIDTH,
            "learning_rate": settings.gbdt_rate,
            "num_leaves": settings.gbdt_leaves,
            "min_data_in_leaf": max(settings.gbdt_min_rows, int(settings.gbdt_min_share * rows)),
            "max_bin": settings.gbdt_bins,
            "bagging_fraction": settings.gbdt_fraction,
            "bagging_freq": 1,
            "feature_fraction": settings.gbdt_fraction,
            "seed": seed,
            "deterministic": True,
            "force_row_wise": True,
            "num_threads": 1,
            "verbosity": -1,
        }


def _heads(target: str) -> tuple[str, ...]:
    return BARRIERS if target == BARRIER_TARGET else (target,)


def _single(scaling: Scaling, features: Singles) -> Singles:
    return scaling.standardise(features).astype(np.float32)

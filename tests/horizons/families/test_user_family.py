"""A family of a user's own: one file, one decorator."""

from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import pytest

from dpa.config import FamiliesConfig
from dpa.errors import ConfigError
from dpa.horizons.families import (
    Family,
    FitLog,
    family_class,
    family_names,
    fingerprint,
    pack,
    protocol,
    read_model,
    register_family,
    write_model,
)
from dpa.horizons.types import Forecast, Rows, RowSchema, Singles


class MeanFamily:
    """Forecasts every horizon's mean of the training rows."""

    name: ClassVar[str] = "mean"
    splits_by_target: ClassVar[bool] = False
    has_barriers: ClassVar[bool] = False

    def __init__(self, schema: RowSchema, settings: FamiliesConfig) -> None:
        self.schema = schema
        self.mean = np.full(len(schema.horizons), np.nan)

    def fit(
        self, train: Rows, validation: Rows, seed: int, targets: tuple[str, ...] | None = None
    ) -> FitLog:
        self.mean = np.nanmean(train.targets.astype(np.float64), axis=0)
        return FitLog()

    def predict(self, features: Singles) -> Forecast:
        return Forecast(np.repeat(self.mean[None], len(features), axis=0))

    def save(self, folder: Path) -> None:
        files = {"mean.safetensors": pack({"mean": self.mean})}
        write_model(folder, "mean", self.name, self.schema, files, facts={})

    @classmethod
    def load(cls, folder: Path, schema: RowSchema, settings: FamiliesConfig) -> Self:
        stored = read_model(folder, "mean", cls.name, schema, ("mean.safetensors",))
        family = cls(schema, settings)
        shape = {"mean": (len(schema.horizons),)}
        family.mean = stored.arrays("mean.safetensors", shape)["mean"]
        return family

    def fingerprint(self) -> str:
        return fingerprint(self.name, self.schema, {"mean": self.mean})

    def importance(self) -> dict[str, float]:
        return dict.fromkeys(self.schema.features, 0.0)


@pytest.fixture
def registry(monkeypatch):
    monkeypatch.setattr(protocol, "_FAMILIES", dict(protocol._FAMILIES))


@pytest.mark.usefixtures("registry")
def test_registered_fitted_stored_and_loaded(schema, settings, train, empty, tmp_path):
    register_family(MeanFamily)
    assert "mean" in family_names()
    family: Family = family_class("mean")(schema, settings)
    family.fit(train, empty, 0)
    family.save(tmp_path)
    loaded = family_class("mean").load(tmp_path, schema, settings)
    assert loaded.fingerprint() == family.fingerprint()
    np.testing.assert_allclose(
        loaded.predict(train.features[:2]).returns[1],
        np.nanmean(train.targets.astype(float), axis=0),
    )


@pytest.mark.usefixtures("registry")
def test_two_families_of_one_name_are_refused():
    taken = type("Other", (), {"name": "ridge"})
    with pytest.raises(ConfigError, match="'ridge' is defined twice"):
        register_family(taken)
    with pytest.raises(ConfigError, match="'unknown' is not known"):
        family_class("unknown")

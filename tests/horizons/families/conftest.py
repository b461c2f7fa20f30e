"""A small planted problem: eight features, three horizons, two barriers."""

from collections.abc import Callable

import numpy as np
import pytest

from dpa.config import FamiliesConfig
from dpa.horizons.families import family_class
from dpa.horizons.types import Rows, RowSchema
from dpa.market.interval_specs import Horizon

FEATURES = (
    "slow",
    "fast",  # serves the short horizons only
    "gappy",
    "noise",
    "constant",
    "cluster_score",
    "cluster_gate",
    "cluster_active",
)
HORIZONS = (Horizon(5, 1, "5m"), Horizon(30, 6, "30m"), Horizon(390, 78, "1d"))


def planted_rows(
    n: int, seed: int, noise: float = 1.0, shuffled: bool = False, gaps: float = 0.05
) -> Rows:
    """Targets: 0.4 slow + 0.3 fast - 0.5 score * gate + noise, on every horizon."""
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((n, len(FEATURES)))
    features[:, 4] = 3.1
    features[:, 6:] = rng.random((n, 2))
    signal = 0.4 * features[:, 0] + 0.3 * features[:, 1] - 0.5 * features[:, 5] * features[:, 6]
    features[rng.random(n) < 0.3, 2] = np.nan
    features[rng.random(n) < gaps, 5] = np.nan
    if shuffled:
        signal = rng.permutation(signal)
    targets = signal[:, None] + noise * rng.standard_normal((n, 3))
    targets[rng.random((n, 3)) < gaps] = np.nan
    chance = 1 / (1 + np.exp(-signal - 0.5))
    barriers = np.stack([rng.random(n) < chance, rng.random(n) > chance], axis=1).astype(float)
    barriers[rng.random((n, 2)) < gaps] = np.nan
    return Rows(
        features.astype(np.float32),
        targets.astype(np.float32),
        barriers.astype(np.float32),
        np.arange(n),
        np.arange(n) % 7,
    )


def explained(forecast: np.ndarray, target: np.ndarray) -> float:
    """R squared over the pairs both know."""
    known = ~np.isnan(forecast) & ~np.isnan(target)
    errors, around = target[known] - forecast[known], target[known] - target[known].mean()
    return float(1 - (errors**2).sum() / (around**2).sum())


@pytest.fixture(scope="session")
def make_rows() -> Callable[..., Rows]:
    return planted_rows


@pytest.fixture(scope="session")
def r_squared() -> Callable[[np.ndarray, np.ndarray], float]:
    return explained


@pytest.fixture(scope="session")
def schema() -> RowSchema:
    serves = np.ones((len(FEATURES), len(HORIZONS)), dtype=bool)
    serves[1, 2] = False
    return RowSchema(FEATURES, HORIZONS, serves, "5m")


@pytest.fixture(scope="session")
def settings() -> FamiliesConfig:
    return FamiliesConfig(
        gbdt_trees=40,
        gbdt_min_rows=40,
        gbdt_rate=0.15,
        gbdt_patience=5,
        encoder_width=16,
        encoder_epochs=8,
        encoder_batch=128,
        encoder_rate=5e-3,
        encoder_layers=2,
        encoder_norm=True,
        encoder_dropout=0.1,
        loss_weights="uncertainty",
        gbdt_min_share=0.0,
    )


@pytest.fixture(scope="session")
def train() -> Rows:
    return planted_rows(4000, 1)


@pytest.fixture(scope="session")
def validation() -> Rows:
    return planted_rows(1500, 2)


@pytest.fixture(scope="session")
def empty() -> Rows:
    return planted_rows(0, 3)


@pytest.fixture(scope="session")
def fitted(schema, settings, train, validation) -> Callable[[str], tuple]:
    """Family and log by name, fitted once; treat as read-only."""
    known: dict[str, tuple] = {}

    def get(name: str) -> tuple:
        if name not in known:
            family = family_class(name)(schema, settings)
            known[name] = family, family.fit(train, validation, 11)
        return known[name]

    return get

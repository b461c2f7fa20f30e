"""The cluster family: two coefficients a horizon on the model's own signal."""

import dataclasses

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from dpa.errors import ConfigError, DataError
from dpa.horizons.families import ClusterFamily
from dpa.horizons.types import RowSchema


def terms(features):
    score, gate, active = features[:, 5:].astype(float).T
    score = np.clip(score, -5, 5)
    return np.stack([-score * gate, -np.tanh(score) * active], axis=1)


@pytest.mark.parametrize("penalty", [0.0, 0.01, 1.0])
def test_equals_scikit_learn_on_terms_of_unit_size(schema, settings, train, empty, penalty):
    family = ClusterFamily(schema, settings.model_copy(update={"cluster_penalty": penalty}))
    family.fit(train, empty, 0)
    phi = terms(train.features)
    for horizon in range(3):
        known = ~np.isnan(phi).any(axis=1) & ~np.isnan(train.targets[:, horizon])
        x, y = phi[known], train.targets[known, horizon].astype(float)
        size = np.sqrt((x**2).mean(axis=0))
        model = Ridge(alpha=penalty * len(x) + 1e-12, fit_intercept=False).fit(x / size, y)
        np.testing.assert_allclose(
            family.predict(train.features[known]).returns[:, horizon],
            model.predict(x / size),
            atol=1e-9,
        )


def test_recovers_the_planted_reversion(schema, settings, make_rows, empty):
    rows = make_rows(40_000, 3)
    family = ClusterFamily(schema, settings)
    family.fit(rows, empty, 0)
    probe = np.zeros((1, 8), dtype=np.float32)
    probe[0, 5:] = (1.0, 1.0, 0.0)
    np.testing.assert_allclose(family.predict(probe).returns, -0.5, atol=0.05)
    probe[0, 5:] = (1.0, 0.0, 1.0)
    np.testing.assert_allclose(family.predict(probe).returns, 0.0, atol=0.05)


@pytest.mark.parametrize("column", [5, 6, 7])
def test_a_signal_with_a_gap_is_no_forecast(schema, settings, train, empty, column):
    family = ClusterFamily(schema, settings)
    family.fit(train, empty, 0)
    features = train.features[:10].copy()
    features[:, column] = np.nan
    assert np.isnan(family.predict(features).returns).all()


@pytest.mark.parametrize("column", ["cluster_score", "cluster_gate", "cluster_active"])
def test_needs_a_cluster_model(schema, settings, column):
    names = tuple(name if name != column else "other" for name in schema.features)
    with pytest.raises(ConfigError, match=rf"{column}.*--cluster"):
        ClusterFamily(RowSchema(names, schema.horizons, schema.serves, "5m"), settings)


def test_no_row_with_a_signal_is_nothing_to_learn_from(schema, settings, train, empty):
    features = train.features.copy()
    features[:, 5] = np.nan
    silent = dataclasses.replace(train, features=features)
    with pytest.raises(DataError, match="no training row with a signal has a target for 5m"):
        ClusterFamily(schema, settings).fit(silent, empty, 0)

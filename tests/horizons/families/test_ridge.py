"""Ridge against scikit-learn, and the penalty against a slow loop."""

import dataclasses

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, Ridge
from threadpoolctl import threadpool_limits

from dpa.horizons.families import RidgeFamily
from dpa.horizons.families import _rows as rows_module
from dpa.horizons.families.ridge import DEFAULT_PENALTY, PENALTIES
from dpa.horizons.types import Rows, RowSchema
from dpa.market.interval_specs import Horizon


def standardised(train, features):
    """The slow way: numpy, all at once."""
    mean, deviation = np.nanmean(train.astype(float), 0), np.nanstd(train.astype(float), 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        scaled = np.where(deviation > 1e-6 * np.abs(mean), (features - mean) / deviation, 0.0)
    return np.nan_to_num(np.clip(scaled, -5, 5))


def oracle(train, features, penalty, schema):
    """scikit-learn on each horizon's own rows and features."""
    returns = np.empty((len(features), 3))
    x, z = (standardised(train.features, part) for part in (train.features, features))
    for horizon in range(3):
        known = ~np.isnan(train.targets[:, horizon])
        columns = schema.columns(horizon)
        model = Ridge(alpha=penalty * known.sum()) if penalty else LinearRegression()
        model.fit(x[known][:, columns], train.targets[known, horizon].astype(float))
        returns[:, horizon] = model.predict(z[:, columns])
    return returns


@pytest.mark.parametrize("penalty", [1e-4, 0.1, 10.0])
def test_equals_scikit_learn(schema, settings, train, validation, empty, penalty):
    family = RidgeFamily(schema, settings.model_copy(update={"ridge_penalty": penalty}))
    log = family.fit(train, empty, 0)
    assert log.notes == {"penalty": penalty}
    np.testing.assert_allclose(
        family.predict(validation.features).returns,
        oracle(train, validation.features, penalty, schema),
        rtol=0,
        atol=1e-10,
    )


def test_without_penalty_twin_features_share_the_least_squares_fit(schema, settings, make_rows):
    rows = make_rows(800, 4)
    rows.features[:, 3] = rows.features[:, 0]
    family = RidgeFamily(schema, settings.model_copy(update={"ridge_penalty": 0.0}))
    family.fit(rows, make_rows(0, 0), 0)
    expected = oracle(rows, rows.features, 0.0, schema)
    found = family.predict(rows.features).returns
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-8)
    importance = family.importance()
    assert importance["slow"] == pytest.approx(importance["noise"])


@pytest.mark.parametrize("noise", [1.0, 30.0])
def test_the_penalty_is_the_best_of_the_grid_on_the_holdout(schema, settings, make_rows, noise):
    train, held = make_rows(300, 1, noise=noise), make_rows(300, 2, noise=noise)
    log = RidgeFamily(schema, settings).fit(train, held, 0)
    relative = []
    for penalty in PENALTIES:
        errors = (oracle(train, held.features, penalty, schema) - held.targets) ** 2
        around = (np.nanmean(train.targets.astype(float), axis=0) - held.targets) ** 2
        relative.append(np.nanmean(errors, axis=0) / np.nanmean(around, axis=0))
    best = int(np.mean(relative, axis=1).argmin())
    assert log.notes["penalty"] == PENALTIES[best]
    for horizon, label in enumerate(schema.labels):
        assert log.notes[f"holdout R2, {label}"] == pytest.approx(1 - relative[best][horizon])


def test_more_noise_asks_for_more_penalty(schema, settings, make_rows):
    penalties = [
        RidgeFamily(schema, settings)
        .fit(make_rows(300, 1, noise=noise), make_rows(300, 2, noise=noise), 0)
        .notes["penalty"]
        for noise in (0.1, 30.0)
    ]
    assert penalties[0] < penalties[1]


def test_no_holdout_no_choice(schema, settings, train, empty, validation):
    assert RidgeFamily(schema, settings).fit(train, empty, 0).notes == {"penalty": DEFAULT_PENALTY}
    unlabelled = dataclasses.replace(validation, targets=np.full_like(validation.targets, np.nan))
    log = RidgeFamily(schema, settings).fit(train, unlabelled, 0)
    assert log.notes == {"penalty": DEFAULT_PENALTY}


def test_chunks_change_nothing_but_rounding(schema, settings, train, validation, monkeypatch):
    whole, cut = RidgeFamily(schema, settings), RidgeFamily(schema, settings)
    whole.fit(train, validation, 0)
    monkeypatch.setattr(rows_module.chunks, "__defaults__", (97,))
    cut.fit(train, validation, 0)
    np.testing.assert_allclose(
        cut.predict(validation.features).returns,
        whole.predict(validation.features).returns,
        rtol=0,
        atol=1e-12,
    )


def test_seed_has_no_influence(schema, settings, train, validation):
    prints = set()
    for seed in (0, 1):
        family = RidgeFamily(schema, settings)
        family.fit(train, validation, seed)
        prints.add(family.fingerprint())
    assert len(prints) == 1


def test_the_number_of_threads_changes_nothing(settings):
    rng = np.random.default_rng(0)
    n, size = 100_000, 35
    noise = rng.standard_normal((n, size + 8)).astype("f4")
    noise[rng.random(noise.shape) < 0.02] = np.nan
    row = np.arange(n)
    rows = Rows(noise[:, :size], noise[:, size:-2], noise[:, -2:], row, row)
    horizons = tuple(Horizon(5 * k, k, f"{5 * k}m") for k in range(1, 7))
    names = tuple(f"f{column}" for column in range(size))
    wide = RowSchema(names, horizons, np.ones((size, 6), dtype=bool), "5m")
    prints = set()
    for threads in (1, 2):
        with threadpool_limits(threads):
            family = RidgeFamily(wide, settings)
            family.fit(rows, rows.take(slice(0, 100)), 0)
        prints.add(family.fingerprint())
    assert len(prints) == 1

"""The stacker against scipy's bounded least squares, planted weights, and the arrow of time."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save
from scipy.optimize import lsq_linear

from dpa.config import StackingConfig
from dpa.errors import ConfigError, DataError, RunError
from dpa.horizons import stacker as module
from dpa.horizons.stacker import (
    CrossHorizonStacker,
    nonnegative_ridge,
    prior_weight,
)
from dpa.market.interval_specs import Horizon

HORIZONS = (Horizon(5, 1, "5m"), Horizon(10, 2, "10m"), Horizon(40, 8, "40m"))
FAMILIES = ("ridge", "gbdt")
DECAYS = ("exponential", "linear", "inverse")


def config(**changes):
    return StackingConfig(**{"stack_penalty": 0.01, **changes})


def rows(seed=0, n_rows=400, noise=1.0, families=2):
    """Correlated forecasts of very different sizes, and targets made of them."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=n_rows)
    forecasts = rng.normal(size=(3, families, n_rows)) + 0.7 * common
    forecasts *= 10.0 ** rng.uniform(-2, 1, size=(3, families, 1))
    mix = rng.uniform(-0.5, 1, size=(3, 3, families))
    standard = forecasts / np.sqrt((forecasts**2).mean(axis=2, keepdims=True))
    targets = np.einsum("ghf,hfn->gn", mix, standard) + noise * rng.normal(size=(3, n_rows))
    return forecasts, targets


# --- the prior -------------------------------------------------------------------------------


def test_decays_by_hand():
    distance = np.array([0.0, 1.0, 2.0, 4.0, 5.0])
    np.testing.assert_allclose(
        prior_weight(distance, "exponential", 2.0), [1, 2**-0.5, 0.5, 0.25, 2**-2.5]
    )
    np.testing.assert_allclose(prior_weight(distance, "linear", 2.0), [1, 0.75, 0.5, 0, 0])
    np.testing.assert_allclose(
        prior_weight(distance, "inverse", 2.0), [1, 2 / 3, 0.5, 1 / 3, 2 / 7]
    )
    with pytest.raises(ConfigError, match="sudden"):
        prior_weight(distance, "sudden", 1.0)


@pytest.mark.parametrize("decay", DECAYS)
def test_before_a_fit_it_is_the_mean_of_forecasts_weighted_by_decay(decay):
    stacker = CrossHorizonStacker(HORIZONS, FAMILIES, config(stack_decay=decay))
    forecasts = np.random.default_rng(0).normal(size=(3, 2, 7))
    found = stacker.predict(forecasts).forecast
    for target, own in enumerate((5, 10, 40)):
        distance = np.abs(np.log2(np.array([5, 10, 40]) / own))
        prior = np.repeat(prior_weight(distance, decay, 1.0), 2)
        expected = np.average(forecasts.reshape(6, 7), axis=0, weights=prior)
        np.testing.assert_allclose(found[target], expected)
    assert not stacker.n_rows.any()


def test_a_reference_horizon_is_the_centre_for_every_target():
    settings = config(reference_horizon=" 10M", stack_decay="linear")
    weights = CrossHorizonStacker(HORIZONS, FAMILIES, settings).weights
    np.testing.assert_allclose(weights.sum(axis=2), np.tile([0.5 / 1.5, 1 / 1.5, 0], (3, 1)))


def test_refusals():
    with pytest.raises(ConfigError, match="reference_horizon: 1d"):
        CrossHorizonStacker(HORIZONS, FAMILIES, config(reference_horizon="1d"))
    with pytest.raises(ConfigError, match="without horizons or families"):
        CrossHorizonStacker(HORIZONS, (), config())
    stacker = CrossHorizonStacker(HORIZONS, FAMILIES, config())
    with pytest.raises(DataError, match="do not match"):
        stacker.fit(np.zeros((3, 3, 5)), np.zeros((3, 5)))
    with pytest.raises(DataError, match="shape"):
        stacker.predict(np.zeros((3, 2)))
    with pytest.raises(DataError, match="no row"):
        stacker.fit(np.full((3, 2, 5), np.nan), np.zeros((3, 5)))


# --- the solution ----------------------------------------------------------------------------


def augmented_solution(columns, target, penalty, prior):
    """Bounded least squares on the rows themselves, the ridge as further rows."""
    n = len(target)
    matrix = np.vstack([columns / np.sqrt(n), np.diag(np.sqrt(penalty) / prior)])
    aim = np.concatenate([target / np.sqrt(n), np.zeros(columns.shape[1])])
    return lsq_linear(matrix, aim, bounds=(0, np.inf), method="bvls", tol=1e-14).x


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("reference", [None, "5m"])
@pytest.mark.parametrize("penalty", [0.0, 0.01, 1.0])
def test_weights_are_those_of_bounded_least_squares(decay, reference, penalty):
    settings = config(
        stack_decay=decay, reference_horizon=reference, stack_penalty=penalty, stack_half_life=2.5
    )
    forecasts, targets = rows(1)
    stacker = CrossHorizonStacker(HORIZONS, FAMILIES, settings).fit(forecasts, targets)
    scale = np.sqrt((forecasts**2).mean(axis=2))
    np.testing.assert_allclose(stacker.scale, scale)
    columns = (forecasts / scale[:, :, None]).reshape(6, -1).T
    clipped = 0
    for target, own in enumerate((5, 10, 40)):
        distance = np.abs(np.log2(np.array([5, 10, 40]) / (5 if reference else own)))
        prior = np.repeat(prior_weight(distance, decay, 2.5), 2)
        expected = augmented_solution(columns, targets[target], penalty, prior)
        np.testing.assert_allclose(stacker.weights[target].ravel(), expected, atol=1e-7)
        clipped += (expected == 0).sum()
    assert clipped > 0  # the bound matters


def test_nonnegative_least_squares_is_not_clipping():
    columns = np.random.default_rng(2).normal(size=(500, 2)) @ np.array([[1, 0.9], [0, 0.4]])
    target = columns @ np.array([1.0, -0.8])
    gram, moment = columns.T @ columns / 500, columns.T @ target / 500
    found = nonnegative_ridge(gram, moment, np.zeros(2))
    free = np.linalg.solve(gram, moment)
    assert found[1] == 0
    assert found[0] == pytest.approx(moment[0] / gram[0, 0])
    assert abs(found[0] - free[0]) > 0.3  # clipping would have kept 1


def test_equal_columns_without_a_penalty_are_solved():
    forecasts, targets = rows(3)
    forecasts[:, 1] = forecasts[:, 0]
    stacker = CrossHorizonStacker(HORIZONS, FAMILIES, config(stack_penalty=0)).fit(
        forecasts, targets
    )
    assert np.isfinite(stacker.weights).all()


@settings(deadline=None)
@given(seed=st.integers(0, 100))
def test_permuting_families_permutes_weights(seed):
    forecasts, targets = rows(seed, families=3)
    order = np.random.default_rng(seed).permutation(3)
    one = CrossHorizonStacker(HORIZONS, ("a", "b", "c"), config()).fit(forecasts, targets)
    other = CrossHorizonStacker(HORIZONS, ("a", "b", "c"), config()).fit(
        forecasts[:, order], targets
    )
    np.testing.assert_allclose(other.weights, one.weights[:, :, order], atol=1e-9)
    assert (one.weights >= 0).all()


def test_one_right_family_gets_the_weight():
    rng = np.random.default_rng(4)
    targets = rng.normal(size=(3, 20_000))
    forecasts = rng.normal(size=(3, 2, 20_000))
    forecasts[:, 1] = 0.1 * targets + 0.3 * rng.normal(size=targets.shape)
    stacker = CrossHorizonStacker(HORIZONS, FAMILIES, config()).fit(forecasts, targets)
    for target in range(3):
        total = stacker.weights[target].sum()
        assert stacker.weights[target, target, 1] / total > 0.9


def test_a_planted_combination_is_recovered():
    rng = np.random.default_rng(5)
    forecasts = rng.normal(size=(3, 2, 30_000)) * np.array([0.1, 3.0])[None, :, None]
    planted = np.zeros((3, 3, 2))
    planted[0, 0], planted[1, 1, 0], planted[2, :, 1] = (0.2, 0.1), 0.3, (0.1, 0.2, 0.3)
    standard = forecasts / np.array([0.1, 3.0])[None, :, None]
    targets = np.einsum("ghf,hfn->gn", planted, standard) + rng.normal(size=(3, 30_000))
    stacker = CrossHorizonStacker(HORIZONS, FAMILIES, config(stack_penalty=0)).fit(
        forecasts, targets
    )
    np.testing.assert_allclose(stacker.weights, planted, atol=0.02)
    forecast = stacker.predict(forecasts).forecast
    np.testing.assert_allclose(
        forecast, np.einsum("ghf,hfn->gn", stacker.weights, forecasts / stacker.scale[:, :, None])
    )


def test_the_prior_prefers_the_near_horizon_among_equals():
    rng = np.random.default_rng(6)
    same = rng.normal(size=5000)
    forecasts = np.tile(same, (3, 1, 1))
    targets = np.tile(0.5 * same, (3, 1)) + rng.normal(size=(3, 5000))
    for decay in DECAYS:
        settings = config(stack_decay=decay, stack_half_life=2)
        weights = CrossHorizonStacker(HORIZONS, ("a",), settings).fit(forecasts, targets).weights
        assert weights[0, 0] > weights[0, 1] > weights[0, 2]
        assert weights[2, 2] > weights[2, 1] > weights[2, 0]


def test_chunks_do_not_matter(monkeypatch):
    forecasts, targets = rows(7)
    whole = CrossHorizonStacker(HORIZONS, FAMILIES, config()).fit(forecasts, targets)
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 37)
    again = CrossHorizonStacker(HORIZONS, FAMILIES, config()).fit(forecasts, targets)
    np.testing.assert_allclose(again.weights, whole.weights, atol=1e-12)
    parts = [(forecasts[:, :, :90], targets[:, :90]), (forecasts[:, :, 90:], targets[:, 90:])]
    pieces = CrossHorizonStacker(HORIZONS, FAMILIES, config()).fit_parts(parts)
    np.testing.assert_allclose(pieces.weights, whole.weights, atol=1e-12)


def test_rows_with_holes_are_left_out_horizon_by_horizon():
    forecasts, targets = rows(8)
    forecasts[0, 1, :50] = np.nan
    forecasts[2, 0, 399] = np.inf
    targets[1, 40:100] = np.nan
    found = CrossHorizonStacker(HORIZONS, FAMILIES, config()).fit(forecasts, targets)
    assert found.n_rows.tolist() == [349, 299, 349]
    gap = np.arange(400)
    whole = (gap >= 50) & (gap < 399)
    scale = found.scale[:, :, None]
    for target, known in enumerate((whole, whole & (gap >= 100), whole)):
        columns = (forecasts[:, :, known] / scale).reshape(6, -1).T
        prior = np.repeat(np.exp2(-np.abs(np.log2(np.array([5, 10, 40]) / [5, 10, 40][target]))), 2)
        expected = augmented_solution(columns, targets[target, known], 0.01, prior)
        np.testing.assert_allclose(found.weights[target].ravel(), expected, atol=1e-7)


def test_a_silent_family_gets_no_weight_and_costs_no_rows():
    forecasts, targets = rows(9)
    alone = CrossHorizonStacker(HORIZONS, ("ridge",), config()).fit(forecasts[:, :1], targets)
    for silent in (np.nan, 0.0):
        forecasts[:, 1] = silent
        forecasts[1, 1, :100] = 1.0 if np.isnan(silent) else 0.0  # speaks, but too seldom
        found = CrossHorizonStacker(HORIZONS, FAMILIES, config()).fit(forecasts, targets)
        np.testing.assert_allclose(found.weights[:, :, :1], alone.weights, atol=1e-12)
        assert (found.weights[:, :, 1] == 0).all()
        assert found.n_rows.tolist() == [400, 400, 400]


def test_a_horizon_without_targets_keeps_the_prior():
    forecasts, targets = rows(10)
    targets[2] = np.nan
    found = CrossHorizonStacker(HORIZONS, FAMILIES, config()).fit(forecasts, targets)
    assert found.n_rows.tolist() == [400, 400, 0]
    prior = CrossHorizonStacker(HORIZONS, FAMILIES, config()).predict(forecasts)
    np.testing.assert_allclose(found.predict(forecasts).forecast[2], prior.forecast[2])


# --- prediction ------------------------------------------------------------------------------


def by_hand(weights):
    stacker = CrossHorizonStacker(HORIZONS[:1], ("a", "b", "c"), config())
    stacker.weights = np.array(weights, dtype=float).reshape(1, 1, 3)
    stacker.scale = np.array([[1.0, 2.0, 1.0]])
    return stacker


def test_prediction_by_hand():
    nan = np.nan
    symbols = np.array(
        [[1.0, 1, nan, nan, nan, 0, 1], [4.0, -4, 4, nan, nan, 0, np.inf], [9.0] * 7]
    )
    symbols[2, 4] = nan
    found = by_hand([0.3, 0.1, 0.0]).predict(symbols[None])
    # 0.3 * 1 + 0.1 * 4 / 2; one missing: the other's weight is scaled up to 0.4
    np.testing.assert_allclose(found.forecast[0], [0.5, 0.1, 0.8, nan, nan, 0, 0.4])
    np.testing.assert_allclose(found.confidence[0], [1, 0.2, 1, nan, nan, 0, 1])


def test_nothing_predicts_is_zero_without_confidence_and_missing_stays_missing():
    found = by_hand([0, 0, 0]).predict(np.array([[[1.0, np.nan], [1, np.nan], [np.nan, np.nan]]]))
    np.testing.assert_array_equal(found.forecast, [[0.0, np.nan]])
    np.testing.assert_array_equal(found.confidence, [[0.0, np.nan]])
    noise = np.random.default_rng(11).normal(size=(3, 2, 500))
    against = -noise.sum(axis=(0, 1)) * np.ones((3, 1))  # every column is wrong
    stacker = CrossHorizonStacker(HORIZONS, FAMILIES, config()).fit(noise, against)
    assert (stacker.weights == 0).all()
    assert (stacker.predict(noise).forecast == 0).all()


@settings(deadline=None)
@given(seed=st.integers(0, 100), missing=st.floats(0, 0.9))
def test_confidence_is_a_fraction_and_each_symbol_stands_alone(seed, missing):
    forecasts, targets = rows(seed)
    stacker = CrossHorizonStacker(HORIZONS, FAMILIES, config()).fit(forecasts, targets)
    rng = np.random.default_rng(seed)
    forecasts[rng.random(forecasts.shape) < missing] = np.nan
    found = stacker.predict(forecasts)
    known = np.isfinite(found.forecast)
    np.testing.assert_array_equal(known, np.isfinite(found.confidence))
    assert (found.confidence[known] >= 0).all()
    assert (found.confidence[known] <= 1).all()
    some = stacker.predict(forecasts[:, :, 3:8])
    np.testing.assert_array_equal(some.forecast, found.forecast[:, 3:8])  # bit for bit
    np.testing.assert_array_equal(some.confidence, found.confidence[:, 3:8])


# --- storage ---------------------------------------------------------------------------------


def fitted():
    return CrossHorizonStacker(HORIZONS, FAMILIES, config(reference_horizon="10m")).fit(*rows(12))


def test_stored_and_read_again_it_says_the_same():
    stacker = fitted()
    arrays, facts = stacker.to_arrays()
    again = CrossHorizonStacker.from_arrays(load(save(arrays)), json.loads(json.dumps(facts)))
    forecasts, _ = rows(13)
    np.testing.assert_array_equal(
        again.predict(forecasts).forecast, stacker.predict(forecasts).forecast
    )
    assert again.fingerprint() == stacker.fingerprint()
    assert again.horizons == HORIZONS
    assert again.n_rows.tolist() == stacker.n_rows.tolist()


def test_the_fingerprint_is_of_what_decides():
    assert fitted().fingerprint() == fitted().fingerprint()
    changed = fitted()
    changed.weights[0, 0, 0] += 1e-12
    other = CrossHorizonStacker(HORIZONS, ("ridge", "encoder"), config(reference_horizon="10m"))
    assert len({fitted().fingerprint(), changed.fingerprint(), other.fingerprint()}) == 3


@pytest.mark.parametrize(
    ("array", "value"),
    [
        ("weights", np.zeros((2, 3, 2))),
        ("weights", np.full((3, 3, 2), -1.0)),
        ("weights", np.full((3, 3, 2), np.nan)),
        ("scale", np.zeros((3, 2))),
        ("n_rows", None),
    ],
)
def test_damaged_arrays_are_refused(array, value):
    arrays, facts = fitted().to_arrays()
    if value is None:
        del arrays[array]
    else:
        arrays[array] = value
    with pytest.raises(RunError, match="stacker"):
        CrossHorizonStacker.from_arrays(arrays, facts)


@pytest.mark.parametrize(
    "change", [{"horizons": [[5, 1]]}, {"families": []}, {"settings": {"stack_penalty": -1}}]
)
def test_damaged_facts_are_refused(change):
    arrays, facts = fitted().to_arrays()
    with pytest.raises(RunError, match="stacker"):
        CrossHorizonStacker.from_arrays(arrays, {**facts, **change})
